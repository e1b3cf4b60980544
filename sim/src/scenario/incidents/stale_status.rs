//! Incident 4 on the engine: a client polls and waits while a worker in another process commits. Each read has a snapshot of
//! its own, however late its answer comes, so no reader goes back or stays behind.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::State;
use steadfast_core::name::TaskId;

use super::{Process, done, goals, heal_and_end, new_task, number_of, places};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::scenario::{Goals, Scenario};
use crate::world::World;

const SAW_BOTH: &str = "a reader saw it running, and then its end";
const OVERTAKEN: &str = "a look that began before a commit came back after it with what was before";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "incident-4-stale-status",
    about: "a client polls and waits while a worker in another process commits",
    goals: Goals { all: &[SAW_BOTH, OVERTAKEN], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const TASKS: u64 = 3;
/// How often a client looks at most: one that is shown what is old for ever gives up.
const LOOKS_MAX: u32 = 200;

async fn run(world: World) {
    let api = Process::start(&world, "api");
    let worker = Process::start_worker(&world, "worker", 2, |process, context| {
        Box::pin(async move {
            process.pause("model", number_of(&context), &[500, 0, 2_000, 8_000]).await;
            done(&context)
        })
    });
    for number in 0..TASKS {
        let task = new_task("task", number);
        let id = task.id.clone();
        api.submit(task, 0).await;
        if api.odds("worker freezes", number, 1_500) {
            worker.node.freeze();
            let node = worker.node.clone();
            api.node.spawn("thaws the worker", async move {
                tokio::time::sleep(Duration::from_secs(15)).await;
                node.thaw();
            });
        }
        watch(&api, &id, number).await;
    }
    heal_and_end(&world).await;
}

/// Polls until the end, now and then by waiting for something newer than what was seen.
async fn watch(api: &Process, id: &TaskId, number: u64) {
    let mut seen = 0;
    for _ in 0..LOOKS_MAX {
        let asked_at = api.node.world().now();
        let waits = api.pick(Stream::Workload, "waits", number, 3) == 2;
        let read = if waits {
            api.engine.wait(id, Some(seen), Duration::from_secs(5)).await
        } else {
            api.engine.task(id).await
        };
        // Out of reach for now.
        if let Ok(found) = read {
            let task = found.expect("it was accepted, and every read is of the store that said so");
            let (rev, state) = (task.rev, task.state);
            let reader = api.node.name().to_owned();
            api.node.record(Event::Looked { reader, task: id.clone(), rev, state, asked_at });
            seen = rev;
            if state.is_terminal() {
                return;
            }
        }
        api.pause("poll", number, &[1_000, 50, 250, 2_000]).await;
    }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let looks: Vec<_> = places(entries, |event| match event {
        Event::Looked { task, rev, state, asked_at, .. } => Some((task, *rev, *state, *asked_at)),
        _ => None,
    })
    .collect();
    let saw_both = looks.windows(2).any(|pair| {
        let [(_, (task, _, before, _)), (_, (same, _, after, _))] = pair else { return false };
        task == same && *before == State::Running && *after == State::Succeeded
    });
    let overtaken = looks.iter().any(|(place, (task, rev, _, asked_at))| {
        let newer = |entry: &Entry| match &entry.event {
            Event::Changed { after, .. } => after.id == **task && after.rev > *rev && entry.at >= *asked_at,
            _ => false,
        };
        entries[..*place].iter().any(newer)
    });
    goals(&[(SAW_BOTH, saw_both), (OVERTAKEN, overtaken)])
}
