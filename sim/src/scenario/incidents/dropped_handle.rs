//! Incident 1 on the engine: callers drop what submit has returned, or go away before it has, and workers die between the
//! claim and the first line of the handler. Whatever was stored runs all the same, and nothing fails without having run.

use std::collections::BTreeSet;

use steadfast_core::task::Cause;

use super::{Process, done, entered, goals, heal_and_end, new_task, number_of, places};
use crate::choices::Stream;
use crate::history::{Entry, Event, SubmitAnswer};
use crate::scenario::{Goals, Scenario};
use crate::world::World;

const WENT_AWAY: &str = "a caller went away, and its task ran";
const LOST_BEFORE: &str = "a worker was lost between claim and handler, and the task ran all the same";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "incident-1-dropped-handle",
    about: "callers that go away, and workers that die between the claim and the handler's first line",
    goals: Goals { all: &[WENT_AWAY, LOST_BEFORE], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const EXPERIMENTS: u64 = 3;

async fn run(world: World) {
    let api = Process::start(&world, "api");
    let mut worker = Process::start_worker(&world, "w0", 2, |process, context| {
        Box::pin(async move {
            process.pause("iterations", number_of(&context), &[500, 0, 4_000]).await;
            done(&context)
        })
    });
    for number in 0..EXPERIMENTS {
        let patience = world.choices().depart(Stream::Faults, "caller goes away", number, 4_000, 12);
        api.submit(new_task("experiment", number), patience).await;
        api.pause("next request", number, &[5_000, 0, 1, 3, 200]).await;
        if api.odds("worker is lost", number, 4_000) {
            worker.node.crash();
            worker = Process::start_worker(&world, format!("w{}", number + 1), 2, |process, context| {
                Box::pin(async move {
                    process.pause("iterations", number_of(&context), &[500, 0, 4_000]).await;
                    done(&context)
                })
            });
        }
    }
    heal_and_end(&world).await;
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let entered = entered(entries);
    let ran_after = |place, task| entered.iter().any(|(at, (of, _))| *at > place && *of == task);
    let mut gone = places(entries, |event| match event {
        Event::Submitted { task, answer: SubmitAnswer::Dropped } => Some(task),
        _ => None,
    });
    let mut lost = places(entries, |event| match event {
        Event::Changed { before: Some(before), after } if after.cause == Some(Cause::LeaseLapsed) => {
            let was_entered =
                entered.iter().any(|(_, (task, fence))| **task == after.id && *fence == before.fence);
            (before.fence > 0 && !was_entered).then_some(&after.id)
        }
        _ => None,
    });
    goals(&[
        (WENT_AWAY, gone.any(|(place, task)| ran_after(place, task))),
        (LOST_BEFORE, lost.any(|(place, task)| ran_after(place, task))),
    ])
}
