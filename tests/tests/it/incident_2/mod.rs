//! The tests of the incident in which a session's tasks were registered and never ran: an old task was awaited under
//! the lock that it needed to end. A session is a slot here, and registering a task is submitting it with `replace`.
//!
//! Each test is one function over any storage and clock, and runs on the simulated stores from several seeds, and on
//! real SQLite with the real host. Nothing sleeps: all waits are for what handlers note, or for what the store says.

mod bench;
mod lifecycle;
mod registration;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use steadfast::{Host, TokioClock};
use steadfast_core::{Engine, Supervisor, sweeper};
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::storage::SimStorage;
use steadfast_sim::world::{Faults, Kind, Node, Profile, SimClock, World};
use steadfast_sqlite::{Options, SqliteStorage};

use bench::{Bench, Drain, Service};

/// Each in its own schedule of who comes in between.
const SEEDS: u64 = 8;
/// Longer than any of these tests may take.
const LIMIT: Duration = Duration::from_secs(60);

macro_rules! tests {
    ($($theme:ident::$name:ident,)*) => {
        mod simulated {
            $(#[test]
            fn $name() {
                super::simulated(|bench| Box::pin(super::$theme::$name(bench)));
            })*
        }

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::on_sqlite(|bench| Box::pin(super::$theme::$name(bench))).await;
            })*
        }
    };
}

tests! {
    registration::task_executes_after_registration,
    registration::task_replacement_doesnt_block_new_task,
    registration::multiple_rapid_registrations,
    registration::task_executes_before_endpoint_returns,
    lifecycle::task_registration_and_tracking,
    lifecycle::task_cancellation_on_timeout,
    lifecycle::task_error_handling,
    lifecycle::task_cleanup_on_session_end,
    lifecycle::multiple_sessions_no_orphaned_tasks,
    lifecycle::task_replacement_on_new_registration,
    lifecycle::task_status_endpoint_all_sessions,
    lifecycle::memory_stability_with_task_churn,
    lifecycle::expired_session_cleanup_cancels_tasks,
}

fn simulated(test: fn(Bench<SimStorage, SimClock>) -> BoxFuture<'static, ()>) {
    for profile in Profile::ALL {
        for seed in 0..SEEDS {
            let choices = Choices::from_seed(seed);
            let scheduler = Scheduler::new(choices.clone(), 2_000);
            // Nothing goes wrong, but others come in between.
            let faults = Faults { latency: 2_000, ..Faults::default() };
            let world = World::on(scheduler.clone(), choices, Kind { faults, ..Kind::of(profile) });
            let run = async move { test(Bench::new(in_node(&world.start("service", 100)))).await };
            let ended = scheduler.run(Bounds { polls: 5_000_000, time: LIMIT }, run);
            assert!(ended.is_ok(), "seed {seed} on simulated {}: {}", profile.as_str(), ended.unwrap_err());
        }
    }
}

/// A service in one process of the simulated world.
fn in_node(node: &Node) -> Service<SimStorage, SimClock> {
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    node.spawn("committer", commits);
    node.spawn("sweeper", sweeper::run(engine.clone(), sweeper::SWEEP));
    let (place, engine_of_workers) = (node.clone(), engine.clone());
    let work = move |handlers, config| {
        let (supervisor, drain) = Supervisor::new(engine_of_workers.clone(), handlers, config).unwrap();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        place.spawn("worker", async move {
            supervisor.run().await;
            // Nobody may be waiting.
            let _ = ended.send(());
        });
        let drained: Drain = Box::new(move || {
            Box::pin(async move {
                drain.drain();
                has_ended.await.unwrap();
            })
        });
        drained
    };
    Service { engine, work: Arc::new(work) }
}

async fn on_sqlite(test: fn(Bench<SqliteStorage, TokioClock>) -> BoxFuture<'static, ()>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tasks.db");
    let host = Host::start(async move || SqliteStorage::open(Options::file(path))).await.unwrap();
    let (engine, place) = (host.engine().clone(), host.clone());
    let work = move |handlers, config| {
        let worker = place.work(handlers, config).unwrap();
        let drained: Drain = Box::new(move || Box::pin(async move { worker.drain().await.unwrap() }));
        drained
    };
    let bench = Bench::new(Service { engine, work: Arc::new(work) });
    tokio::time::timeout(LIMIT, test(bench)).await.expect("it ends within the limit");
    host.close().await;
}
