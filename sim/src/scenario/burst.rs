//! Twenty tasks at once on three workers: the story of [`workers`](super::workers) in a few seconds. Callers that don't wait for each
//! other submit everything in one go, parents beside their children, so that submits share commits; leases are short,
//! and crashes, freezes and drains come quickly. Then faults stop, and everything must come to an end.

use std::time::Duration;

use futures_util::future::{join_all, join3};
use steadfast_core::Engine;
use steadfast_core::name::Queue;
use steadfast_core::step::QueueLimit;
use steadfast_core::task::{Due, NewTask};

use crate::choices::Stream;
use crate::oracle::goals;
use crate::world::World;

use super::chaos::Place;
use super::client::{Client, LIMITED, TASKS, id};
use super::rival::Rival;
use super::workers::{WORKERS, drain_all, until_all_ended};
use super::{Goals, Scenario, Tempo};

/// How long faults last.
const STORM: Duration = Duration::from_secs(4);

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "burst",
    about: "twenty tasks submitted at once to three workers that crash, freeze and restart, with short leases",
    goals: Goals { all: GOALS, reached: goals::reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

/// What a sweep of it must reach: of the goals of `workers`, those that don't need its variety.
const GOALS: &[&str] = &[
    "a lease lapsed and the task was rescued",
    "a zombie spoke after its attempt was lost",
    "an attempt was retried",
    "a panic was recorded",
    "an attempt timed out",
    "a running task was asked to stop",
    "a child waited for its parents and ran",
    "a failed parent failed its child",
    "the limit was reached",
    "a submit was answered with the task of its key",
    "a caller went away",
    "a drained attempt was given back",
    "a worker crashed while it ran a task",
    "a task waited for its slot and got it",
    "a report was kept",
];

async fn run(world: World) {
    let node = world.start("api", 100);
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    node.spawn("committer", commits);
    let limit = QueueLimit { queue: Queue::trusted(LIMITED), concurrency: Some(2) };
    while engine.limit(limit.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let until = tokio::time::Instant::now() + STORM;
    let client = Client { node, engine };
    let (rival, tip) = Rival::new(client.clone());
    let place = |number| Place { world: world.clone(), number, tip: tip.clone(), tempo: Tempo::BRISK };
    let haunted = (0..WORKERS).map(|number| place(number).haunt(until));
    let (workers, (), ()) = join3(join_all(haunted), submit_all(&client), rival.run(until)).await;
    world.heal();
    until_all_ended(&world, &client, Tempo::BRISK).await;
    drain_all(workers.into_iter().flatten()).await;
}

/// Submits everything at once; then cancels some.
async fn submit_all(client: &Client) {
    let choices = client.choices();
    let replacing = choices.pick(Stream::Workload, "swarm: children replace", 0, 3) == 2;
    let submits = (0..TASKS).map(|number| client.submit(number, hurried(client.plan(number, replacing))));
    join_all(submits).await;
    for number in (0..TASKS).filter(|number| choices.odds(Stream::Workload, "cancel", *number, 1_000)) {
        client.cancel(&id(number)).await;
    }
}

/// The same task in less time.
fn hurried(task: NewTask) -> NewTask {
    let tempo = Tempo::BRISK;
    let sooner = |due| match due {
        Due::Now => Due::Now,
        Due::After(delay) => Due::After(tempo.of(delay)),
        Due::At(at) => Due::At(at),
    };
    // The backoff stays: a commit may take a second, and P12 can only compare with when it was done.
    NewTask {
        due: sooner(task.due),
        deadline: task.deadline.map(sooner),
        timeout: tempo.of(task.timeout),
        ..task
    }
}
