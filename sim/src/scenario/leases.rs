//! Leases at their very end: a worker stands still until the instant at which its lease lapses, or just before or after; at
//! that instant it goes on, renews or settles, and somebody else rescues what has lapsed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::name::TaskId;
use steadfast_core::{Cause, State, Task, Timestamp, Verdict};

use super::chaos::LEASE;
use super::incidents::{Process, Work, done, goals, heal_and_end, new_task, number_of, places, told};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::scheduler::waiting_for;
use crate::world::{Profile, World};

const RESCUED: &str = "a lease lapsed and the task was rescued";
const REVIVED: &str = "a lease that had lapsed was renewed before anybody rescued the task";
const ENDED: &str = "a task ended at the instant at which its lease lapsed";
const LOST: &str = "a handler heard that its lease is lost";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "leases",
    about: "a worker stands still until its lease lapses, and goes on at the instant at which it is rescued",
    goals: Goals { all: &[RESCUED, REVIVED, ENDED, LOST], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const TASKS: u64 = 4;
/// How long the run waits at most for a task to be claimed.
const CLAIMED_WITHIN: Duration = Duration::from_secs(20);

const WORK: Work = |process, context| {
    Box::pin(async move {
        let number = number_of(&context);
        // The handler's own end may lie in the time for which its worker stands still.
        let seconds = [30, 4, 12][process.pick(Stream::Workload, "work", number, 3)];
        let work = std::pin::pin!(tokio::time::sleep(Duration::from_secs(seconds)));
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
    let workers = [0, 1].map(|number| {
        let worker = Process::start(&world, format!("worker-{number}"));
        drop(worker.work(2, WORK));
        worker
    });
    for number in 0..TASKS {
        let task = new_task("task", number);
        let id = task.id.clone();
        api.submit(task, 0).await;
        let Some(lease) = lease_of(&world, &id).await else { continue };
        let holder =
            workers.iter().find(|one| lease.worker.as_ref().is_some_and(|w| w.as_str() == one.node.name()));
        let Some(holder) = holder else { continue };
        api.pause("stands still after", number, &[500, 0, 1_500, 4_000]).await;
        if api.pick(Stream::Workload, "stands still", number, 3) == 0 {
            continue;
        }
        holder.node.freeze();
        until_it_lapses(&api, &world, &id, number).await;
        if api.pick(Stream::Workload, "somebody rescues", number, 2) == 1 {
            let engine = api.engine.clone();
            api.node.spawn("rescuer", async move {
                // What fails is made up for by the sweepers.
                let _ = engine.reclaim_lapsed(10, 1).await;
            });
        }
        holder.node.thaw();
        api.pause("next request", number, &[1_000, 0, 5_000]).await;
    }
    heal_and_end(&world).await;
    if world.server().profile == Profile::Postgres {
        beside_a_stranger(&world, &api).await;
    }
}

/// Somebody locks one task's row for longer than a lease: only that lease may lapse. (SQLite has one lock, for all rows.)
async fn beside_a_stranger(world: &World, api: &Process) {
    // One that hasn't stood still.
    Process::start_worker(world, "worker-2", 4, WORK);
    for number in TASKS..TASKS * 2 {
        api.submit(new_task("task", number), 0).await;
    }
    let held = new_task("task", TASKS).id;
    if lease_of(world, &held).await.is_some() {
        world.record(Event::Held { task: held.clone() });
        // Where the row is locked already the task has just changed hands, and there is nothing to see.
        let _ = api.node.storage().hold(&held, LEASE + LEASE / 2).await;
    }
    while !world.history().tasks().values().all(|task| task.state.is_terminal()) {
        waiting_for("all tasks to end", tokio::time::sleep(Duration::from_secs(2))).await;
    }
}

/// The task as it was claimed, if it is in time.
async fn lease_of(world: &World, id: &TaskId) -> Option<std::sync::Arc<Task>> {
    let since = world.now();
    while world.now().since(since) < CLAIMED_WITHIN {
        let task = world.history().tasks().get(id).cloned();
        if let Some(task) = task.filter(|task| task.state == State::Running) {
            return Some(task);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Until the lease lapses, as it is now: a call that is under way may still prolong it.
async fn until_it_lapses(api: &Process, world: &World, id: &TaskId, number: u64) {
    let at = world.history().tasks().get(id).and_then(|task| task.lease_expires_at);
    let left = at.map_or(Duration::ZERO, |at: Timestamp| at.since(world.now()));
    let around = api.pick(Stream::Workload, "how long beyond the lease", number, 5);
    let left = match around {
        0 => left,
        1 => left.saturating_sub(Duration::from_millis(2)),
        2 => left + Duration::from_millis(1),
        3 => left + Duration::from_millis(3),
        _ => left + Duration::from_secs(3),
    };
    tokio::time::sleep(left).await;
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let changes: Vec<_> = places(entries, |event| match event {
        Event::Changed { before: Some(before), after } => Some((before, after)),
        _ => None,
    })
    .map(|(place, change)| (entries[place].at, change))
    .collect();
    let lapsed = |at: Timestamp, before: &Task| before.lease_expires_at.is_some_and(|expires| expires <= at);
    let near = |at: Timestamp, before: &Task| {
        before.lease_expires_at.is_some_and(|expires| {
            std::cmp::max(at, expires).since(std::cmp::min(at, expires)) < Duration::from_millis(50)
        })
    };
    goals(&[
        (RESCUED, changes.iter().any(|(_, (_, after))| after.cause == Some(Cause::LeaseLapsed))),
        (REVIVED, changes.iter().any(|(at, (before, after))| before.rev == after.rev && lapsed(*at, before))),
        (
            ENDED,
            changes.iter().any(|(at, (before, after))| after.state == State::Succeeded && near(*at, before)),
        ),
        (LOST, entries.iter().any(|entry| matches!(entry.event, Event::Told { lost: true, .. }))),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn nothing_is_taken_from_who_still_has_it() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
