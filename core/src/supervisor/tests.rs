//! The worker on a fake store and a clock that is moved by hand.

use super::*;
use crate::fake::{Bench, lease};
use crate::handler::{Context, Verdict};
use crate::step::Refusal;
use crate::task::Cause;

const SECOND: Duration = Duration::from_secs(1);

/// Never ends, whatever it is told.
fn deaf() -> Handlers {
    Handlers::new().with(Kind::trusted("work"), |_: Context| std::future::pending::<Verdict>())
}

/// Answers with this when it is told to stop.
fn stops_with(verdict: Verdict) -> Handlers {
    Handlers::new().with(Kind::trusted("work"), move |context: Context| {
        let verdict = verdict.clone();
        async move {
            context.stopped().await;
            verdict
        }
    })
}

fn due_in(deadline: Duration) -> Lease {
    Lease { deadline: Some(deadline), ..lease("a") }
}

#[test]
fn a_deaf_attempt_ends_with_its_deadline_after_a_grace() {
    let mut bench = Bench::new(deaf(), vec![due_in(5 * SECOND)]);
    bench.pass(14 * SECOND);
    assert!(bench.store.settled().is_empty(), "it has a grace of 10 s");
    bench.pass(SECOND);
    let settled = bench.store.settled();
    assert_eq!((settled[0].to, settled[0].cause), (State::Failed, Some(Cause::Deadline)));
}

#[test]
fn an_attempt_that_hears_of_its_deadline_ends_by_it_at_once_however_many_attempts_are_left() {
    let mut bench = Bench::new(stops_with(Verdict::error("stopped")), vec![due_in(5 * SECOND)]);
    bench.pass(4 * SECOND);
    assert!(bench.store.settled().is_empty());
    bench.pass(SECOND);
    let settled = bench.store.settled();
    assert_eq!((settled[0].to, settled[0].cause), (State::Failed, Some(Cause::Deadline)));
}

#[test]
fn work_that_was_done_in_the_grace_counts() {
    let mut bench = Bench::new(stops_with(Verdict::done(*b"1")), vec![due_in(5 * SECOND)]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.store.settled()[0].to, State::Succeeded);
}

#[test]
fn a_lost_attempt_is_neither_recorded_nor_renewed() {
    let handlers = Handlers::new().with(Kind::trusted("work"), |_: Context| async { Verdict::Lost });
    let mut bench = Bench::new(handlers, vec![lease("a")]);
    bench.pass(60 * SECOND);
    assert!(bench.store.settled().is_empty(), "whether it failed isn't known");
    assert_eq!(bench.store.renewed(), 0, "a sweeper finds it");
}

#[test]
fn an_overdue_task_is_not_entered() {
    let handler = |_: Context| async { panic!("it must not be entered") };
    let handlers = Handlers::new().with(Kind::trusted("work"), handler);
    let bench = Bench::new(handlers, vec![due_in(Duration::ZERO)]);
    let settled = bench.store.settled();
    assert_eq!((settled[0].cause, settled[0].entered), (Some(Cause::Deadline), None));
}

#[test]
fn a_timeout_before_the_deadline_is_a_timeout() {
    let mut bench = Bench::new(stops_with(Verdict::error("stopped")), Vec::new());
    bench.store.lock().leases = vec![Lease { timeout: SECOND, ..due_in(5 * SECOND) }];
    bench.pass(3 * SECOND);
    let settled = bench.store.settled();
    assert_eq!((settled[0].to, settled[0].cause), (State::Scheduled, Some(Cause::Timeout)));
}

#[test]
fn a_worker_says_that_it_lives_and_at_last_that_it_is_gone() {
    let mut bench = Bench::new(stops_with(Verdict::error("stopped")), vec![lease("a")]);
    bench.pass(25 * SECOND);
    let beats = bench.store.beats();
    assert_eq!(
        beats.iter().map(|beat| (beat.running, beat.gone)).collect::<Vec<_>>(),
        [(0, false), (1, false), (1, false)]
    );
    assert_eq!(beats[0].kinds, [Kind::trusted("work")]);
    bench.drain.drain();
    assert!(bench.pass(SECOND), "it has ended");
    let last = bench.store.beats().pop().unwrap();
    assert_eq!((last.running, last.gone), (0, true));
    let calls = &bench.store.lock().calls;
    assert!(matches!(calls.last().unwrap()[0].steps[..], [Step::Beat(_)]), "after the last settling");
}

#[test]
fn a_drained_worker_renews_until_the_last_attempt_is_given_back() {
    let mut bench = Bench::new(deaf(), vec![lease("a")]);
    bench.pass(25 * SECOND);
    bench.drain.drain();
    bench.pass(8 * SECOND);
    let before = bench.store.renewed();
    assert!(!bench.pass(SECOND));
    assert!(bench.pass(2 * SECOND));
    assert!(bench.store.renewed() >= before && before == 4, "at 1, 11, 21 and 31 s: {before}");
    let settled = bench.store.settled();
    assert_eq!((settled[0].to, settled[0].cause), (State::Ready, Some(Cause::Drained)));
}

#[test]
fn a_drained_worker_does_not_wait_for_ever_for_what_cannot_be_recorded() {
    let mut bench = Bench::new(deaf(), vec![lease("a")]);
    bench.store.lock().holds_transitions = true;
    bench.pass(25 * SECOND);
    bench.drain.drain();
    assert!(!bench.pass(60 * SECOND), "the grace, and a lease, and what is left of the next");
    assert!(bench.pass(60 * SECOND));
}

#[test]
fn a_lost_attempt_is_not_renewed() {
    let mut bench = Bench::new(deaf(), vec![lease("a"), lease("b")]);
    bench.pass(2 * SECOND);
    assert_eq!(bench.store.renewed(), 2);
    bench.engine.registry().stop(&TaskId::trusted("a"), 1, &StopReason::LeaseLost);
    bench.pass(10 * SECOND);
    assert_eq!(bench.store.renewed(), 3, "b alone");
}

#[test]
fn a_cancel_before_another_attempt_keeps_what_the_last_one_said() {
    let head = Head { state: State::Running, rev: 3, fence: 1, cancel_requested: true };
    let mut bench = Bench::new(stops_with(Verdict::error("half-way")), Vec::new());
    bench.store.lock().refuses_waiting = Some(Refusal::Stale(head));
    bench.store.lock().leases = vec![Lease { timeout: SECOND, ..lease("a") }];
    bench.pass(3 * SECOND);
    let settled = bench.store.settled();
    assert_eq!(settled[1].to, State::Cancelled);
    assert!(settled[1].entered.is_some());
    let error = settled[1].error.as_deref().unwrap();
    assert!(error.ends_with("the last one: the attempt took longer than its timeout of 1s"), "{error}");
}

#[test]
fn a_sweeper_leaves_an_attempt_that_began_meanwhile_to_its_worker() {
    let mut bench = Bench::new(deaf(), Vec::new());
    bench.store.lock().overdue = vec![TaskId::trusted("waits")];
    let engine = bench.engine.clone();
    let mut call = crate::fake::Run::new(async move { engine.expire_overdue(10, 1).await });
    assert!(!call.go(), "the committer runs beside it");
    bench.pass(SECOND);
    assert_eq!(call.end().unwrap(), 1);
    let expired = bench.store.lock().calls.last().unwrap()[0].clone();
    let [Step::Transition(expired)] = &expired.steps[..] else { panic!("{expired:?}") };
    assert!(!expired.guard.from.contains(State::Running), "it may have been claimed meanwhile");
}

#[test]
fn the_stores_clock_decides_whether_the_deadline_has_passed() {
    let at_deadline = |not_yet, pass| {
        let mut bench = Bench::new(stops_with(Verdict::error("stopped")), vec![due_in(5 * SECOND)]);
        bench.store.lock().not_yet = not_yet;
        bench.pass(5 * SECOND + pass);
        let last = bench.store.settled().pop().unwrap();
        (last.to, last.cause.unwrap())
    };
    assert_eq!(at_deadline(3, SECOND), (State::Failed, Cause::Deadline), "a little late");
    assert_eq!(at_deadline(1_000, 10 * SECOND), (State::Ready, Cause::Drained), "given back to who comes");
}

/// Ends at once.
fn quick() -> Handlers {
    Handlers::new().with(Kind::trusted("work"), |_: Context| async { Verdict::done(*b"1") })
}

fn leases(count: usize) -> Vec<Lease> {
    (0..count).map(|number| lease(&format!("t{number}"))).collect()
}

#[test]
fn a_backlog_is_claimed_without_waiting_for_a_poll_or_a_hint() {
    let bench = Bench::new(quick(), leases(40));
    assert_eq!(bench.store.settled().len(), 40, "more than fit at once");
}

#[test]
fn a_task_that_is_due_much_later_does_not_keep_a_worker_from_polling() {
    let mut bench = Bench::new(quick(), Vec::new());
    bench.store.lock().next_due = Some(3600 * SECOND);
    bench.pass(2 * SECOND);
    bench.store.lock().leases = leases(1);
    bench.pass(SECOND);
    assert_eq!(bench.store.settled().len(), 1);
}

#[test]
fn a_claim_whose_answer_is_too_much_is_repeated_for_fewer_tasks() {
    let mut bench = Bench::new(quick(), Vec::new());
    bench.store.lock().claimed_max = Some(3);
    bench.store.lock().leases = leases(30);
    bench.pass(10 * SECOND);
    assert_eq!(bench.store.settled().len(), 30);
}

#[test]
fn an_outcome_that_cannot_be_stored_fails_the_task_and_says_so() {
    let mut bench = Bench::new(quick(), Vec::new());
    bench.store.lock().rejects_outputs = true;
    bench.store.lock().leases = leases(1);
    bench.pass(2 * SECOND);
    let settled: Vec<_> =
        bench.store.settled().into_iter().filter(|change| change.output.is_none()).collect();
    assert_eq!((settled[0].to, settled[0].cause), (State::Failed, Some(Cause::Unrecordable)));
    assert_eq!(settled.len(), 1);
}
