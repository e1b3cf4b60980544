//! Three workers that crash, freeze past their lease and thaw, and restart, under a client that submits tasks with
//! parents, keys, slots, delays and deadlines to a queue without and one with a limit of two, cancels some, pauses a queue
//! and forgets what ended long ago; under handlers that report; with lost commit answers and conflicts. Then faults stop,
//! and everything must come to an end.

use std::time::Duration;

use futures_util::future::{join_all, join3};
use steadfast_core::Engine;
use steadfast_core::name::Queue;
use steadfast_core::step::QueueLimit;

use crate::oracle::goals;
use crate::world::World;

use super::chaos::{Incarnation, Place};
use super::client::{Client, LIMITED};
use super::rival::Rival;
use super::{Goals, Scenario};

/// How many workers there are.
const WORKERS: u64 = 3;
/// How long faults last.
const STORM: Duration = Duration::from_secs(90);
/// How often the run looks whether all has ended.
const LOOK: Duration = Duration::from_secs(5);

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "workers",
    about: "three workers that crash, freeze and restart; parents, slots, keys, deadlines, limits, pauses, cancels, reports, pruning, lost answers",
    goals: Goals { all: goals::GOALS, reached: goals::reached },
    run: &|world| Box::pin(run(world)),
};

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
    let place = |number| Place { world: world.clone(), number, tip: tip.clone() };
    let haunted = (0..WORKERS).map(|number| place(number).haunt(until));
    let (workers, (), ()) = join3(join_all(haunted), client.clone().run(), rival.run(until)).await;
    world.heal();
    while client.pause_queue(false).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The bound on this wait is the run's bound on virtual time.
    while !all_ended(&world) {
        tokio::time::sleep(LOOK).await;
        // The next will make up for one that fails.
        let _ = client.prune().await;
    }
    for worker in workers.iter().flatten() {
        worker.drain.drain();
    }
    for worker in workers.iter().flatten() {
        leave_nothing(worker).await;
    }
}

fn all_ended(world: &World) -> bool {
    world.history().tasks().values().all(|task| task.state.is_terminal())
}

/// A drained worker leaves no attempt behind (P21, P22).
async fn leave_nothing(worker: &Incarnation) {
    while !worker.engine.registry().is_empty() {
        tokio::time::sleep(LOOK).await;
    }
}
