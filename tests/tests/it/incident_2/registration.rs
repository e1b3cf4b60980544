//! The four tests of the registration itself.

use steadfast_core::task::Cause;
use steadfast_core::{Clock, State, Storage};

use super::bench::{Bench, CLEANED, ENTERED, GONE, PATIENT, QUICK, STUBBORN};

pub(super) async fn task_executes_after_registration<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(1);
    bench.register("session", QUICK, "only").await;
    bench.journal.until("only", ENTERED).await;
    assert_eq!(bench.ended("only").await.state, State::Succeeded);
    bench.rest(worker).await;
}

/// The old task doesn't stop, and the worker has room for one attempt: the new one runs to its end all the same, and
/// the old one's late success changes nothing.
pub(super) async fn task_replacement_doesnt_block_new_task<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(1);
    bench.register("session", STUBBORN, "old").await;
    bench.journal.until("old", ENTERED).await;
    let accepted = bench.register("session", QUICK, "new").await;
    assert_eq!(accepted.replaced.as_ref().map(AsRef::as_ref), Some("old"));
    // Settled in the commit that took the new one in, not when the old one has stopped.
    let old = bench.ended("old").await;
    assert_eq!((old.state, old.cause), (State::Cancelled, Some(Cause::Replaced)));
    assert_eq!(bench.ended("new").await.state, State::Succeeded);
    assert!(!bench.journal.says("old", GONE), "the old one was still there when the new one had ended");
    bench.journal.release("old");
    bench.journal.until("old", GONE).await;
    bench.rest(worker).await;
    let late = bench.ended("old").await;
    assert_eq!((late.state, late.rev), (State::Cancelled, old.rev));
}

/// Nine are displaced at some point of their lives; the tenth runs, and nothing hangs.
pub(super) async fn multiple_rapid_registrations<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(1);
    let names: Vec<String> = (0..10).map(|number| format!("task-{number}")).collect();
    for name in &names {
        bench.register("session", PATIENT, name).await;
    }
    let (last, displaced) = names.split_last().unwrap();
    bench.journal.until(last, ENTERED).await;
    for name in displaced {
        let task = bench.ended(name).await;
        assert_eq!((task.state, task.cause), (State::Cancelled, Some(Cause::Replaced)), "{name}");
    }
    bench.journal.release(last);
    assert_eq!(bench.ended(last).await.state, State::Succeeded);
    bench.rest(worker).await;
    for name in displaced.iter().filter(|name| bench.journal.says(name, ENTERED)) {
        assert!(bench.journal.says(name, CLEANED), "{name} was told to stop and let clean up");
    }
}

/// The call that registers a task stays open until the task has begun, as an endpoint that streams to its client does;
/// then it returns, and the task goes on.
pub(super) async fn task_executes_before_endpoint_returns<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(1);
    bench.register("session", STUBBORN, "old").await;
    bench.journal.until("old", ENTERED).await;
    let endpoint = async {
        bench.register("session", PATIENT, "new").await;
        bench.journal.until("new", ENTERED).await;
        200
    };
    assert_eq!(endpoint.await, 200);
    let task = bench.sessions().await.pop().unwrap();
    assert_eq!((task.id.as_ref(), task.state), ("new", State::Running));
    bench.journal.release("new");
    assert_eq!(bench.ended("new").await.state, State::Succeeded);
    bench.journal.release("old");
    bench.rest(worker).await;
}
