//! Cancelling × where the task is: the whole table.

use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::decide;
use steadfast_core::step::{Renewal, Step};
use steadfast_core::storage::{Lease, Storage};
use steadfast_core::task::{Cause, State};

use super::bench::*;

super::cases! { "cancel", 1,
    "P15: ends once, never runs again" => a_waiting_task_is_cancelled_at_once,
    "P15: the handler is told" => a_running_task_is_asked_to_stop,
    "P5: terminal absorbs" => a_task_that_has_ended_stays_as_it_is,
    "P15" => a_task_that_moved_in_between_is_judged_anew,
    "rule 7, P6" => a_repeated_cancel_is_already_and_a_second_reason_is_stale,
    "P15" => a_cancelled_attempt_may_end_in_its_own_way,
    "P15: never runs again" => a_cancelled_attempt_that_is_lost_is_not_rescued,
}

async fn a_waiting_task_is_cancelled_at_once<S: Storage>(bench: &Bench<S>) {
    for name in ["blocked", "scheduled", "ready", "retry-later", "retry-now"] {
        let found = match name {
            "blocked" => State::Blocked,
            "scheduled" | "retry-later" => State::Scheduled,
            _ => State::Ready,
        };
        if name.starts_with("retry") {
            let lease = bench.bring(name, State::Running).await.expect("running");
            let delay = if found == State::Ready { Duration::ZERO } else { LEASE };
            bench.settle(&lease, retry(delay)).await;
        } else {
            bench.bring(name, found).await;
        }
        let before = bench.task(name).await;
        assert_eq!(before.state, found);
        bench.clock.advance(Duration::from_secs(1));
        let receipt = moved(bench.send(cancel(name, found)).await);
        let after = bench.task(name).await;
        assert_eq!(receipt, head(&after));
        assert_eq!((after.state, after.rev), (State::Cancelled, before.rev + 1), "{name}");
        assert_eq!((after.cause, after.error.as_deref()), (Some(Cause::Cancelled), Some("no longer needed")));
        assert_eq!((after.finished_at, after.lease_expires_at), (Some(bench.now()), None));
        bench.clock.advance(LONG);
        assert_eq!(bench.ask(&claim_request(name, 10)).await.tasks, [], "{name} never runs again");
    }
}

async fn a_running_task_is_asked_to_stop<S: Storage>(bench: &Bench<S>) {
    for (name, entered) in [("claimed", None), ("entered", Some(Duration::from_millis(5)))] {
        let lease = bench.bring(name, State::Running).await.expect("running");
        let renewal = |entered| Renewal { task: id(name), fence: lease.fence, lease: LEASE, entered };
        assert_eq!(renewed(bench.send(Step::Renew(renewal(entered))).await), None);
        let before = bench.task(name).await;
        bench.clock.advance(Duration::from_secs(1));
        let step = decide::cancel(&id(name), State::Running, "the \"user\" left").expect("running");
        let mark = step.mark;
        let receipt = moved(bench.send(Step::Transition(step)).await);
        let after = bench.task(name).await;
        assert_eq!(receipt, head(&after));
        assert!(receipt.cancel_requested);
        let expected = steadfast_core::Task {
            rev: before.rev + 1,
            cancel: Some("the \"user\" left".into()),
            mark,
            ..before
        };
        assert_eq!(after, expected, "{name}: it still runs, and its lease is as it was");
        let told = renewed(bench.send(Step::Renew(renewal(None))).await);
        assert_eq!(told.as_deref(), Some("the \"user\" left"), "{name}: the handler is told");
    }
}

async fn a_task_that_has_ended_stays_as_it_is<S: Storage>(bench: &Bench<S>) {
    for ended in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        bench.bring(ended.as_str(), ended).await;
        let before = bench.task(ended.as_str()).await;
        for believed in [State::Blocked, State::Scheduled, State::Ready, State::Running] {
            let found = stale(bench.send(cancel(ended.as_str(), believed)).await);
            assert_eq!(found, head(&before), "{ended} believed {believed}");
            assert_eq!(decide::cancel(&id(ended.as_str()), found.state, "why"), None);
        }
        assert_eq!(bench.task(ended.as_str()).await, before, "{ended}");
    }
}

async fn a_task_that_moved_in_between_is_judged_anew<S: Storage>(bench: &Bench<S>) {
    bench.bring("claimed", State::Running).await;
    let found = stale(bench.send(cancel("claimed", State::Ready)).await);
    assert_eq!((found.state, found.cancel_requested), (State::Running, false));
    assert!(moved(bench.send(cancel("claimed", found.state)).await).cancel_requested);
    let lease = bench.bring("retried", State::Running).await.expect("running");
    bench.settle(&lease, retry(LONG)).await;
    let found = stale(bench.send(cancel("retried", State::Running)).await);
    assert_eq!((found.state, found.cancel_requested), (State::Scheduled, false));
    assert_eq!(moved(bench.send(cancel("retried", found.state)).await).state, State::Cancelled);
}

async fn a_repeated_cancel_is_already_and_a_second_reason_is_stale<S: Storage>(bench: &Bench<S>) {
    for found in [State::Ready, State::Running] {
        let name = found.as_str();
        bench.bring(name, found).await;
        moved(bench.send(cancel(name, found)).await);
        let before = bench.task(name).await;
        assert_eq!(moved_in(&already(bench.send(cancel(name, found)).await)), head(&before), "{name}");
        assert_eq!(stale(bench.send(cancel_because(name, found, "another")).await), head(&before), "{name}");
        assert_eq!(bench.task(name).await, before, "{name}");
    }
}

async fn a_cancelled_attempt_may_end_in_its_own_way<S: Storage>(bench: &Bench<S>) {
    let verdicts = [
        (State::Succeeded, done()),
        (State::Failed, fail()),
        (State::Cancelled, Verdict::Cancel { reason: "as asked".into() }),
    ];
    for (to, verdict) in verdicts {
        let lease = bench.bring(to.as_str(), State::Running).await.expect("running");
        moved(bench.send(cancel(to.as_str(), State::Running)).await);
        assert_eq!(bench.settle(&lease, verdict).await.state, to);
    }
    let lease = bench.bring("last", State::Running).await.expect("running");
    moved(bench.send(cancel("last", State::Running)).await);
    let last = Lease { attempts_max: 1, ..lease };
    assert_eq!(bench.settle(&last, retry(LONG)).await.state, State::Failed);
}

async fn a_cancelled_attempt_that_is_lost_is_not_rescued<S: Storage>(bench: &Bench<S>) {
    bench.bring("a", State::Running).await;
    moved(bench.send(cancel("a", State::Running)).await);
    let lapsed = bench.let_lapse().await;
    assert_eq!(lapsed.cancel.as_deref(), Some("no longer needed"));
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Cancelled);
    let task = bench.task("a").await;
    assert_eq!((task.cause, task.rescues), (Some(Cause::Cancelled), 0));
    bench.bring("b", State::Running).await;
    let seen_before = bench.let_lapse().await;
    moved(bench.send(cancel("b", State::Running)).await);
    let found = stale(bench.send(reclaim(&seen_before)).await);
    assert_eq!(
        (found.state, found.cancel_requested),
        (State::Running, true),
        "a rescue re-checks the cancel"
    );
    let lapsed = bench.lapsed(10).await.remove(0);
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Cancelled);
}
