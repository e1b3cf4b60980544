//! Lines for slots: the holder ends at the same instant at which others join the line behind it, and the first in the line
//! is cancelled.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join, join_all};
use steadfast_core::engine::Cancelled;
use steadfast_core::name::{Slot, TaskId};
use steadfast_core::task::{NewTask, OnConflict};
use steadfast_core::{State, Verdict};

use super::incidents::{
    Process, Work, done, goals, heal_and_end, new_task, number_of, places, until_the_beat,
};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::scheduler::yield_now;
use crate::storage::rows::{awaited_slot, held_slot};
use crate::world::World;

const HANDED_ON: &str = "a slot was handed on to the first in the line";
const JOINED: &str = "a task joined the line at the instant at which the holder ended";
const LEFT: &str = "the first in the line was cancelled at the instant at which the holder ended";
const REFUSED: &str = "a task was refused a slot that is held";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "lines",
    about: "a slot's holder ends at the instant at which others join and leave the line behind it",
    goals: Goals { all: &[HANDED_ON, JOINED, LEFT, REFUSED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const ROUNDS: u64 = 3;
/// How many come at once, at most.
const NEWCOMERS: u64 = 3;
/// How many tasks a round has at most: the holder, those behind it, newcomers.
const MEMBERS: u64 = 4 + NEWCOMERS;

const WORK: Work = |process, context| {
    Box::pin(async move {
        match process.pick(Stream::Workload, "work", number_of(&context), 5) {
            0..=2 => until_the_beat(process.node.world()).await,
            3 => {}
            _ => return Verdict::fail("the work can't be done"),
        }
        done(&context)
    })
};

async fn run(world: World) {
    let client = Process::start(&world, "client");
    for number in 0..2 {
        drop(Process::start(&world, format!("worker-{number}")).work(2, WORK));
    }
    for round in 0..ROUNDS {
        let first = round * MEMBERS;
        let behind = 1 + client.pick(Stream::Workload, "how many wait", round, 3) as u64;
        for number in first..=first + behind {
            client.submit(in_slot(&client, round, number, OnConflict::Queue), 0).await;
        }
        until_the_beat(&world).await;
        let newcomers = match client.pick(Stream::Workload, "how many come", round, 5) {
            count @ 0..=2 => 1 + count as u64,
            3 => 1,
            _ => 0,
        };
        let joins =
            join_all((0..newcomers).map(|number| join_in(&client, round, first + MEMBERS - 1 - number)));
        let leaves = async {
            if client.pick(Stream::Workload, "the first in the line leaves", round, 2) == 1 {
                cancel(&client, first + 1).await;
            }
        };
        join(joins, leaves).await;
        // Some rounds meet in one line, others have the slot to themselves.
        let beats = client.pick(Stream::Workload, "until the next round", round, 3);
        for _ in 0..beats {
            until_the_beat(&world).await;
        }
    }
    heal_and_end(&world).await;
}

async fn join_in(client: &Process, round: u64, number: u64) {
    let on_conflict = match client.pick(Stream::Workload, "the newcomer", number, 6) {
        0..=1 => OnConflict::Queue,
        2 => OnConflict::Reject,
        3 => OnConflict::Join,
        _ => OnConflict::Replace,
    };
    // Until the same instant as what another sends when it has its first answer, perhaps.
    for _ in 0..client.pick(Stream::Workload, "a newcomer hesitates", number, 8) {
        yield_now().await;
    }
    client.submit(in_slot(client, round, number, on_conflict), 0).await;
}

fn in_slot(client: &Process, round: u64, number: u64, on_conflict: OnConflict) -> NewTask {
    let mut task = new_task("task", number);
    let which = client.pick(Stream::Workload, "another slot", round, 4) / 3;
    task.slot = Some((Slot::trusted(format!("s{which}")), on_conflict));
    task
}

async fn cancel(client: &Process, number: u64) {
    let task = TaskId::trusted(format!("task-{number}"));
    let Ok(cancelled) = client.engine.cancel(&task, "no longer needed").await else { return };
    let acknowledged = matches!(cancelled, Cancelled::Ended | Cancelled::Requested);
    client.node.record(Event::Cancelled { task, acknowledged });
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let changes: Vec<_> = places(entries, |event| match event {
        Event::Changed { before, after } => Some((before.as_deref(), after)),
        _ => None,
    })
    .map(|(place, change)| (entries[place].at, change))
    .collect();
    let ends: Vec<_> = changes
        .iter()
        .filter(|(_, (before, after))| {
            after.state.is_terminal() && before.is_some_and(|b| held_slot(b).is_some())
        })
        .map(|(at, _)| *at)
        .collect();
    let is_beside_an_end = |at| {
        ends.iter()
            .any(|end| std::cmp::max(*end, at).since(std::cmp::min(*end, at)) < Duration::from_millis(20))
    };
    let any = |is: &dyn Fn(Option<&steadfast_core::Task>, &steadfast_core::Task) -> bool,
               beside_an_end: bool| {
        changes
            .iter()
            .any(|(at, (before, after))| is(*before, after) && (!beside_an_end || is_beside_an_end(*at)))
    };
    let waited =
        |before: Option<&steadfast_core::Task>| before.is_some_and(|task| awaited_slot(task).is_some());
    let refused = entries.iter().any(|entry| {
        matches!(&entry.event, Event::Submitted { answer: crate::history::SubmitAnswer::Refused(_), .. })
    });
    goals(&[
        (HANDED_ON, any(&|before, after| waited(before) && held_slot(after).is_some(), false)),
        (JOINED, any(&|before, after| before.is_none() && awaited_slot(after).is_some(), true)),
        (LEFT, any(&|before, after| waited(before) && after.state == State::Cancelled, true)),
        (REFUSED, refused),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn a_slot_is_handed_on_whoever_comes_and_goes() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
