//! The nine tests of a session's life.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::engine::Cancelled;
use steadfast_core::task::{Cause, Due};
use steadfast_core::{Clock, Slot, State, Storage, TaskId};

use super::bench::{Bench, CLEANED, ENTERED, FAILS, GONE, PANICS, PATIENT, QUICK, TOLD, in_session};

pub(super) async fn task_registration_and_tracking<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    assert!(bench.sessions().await.is_empty());
    bench.register("session", PATIENT, "only").await;
    bench.journal.until("only", ENTERED).await;
    let [task] = <[_; 1]>::try_from(bench.sessions().await).unwrap();
    assert_eq!((task.id.as_ref(), task.state), ("only", State::Running));
    assert_eq!(task.slot, Some(Slot::trusted("session")));
    assert_eq!((bench.engine().registry().len(), bench.lives()), (1, 1));
    bench.journal.release("only");
    assert_eq!(bench.ended("only").await.output.as_deref(), Some(&b"only"[..]));
    assert!(bench.sessions().await.is_empty(), "a session whose task has ended has none");
    bench.rest(worker).await;
}

pub(super) async fn task_cancellation_on_timeout<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    let mut task = in_session("session", PATIENT, "slow");
    task.timeout = Duration::from_millis(200);
    bench.submit(task).await;
    bench.journal.until("slow", CLEANED).await;
    let task = bench.ended("slow").await;
    assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::Timeout)));
    assert!(bench.sessions().await.is_empty());
    bench.rest(worker).await;
}

pub(super) async fn task_error_handling<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    for (kind, cause, words) in [(FAILS, Cause::Error, "no luck"), (PANICS, Cause::Panic, "it panicked")] {
        bench.register("session", kind, kind).await;
        let task = bench.ended(kind).await;
        assert_eq!((task.state, task.cause), (State::Failed, Some(cause)));
        assert!(task.error.unwrap().contains(words));
        assert!(bench.journal.says(kind, GONE));
    }
    // The session isn't spoilt.
    bench.register("session", QUICK, "next").await;
    assert_eq!(bench.ended("next").await.state, State::Succeeded);
    bench.rest(worker).await;
}

pub(super) async fn task_cleanup_on_session_end<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    bench.register("ends", PATIENT, "unwanted").await;
    bench.register("stays", PATIENT, "wanted").await;
    bench.journal.until("unwanted", ENTERED).await;
    bench.journal.until("wanted", ENTERED).await;
    let cancelled = bench.engine().cancel(&TaskId::trusted("unwanted"), "the session ended").await.unwrap();
    assert_eq!(cancelled, Cancelled::Requested);
    bench.journal.until("unwanted", CLEANED).await;
    let task = bench.ended("unwanted").await;
    assert_eq!((task.state, task.cause), (State::Cancelled, Some(Cause::Cancelled)));
    assert!(task.error.unwrap().contains("the session ended"));
    let [left] = <[_; 1]>::try_from(bench.sessions().await).unwrap();
    assert_eq!((left.id.as_ref(), left.state), ("wanted", State::Running));
    assert!(!bench.journal.says("wanted", TOLD));
    bench.journal.release("wanted");
    assert_eq!(bench.ended("wanted").await.state, State::Succeeded);
    bench.rest(worker).await;
}

pub(super) async fn multiple_sessions_no_orphaned_tasks<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(16);
    let sessions = ["a", "b", "c", "d", "e"];
    for session in sessions {
        bench.register(session, PATIENT, &format!("{session}-old")).await;
        bench.register(session, PATIENT, &format!("{session}-new")).await;
    }
    for session in sessions {
        bench.journal.until(&format!("{session}-new"), ENTERED).await;
    }
    let held: Vec<String> = bench.sessions().await.iter().map(|task| task.id.to_string()).collect();
    assert_eq!(held, sessions.map(|session| format!("{session}-new")), "one task in each session");
    for session in sessions {
        bench.journal.release(&format!("{session}-new"));
        assert_eq!(bench.ended(&format!("{session}-new")).await.state, State::Succeeded);
        assert_eq!(bench.ended(&format!("{session}-old")).await.cause, Some(Cause::Replaced));
    }
    assert!(bench.sessions().await.is_empty());
    bench.rest(worker).await;
}

/// The old one is told, and cleans up; what it says then is void.
pub(super) async fn task_replacement_on_new_registration<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    bench.register("session", PATIENT, "old").await;
    bench.journal.until("old", ENTERED).await;
    let accepted = bench.register("session", PATIENT, "new").await;
    assert!(accepted.is_new);
    assert_eq!(accepted.replaced, Some(TaskId::trusted("old")));
    bench.journal.until("old", CLEANED).await;
    bench.journal.until("old", GONE).await;
    bench.journal.until("new", ENTERED).await;
    bench.journal.release("new");
    assert_eq!(bench.ended("new").await.state, State::Succeeded);
    bench.rest(worker).await;
    let old = bench.ended("old").await;
    assert_eq!((old.state, old.cause), (State::Cancelled, Some(Cause::Replaced)));
    assert_eq!(old.error.as_deref(), Some("replaced by new"));
}

pub(super) async fn task_status_endpoint_all_sessions<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(2);
    bench.register("ended", QUICK, "0-quick").await;
    bench.ended("0-quick").await;
    for name in ["1-running", "2-running"] {
        bench.register(name, PATIENT, name).await;
        bench.journal.until(name, ENTERED).await;
    }
    bench.register("3-ready", QUICK, "3-ready").await;
    let mut later = in_session("4-scheduled", QUICK, "4-scheduled");
    later.due = Due::After(Duration::from_secs(3_600));
    bench.submit(later).await;
    let sessions = bench.sessions().await;
    let status: BTreeMap<&str, State> =
        sessions.iter().map(|task| (task.slot.as_ref().unwrap().as_ref(), task.state)).collect();
    let expected = [
        ("1-running", State::Running),
        ("2-running", State::Running),
        // The worker has no room for it.
        ("3-ready", State::Ready),
        ("4-scheduled", State::Scheduled),
    ];
    assert_eq!(status, expected.into());
    bench.journal.release("1-running");
    bench.journal.release("2-running");
    assert_eq!(bench.ended("3-ready").await.state, State::Succeeded);
    bench.rest(worker).await;
}

/// What lives at once is bounded by the sessions, however many tasks go through them, and nothing stays.
pub(super) async fn memory_stability_with_task_churn<S: Storage, C: Clock>(bench: Bench<S, C>) {
    const SESSIONS: usize = 4;
    const ROUNDS: usize = 40;
    let worker = bench.work(SESSIONS);
    for round in 0..ROUNDS {
        for session in 0..SESSIONS {
            let (session, name) = (format!("session-{session}"), format!("{session}-{round}"));
            bench.register(&session, PATIENT, &name).await;
            if round % 2 == 0 {
                bench.journal.until(&name, ENTERED).await;
            }
            if round > 0 {
                // So that at most one of a session is on its way out.
                let before = TaskId::trusted(format!("{}-{}", &name[..1], round - 1));
                bench.ended(before.as_ref()).await;
                if bench.journal.says(before.as_ref(), ENTERED) {
                    bench.journal.until(before.as_ref(), GONE).await;
                }
            }
        }
        assert!(bench.lives() <= 2 * SESSIONS, "{} handlers live in round {round}", bench.lives());
        assert!(bench.engine().registry().len() <= 3 * SESSIONS);
        assert_eq!(bench.sessions().await.len(), SESSIONS);
    }
    for session in 0..SESSIONS {
        let name = format!("{session}-{}", ROUNDS - 1);
        bench.journal.until(&name, ENTERED).await;
        bench.journal.release(&name);
        assert_eq!(bench.ended(&name).await.state, State::Succeeded);
    }
    assert!(bench.sessions().await.is_empty());
    bench.rest(worker).await;
}

/// A session that expires takes its tasks with it, whether they run or wait; the others go on.
pub(super) async fn expired_session_cleanup_cancels_tasks<S: Storage, C: Clock>(bench: Bench<S, C>) {
    let worker = bench.work(4);
    for (session, name) in [("expired-1", "runs"), ("fresh", "stays")] {
        bench.register(session, PATIENT, name).await;
        bench.journal.until(name, ENTERED).await;
    }
    let mut waits = in_session("expired-2", QUICK, "waits");
    waits.due = Due::After(Duration::from_secs(3_600));
    bench.submit(waits).await;
    // The service's own job: it knows which sessions have expired.
    for task in bench.sessions().await {
        if task.slot.is_some_and(|slot| slot.as_ref().starts_with("expired")) {
            bench.engine().cancel(&task.id, "the session expired").await.unwrap();
        }
    }
    for name in ["runs", "waits"] {
        let task = bench.ended(name).await;
        assert_eq!((task.state, task.cause), (State::Cancelled, Some(Cause::Cancelled)));
        assert!(task.error.unwrap().contains("the session expired"));
    }
    assert!(bench.journal.says("runs", CLEANED));
    assert!(!bench.journal.says("waits", ENTERED));
    let [left] = <[_; 1]>::try_from(bench.sessions().await).unwrap();
    assert_eq!((left.id.as_ref(), left.state), ("stays", State::Running));
    bench.journal.release("stays");
    assert_eq!(bench.ended("stays").await.state, State::Succeeded);
    bench.rest(worker).await;
}
