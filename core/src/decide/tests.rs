//! The decisions against the state machine, as tables.

use super::*;
use crate::name::{Kind, Queue, WorkerId};
use crate::task::Backoff;

fn lease(attempt: u32, attempts_max: u32) -> Lease {
    Lease {
        task: TaskId::trusted("t"),
        fence: 7,
        kind: Kind::trusted("scan"),
        queue: Queue::default_queue(),
        slot: None,
        payload: (*b"{}").into(),
        attempt,
        attempts_max,
        timeout: Duration::from_secs(60),
        backoff: Backoff::default(),
        deadline: None,
    }
}

fn failed() -> Verdict {
    Verdict::Retry { cause: Cause::Error, error: "no".into(), after: None }
}

#[test]
fn terminal_states_absorb_everything() {
    for from in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        for to in State::ALL {
            assert!(!is_legal(from, to), "{from} → {to}");
        }
    }
}

#[test]
fn a_task_enters_running_only_from_ready() {
    for from in State::ALL {
        let expected = from == State::Ready || from == State::Running;
        assert_eq!(is_legal(from, State::Running), expected, "{from}");
    }
}

#[test]
fn every_settling_is_a_legal_move_from_running_under_its_fence() {
    let verdicts = [
        (Verdict::Done((*b"42").into()), State::Succeeded),
        (failed(), State::Scheduled),
        (
            Verdict::Retry { cause: Cause::Error, error: "no".into(), after: Some(Duration::ZERO) },
            State::Ready,
        ),
        (Verdict::Fail { cause: Cause::Error, error: "no".into() }, State::Failed),
        (Verdict::Cancel { reason: "enough".into() }, State::Cancelled),
        (Verdict::Snooze { after: Duration::from_secs(5) }, State::Scheduled),
    ];
    for (verdict, to) in verdicts {
        let transition = settle(&lease(1, 3), verdict, None);
        assert_eq!(transition.change.to, to);
        assert!(is_legal(State::Running, to));
        assert_eq!(transition.guard.from, States::RUNNING);
        assert_eq!(transition.guard.fence, Some(7));
        assert_eq!(transition.guard.unless_cancel_requested, to.is_waiting());
        assert!(transition.change.cause.is_some(), "every ended attempt has a cause");
    }
}

#[test]
fn the_last_attempt_is_not_followed_by_another() {
    assert_eq!(settle(&lease(3, 3), failed(), None).change.to, State::Failed);
}

#[test]
fn snoozing_and_draining_give_the_attempt_back() {
    assert!(settle(&lease(3, 3), Verdict::Snooze { after: Duration::ZERO }, None).change.give_back_attempt);
    let given_back = give_back(&lease(3, 3), None).change;
    assert!(given_back.give_back_attempt && given_back.to == State::Ready && given_back.delay.is_zero());
}

#[test]
fn a_mark_does_not_depend_on_when_it_is_sent() {
    let first = settle(&lease(1, 3), failed(), Some(Duration::from_millis(1)));
    let again = settle(&lease(1, 3), failed(), Some(Duration::from_millis(900)));
    assert_eq!(first.mark, again.mark);
    let other = settle(&lease(1, 3), Verdict::Done((*b"").into()), None);
    assert_ne!(first.mark, other.mark);
}

#[test]
fn a_cancel_between_an_attempt_and_its_retry_ends_the_task() {
    let found = Head { state: State::Running, rev: 3, fence: 7, cancel_requested: true };
    let entered = Some(Duration::from_millis(5));
    let refused = settle(&lease(1, 3), failed(), entered);
    let AfterRefusal::Instead(transition) = after_refusal(&lease(1, 3), &refused, found) else {
        panic!("lease lost")
    };
    assert_eq!(transition.change.to, State::Cancelled);
    assert_eq!(transition.change.entered, entered);
    assert_eq!(
        transition.change.error.as_deref(),
        Some("cancelled before another attempt; the last one: no")
    );
    for lost in [
        Head { fence: 8, ..found },
        Head { state: State::Ready, ..found },
        Head { state: State::Cancelled, ..found },
        Head { cancel_requested: false, ..found },
    ] {
        assert_eq!(after_refusal(&lease(1, 3), &refused, lost), AfterRefusal::LeaseLost);
    }
}

#[test]
fn cancelling_follows_the_state_machine() {
    for found in State::ALL {
        let transition = cancel(&TaskId::trusted("t"), found, "no longer needed");
        assert_eq!(transition.as_ref().map(|t| t.change.to), next(found, Command::Cancel), "{found}");
        if let Some(transition) = transition {
            assert!(transition.guard.from.contains(found));
        }
    }
}

#[test]
fn a_lapsed_lease_is_rescued_within_its_budget() {
    let lapsed = |rescues, rescues_max, cancel: Option<&str>| {
        reclaim(&Lapsed {
            task: TaskId::trusted("t"),
            fence: 7,
            worker: WorkerId::trusted("w"),
            entered: false,
            rescues,
            rescues_max,
            cancel: cancel.map(Into::into),
            since: Duration::ZERO,
        })
    };
    let entered = "its handler is not known to have been entered";
    for (transition, to, cause, words) in [
        (lapsed(0, 5, None), State::Ready, Cause::LeaseLapsed, entered),
        (
            lapsed(5, 5, None),
            State::Failed,
            Cause::RescuesUsedUp,
            "; it has been rescued 5 of 5 times before",
        ),
        (lapsed(0, 0, None), State::Failed, Cause::RescuesUsedUp, "; it may not be rescued"),
        (lapsed(0, 5, Some("stop")), State::Cancelled, Cause::Cancelled, entered),
    ] {
        assert_eq!((transition.change.to, transition.change.cause), (to, Some(cause)));
        assert!(transition.change.error.is_some_and(|error| error.ends_with(words)), "{words}");
        assert!(transition.guard.lease_lapsed && transition.guard.fence == Some(7));
        assert_eq!(transition.change.rescue, to == State::Ready);
    }
}

#[test]
fn an_edge_is_judged_by_its_parents_end_and_its_policy() {
    for parent in State::ALL {
        for on_failure in OnParentFailure::ALL {
            let expected = match (parent.is_terminal(), parent == State::Succeeded, on_failure) {
                (false, _, _) => None,
                (true, true, _) | (true, false, OnParentFailure::Run) => Some(EdgeOutcome::Satisfied),
                (true, false, OnParentFailure::Fail) => Some(EdgeOutcome::Fails),
            };
            assert_eq!(edge(parent, *on_failure), expected);
        }
    }
}

#[test]
fn finished_work_counts_and_a_stopped_attempt_is_recorded_by_the_reason() {
    let stops = [
        (StopReason::Cancelled("enough".into()), Some((State::Cancelled, Cause::Cancelled))),
        (StopReason::Timeout(Duration::from_secs(60)), Some((State::Scheduled, Cause::Timeout))),
        (StopReason::Deadline, Some((State::Failed, Cause::Deadline))),
        (StopReason::Drained, Some((State::Ready, Cause::Drained))),
        (StopReason::LeaseLost, None),
    ];
    for (stop, expected) in stops {
        let of = |said| {
            conclude(&lease(1, 3), said, Some(&stop), None)
                .map(|t| (t.change.to, t.change.cause.expect("has a cause")))
        };
        assert_eq!(of(Some(Verdict::done(*b"42"))), Some((State::Succeeded, Cause::Done)), "{stop}");
        assert_eq!(of(None), expected, "{stop}");
        assert_eq!(of(Some(failed())), expected, "{stop}");
        let echo = Verdict::Cancel { reason: stop.to_string() };
        assert_eq!(of(Some(echo)), expected, "{stop}");
        assert_eq!(of(Some(Verdict::Lost)), None, "{stop}");
    }
    assert_eq!(conclude(&lease(3, 3), Some(Verdict::Lost), None, None), None, "it isn't a failure");
}

#[test]
fn a_failure_for_good_counts_also_after_an_order_to_stop() {
    let said = |verdict: &Verdict, stop: &StopReason| {
        conclude(&lease(1, 3), Some(verdict.clone()), Some(stop), None)
            .map(|t| (t.change.to, t.change.cause.expect("has a cause"), t.change.error))
    };
    let fail = Verdict::fail("it can't be done");
    for stop in [StopReason::Timeout(Duration::from_secs(60)), StopReason::Deadline, StopReason::Drained] {
        let failed = Some((State::Failed, Cause::Error, Some("it can't be done".into())));
        assert_eq!(said(&fail, &stop), failed, "{stop}");
    }
}

#[test]
fn a_task_is_hastened_from_where_it_was_seen_to_wait() {
    let hastened = hasten(&TaskId::trusted("t"), 3);
    assert_eq!(next(State::Scheduled, Command::Promote), Some(hastened.change.to));
    assert!(State::ALL.into_iter().all(|s| hastened.guard.from.contains(s) == (s == State::Scheduled)));
    assert_ne!(hastened.mark, hasten(&TaskId::trusted("t"), 4).mark, "after another attempt it is another");
}

#[test]
fn an_attempt_stopped_at_its_deadline_ends_only_if_the_store_agrees() {
    let overrun = conclude(&lease(1, 3), None, Some(&StopReason::Deadline), None).expect("it is recorded");
    assert!(overrun.guard.overdue && overrun.guard.fence == Some(7));
    let found = Head { state: State::Running, rev: 3, fence: 7, cancel_requested: false };
    assert_eq!(after_refusal(&lease(1, 3), &overrun, found), AfterRefusal::NotYet);
    let lost = Head { fence: 8, ..found };
    assert_eq!(after_refusal(&lease(1, 3), &overrun, lost), AfterRefusal::LeaseLost);
}

#[test]
fn the_backoff_doubles_from_attempt_to_attempt() {
    let delay = |attempt| settle(&lease(attempt, 9), failed(), None).change.delay;
    // A second at first; the jitter is a fifth.
    for (attempt, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0)] {
        let least = Duration::from_secs_f64(seconds * 0.8);
        assert!((least..least * 3 / 2).contains(&delay(attempt)), "{attempt}: {:?}", delay(attempt));
    }
}
