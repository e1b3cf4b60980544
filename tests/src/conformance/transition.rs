//! Moving tasks: the guard, what a change writes, and how a repeated transition is recognised.

use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::decide;
use steadfast_core::step::{Batch, Guard, Refusal, Renewal, States, Step, Transition};
use steadfast_core::storage::{ErrorKind, Lease, Storage};
use steadfast_core::task::{Attempt, Cause, NewTask, PAYLOAD_BYTES_MAX, State};

use super::bench::*;

super::cases! { "transition", 1,
    "P5: legal transitions, terminal absorbs" => the_guard_lets_only_its_states_through,
    "P4: a stale fence changes nothing" => no_write_of_another_attempt_changes_anything,
    "P4: a stale fence changes nothing" => no_write_of_a_lost_attempt_changes_anything_while_the_next_one_runs,
    "Refusal::NotFound" => an_unknown_task_is_not_found,
    "P14: each ended attempt has a cause" => each_verdict_is_recorded,
    "P6: one terminal commit" => a_repeated_settling_is_already,
    "P6: one terminal commit" => another_settling_of_the_same_attempt_is_stale,
    "rule 7: the same batch again is safe" => a_settling_repeated_after_the_next_claim_is_already,
    "rule 7: the same batch again is safe" => every_settling_of_a_long_history_is_already,
    "P15: cancel" => a_guard_against_cancelled_tasks_holds,
    "P14" => attempts_that_others_followed_are_kept,
    "Change: cause and error" => a_cause_is_written_together_with_its_error,
    "ErrorKind::Rejected" => a_nul_in_a_text_is_rejected_with_its_whole_call,
    "ErrorKind::Rejected" => an_output_over_64_mib_is_rejected_with_its_whole_call,
    "P12: not before its backoff" => a_retry_waits_by_the_stores_clock,
    "P12: not before it is due" => what_is_made_ready_before_its_time_is_due,
    "Change: entered" => a_settling_says_when_its_handler_was_entered,
    "rule 10: revisions" => every_change_raises_the_revision_by_one,
    "P21: released at once" => an_attempt_given_back_is_claimable_at_once,
}

fn verdicts() -> [(&'static str, Verdict); 6] {
    [
        ("done", done()),
        ("retry-later", retry(Duration::from_secs(9))),
        ("retry-now", retry(Duration::ZERO)),
        ("fail", fail()),
        ("cancel", Verdict::Cancel { reason: "enough".into() }),
        ("snooze", Verdict::Snooze { after: Duration::from_secs(9) }),
    ]
}

async fn the_guard_lets_only_its_states_through<S: Storage>(bench: &Bench<S>) {
    let guards = [
        ("waiting", States::WAITING),
        ("running", States::RUNNING),
        ("unfinished", States::UNFINISHED),
        ("ready", States::of(&[State::Ready])),
        ("blocked-or-running", States::of(&[State::Blocked, State::Running])),
    ];
    for found in State::ALL {
        for (word, from) in guards {
            let name = format!("{found}-{word}");
            bench.bring(&name, found).await;
            let before = bench.task(&name).await;
            let outcome = bench.send(end(&name, from, State::Cancelled, Cause::Cancelled)).await;
            let after = bench.task(&name).await;
            if from.contains(found) {
                assert_eq!(moved(outcome), head(&after), "{name}");
                assert_eq!((after.state, after.rev), (State::Cancelled, before.rev + 1), "{name}");
            } else {
                assert_eq!(stale(outcome), head(&before), "{name}");
                assert_eq!(after, before, "{name}: nothing changed");
            }
        }
    }
}

/// Every write that a worker or a sweeper may send about this attempt, and at least one must change the task.
fn writes_about(lease: &Lease) -> Vec<(&'static str, Step)> {
    let mut writes: Vec<_> =
        verdicts().into_iter().map(|(word, verdict)| (word, settle(lease, verdict))).collect();
    writes.push(("give back", Step::Transition(decide::give_back(lease, None))));
    writes.push(("unrecordable", Step::Transition(decide::unrecordable(lease, "why", None))));
    let entered = Some(Duration::from_millis(1));
    let renewal = Renewal { task: lease.task.clone(), fence: lease.fence, lease: LONG, entered };
    writes.push(("renew", Step::Renew(renewal)));
    let rescue = Guard {
        from: States::RUNNING,
        fence: Some(lease.fence),
        unless_cancel_requested: true,
        lease_lapsed: true,
        overdue: false,
    };
    let change = steadfast_core::step::Change {
        cause: Some(Cause::LeaseLapsed),
        rescue: true,
        ..steadfast_core::step::Change::to(State::Ready)
    };
    writes.push(("rescue", Step::Transition(Transition::new(lease.task.clone(), rescue, change))));
    writes
}

async fn no_write_of_another_attempt_changes_anything<S: Storage>(bench: &Bench<S>) {
    let snooze = Verdict::Snooze { after: Duration::ZERO };
    bench.insert(in_own_queue("a")).await;
    bench.run("a", snooze).await;
    let lease = bench.claim_in("a").await;
    bench.clock.advance(LONG);
    let before = bench.task("a").await;
    for fence in [0, lease.fence - 1, lease.fence + 1, u64::from(u32::MAX), i64::MAX.unsigned_abs()] {
        for (word, step) in writes_about(&Lease { fence, ..lease.clone() }) {
            let found = stale(bench.send(step).await);
            assert_eq!(found, head(&before), "{word} under fence {fence}");
            assert_eq!(bench.task("a").await, before, "{word} under fence {fence} changes nothing");
        }
    }
    assert_eq!(bench.attempts("a").await.len(), 1);
}

async fn no_write_of_a_lost_attempt_changes_anything_while_the_next_one_runs<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    let lost = bench.claim_in("a").await;
    let lapsed = bench.let_lapse().await;
    moved(bench.send(reclaim(&lapsed)).await);
    let waiting = bench.task("a").await;
    for (word, step) in writes_about(&lost) {
        assert_eq!(stale(bench.send(step).await), head(&waiting), "{word} of a rescued attempt");
    }
    let current = bench.claim_in("a").await;
    let running = bench.task("a").await;
    for (word, step) in writes_about(&lost) {
        assert_eq!(stale(bench.send(step).await), head(&running), "{word} of a replaced attempt");
    }
    assert_eq!(bench.task("a").await, running);
    assert_eq!(bench.settle(&current, done()).await.state, State::Succeeded);
}

async fn an_unknown_task_is_not_found<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("known", State::Running).await.expect("running");
    let unknown = Lease { task: id("unknown"), ..lease };
    for (word, step) in writes_about(&unknown) {
        assert_eq!(why(bench.send(step).await), Refusal::NotFound, "{word}");
    }
    assert_eq!(why(bench.send(cancel("unknown", State::Ready)).await), Refusal::NotFound);
    assert_eq!(bench.find("unknown").await, None);
}

async fn each_verdict_is_recorded<S: Storage>(bench: &Bench<S>) {
    let expected = [
        (State::Succeeded, Cause::Done, None),
        (State::Scheduled, Cause::Error, Some("not yet")),
        (State::Ready, Cause::Error, Some("not yet")),
        (State::Failed, Cause::Error, Some("no")),
        (State::Cancelled, Cause::Cancelled, Some("enough")),
        (State::Scheduled, Cause::Snoozed, None),
    ];
    for ((name, verdict), (state, cause, error)) in verdicts().into_iter().zip(expected) {
        let lease = bench.bring(name, State::Running).await.expect("running");
        let before = bench.task(name).await;
        bench.clock.advance(Duration::from_secs(1));
        let step = decide::settle(&lease, verdict, None);
        let (mark, delay) = (step.mark, step.change.delay);
        let receipt = moved(bench.send(Step::Transition(step)).await);
        let after = bench.task(name).await;
        assert_eq!(receipt, head(&after), "{name}");
        let due_at = if state == State::Scheduled { bench.now() + delay } else { before.due_at };
        let expected = steadfast_core::Task {
            state,
            cause: Some(cause),
            error: error.map(Into::into),
            rev: before.rev + 1,
            attempt: u32::from(cause != Cause::Snoozed),
            output: (state == State::Succeeded).then(|| (*b"42").into()),
            finished_at: state.is_terminal().then(|| bench.now()),
            lease_expires_at: None,
            due_at,
            mark,
            ..before
        };
        assert_eq!(after, expected, "{name}");
    }
}

async fn a_repeated_settling_is_already<S: Storage>(bench: &Bench<S>) {
    for (name, verdict) in verdicts() {
        let lease = bench.bring(name, State::Running).await.expect("running");
        bench.settle(&lease, verdict.clone()).await;
        let (before, attempts) = (bench.task(name).await, bench.attempts(name).await);
        bench.clock.advance(Duration::from_secs(1));
        for entered in [None, Some(Duration::from_millis(3))] {
            let again = Step::Transition(decide::settle(&lease, verdict.clone(), entered));
            assert_eq!(moved_in(&already(bench.send(again).await)), head(&before), "{name}");
        }
        assert_eq!(bench.task(name).await, before, "{name}: nothing changed");
        assert_eq!(bench.attempts(name).await, attempts, "{name}");
    }
}

async fn another_settling_of_the_same_attempt_is_stale<S: Storage>(bench: &Bench<S>) {
    for (first, verdict) in verdicts() {
        let lease = bench.bring(first, State::Running).await.expect("running");
        bench.settle(&lease, verdict).await;
        let before = bench.task(first).await;
        for (second, verdict) in verdicts().into_iter().filter(|(second, _)| *second != first) {
            assert_eq!(
                stale(bench.send(settle(&lease, verdict)).await),
                head(&before),
                "{second} after {first}"
            );
        }
        let other_output = settle(&lease, Verdict::Done((*b"43").into()));
        assert_eq!(stale(bench.send(other_output).await), head(&before), "another output after {first}");
        assert_eq!(bench.task(first).await, before);
    }
}

async fn a_settling_repeated_after_the_next_claim_is_already<S: Storage>(bench: &Bench<S>) {
    for (name, verdict) in
        verdicts().into_iter().filter(|(name, _)| !["done", "fail", "cancel"].contains(name))
    {
        let first = bench.bring(name, State::Running).await.expect("running");
        bench.settle(&first, verdict.clone()).await;
        bench.clock.advance(LONG);
        let second = bench.claim_in(name).await;
        let running = bench.task(name).await;
        already(bench.send(settle(&first, verdict.clone())).await);
        assert_eq!(bench.task(name).await, running, "{name}: the next attempt is left alone");
        bench.settle(&second, done()).await;
        let ended = bench.task(name).await;
        already(bench.send(settle(&first, verdict)).await);
        already(bench.send(settle(&second, done())).await);
        assert_eq!(
            stale(bench.send(settle(&first, done())).await),
            head(&ended),
            "{name}: under the old fence"
        );
        assert_eq!(bench.task(name).await, ended, "{name}");
    }
}

async fn every_settling_of_a_long_history_is_already<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { attempts_max: 100, ..in_own_queue("a") }).await;
    let mut leases = Vec::new();
    for _ in 0..10 {
        leases.push(bench.run("a", retry(Duration::ZERO)).await);
    }
    leases.push(bench.claim_in("a").await);
    let running = bench.task("a").await;
    let last = leases.pop().expect("eleven attempts");
    let calls: Vec<_> = leases.iter().map(|lease| settle(lease, retry(Duration::ZERO))).collect();
    for step in calls {
        already(bench.send(step).await);
    }
    assert_eq!(bench.task("a").await, running);
    bench.settle(&last, done()).await;
    assert_eq!(bench.attempts("a").await.len(), 10);
}

async fn a_guard_against_cancelled_tasks_holds<S: Storage>(bench: &Bench<S>) {
    for (name, verdict) in verdicts() {
        let lease = bench.bring(name, State::Running).await.expect("running");
        moved(bench.send(cancel(name, State::Running)).await);
        let before = bench.task(name).await;
        assert_eq!(before.cancel.as_deref(), Some("no longer needed"));
        let step = decide::settle(&lease, verdict.clone(), None);
        let refused = step.guard.unless_cancel_requested;
        let outcome = bench.send(Step::Transition(step.clone())).await;
        if !refused {
            assert!(moved(outcome).state.is_terminal(), "{name}");
            continue;
        }
        let found = stale(outcome);
        assert_eq!(found, head(&before), "{name}");
        assert_eq!(bench.task(name).await, before, "{name}");
        let decide::AfterRefusal::Instead(instead) = decide::after_refusal(&lease, &step, found) else {
            panic!("{name}: it is still this attempt's")
        };
        assert_eq!(moved(bench.send(Step::Transition(instead)).await).state, State::Cancelled, "{name}");
    }
}

async fn attempts_that_others_followed_are_kept<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { attempts_max: 3, ..in_own_queue("a") }).await;
    let second = Duration::from_secs(1);
    let mut expected = Vec::new();
    let verdicts = [
        (retry(Duration::ZERO), 1, Cause::Error, Some("not yet"), Some(Duration::from_millis(250))),
        (Verdict::Snooze { after: Duration::ZERO }, 2, Cause::Snoozed, None, None),
        (retry(Duration::ZERO), 2, Cause::Error, Some("not yet"), None),
    ];
    for (number, (verdict, attempt, cause, error, entered)) in verdicts.into_iter().enumerate() {
        let claimed_at = bench.now();
        let lease = bench.claim_in("a").await;
        assert_eq!(lease.attempt, attempt);
        bench.clock.advance(second);
        moved(bench.send(Step::Transition(decide::settle(&lease, verdict, entered))).await);
        expected.push(Attempt {
            fence: number as u64 + 1,
            attempt,
            worker: worker(),
            claimed_at,
            entered_at: entered.map(|ago| bench.now() - ago),
            ended_at: bench.now(),
            cause,
            error: error.map(Into::into),
        });
        assert_eq!(bench.attempts("a").await, expected);
    }
    bench.run("a", fail()).await;
    assert_eq!(bench.attempts("a").await, expected, "the last attempt's facts are in the task");
    assert_eq!(bench.task("a").await.attempt, 3);
    assert_eq!(bench.attempts("nobody").await, []);
}

async fn a_cause_is_written_together_with_its_error<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    bench.run("a", retry(Duration::ZERO)).await;
    let lease = bench.claim_in("a").await;
    moved(bench.send(cancel("a", State::Running)).await);
    let task = bench.task("a").await;
    assert_eq!(
        (task.cause, task.error.as_deref()),
        (Some(Cause::Error), Some("not yet")),
        "no cause, no change"
    );
    bench.settle(&lease, done()).await;
    let task = bench.task("a").await;
    assert_eq!((task.cause, task.error), (Some(Cause::Done), None), "a cause without an error clears it");
}

async fn a_nul_in_a_text_is_rejected_with_its_whole_call<S: Storage>(bench: &Bench<S>) {
    let bad = bench.bring("bad", State::Running).await.expect("running");
    let good = bench.bring("good", State::Running).await.expect("running");
    let nul = Verdict::Fail { cause: Cause::Error, error: "a\0b".into() };
    let mut asks_to_stop = decide::cancel(&id("bad"), State::Running, "").expect("it is running");
    asks_to_stop.change.request_cancel = Some("\0".into());
    let before = bench.task("bad").await;
    for step in [settle(&bad, nul), Step::Transition(asks_to_stop)] {
        let batches = [Batch::from(settle(&good, done())), Batch::from(step), Batch::from(put(&task("new")))];
        let error =
            bench.store().apply(&batches).await.expect_err("a text with a NUL can't be kept everywhere");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
        assert_eq!(bench.state("good").await, State::Running, "nothing was applied");
        assert_eq!(bench.task("bad").await, before);
        assert_eq!(bench.find("new").await, None);
    }
    let instead = decide::unrecordable(&bad, "a\0b", None);
    assert_eq!(moved(bench.send(Step::Transition(instead)).await).state, State::Failed);
    bench.settle(&good, done()).await;
}

async fn an_output_over_64_mib_is_rejected_with_its_whole_call<S: Storage>(bench: &Bench<S>) {
    let large = bench.bring("large", State::Running).await.expect("running");
    let small = bench.bring("small", State::Running).await.expect("running");
    let output = Verdict::Done(vec![0; PAYLOAD_BYTES_MAX + 1].into());
    let batches = [settle(&small, done()), settle(&large, output)].map(Batch::from);
    let error = bench.store().apply(&batches).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    for name in ["large", "small"] {
        assert_eq!(bench.state(name).await, State::Running, "{name}");
    }
    bench.settle(&small, done()).await;
}

async fn a_retry_waits_by_the_stores_clock<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    bench.clock.advance(Duration::from_secs(100));
    bench.settle(&lease, retry(Duration::from_micros(1_500))).await;
    let due_at = bench.now() + Duration::from_micros(1_500);
    assert_eq!(bench.task("a").await.due_at, due_at);
    bench.clock.advance(Duration::from_micros(1_499));
    let claimed = bench.ask(&claim_request("a", 1)).await;
    assert_eq!((claimed.tasks.len(), claimed.next_due), (0, Some(Duration::from_micros(1))));
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(bench.claim_in("a").await.attempt, 2);
    assert_eq!(bench.task("a").await.due_at, due_at);
}

async fn what_is_made_ready_before_its_time_is_due<S: Storage>(bench: &Bench<S>) {
    bench.bring("a", State::Scheduled).await;
    let (due_at, seen) = (bench.task("a").await.due_at, bench.task("a").await.fence);
    assert!(due_at > bench.now());
    moved(bench.send(Step::Transition(decide::hasten(&id("a"), seen))).await);
    assert_eq!(bench.task("a").await.due_at, bench.now());
    bench.clock.advance(Duration::from_secs(5));
    // Given back, it keeps its place.
    let due_at = bench.task("a").await.due_at;
    let lease = bench.claim_in("a").await;
    moved(bench.send(Step::Transition(decide::give_back(&lease, None))).await);
    assert_eq!(bench.task("a").await.due_at, due_at);
}

async fn a_settling_says_when_its_handler_was_entered<S: Storage>(bench: &Bench<S>) {
    let ago = Duration::from_micros(700);
    let lease = bench.bring("a", State::Running).await.expect("running");
    bench.clock.advance(Duration::from_secs(1));
    let entered_at = bench.now() - ago;
    moved(bench.send(Step::Transition(decide::settle(&lease, done(), Some(ago)))).await);
    assert_eq!(bench.task("a").await.entered_at, Some(entered_at));
    let lease = bench.bring("b", State::Running).await.expect("running");
    let renewal = Renewal { task: id("b"), fence: lease.fence, lease: LEASE, entered: Some(ago) };
    let entered_at = bench.now() - ago;
    renewed(bench.send(Step::Renew(renewal)).await);
    bench.clock.advance(Duration::from_secs(1));
    moved(bench.send(Step::Transition(decide::settle(&lease, done(), Some(ago)))).await);
    assert_eq!(bench.task("b").await.entered_at, Some(entered_at), "it was known already");
}

async fn every_change_raises_the_revision_by_one<S: Storage>(bench: &Bench<S>) {
    let mut rev = bench.insert(in_own_queue("a")).await.rev;
    let mut rises = async |what: &str| {
        let now = bench.task("a").await.rev;
        assert_eq!(now, rev + 1, "{what}");
        rev = now;
    };
    let first = bench.claim_in("a").await;
    rises("claim").await;
    bench.settle(&first, retry(Duration::ZERO)).await;
    rises("retry").await;
    bench.claim_in("a").await;
    rises("second claim").await;
    let lapsed = bench.let_lapse().await;
    moved(bench.send(reclaim(&lapsed)).await);
    rises("rescue").await;
    let third = bench.claim_in("a").await;
    rises("third claim").await;
    moved(bench.send(cancel("a", State::Running)).await);
    rises("request to cancel").await;
    bench.settle(&third, Verdict::Cancel { reason: "as asked".into() }).await;
    rises("end").await;
}

async fn an_attempt_given_back_is_claimable_at_once<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let given_back = decide::give_back(&lease, Some(Duration::ZERO));
    let found = moved(bench.send(Step::Transition(given_back.clone())).await);
    assert_eq!(found.state, State::Ready);
    let task = bench.task("a").await;
    assert_eq!((task.attempt, task.rescues, task.cause), (0, 0, Some(Cause::Drained)));
    let again = bench.claim_in("a").await;
    assert_eq!((again.attempt, again.fence), (1, 2));
    assert_eq!(bench.attempts("a").await.len(), 1);
    already(bench.send(Step::Transition(given_back)).await);
    assert_eq!(bench.state("a").await, State::Running);
}
