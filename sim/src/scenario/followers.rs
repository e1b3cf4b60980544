//! Clients that follow their tasks as a server's event streams do: they look before they submit and after, are told of
//! every revision that they can see, break off and come back with the last one; while two workers claim and settle beside
//! each other.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::name::TaskId;
use steadfast_core::task::{OnParentFailure, Parent};

use super::client::dropped_after;
use super::incidents::{Process, done, goals, heal_and_end, new_task, number_of, places};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::scheduler::waiting_for;
use crate::world::World;

const SAW_NOTHING: &str = "a reader asked before there was anything";
const FOLDED: &str = "revisions were folded together";
const CAME_BACK: &str = "a stream broke off, and its reader was told of more when it came back";
const SAW_END: &str = "a reader was told of the end";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "followers",
    about: "clients look, follow their tasks, break off and come back, while two workers claim and settle",
    goals: Goals { all: &[SAW_NOTHING, FOLDED, CAME_BACK, SAW_END], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const TASKS: u64 = 6;
/// How long one look waits for the next revision.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How long a reader waits before it comes back.
const COMES_BACK_AFTER: Duration = Duration::from_secs(1);
/// How long after the last end every reader has been told of it: some looks, and those that came to nothing.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

async fn run(world: World) {
    let api = Process::start(&world, "api");
    for number in 0..2 {
        Process::start_worker(&world, format!("worker-{number}"), 3, |process, context| {
            Box::pin(async move {
                process.pause("work", number_of(&context), &[0, 0, 300, 2_000, 8_000]).await;
                done(&context)
            })
        });
    }
    for number in 0..TASKS {
        let mut task = new_task("task", number);
        let id = task.id.clone();
        if number > 0 && api.pick(Stream::Workload, "waits for the one before", number, 3) == 2 {
            let before = TaskId::trusted(format!("task-{}", number - 1));
            task.parents = vec![Parent { id: before, on_failure: OnParentFailure::Fail }];
        }
        look(&api, &id, number).await;
        api.submit(task, 0).await;
        look(&api, &id, number).await;
        api.node.spawn("stream", follow(api.clone(), id, number));
        api.pause("next request", number, &[0, 0, 100, 3_000]).await;
    }
    heal_and_end(&world).await;
    waiting_for("the last readers to be told", tokio::time::sleep(TOLD_WITHIN)).await;
}

/// One look, and what came of it.
async fn look(api: &Process, id: &TaskId, number: u64) {
    if api.pick(Stream::Workload, "looks", number, 2) == 0 {
        return;
    }
    let (reader, asked_at) = (api.node.name().to_owned(), api.node.world().now());
    let task = id.clone();
    // Out of reach for now.
    let Ok(found) = api.engine.task(id).await else { return };
    api.node.record(match found {
        Some(found) => Event::Looked { reader, task, rev: found.rev, state: found.state, asked_at },
        None => Event::Missed { reader, task, asked_at },
    });
}

/// A stream of one task's events, over all its connections.
async fn follow(api: Process, id: TaskId, number: u64) {
    let reader = format!("reader-{number}");
    let follows = || Event::Follows { reader: reader.clone(), task: id.clone() };
    api.node.record(follows());
    let mut seen = None;
    loop {
        let wait = if seen.is_none() { Duration::ZERO } else { LOOK_MAX };
        let patience =
            api.node.world().choices().depart(Stream::Faults, "stream breaks off", number, 800, 12);
        let task = match dropped_after(patience, api.engine.wait(&id, seen, wait)).await {
            Some(Ok(Some(task))) => task,
            Some(Ok(None)) => {
                let (reader, task, asked_at) = (reader.clone(), id.clone(), api.node.world().now());
                api.node.record(Event::Missed { reader, task, asked_at });
                return;
            }
            Some(Err(_)) => {
                tokio::time::sleep(COMES_BACK_AFTER).await;
                continue;
            }
            None => {
                tokio::time::sleep(COMES_BACK_AFTER).await;
                api.node.record(follows());
                continue;
            }
        };
        if seen.is_none_or(|seen| task.rev > seen) {
            seen = Some(task.rev);
            let (reader, task, rev, state) = (reader.clone(), id.clone(), task.rev, task.state);
            api.node.record(Event::Followed { reader, task, rev, state });
        }
        if task.state.is_terminal() {
            return;
        }
    }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let told: Vec<_> = places(entries, |event| match event {
        Event::Followed { task, rev, state, .. } => Some((task, *rev, *state)),
        _ => None,
    })
    .collect();
    let follows: Vec<_> =
        places(entries, |event| if let Event::Follows { task, .. } = event { Some(task) } else { None })
            .collect();
    let of = |id: &TaskId| told.iter().filter(move |(_, (task, ..))| *task == id).collect::<Vec<_>>();
    let folded =
        told.iter().any(|(_, (task, ..))| of(task).windows(2).any(|pair| pair[1].1.1 > pair[0].1.1 + 1));
    let came_back = follows.iter().any(|(place, task)| {
        let told = of(task);
        told.first().is_some_and(|(first, _)| first < place)
            && told.last().is_some_and(|(last, _)| last > place)
    });
    let missed = places(entries, |event| matches!(event, Event::Missed { .. }).then_some(())).next();
    goals(&[
        (SAW_NOTHING, missed.is_some()),
        (FOLDED, folded),
        (CAME_BACK, came_back),
        (SAW_END, told.iter().any(|(_, (_, _, state))| state.is_terminal())),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn every_follower_is_told_of_every_end() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
