//! Incident 4's other cause: two processes that are configured alike, on two databases.

use std::time::Duration;

use steadfast_core::engine::Submitted;
use steadfast_core::name::{Kind, TaskId, WorkerId};
use steadfast_core::storage::Query;
use steadfast_core::task::NewTask;
use steadfast_core::{Context, Engine, Handlers, State, Storage, Supervisor, Verdict, WorkerConfig};
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::world::{Kind as Store, Node, Profile, SimClock, World};

const BOUNDS: Bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(600) };
const SECOND: Duration = Duration::from_secs(1);

fn engine<S: Storage>(node: &Node, storage: S) -> Engine<S, SimClock> {
    let (engine, commits) = Engine::new(storage, node.clock());
    node.spawn("committer", commits);
    engine
}

/// Starts a worker.
fn work<S: Storage>(node: &Node, engine: &Engine<S, SimClock>) {
    let handlers = Handlers::new().with(Kind::trusted("quick"), |_: Context| async { Verdict::done(*b"") });
    let config = WorkerConfig::new(WorkerId::trusted(node.name()));
    let (supervisor, _drain) =
        Supervisor::new(engine.clone(), handlers, config).expect("the configuration makes sense");
    node.spawn("supervisor", supervisor.run());
}

#[test]
fn two_processes_on_two_databases_are_found_out_by_what_each_answer_names() {
    for profile in Profile::ALL {
        let choices = Choices::from_decisions([]);
        let scheduler = Scheduler::new(choices.clone(), 0);
        let world = World::on(scheduler.clone(), choices, Store::of(profile));
        scheduler.run(BOUNDS, look_here_and_work_there(world)).expect("the script comes to its end");
    }
}

async fn look_here_and_work_there(world: World) {
    let elsewhere = world.another_database();
    let (api, node) = (world.start("api", 100), world.start("w", 100));
    let client = engine(&api, api.storage());
    let astray = engine(&node, node.storage_in(&elsewhere));
    work(&node, &astray);
    let id = TaskId::trusted("a");
    let task = NewTask::new(id.clone(), Kind::trusted("quick"), *b"");
    assert!(matches!(client.submit(task).await, Ok(Submitted::Accepted(_))));
    let waited = client.wait(&id, None, SECOND * 60).await.expect("answered").expect("stored");
    assert_eq!(waited.state, State::Ready, "nobody looks where it is");
    let asked = Query::Task(id.clone());
    let here = client.read(&asked).await.expect("answered");
    let there = astray.read(&asked).await.expect("answered");
    assert_ne!(here.store, there.store);
    work(&node, &engine(&node, node.storage()));
    let waited = client.wait(&id, None, SECOND * 60).await.expect("answered").expect("stored");
    assert_eq!(waited.state, State::Succeeded);
}
