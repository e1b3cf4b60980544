//! One attempt, from the handler's entry to its settling.
//!
//! A busy worker holds a thousand of these futures, and moves each into place: what few attempts come to (a grace, a
//! last report that takes its time, a settling that has to be repeated) is boxed, so that not all carry room for it.
//! Measured: 5 to 15 % of what a worker gets done.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use crate::decide::{self, AfterRefusal};
use crate::engine::Engine;
use crate::handler::{Context, Handler, StopReason, Verdict};
use crate::registry::Registered;
use crate::report::{Desk, Now, Reporter};
use crate::step::{Change, Outcome, Refusal, Transition};
use crate::storage::{Error, ErrorKind, Lease, Storage};
use crate::task::{Cause, State};
use crate::time::{Clock, Moment};

/// The wait before a settling is repeated; it doubles up to `SETTLE_RETRY_MAX`.
const SETTLE_RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before a settling is repeated.
const SETTLE_RETRY_MAX: Duration = Duration::from_secs(2);
/// How long the store's clock may be behind ours at a task's deadline.
const NOT_YET_MAX: Duration = Duration::from_secs(5);
/// How long the last report may hold up the settling: an outcome is worth more than a log.
const LAST_REPORT_MAX: Duration = Duration::from_secs(5);

/// What the supervisor and the attempt's future share.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) lease: Arc<Lease>,
    pub(super) registered: Registered,
    /// When the task's deadline passes.
    pub(super) deadline: Option<Moment>,
    entered: OnceLock<Moment>,
}

impl Attempt {
    /// The deadline counts from the moment when the claim was sent: by our own clock it is never late.
    pub(super) fn new(lease: Lease, registered: Registered, claim_sent: Moment) -> Self {
        let deadline = lease.deadline.map(|left| claim_sent + left);
        Self { lease: Arc::new(lease), registered, deadline, entered: OnceLock::new() }
    }

    /// How long the handler may take from now, and why it must stop then.
    fn time_left(&self, now: Moment) -> (Duration, StopReason) {
        let timeout = self.lease.timeout;
        match self.deadline.map(|deadline| deadline.since(now)) {
            Some(left) if left < timeout => (left, StopReason::Deadline),
            Some(_) | None => (timeout, StopReason::Timeout(timeout)),
        }
    }

    /// How long ago the handler was entered, if it was.
    pub(super) fn entered_ago(&self, now: Moment) -> Option<Duration> {
        self.entered.get().map(|entered| now.since(*entered))
    }
}

/// Runs the handler and records what came of it. Returns when the attempt is over and recorded, or void.
pub(super) async fn run<S: Storage, C: Clock>(
    engine: &Engine<S, C>,
    attempt: &Attempt,
    handler: Option<Arc<dyn Handler>>,
    grace: Duration,
    now: Now,
) {
    let lease = &attempt.lease;
    let (said, stop) = match handler {
        // Drained or overdue between claim and start: ended without being entered.
        _ if attempt.registered.orders().stop.is_some() => (None, attempt.registered.orders().stop),
        Some(handler) => report(engine, attempt, handler, grace, now).await,
        None => (Some(Verdict::fail(format!("no handler for kind {}", lease.kind))), None),
    };
    let entered = attempt.entered_ago(engine.clock().now());
    if let Some(transition) = decide::conclude(lease, said.map(storable), stop.as_ref(), entered) {
        record(engine, attempt, transition).await;
    } else {
        tracing::warn!(task = %lease.task, fence = lease.fence, "attempt abandoned: it was lost, or its lease was");
    }
}

/// Runs the handler and sends what it reports, to the last, beside it.
async fn report<S: Storage, C: Clock>(
    engine: &Engine<S, C>,
    attempt: &Attempt,
    handler: Arc<dyn Handler>,
    grace: Duration,
    now: Now,
) -> (Option<Verdict>, Option<StopReason>) {
    let Attempt { lease, registered, .. } = attempt;
    let desk = Arc::new(Desk::attended(now, lease.fence == 1));
    // Whoever waits for an answer must not wait for ever, however this ends.
    let _closes = Closes(&desk);
    let context = Context::attended(lease.clone(), registered.subscribe(), desk.clone());
    let reporter = Reporter { engine, lease, registered, desk: &desk };
    let mut reports = pin!(reporter.run().fuse());
    let (said, stop) = {
        let mut call = pin!(execute(engine.clock(), attempt, handler, context, grace).fuse());
        loop {
            select_biased! {
                ended = call => break ended,
                () = reports => {}
            }
        }
    };
    if stop == Some(StopReason::LeaseLost) {
        return (said, stop);
    }
    desk.end();
    if (&mut reports).now_or_never().is_none() {
        let mut patience = Box::pin(engine.clock().sleep(LAST_REPORT_MAX)).fuse();
        select_biased! {
            () = reports => {}
            () = patience => {
                tracing::warn!(task = %lease.task, fence = lease.fence, "the last report could not be stored in time and is dropped");
            }
        }
    }
    // The report may have told that the lease was lost.
    (said, registered.orders().stop.filter(|now| stop.is_some() || *now == StopReason::LeaseLost))
}

/// Closes a desk when the attempt is over, or dropped.
struct Closes<'a>(&'a Desk);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Runs the handler until it has its say; or until it was told to stop and its grace is over.
async fn execute<C: Clock>(
    clock: &C,
    attempt: &Attempt,
    handler: Arc<dyn Handler>,
    context: Context,
    grace: Duration,
) -> (Option<Verdict>, Option<StopReason>) {
    let lease = &attempt.lease;
    attempt.entered.get_or_init(|| clock.now());
    tracing::debug!(task = %lease.task, kind = %lease.kind, attempt = lease.attempt, fence = lease.fence, "handler entered");
    let stopped = context.clone();
    let call = async move { handler.call(context).await };
    let mut call =
        pin!(AssertUnwindSafe(call).catch_unwind().map(|result| result.unwrap_or_else(panicked)).fuse());
    let mut stopped = pin!(stopped.stopped().fuse());
    let (left, late) = attempt.time_left(clock.now());
    let mut late = Some(late);
    let mut time_out = pin!(clock.sleep(left).fuse());
    let reason = select_biased! {
        // It may have been told to stop, and have been quicker than we are to hear it.
        verdict = call => return (Some(verdict), attempt.registered.orders().stop),
        reason = stopped => reason,
        () = time_out => late.take().expect("it is late once"),
    };
    attempt.registered.stop(reason.clone());
    tracing::info!(task = %lease.task, fence = lease.fence, %reason, "attempt told to stop");
    let mut grace = Box::pin(clock.sleep(grace)).fuse();
    let said = select_biased! {
        verdict = call => Some(verdict),
        () = grace => None,
    };
    // A lost lease overrides an earlier reason.
    (said, attempt.registered.orders().stop)
}

fn panicked(payload: Box<dyn std::any::Any + Send>) -> Verdict {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the panic's payload is no text".to_owned());
    Verdict::Retry { cause: Cause::Panic, error: text, after: None }
}

/// A verdict whose text every store takes: what a handler says must not be lost for a NUL in it, or for its length.
fn storable(verdict: Verdict) -> Verdict {
    let fits = |text: &String| text.len() <= decide::TEXT_CHARS_MAX && !text.contains('\0');
    let text = |text: String| if fits(&text) { text } else { decide::printable(&text) };
    match verdict {
        Verdict::Retry { cause, error, after } => Verdict::Retry { cause, error: text(error), after },
        Verdict::Fail { cause, error } => Verdict::Fail { cause, error: text(error) },
        Verdict::Cancel { reason } => Verdict::Cancel { reason: text(reason) },
        Verdict::Done(_) | Verdict::Snooze { .. } | Verdict::Lost => verdict,
    }
}

/// Commits the outcome, again and again while the lease lasts. An outcome that can't be stored is replaced by one that
/// says so: a task must not stay running because its ending could not be written.
async fn record<S: Storage, C: Clock>(engine: &Engine<S, C>, attempt: &Attempt, transition: Transition) {
    let answer = engine.settle(transition.clone()).await;
    if let Ok(Outcome::Applied(_) | Outcome::Already(_)) = answer {
        log_settled(&attempt.lease, &transition.change);
        return;
    }
    Box::pin(record_again(engine, attempt, transition, answer)).await;
}

/// Goes on after an answer that isn't the end of it.
async fn record_again<S: Storage, C: Clock>(
    engine: &Engine<S, C>,
    attempt: &Attempt,
    mut transition: Transition,
    mut answer: Result<Outcome, Error>,
) {
    let lease = &attempt.lease;
    let mut delay = SETTLE_RETRY_MIN;
    let began = engine.clock().now();
    loop {
        match answer {
            Ok(Outcome::Applied(_) | Outcome::Already(_)) => {
                log_settled(lease, &transition.change);
                return;
            }
            Ok(Outcome::Refused(refused)) => match after(lease, &transition, &refused.why) {
                AfterRefusal::Instead(instead) => transition = instead,
                AfterRefusal::NotYet => {
                    engine.clock().sleep(delay).await;
                    delay = (delay * 2).min(SETTLE_RETRY_MAX);
                    if engine.clock().now().since(began) >= NOT_YET_MAX {
                        // Our clock is fast. The task deserves the time that it has left.
                        let entered = attempt.entered_ago(engine.clock().now());
                        transition = decide::give_back(lease, entered);
                    }
                }
                AfterRefusal::LeaseLost => {
                    tracing::warn!(task = %lease.task, fence = lease.fence, why = ?refused.why, "settling refused: the lease was lost");
                    return;
                }
            },
            Err(error)
                if error.kind() == ErrorKind::Rejected
                    && transition.change.cause != Some(Cause::Unrecordable) =>
            {
                let entered = attempt.entered_ago(engine.clock().now());
                transition = decide::unrecordable(lease, &error.to_string(), entered);
            }
            Err(error) => {
                if is_final(&error) || engine.clock().now() >= attempt.registered.orders().lease_until {
                    tracing::error!(task = %lease.task, fence = lease.fence, ?error, "the outcome could not be recorded; the lease will lapse");
                    return;
                }
                engine.clock().sleep(delay).await;
                delay = (delay * 2).min(SETTLE_RETRY_MAX);
            }
        }
        answer = engine.settle(transition.clone()).await;
    }
}

/// The longest part of an error that is logged, in characters; the task has all of it.
const LOGGED_CHARS_MAX: usize = 300;

/// What failed for good is worth a warning, what will be tried again a note.
fn log_settled(lease: &Lease, change: &Change) {
    let Lease { task, fence, attempt, .. } = lease;
    let (became, cause) = (change.to, change.cause.map_or("", Cause::as_str));
    let error: String = change.error.iter().flat_map(|error| error.chars()).take(LOGGED_CHARS_MAX).collect();
    match became {
        State::Failed => {
            tracing::warn!(%task, fence, attempt, %became, cause, error, "attempt settled");
        }
        State::Blocked | State::Scheduled | State::Ready | State::Running => {
            tracing::info!(%task, fence, attempt, %became, cause, error, "attempt settled");
        }
        State::Succeeded | State::Cancelled => {
            tracing::debug!(%task, fence, attempt, %became, cause, error, "attempt settled");
        }
    }
}

fn after(lease: &Lease, refused: &Transition, why: &Refusal) -> AfterRefusal {
    match why {
        Refusal::Stale(head) => decide::after_refusal(lease, refused, *head),
        Refusal::NotFound => AfterRefusal::LeaseLost,
        Refusal::IdTaken(_)
        | Refusal::KeyTaken(..)
        | Refusal::SlotTaken(..)
        | Refusal::ParentMissing(_)
        | Refusal::AliasTaken(_) => {
            unreachable!("a transition isn't refused for {why:?}")
        }
    }
}

/// Whether repeating can't help.
fn is_final(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Broken | ErrorKind::Rejected => true,
        ErrorKind::Conflict | ErrorKind::Contended | ErrorKind::Unknown | ErrorKind::Unavailable => false,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Poll, Waker};

    use super::*;
    use crate::handler::Orders;
    use crate::name::{Kind, Queue, TaskId};
    use crate::registry::Registry;
    use crate::task::Backoff;

    /// Time stands still.
    #[derive(Clone)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Moment {
            Moment::from_origin(Duration::ZERO)
        }

        async fn sleep(&self, _: Duration) {
            std::future::pending().await
        }
    }

    #[test]
    fn an_error_is_kept_up_to_its_longest() {
        let kept = |error: String| match storable(Verdict::error(error)) {
            Verdict::Retry { error, .. } => error,
            other => panic!("{other:?}"),
        };
        let long = |count| "\u{e9}".repeat(count);
        assert_eq!(kept("a\0b".into()), "a\u{fffd}b");
        assert_eq!(kept(long(decide::TEXT_CHARS_MAX)), long(decide::TEXT_CHARS_MAX));
        assert_eq!(kept(long(30 << 20)), long(decide::TEXT_CHARS_MAX));
    }

    #[test]
    fn a_handler_that_stops_at_once_is_recorded_by_the_reason() {
        let lease = Lease {
            task: TaskId::trusted("t"),
            fence: 1,
            kind: Kind::trusted("k"),
            queue: Queue::default_queue(),
            slot: None,
            payload: (*b"").into(),
            attempt: 1,
            attempts_max: 1,
            timeout: Duration::from_secs(60),
            backoff: Backoff::default(),
            deadline: None,
        };
        let orders = Orders { stop: None, lease_until: Moment::from_origin(Duration::from_secs(30)) };
        let registered = Registry::new().register(lease.task.clone(), 1, orders);
        let context = Context::new(Arc::new(lease.clone()), registered.subscribe());
        let attempt = Attempt::new(lease, registered, Moment::from_origin(Duration::ZERO));
        let handler: Arc<dyn Handler> =
            Arc::new(|context: Context| async move { Verdict::error(context.stopped().await) });
        let mut run = pin!(execute(&Still, &attempt, handler, context, Duration::from_secs(10)));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut context).is_pending());
        attempt.registered.stop(StopReason::Drained);
        let Poll::Ready((said, stop)) = run.as_mut().poll(&mut context) else { panic!("it has stopped") };
        assert_eq!(stop, Some(StopReason::Drained));
        let recorded = decide::conclude(&attempt.lease, said, stop.as_ref(), None).expect("recorded").change;
        assert!(recorded.give_back_attempt, "a drained attempt isn't used up");
    }
}
