//! What must happen soon where nothing is wrong: who replaces the holder of a slot enters, a handler hears of a cancel, and a
//! task gets its turn although the one before it is deaf; and of a queue that lets one task run, one follows the other. A
//! worker that runs one attempt at a time, one that could run more than its queue lets it, and no faults; only latencies, and
//! who goes first, are chosen.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use steadfast_core::Verdict;
use steadfast_core::engine::Cancelled;
use steadfast_core::handler::StopReason;
use steadfast_core::name::{Queue, Slot, TaskId};
use steadfast_core::step::QueueLimit;
use steadfast_core::task::{NewTask, OnConflict};

use super::incidents::{Process, Work, done, goals, new_task, number_of, told, until_all_ended};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Awaited, Entry, Event};
use crate::world::World;

const ENTERED: &str = "a newcomer entered although the attempt that it replaced was deaf";
const HEARD: &str = "a handler heard of a cancel";
const FOLLOWED: &str = "the tasks of a queue that lets one run followed each other";
const TURN: &str = "a task got its turn while an attempt that had timed out was in its grace";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "promptness",
    about: "no faults: newcomers, cancels, turns and the next of a limited queue that may not wait",
    goals: Goals { all: &[ENTERED, HEARD, TURN, FOLLOWED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const ROUNDS: u64 = 4;
const FOLLOWERS: u64 = 5;
/// Longer than a worker leaves any change unseen; shorter than the grace of three seconds.
const SOON: Duration = Duration::from_secs(2);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than anybody lets it work.
const LONG: Duration = Duration::from_secs(60);

/// What the handler does, by the last digit of its task's number.
const QUICK: u64 = 0;
const DEAF: u64 = 1;
const LISTENS: u64 = 2;

const WORK: Work = |process, context| {
    Box::pin(async move {
        match number_of(&context) % 10 {
            DEAF => tokio::time::sleep(LONG).await,
            LISTENS => {
                let (stopped, work) =
                    (std::pin::pin!(context.stopped()), std::pin::pin!(tokio::time::sleep(LONG)));
                if let Either::Left((reason, _)) = select(stopped, work).await {
                    told(&process, &context, &reason);
                    return match reason {
                        StopReason::Cancelled(reason) => Verdict::Cancel { reason },
                        reason => Verdict::error(reason),
                    };
                }
            }
            _ => {}
        }
        done(&context)
    })
};

async fn run(world: World) {
    world.heal();
    let client = Process::start(&world, "client");
    Process::start_worker(&world, "worker", 1, WORK);
    drop(Process::start(&world, "other worker").work_on(narrow(), 5, WORK));
    while client.engine.limit(QueueLimit { queue: narrow(), concurrency: Some(1) }).await.is_err() {}
    for round in 0..ROUNDS {
        match client.pick(Stream::Workload, "what may not wait", round, 4) {
            0 => replace(&world, &client, round).await,
            1 => cancel(&world, &client, round).await,
            2 => time_out(&world, &client, round).await,
            _ => follow(&world, &client, round).await,
        }
        until_all_ended(&world).await;
    }
}

async fn replace(world: &World, client: &Process, round: u64) {
    let in_slot = |number: u64| {
        let slot = Some((Slot::trusted("s"), OnConflict::Replace));
        NewTask { slot, ..task(round, number) }
    };
    if enters(world, client, in_slot(10 + DEAF)).await {
        before_or_after_a_renewal(client, round).await;
        let newcomer = in_slot(20 + QUICK);
        let id = newcomer.id.clone();
        if !enters(world, client, newcomer).await {
            world.record(Event::Overdue { task: id, what: Awaited::Entry });
        }
    }
}

async fn cancel(world: &World, client: &Process, round: u64) {
    let listener = task(round, 10 + LISTENS);
    let id = listener.id.clone();
    if !enters(world, client, listener).await {
        return;
    }
    before_or_after_a_renewal(client, round).await;
    if let Ok(Cancelled::Ended | Cancelled::Requested) = client.engine.cancel(&id, "no longer needed").await {
        world.record(Event::Cancelled { task: id.clone(), acknowledged: true });
        if !soon(world, |event| matches!(event, Event::Told { task, .. } if *task == id)).await {
            world.record(Event::Overdue { task: id, what: Awaited::Word });
        }
    }
}

/// The first renewal comes after a second, and would tell of a change by itself; the second comes later than soon.
async fn before_or_after_a_renewal(client: &Process, round: u64) {
    client.pause("after a while", round, &[0, 700, 1_500, 2_500]).await;
}

async fn time_out(world: &World, client: &Process, round: u64) {
    let deaf = NewTask { timeout: TIMEOUT, attempts_max: 1, ..task(round, 10 + DEAF) };
    if enters(world, client, deaf).await {
        tokio::time::sleep(TIMEOUT).await;
        let next = task(round, 20 + QUICK);
        let id = next.id.clone();
        if !enters(world, client, next).await {
            world.record(Event::Overdue { task: id, what: Awaited::Turn });
        }
    }
}

/// More tasks than a worker that only polls could enter soon.
async fn follow(world: &World, client: &Process, round: u64) {
    let tasks =
        (0..FOLLOWERS).map(|number| NewTask { queue: narrow(), ..task(round, 30 + 10 * number + QUICK) });
    let tasks: Vec<NewTask> = tasks.collect();
    let last = tasks.last().expect("several").id.clone();
    let first = world.history().entries().len();
    join_all(tasks.into_iter().map(|task| client.submit(task, 0))).await;
    let all_entered = |entries: &[Entry]| {
        let entered = |entry: &&Entry| matches!(entry.event, Event::Entered { .. });
        entries[first..].iter().filter(entered).count() as u64 >= FOLLOWERS
    };
    if !soon_in(world, all_entered).await {
        world.record(Event::Overdue { task: last, what: Awaited::Turn });
    }
}

/// The queue that lets one task run.
fn narrow() -> Queue {
    Queue::trusted("narrow")
}

fn task(round: u64, number: u64) -> NewTask {
    new_task("task", round * 100 + number)
}

/// Submits a task; says whether its handler is entered soon.
async fn enters(world: &World, client: &Process, task: NewTask) -> bool {
    let id: TaskId = task.id.clone();
    client.submit(task, 0).await;
    soon(world, |event| matches!(event, Event::Entered { task, .. } if *task == id)).await
}

async fn soon(world: &World, happens: impl Fn(&Event) -> bool) -> bool {
    soon_in(world, |entries| entries.iter().any(|entry| happens(&entry.event))).await
}

async fn soon_in(world: &World, shows: impl Fn(&[Entry]) -> bool) -> bool {
    let since = world.now();
    loop {
        if shows(&world.history().entries()) {
            return true;
        }
        if world.now().since(since) >= SOON {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let entered = |digits: [u64; 2]| {
        let is_such = |task: &TaskId| {
            let number = task.as_str().rsplit('-').next().and_then(|digits| digits.parse::<u64>().ok());
            number.is_some_and(|number| number % 100 == digits[0] * 10 + digits[1])
        };
        entries.iter().any(|entry| matches!(&entry.event, Event::Entered { task, .. } if is_such(task)))
    };
    let replaced = entries.iter().any(|entry| {
        matches!(&entry.event, Event::Changed { after, .. } if after.cause == Some(steadfast_core::Cause::Replaced))
    });
    let timed_out = entries.iter().any(|entry| {
        matches!(&entry.event, Event::Changed { after, .. } if after.cause == Some(steadfast_core::Cause::Timeout))
    });
    let heard = entries.iter().any(|entry| matches!(entry.event, Event::Told { .. }));
    goals(&[
        (ENTERED, replaced && entered([2, QUICK])),
        (HEARD, heard),
        (TURN, timed_out && entered([2, QUICK])),
        (FOLLOWED, (3..3 + FOLLOWERS).all(|tens| entered([tens, QUICK]))),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn what_may_not_wait_does_not() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
