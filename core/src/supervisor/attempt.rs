//! One attempt, from the handler's entry to its settling.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use crate::decide::{self, AfterRefusal};
use crate::engine::Engine;
use crate::handler::{Context, Handler, StopReason, Verdict};
use crate::registry::Registered;
use crate::step::{Change, Outcome, Refusal, Transition};
use crate::storage::{Error, ErrorKind, Lease, Storage};
use crate::task::{Cause, State};
use crate::time::{Clock, Moment};

/// The wait before a settling is repeated; it doubles up to `SETTLE_RETRY_MAX`.
const SETTLE_RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before a settling is repeated.
const SETTLE_RETRY_MAX: Duration = Duration::from_secs(2);

/// What the supervisor and the attempt's future share.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) lease: Arc<Lease>,
    pub(super) registered: Registered,
    entered: OnceLock<Moment>,
}

impl Attempt {
    pub(super) fn new(lease: Lease, registered: Registered) -> Self {
        Self { lease: Arc::new(lease), registered, entered: OnceLock::new() }
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
) {
    let lease = &attempt.lease;
    let (said, stop) = match handler {
        // Drained between claim and start: given back without being entered.
        _ if attempt.registered.orders().stop.is_some() => (None, attempt.registered.orders().stop),
        Some(handler) => execute(engine.clock(), attempt, handler, grace).await,
        None => (Some(Verdict::fail(format!("no handler for kind {}", lease.kind))), None),
    };
    let entered = attempt.entered_ago(engine.clock().now());
    if let Some(transition) = decide::conclude(lease, said, stop.as_ref(), entered) {
        record(engine, attempt, transition).await;
    } else {
        tracing::warn!(task = %lease.task, fence = lease.fence, "attempt abandoned: its lease was lost");
    }
}

/// Runs the handler until it has its say; or until it was told to stop and its grace is over.
async fn execute<C: Clock>(
    clock: &C,
    attempt: &Attempt,
    handler: Arc<dyn Handler>,
    grace: Duration,
) -> (Option<Verdict>, Option<StopReason>) {
    let lease = &attempt.lease;
    let context = Context::new(lease.clone(), attempt.registered.subscribe());
    attempt.entered.get_or_init(|| clock.now());
    tracing::debug!(task = %lease.task, kind = %lease.kind, attempt = lease.attempt, fence = lease.fence, "handler entered");
    let stopped = context.clone();
    let call = async move { handler.call(context).await };
    let mut call =
        pin!(AssertUnwindSafe(call).catch_unwind().map(|result| result.unwrap_or_else(panicked)).fuse());
    let mut stopped = pin!(stopped.stopped().fuse());
    let mut timeout = pin!(clock.sleep(lease.timeout).fuse());
    let reason = select_biased! {
        // It may have been told to stop, and have been quicker than we are to hear it.
        verdict = call => return (Some(verdict), attempt.registered.orders().stop),
        reason = stopped => reason,
        () = timeout => StopReason::Timeout(lease.timeout),
    };
    attempt.registered.stop(reason.clone());
    tracing::info!(task = %lease.task, fence = lease.fence, %reason, "attempt told to stop");
    let mut grace = pin!(clock.sleep(grace).fuse());
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

/// Commits the outcome, again and again while the lease lasts. An outcome that can't be stored is replaced by one that
/// says so: a task must not stay running because its ending could not be written.
async fn record<S: Storage, C: Clock>(engine: &Engine<S, C>, attempt: &Attempt, mut transition: Transition) {
    let lease = &attempt.lease;
    let mut delay = SETTLE_RETRY_MIN;
    loop {
        match engine.settle(transition.clone()).await {
            Ok(Outcome::Applied(_) | Outcome::Already(_)) => {
                log_settled(lease, &transition.change);
                return;
            }
            Ok(Outcome::Refused(refused)) => match after(lease, &refused.why) {
                AfterRefusal::Instead(instead) => transition = instead,
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

fn after(lease: &Lease, why: &Refusal) -> AfterRefusal {
    match why {
        Refusal::Stale(head) => decide::after_refusal(lease, *head),
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
        let attempt = Attempt::new(lease, registered);
        let handler: Arc<dyn Handler> =
            Arc::new(|context: Context| async move { Verdict::error(context.stopped().await) });
        let mut run = pin!(execute(&Still, &attempt, handler, Duration::from_secs(10)));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut context).is_pending());
        attempt.registered.stop(StopReason::Drained);
        let Poll::Ready((said, stop)) = run.as_mut().poll(&mut context) else { panic!("it has stopped") };
        assert_eq!(stop, Some(StopReason::Drained));
        let recorded = decide::conclude(&attempt.lease, said, stop.as_ref(), None).expect("recorded").change;
        assert!(recorded.give_back_attempt, "a drained attempt isn't used up");
    }
}
