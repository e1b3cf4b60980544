//! Three workers that crash, freeze past their lease and thaw, and restart, under a client that submits tasks with
//! parents, keys, slots, delays and deadlines to a queue without and one with a limit of two, cancels some, pauses a queue
//! and forgets what ended long ago; under handlers that report; with lost commit answers and conflicts. Then faults stop,
//! and everything must come to an end.

use std::time::Duration;

use futures_util::future::{join_all, join3};
use steadfast_core::Engine;
use steadfast_core::name::Queue;
use steadfast_core::step::QueueLimit;

use crate::history::Event;
use crate::oracle::goals;
use crate::storage::rows::{StoreRow, table};
use crate::world::World;

use super::chaos::{Incarnation, LEASE, Place, SWEEP};
use super::client::{Client, LIMITED};
use super::handler::TIMEOUT;
use super::operator::Operator;
use super::progress::{self, Costs};
use super::rival::Rival;
use super::weather::Weather;
use super::{Goals, Scenario, Tempo};

/// How many workers there are.
pub(super) const WORKERS: u64 = 3;
/// How long faults last.
const STORM: Duration = Duration::from_secs(90);
/// As a goal.
pub(crate) const WAITS_RIGHTFULLY: &str = "at the end only what nobody can run was left";
/// How often the run looks whether all has ended.
const LOOK: Duration = Duration::from_secs(5);
/// Longer than a drained worker takes: its grace, its reports and its farewell.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "workers",
    about: "three workers that crash, freeze and restart; parents, slots, keys, deadlines, limits, pauses, cancels, reports, pruning, lost answers",
    goals: Goals { all: goals::GOALS, reached: goals::reached, has_faults: true },
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
    let operator = operator(&world);
    let weather = Weather::new(&world);
    let place = |number| Place { world: world.clone(), number, tip: tip.clone(), tempo: Tempo::PLAIN };
    let haunted = (0..WORKERS).map(|number| place(number).haunt(until));
    let beside = join3(rival.run(until), operator.run(until), weather.run(until));
    let (workers, (), _) = join3(join_all(haunted), client.clone().run(), beside).await;
    world.heal();
    while client.pause_queue(false).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_all_ended(&world, &client, Tempo::PLAIN).await;
    drain_all(workers.into_iter().flatten()).await;
}

/// Drains what still works. Each notes what its process knows then (P21, P22).
pub(super) async fn drain_all(workers: impl Iterator<Item = Incarnation>) {
    let drained = workers.map(|worker| {
        worker.drain.drain();
        worker.gone
    });
    let _ = tokio::time::timeout(DRAINED_WITHIN, join_all(drained)).await;
}

/// Somebody who looks, retries and sets limits.
fn operator(world: &World) -> Operator {
    let node = world.start("operator", 100);
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    node.spawn("committer", commits);
    Operator(Client { node, engine })
}

/// Until all has ended, or what is left waits rightfully.
pub(super) async fn until_all_ended(world: &World, client: &Client, tempo: Tempo) {
    let lease = LEASE;
    // The longest of the handler's grace, cleanup and snooze, and of the polls in between.
    let costs = Costs { lease, sweep: SWEEP, attempt: TIMEOUT + Duration::from_secs(15) };
    progress::until_all_ended(world, tempo.of(LOOK), costs, || async {
        // The next will make up for one that fails.
        if world.is_quiet() && is_paused(world) {
            let _ = client.pause_queue(false).await;
        }
        let _ = client.prune().await;
    })
    .await;
    if world.history().tasks().values().any(|task| !task.state.is_terminal()) {
        world.record(Event::Did { what: WAITS_RIGHTFULLY });
    }
}

/// A pause that its caller gave up may arrive after the call that ends it.
fn is_paused(world: &World) -> bool {
    let is_paused = |row: &StoreRow| matches!(row, StoreRow::Queue(queue) if queue.paused);
    world.server().db().committed(table::QUEUE).any(is_paused)
}
