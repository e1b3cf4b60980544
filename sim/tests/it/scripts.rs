//! Known races as scripts: who does what and when, with no other faults. They were bugs once, and keep their meaning when
//! seeds lose theirs.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steadfast_core::engine::Submitted;
use steadfast_core::name::{Kind, TaskId, WorkerId};
use steadfast_core::step::{Batch, Step};
use steadfast_core::storage::{ErrorKind, Query};
use steadfast_core::task::{NewTask, Task};
use steadfast_core::{
    Cause, Context, Engine, Handlers, State, Storage, Supervisor, Verdict, WorkerConfig, sweeper,
};
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::storage::SimStorage;
use steadfast_sim::world::{Kind as Store, Node, Profile, SimClock, World};

use super::wrapped::{Call, Deed, Wrapped};

const BOUNDS: Bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(600) };
const LEASE: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);

/// Plays a script in a world without faults.
fn play<F: Future<Output = ()> + Send + 'static>(profile: Profile, script: impl FnOnce(World) -> F) {
    let choices = Choices::from_decisions([]);
    let scheduler = Scheduler::new(choices.clone(), 0);
    let world = World::on(scheduler.clone(), choices, Store::of(profile));
    scheduler.run(BOUNDS, script(world)).expect("the script comes to its end");
}

fn engine<S: Storage>(node: &Node, storage: S) -> Engine<S, SimClock> {
    let (engine, commits) = Engine::new(storage, node.clock());
    node.spawn("committer", commits);
    engine
}

/// Starts a worker for these kinds: `quick` is done at once, `steady` after half a minute unless it is told to stop, and
/// `deaf` hears nothing.
fn work<S: Storage>(node: &Node, engine: &Engine<S, SimClock>, concurrency: usize) {
    let quick = |_: Context| async { Verdict::done(*b"") };
    let steady = |context: Context| async move {
        let nap = std::pin::pin!(tokio::time::sleep(SECOND * 30));
        let stopped = std::pin::pin!(context.stopped());
        match futures_util::future::select(stopped, nap).await {
            futures_util::future::Either::Left((reason, _)) => Verdict::error(reason),
            futures_util::future::Either::Right(_) => Verdict::done(*b""),
        }
    };
    let deaf = |_: Context| async {
        tokio::time::sleep(SECOND * 300).await;
        Verdict::done(*b"")
    };
    let handlers = Handlers::new()
        .with(Kind::trusted("quick"), quick)
        .with(Kind::trusted("steady"), steady)
        .with(Kind::trusted("deaf"), deaf);
    let mut config = WorkerConfig::new(WorkerId::trusted(node.name()));
    config.concurrency = concurrency;
    config.lease = LEASE;
    let (supervisor, _drain) =
        Supervisor::new(engine.clone(), handlers, config).expect("the configuration makes sense");
    node.spawn("supervisor", supervisor.run());
}

fn task(id: &str, kind: &str) -> NewTask {
    NewTask::new(TaskId::trusted(id), Kind::trusted(kind), *b"")
}

async fn submit(engine: &Engine<SimStorage, SimClock>, task: NewTask) {
    assert!(matches!(engine.submit(task).await, Ok(Submitted::Accepted(_))));
}

async fn end_of(engine: &Engine<SimStorage, SimClock>, id: &str) -> Task {
    let task =
        engine.wait(&TaskId::trusted(id), None, SECOND * 120).await.expect("answered").expect("stored");
    assert!(task.state.is_terminal(), "{task:?}");
    task
}

#[test]
fn a_timed_out_attempt_in_its_grace_holds_nobody_up() {
    play(Profile::Postgres, |world| async move {
        let node = world.start("w", 100);
        let engine = engine(&node, node.storage());
        work(&node, &engine, 1);
        submit(&engine, NewTask { timeout: SECOND * 5, attempts_max: 1, ..task("a", "deaf") }).await;
        tokio::time::sleep(SECOND).await;
        submit(&engine, task("b", "quick")).await;
        let second = end_of(&engine, "b").await;
        let first = end_of(&engine, "a").await;
        assert_eq!((first.cause, second.cause), (Some(Cause::Timeout), Some(Cause::Done)));
        let claimed = second.claimed_at.expect("it ran").since(first.claimed_at.expect("it ran"));
        assert!(claimed < SECOND * 7, "it waited {claimed:?} for an attempt whose time was over after 5 s");
    });
}

/// At whatever moment of a lease and of a sweep the worker is killed.
#[test]
fn a_killed_workers_task_runs_again_within_its_lease_and_two_seconds() {
    for profile in Profile::ALL {
        for moment in 0..24 {
            play(profile, |world| async move {
                let survivor = world.start("survivor", 100);
                let watch = engine(&survivor, survivor.storage());
                let node = world.start("w", 100);
                work(&node, &engine(&node, node.storage()), 1);
                submit(&watch, task("a", "steady")).await;
                tokio::time::sleep(SECOND * 3 + SECOND / 4 * moment).await;
                work(&survivor, &watch, 1);
                survivor.spawn("sweeper", sweeper::run(watch.clone(), sweeper::SWEEP));
                tokio::time::sleep(SECOND / 3).await;
                let killed = world.now();
                node.crash();
                let task = end_of(&watch, "a").await;
                let away = task.claimed_at.expect("it ran").since(killed);
                assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
                assert!(
                    away <= LEASE + SECOND * 2,
                    "killed {moment} quarters later, it was away for {away:?}"
                );
            });
        }
    }
}

/// The stranger holds the row for longer than a lease. (SQLite has one lock, for all rows.)
#[test]
fn who_holds_one_row_lets_no_other_lease_lapse() {
    play(Profile::Postgres, |world| async move {
        let node = world.start("w", 100);
        let engine = engine(&node, node.storage());
        work(&node, &engine, 8);
        node.spawn("sweeper", sweeper::run(engine.clone(), SECOND));
        let names = ["a", "b", "c", "d", "e"];
        for name in names {
            submit(&engine, task(name, "steady")).await;
        }
        tokio::time::sleep(SECOND * 4).await;
        let stranger = world.start("stranger", 100);
        let held = TaskId::trusted("c");
        stranger.storage().hold(&held, LEASE * 2).await.expect("nobody else has it for long");
        let held = end_of(&engine, "c").await;
        assert!(held.rescues > 0, "its own lease lapses: {held:?}");
        for name in ["a", "b", "d", "e"] {
            let task = end_of(&engine, name).await;
            assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 1, 0), "{name}");
        }
    });
}

#[test]
fn the_sweeper_does_not_stop_the_successor_of_a_lost_attempt() {
    play(Profile::Postgres, |world| async move {
        let observer = world.start("observer", 100);
        let watch = engine(&observer, observer.storage());
        let node = world.start("w", 100);
        let is_rescue = |batch: &Batch| {
            batch.steps.iter().any(|step| matches!(step, Step::Transition(one) if one.change.rescue))
        };
        // The rescue is answered when its successor runs already.
        let storage = Wrapped::new(node.storage(), move |call| match call {
            Call::Apply(batches) if batches.iter().any(is_rescue) => Deed::LateAnswer(SECOND * 2),
            Call::Claim | Call::Apply(_) | Call::Read(_) => Deed::Fine,
        });
        let own = engine(&node, storage);
        work(&node, &own, 8);
        node.spawn("sweeper", sweeper::run(own.clone(), SECOND));
        submit(&watch, task("a", "steady")).await;
        tokio::time::sleep(SECOND * 3).await;
        node.freeze();
        tokio::time::sleep(LEASE * 2).await;
        node.thaw();
        let task = end_of(&watch, "a").await;
        assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
    });
}

#[test]
fn an_old_answer_to_a_check_does_not_stop_the_successor_of_a_lost_attempt() {
    play(Profile::Postgres, |world| async move {
        let observer = world.start("observer", 100);
        let watch = engine(&observer, observer.storage());
        observer.spawn("sweeper", sweeper::run(watch.clone(), SECOND));
        let node = world.start("w", 100);
        // It asks how its attempts stand, claims the next one, and then hears how they stood.
        let thawed = Arc::new(AtomicBool::new(false));
        let is_slow = thawed.clone();
        let storage = Wrapped::new(node.storage(), move |call| match call {
            Call::Read(Query::Heads(_)) if is_slow.load(Ordering::Relaxed) => Deed::LateAnswer(SECOND * 2),
            Call::Claim if is_slow.load(Ordering::Relaxed) => Deed::Late(SECOND / 4),
            Call::Claim | Call::Apply(_) | Call::Read(_) => Deed::Fine,
        });
        let own = engine(&node, storage);
        work(&node, &own, 8);
        // The lost attempt is in its grace when the next one begins.
        submit(&watch, NewTask { timeout: SECOND * 20, attempts_max: 1, ..task("a", "deaf") }).await;
        tokio::time::sleep(SECOND * 3).await;
        node.freeze();
        tokio::time::sleep(LEASE * 2).await;
        thawed.store(true, Ordering::Relaxed);
        node.thaw();
        let task = end_of(&watch, "a").await;
        assert_eq!((task.cause, task.fence, task.rescues), (Some(Cause::Timeout), 2, 1));
    });
}

/// After a lost answer only what says that the batch can't be stored at all is definite.
#[test]
fn an_error_after_a_lost_answer_is_not_definite() {
    use ErrorKind::{Broken, Conflict, Contended, Rejected, Unavailable, Unknown};
    for (kind, after_lost) in [
        (Conflict, Unknown),
        (Contended, Unknown),
        (Unavailable, Unknown),
        (Broken, Unknown),
        (Rejected, Rejected),
    ] {
        for (lost, expected) in [(true, after_lost), (false, kind)] {
            play(Profile::Postgres, move |world| async move {
                let node = world.start("api", 100);
                let mut first = lost;
                let storage = Wrapped::new(node.storage(), move |call| match call {
                    Call::Apply(_) if std::mem::take(&mut first) => Deed::LoseAnswer,
                    Call::Apply(_) => Deed::Fail(kind),
                    Call::Claim | Call::Read(_) => Deed::Fine,
                });
                let engine = engine(&node, storage);
                let error = engine.submit(task("a", "quick")).await.expect_err("nothing else is answered");
                assert_eq!(error.kind(), expected, "{kind:?} after a lost answer: {lost}");
                let stored = engine.task(&TaskId::trusted("a")).await.expect("answered").is_some();
                assert_eq!(stored, lost);
            });
        }
    }
}

/// Incident 4: a client and a worker that are configured alike, but not on the same database.
#[test]
fn two_processes_on_two_databases_are_found_out_by_what_each_answer_names() {
    for profile in Profile::ALL {
        play(profile, |world| async move {
            let elsewhere = world.another_database();
            let (api, node) = (world.start("api", 100), world.start("w", 100));
            let client = engine(&api, api.storage());
            let astray = engine(&node, node.storage_in(&elsewhere));
            work(&node, &astray, 1);
            submit(&client, task("a", "quick")).await;
            let id = TaskId::trusted("a");
            let waited = client.wait(&id, None, SECOND * 60).await.expect("answered").expect("stored");
            assert_eq!(waited.state, State::Ready, "nobody looks where it is");
            let asked = Query::Task(id.clone());
            let here = client.read(&asked).await.expect("answered");
            let there = astray.read(&asked).await.expect("answered");
            assert_ne!(here.store, there.store);
            work(&node, &engine(&node, node.storage()), 1);
            assert_eq!(end_of(&client, "a").await.state, State::Succeeded);
        });
    }
}
