//! Limits that come and go: a queue is limited or paused at the very instant at which several workers claim from it, and
//! is freed again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{join, join_all};
use steadfast_core::State;
use steadfast_core::name::Queue;
use steadfast_core::step::{QueueLimit, QueuePause};

use super::incidents::{
    Process, Work, done, goals, new_task, number_of, places, until_all_ended, until_the_beat,
};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::world::World;

const FIRST: &str = "a queue was limited for the first time at the instant of a claim";
const ANEW: &str = "a queue was limited anew at the instant of a claim";
const PAUSED: &str = "a queue was paused at the instant of a claim";
const FREED: &str = "a task was claimed once nothing held its queue any more";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "limits",
    about: "a queue is limited, paused and freed again at the instant at which three workers claim from it",
    goals: Goals { all: &[FIRST, ANEW, PAUSED, FREED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const WORKERS: u64 = 3;
const ROUNDS: u64 = 4;
/// How many tasks a round has; in three rounds they are more than the workers can have at once.
const TASKS: u64 = 4;
/// When what failed is tried again.
const SOON: Duration = Duration::from_millis(500);
/// What is called the instant of a claim.
const NEAR: Duration = Duration::from_millis(10);

const WORK: Work = |process, context| {
    Box::pin(async move {
        if process.pick(Stream::Workload, "work", number_of(&context), 4) < 3 {
            until_the_beat(process.node.world()).await;
        }
        done(&context)
    })
};

async fn run(world: World) {
    let client = Process::start(&world, "client");
    for number in 0..WORKERS {
        Process::start_worker(&world, format!("worker-{number}"), 3, WORK);
    }
    for round in 0..ROUNDS {
        let tasks =
            (round * TASKS..(round + 1) * TASKS).map(|number| client.submit(new_task("task", number), 0));
        join(join_all(tasks), hold(&client, round)).await;
        until_the_beat(&world).await;
        if client.pick(Stream::Workload, "held for longer", round, 3) < 2 {
            free(&client).await;
        }
    }
    world.heal();
    // What was answered with an error may still hold the queue later.
    while !world.is_quiet() {
        tokio::time::sleep(SOON).await;
    }
    free(&client).await;
    until_all_ended(&world).await;
}

/// Limits or pauses the queue soon, or leaves it.
async fn hold(client: &Process, round: u64) {
    client.pause("until it is held", round, &[4, 0, 2, 6, 8, 12]).await;
    match client.pick(Stream::Workload, "how it is held", round, 4) {
        how @ 0..=1 => limit(client, Some(1 + u32::from(how == 1))).await,
        2 => pause(client, true).await,
        _ => {}
    }
}

async fn free(client: &Process) {
    join(limit(client, None), pause(client, false)).await;
}

async fn limit(client: &Process, concurrency: Option<u32>) {
    let limit = QueueLimit { queue: Queue::default_queue(), concurrency };
    while client.engine.limit(limit.clone()).await.is_err() {
        tokio::time::sleep(SOON).await;
    }
}

async fn pause(client: &Process, paused: bool) {
    let pause = QueuePause { queue: Queue::default_queue(), paused };
    while client.engine.pause(pause.clone()).await.is_err() {
        tokio::time::sleep(SOON).await;
    }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let claims: Vec<_> = places(entries, |event| match event {
        Event::Changed { before, after } => {
            let is_new = before.as_ref().is_none_or(|before| after.fence > before.fence);
            (after.state == State::Running && is_new).then_some(())
        }
        _ => None,
    })
    .map(|(place, ())| (place, entries[place].at))
    .collect();
    let limits: Vec<_> = places(entries, |event| match event {
        Event::Limited { concurrency, .. } => Some(*concurrency),
        _ => None,
    })
    .collect();
    let near_claim = |place: usize| {
        let at = entries[place].at;
        claims
            .iter()
            .any(|(_, claimed)| std::cmp::max(at, *claimed).since(std::cmp::min(at, *claimed)) < NEAR)
    };
    let is_limit = |concurrency: Option<u32>| concurrency.is_some_and(|limit| limit > 0);
    let first = limits.first().is_some_and(|(place, limit)| is_limit(*limit) && near_claim(*place));
    let anew = limits.windows(2).any(|both| {
        let [(_, before), (place, after)] = both else { return false };
        before.is_none() && is_limit(*after) && near_claim(*place)
    });
    let paused = limits.iter().any(|(place, limit)| *limit == Some(0) && near_claim(*place));
    let freed = limits.iter().enumerate().any(|(index, (place, limit))| {
        let until = limits.get(index + 1).map_or(entries.len(), |(next, _)| *next);
        limit.is_none() && claims.iter().any(|(claim, _)| (*place..until).contains(claim))
    });
    goals(&[(FIRST, first), (ANEW, anew), (PAUSED, paused), (FREED, freed)])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn limits_hold_from_the_instant_at_which_they_are_set() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
