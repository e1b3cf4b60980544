//! Workers that are drained while they work, as a deploy does it, once faults have stopped: what they have is settled or
//! given back, somebody else runs it, and nothing is left of them.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::supervisor::DrainHandle;
use steadfast_core::{Cause, State, Verdict};

use futures_util::future::{Either, select};

use super::incidents::{Process, Work, done, goals, heal_and_end, new_task, number_of, places, told};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::scheduler::waiting_for;
use crate::world::World;

const GIVEN_BACK: &str = "a drained attempt was given back";
const UNENTERED: &str = "what was given back had not been entered";
const RAN_ELSEWHERE: &str = "what a drained worker gave back ran elsewhere";
const HEARD: &str = "a handler heard that its worker is drained";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "drains",
    about: "workers are drained one after the other while they work, and others take their place",
    goals: Goals { all: &[GIVEN_BACK, UNENTERED, RAN_ELSEWHERE, HEARD], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

/// How many tasks there are while faults last, and how many after.
const TASKS: u64 = 3;
/// How many workers are drained.
const DRAINS: u64 = 3;
/// Longer than a drained worker takes: its grace, its reports and its farewell.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

const WORK: Work = |process, context| {
    Box::pin(async move {
        let number = number_of(&context);
        // The last is longer than a lease.
        let length = [0, 100, 1_000, 2_500, 6_000, 15_000][process.pick(Stream::Workload, "work", number, 6)];
        let is_deaf = process.pick(Stream::Workload, "hears", number, 3) == 2;
        let work = std::pin::pin!(tokio::time::sleep(Duration::from_millis(length)));
        if is_deaf {
            let _busy = process.node.keep_busy();
            work.await;
            return done(&context);
        }
        let stopped = std::pin::pin!(context.stopped());
        match select(stopped, work).await {
            Either::Left((reason, _)) => {
                told(&process, &context, &reason);
                Verdict::error(reason)
            }
            Either::Right(_) => done(&context),
        }
    })
};

async fn run(world: World) {
    let api = Process::start(&world, "api");
    let mut worker = start(&world, 0);
    for number in 0..TASKS {
        api.submit(new_task("task", number), 0).await;
        api.pause("next request", number, &[0, 500, 3_000]).await;
    }
    heal_and_end(&world).await;
    for turn in 1..=DRAINS {
        for number in turn * TASKS..(turn + 1) * TASKS {
            api.submit(new_task("task", number), 0).await;
            api.pause("next request", number, &[0, 0, 20, 200]).await;
        }
        api.pause("drained after", turn, &[500, 0, 10, 1_500, 5_000]).await;
        // The next is there before or after: what is given back in between waits.
        let before = api.pick(Stream::Workload, "overlap", turn, 2) == 1;
        let next = if before { Some(start(&world, turn)) } else { None };
        world.record(Event::Draining { node: name(turn - 1) });
        worker.drain();
        waiting_for("the worker to be drained", tokio::time::sleep(DRAINED_WITHIN)).await;
        worker = next.unwrap_or_else(|| start(&world, turn));
    }
    while !world.history().tasks().values().all(|task| task.state.is_terminal()) {
        waiting_for("all tasks to end", tokio::time::sleep(Duration::from_secs(2))).await;
    }
    worker.drain();
    waiting_for("the last worker to be drained", tokio::time::sleep(DRAINED_WITHIN)).await;
    world.close();
}

fn start(world: &World, number: u64) -> DrainHandle {
    Process::start(world, name(number)).work(2, WORK)
}

fn name(number: u64) -> String {
    format!("worker-{number}")
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let given_back: Vec<_> = places(entries, |event| match event {
        Event::Changed { after, .. }
            if after.cause == Some(Cause::Drained) && after.state == State::Ready =>
        {
            Some(after)
        }
        _ => None,
    })
    .collect();
    let ran_elsewhere = given_back.iter().any(|(place, task)| {
        entries[*place..].iter().any(|entry| match &entry.event {
            Event::Changed { after, .. } => after.id == task.id && after.state == State::Succeeded,
            _ => false,
        })
    });
    let heard = entries.iter().any(|entry| matches!(entry.event, Event::Told { lost: false, .. }));
    goals(&[
        (GIVEN_BACK, !given_back.is_empty()),
        (UNENTERED, given_back.iter().any(|(_, task)| task.entered_at.is_none())),
        (RAN_ELSEWHERE, ran_elsewhere),
        (HEARD, heard),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn a_drained_worker_leaves_nothing() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
