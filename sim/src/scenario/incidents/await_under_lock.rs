//! Incident 2 on the engine: ten requests for one session in quick succession, in a process that runs its tasks itself,
//! each replacing the task before it; and the old ones take their time to clean up, for which they need the engine. The
//! newcomer takes the slot at once, and enters its handler while the old one still cleans up.

use std::collections::BTreeSet;

use steadfast_core::State;
use steadfast_core::handler::StopReason;
use steadfast_core::name::{Slot, TaskId};
use steadfast_core::task::{Cause, OnConflict};
use steadfast_core::{Context, Verdict};

use super::{Process, done, entered, goals, heal_and_end, new_task, number_of, places};
use crate::history::{Entry, Event};
use crate::scenario::{Goals, Scenario};
use crate::world::World;

const OVERTAKEN: &str = "a newcomer entered while the one that it replaced was cleaning up";
const UNENTERED: &str = "a task was replaced before its handler was entered";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "incident-2-await-under-lock",
    about: "ten requests for one session, each replacing the task before it, whose cleanup takes its time",
    goals: Goals { all: &[OVERTAKEN, UNENTERED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const REQUESTS: u64 = 10;

async fn run(world: World) {
    let server = Process::start(&world, "server");
    // One at a time: whoever is told to stop holds nobody up.
    let _drain = server.work(1, |process, context| Box::pin(call_agent(process, context)));
    for number in 0..REQUESTS {
        let mut task = new_task("run", number);
        task.slot = Some((Slot::trusted("session-939e5c26"), OnConflict::Replace));
        server.submit(task, 0).await;
        server.pause("next request", number, &[20_000, 0, 2, 1_000, 4_000]).await;
    }
    heal_and_end(&world).await;
}

async fn call_agent(process: Process, context: Context) -> Verdict {
    use futures_util::future::{Either, select};
    let number = number_of(&context);
    let work = std::pin::pin!(process.pause("agent", number, &[5_000, 100, 15_000]));
    let stopped = std::pin::pin!(context.stopped());
    let Either::Left((reason, _)) = select(stopped, work).await else { return done(&context) };
    let (task, fence) = (context.task_id().clone(), context.fence());
    process.node.record(Event::Told { task: task.clone(), fence, lost: reason == StopReason::LeaseLost });
    // The cleanup asks the engine, within the grace or beyond it.
    let _ = process.engine.task(&task).await;
    process.pause("cleanup", number, &[0, 500, 2_500, 8_000]).await;
    Verdict::error(reason)
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let told: Vec<(usize, &TaskId)> =
        places(entries, |event| if let Event::Told { task, .. } = event { Some(task) } else { None })
            .collect();
    let said: Vec<(usize, &TaskId)> =
        places(entries, |event| if let Event::Said { task, .. } = event { Some(task) } else { None })
            .collect();
    let cleans_up = |place: usize, newcomer: &TaskId| {
        told.iter().any(|(since, old)| {
            let over = said.iter().any(|(at, task)| task == old && *at < place);
            *since < place && *old != newcomer && !over
        })
    };
    let overtaken = entered(entries).into_iter().any(|(place, (task, _))| cleans_up(place, task));
    let unentered = entries.iter().any(|entry| match &entry.event {
        Event::Changed { before: Some(before), after } => {
            before.state == State::Ready && after.cause == Some(Cause::Replaced)
        }
        _ => false,
    });
    goals(&[(OVERTAKEN, overtaken), (UNENTERED, unentered)])
}
