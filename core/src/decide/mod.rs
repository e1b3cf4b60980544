//! Pure decisions: functions that take facts and return a step or a refusal. No awaits, no clocks.
//!
//! [`next`] is the state machine; the functions below compose the transitions that the engine sends, and each is
//! held against it by a test.

mod again;
mod retry;

pub use again::{RETRIES_MAX, first_retry, hasten, retry_of};
pub use retry::retry_delay;

use std::time::Duration;

use crate::handler::{StopReason, Verdict};
use crate::name::TaskId;
use crate::step::{Change, Guard, Head, States, Transition};
use crate::storage::{Lapsed, Lease};
use crate::task::{Cause, OnParentFailure, State};

/// Everything that can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The last unfinished parent ended; due now or later.
    Release {
        /// Whether it is due later.
        later: bool,
    },
    /// A parent failed, and the edge says that the child fails too.
    FailDependent,
    /// Its time has come.
    Promote,
    /// A worker leases it.
    Claim,
    /// The attempt ended the task in this terminal state.
    End(State),
    /// The attempt is over and another is to follow, now or later.
    Again {
        /// Whether it is due later.
        later: bool,
    },
    /// Somebody wants it to stop.
    Cancel,
    /// A newer task takes its slot.
    Replace,
    /// Its deadline passed.
    Expire,
}

/// The state machine: where a task goes, or `None` where the command doesn't apply to its state.
pub const fn next(state: State, command: Command) -> Option<State> {
    use Command as C;
    use State as S;
    match (state, command) {
        (S::Blocked, C::Release { later: true }) => Some(S::Scheduled),
        (S::Blocked, C::Release { later: false }) => Some(S::Ready),
        (S::Blocked, C::FailDependent) => Some(S::Failed),
        (S::Scheduled, C::Promote) => Some(S::Ready),
        (S::Ready, C::Claim) => Some(S::Running),
        (S::Running, C::End(to)) => {
            if to.is_terminal() {
                Some(to)
            } else {
                None
            }
        }
        (S::Running, C::Again { later: true }) => Some(S::Scheduled),
        (S::Running, C::Again { later: false }) => Some(S::Ready),
        // A running attempt is asked to stop, and ends by its own settling or by a rescue.
        (S::Running, C::Cancel) => Some(S::Running),
        (S::Blocked | S::Scheduled | S::Ready, C::Cancel) => Some(S::Cancelled),
        (S::Blocked | S::Scheduled | S::Ready | S::Running, C::Replace) => Some(S::Cancelled),
        // A running one is ended by its worker, or waits again once it has been rescued.
        (S::Blocked | S::Scheduled | S::Ready, C::Expire) => Some(S::Failed),
        (S::Blocked, C::Promote | C::Claim | C::End(_) | C::Again { .. }) => None,
        (S::Scheduled | S::Ready, C::Release { .. } | C::FailDependent | C::End(_) | C::Again { .. }) => None,
        (S::Scheduled, C::Claim) | (S::Ready, C::Promote) => None,
        (S::Running, C::Release { .. } | C::FailDependent | C::Promote | C::Claim | C::Expire) => None,
        (
            S::Succeeded | S::Failed | S::Cancelled,
            C::Release { .. }
            | C::FailDependent
            | C::Promote
            | C::Claim
            | C::End(_)
            | C::Again { .. }
            | C::Cancel
            | C::Replace
            | C::Expire,
        ) => None,
    }
}

/// Whether any command leads from one state to the other: what a reader may observe between two revisions that
/// follow each other.
pub fn is_legal(from: State, to: State) -> bool {
    const COMMANDS: [Command; 11] = [
        Command::Release { later: true },
        Command::Release { later: false },
        Command::FailDependent,
        Command::Promote,
        Command::Claim,
        Command::End(State::Succeeded),
        Command::End(State::Failed),
        Command::End(State::Cancelled),
        Command::Again { later: true },
        Command::Again { later: false },
        Command::Cancel,
    ];
    COMMANDS
        .into_iter()
        .chain([Command::Replace, Command::Expire])
        .any(|command| next(from, command) == Some(to))
}

/// What an ended parent means for one of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeOutcome {
    /// The edge is satisfied: one less to wait for.
    Satisfied,
    /// The child fails.
    Fails,
}

/// Judges one edge whose parent has ended in this state; `None` while it hasn't.
pub const fn edge(parent: State, on_failure: OnParentFailure) -> Option<EdgeOutcome> {
    match (parent, on_failure) {
        (State::Blocked | State::Scheduled | State::Ready | State::Running, _) => None,
        (State::Succeeded, _) => Some(EdgeOutcome::Satisfied),
        (State::Failed | State::Cancelled, OnParentFailure::Run) => Some(EdgeOutcome::Satisfied),
        (State::Failed | State::Cancelled, OnParentFailure::Fail) => Some(EdgeOutcome::Fails),
    }
}

/// Where a task waits before another attempt.
fn again(delay: Duration) -> Change {
    let mut change = Change::to(if delay.is_zero() { State::Ready } else { State::Scheduled });
    change.delay = delay;
    change
}

/// How a verdict is recorded.
///
/// # Panics
/// [`Verdict::Lost`] isn't.
pub fn settle(lease: &Lease, verdict: Verdict, entered: Option<Duration>) -> Transition {
    let mut change = match verdict {
        Verdict::Done(output) => {
            let mut change = Change::to(State::Succeeded);
            change.cause = Some(Cause::Done);
            change.output = Some(output);
            change
        }
        Verdict::Retry { cause, error, after } => {
            if lease.attempt < lease.attempts_max {
                let delay = after.unwrap_or_else(|| retry_delay(&lease.task, lease.attempt, lease.backoff));
                Change { cause: Some(cause), error: Some(error), ..again(delay) }
            } else {
                Change { cause: Some(cause), error: Some(error), ..Change::to(State::Failed) }
            }
        }
        Verdict::Fail { cause, error } => {
            Change { cause: Some(cause), error: Some(error), ..Change::to(State::Failed) }
        }
        Verdict::Cancel { reason } => {
            Change { cause: Some(Cause::Cancelled), error: Some(reason), ..Change::to(State::Cancelled) }
        }
        Verdict::Snooze { after } => {
            Change { cause: Some(Cause::Snoozed), give_back_attempt: true, ..again(after) }
        }
        Verdict::Lost => unreachable!("of a lost attempt nothing is recorded"),
    };
    change.entered = entered;
    attempt_transition(lease, change)
}

/// How an attempt that is over is recorded: `said` is the handler's own word, if it had one in time; `stop` is why it
/// was told to stop, if it was. Work that was done counts, whatever else happened meanwhile, and so does a failure for
/// good. A handler that answers an order to stop with "cancelled" only repeats it: the reason of the order counts. `None`
/// where there is nothing to record: the lease or the attempt is lost, and whoever finds it lapsed will see to the task.
pub fn conclude(
    lease: &Lease,
    said: Option<Verdict>,
    stop: Option<&StopReason>,
    entered: Option<Duration>,
) -> Option<Transition> {
    let verdict = match (said, stop) {
        (Some(Verdict::Lost), _) => return None,
        (Some(Verdict::Done(output)), _) => Verdict::Done(output),
        (Some(verdict), None) => verdict,
        (None, None) => unreachable!("an attempt ends by its own word or by an order to stop"),
        (_, Some(StopReason::LeaseLost)) => return None,
        (_, Some(StopReason::Cancelled(reason))) => Verdict::Cancel { reason: reason.clone() },
        (
            Some(verdict @ Verdict::Fail { .. }),
            Some(StopReason::Timeout(_) | StopReason::Deadline | StopReason::Drained),
        )
        | (Some(verdict @ Verdict::Snooze { .. }), Some(StopReason::Drained)) => verdict,
        (
            Some(Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::Cancel { .. }) | None,
            Some(StopReason::Timeout(after)),
        ) => Verdict::Retry {
            cause: Cause::Timeout,
            error: format!("the attempt took longer than its timeout of {after:?}"),
            after: None,
        },
        (
            Some(Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::Cancel { .. }) | None,
            Some(StopReason::Deadline),
        ) => return Some(overrun(lease, entered)),
        (Some(Verdict::Retry { .. } | Verdict::Cancel { .. }) | None, Some(StopReason::Drained)) => {
            return Some(give_back(lease, entered));
        }
    };
    Some(settle(lease, verdict, entered))
}

/// An attempt that its worker stopped at the deadline. The worker's clock said when to ask; whether it has passed is
/// for the store's to say.
fn overrun(lease: &Lease, entered: Option<Duration>) -> Transition {
    let failed = Verdict::Fail { cause: Cause::Deadline, error: OVERDUE.into() };
    let mut transition = settle(lease, failed, entered);
    transition.guard.overdue = true;
    transition
}

/// What an overdue task's error says.
const OVERDUE: &str = "its deadline passed before it had ended";

/// An attempt given back by a worker that drains: ready at once.
pub fn give_back(lease: &Lease, entered: Option<Duration>) -> Transition {
    let change =
        Change { cause: Some(Cause::Drained), give_back_attempt: true, entered, ..again(Duration::ZERO) };
    attempt_transition(lease, change)
}

/// The outcome where the real one can't be stored: the task must not stay running because of that.
pub fn unrecordable(lease: &Lease, why: &str, entered: Option<Duration>) -> Transition {
    let mut change = Change::to(State::Failed);
    change.cause = Some(Cause::Unrecordable);
    change.error = Some(format!("the outcome could not be stored: {}", printable(why)));
    change.entered = entered;
    attempt_transition(lease, change)
}

/// The longest error text that is kept, in characters.
pub(crate) const TEXT_CHARS_MAX: usize = 16_384;

/// Text that every store takes.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }).take(TEXT_CHARS_MAX).collect()
}

fn attempt_transition(lease: &Lease, change: Change) -> Transition {
    let guard = Guard {
        from: States::RUNNING,
        fence: Some(lease.fence),
        // A task that somebody wants to stop must not wait for another attempt.
        unless_cancel_requested: change.to.is_waiting(),
        lease_lapsed: false,
        overdue: false,
    };
    Transition::new(lease.task.clone(), guard, change)
}

/// What follows when an attempt's settling was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterRefusal {
    /// The attempt isn't ours any more: whatever it did, its outcome is void.
    LeaseLost,
    /// A cancel came in between: this is how to end it.
    Instead(Transition),
    /// By the store's clock its deadline hasn't passed yet: ask again; after a while give the attempt back.
    NotYet,
}

/// Judges the state in which the settling of an attempt, which was refused, found the task.
pub fn after_refusal(lease: &Lease, refused: &Transition, found: Head) -> AfterRefusal {
    if found.state != State::Running || found.fence != lease.fence {
        return AfterRefusal::LeaseLost;
    }
    if !found.cancel_requested {
        return if refused.guard.overdue { AfterRefusal::NotYet } else { AfterRefusal::LeaseLost };
    }
    let refused = &refused.change;
    let why = "cancelled before another attempt";
    let change = Change {
        cause: Some(Cause::Cancelled),
        error: Some(match &refused.error {
            Some(error) => format!("{why}; the last one: {error}"),
            None => why.into(),
        }),
        entered: refused.entered,
        ..Change::to(State::Cancelled)
    };
    AfterRefusal::Instead(attempt_transition(lease, change))
}

/// How to cancel a task found in this state; `None` if it has ended.
pub fn cancel(task: &TaskId, found: State, reason: &str) -> Option<Transition> {
    let to = next(found, Command::Cancel)?;
    let mut change = Change::to(to);
    let guard = match to {
        State::Running => {
            change.request_cancel = Some(printable(reason));
            Guard {
                from: States::RUNNING,
                fence: None,
                unless_cancel_requested: true,
                lease_lapsed: false,
                overdue: false,
            }
        }
        State::Blocked
        | State::Scheduled
        | State::Ready
        | State::Succeeded
        | State::Failed
        | State::Cancelled => {
            change.cause = Some(Cause::Cancelled);
            change.error = Some(printable(reason));
            Guard {
                from: States::WAITING,
                fence: None,
                unless_cancel_requested: false,
                lease_lapsed: false,
                overdue: false,
            }
        }
    };
    Some(Transition::new(task.clone(), guard, change))
}

/// Ends the holder of a slot in favour of a newcomer, whatever it is doing.
pub fn replace(holder: &TaskId, newcomer: &TaskId) -> Transition {
    let change = Change {
        cause: Some(Cause::Replaced),
        error: Some(format!("replaced by {newcomer}")),
        ..Change::to(State::Cancelled)
    };
    let guard = Guard {
        from: States::UNFINISHED,
        fence: None,
        unless_cancel_requested: false,
        lease_lapsed: false,
        overdue: false,
    };
    Transition::new(holder.clone(), guard, change)
}

/// Ends a waiting task whose deadline has passed. What runs is ended by its worker, which gives it a grace.
pub fn expire(task: &TaskId) -> Transition {
    let change =
        Change { cause: Some(Cause::Deadline), error: Some(OVERDUE.into()), ..Change::to(State::Failed) };
    let guard = Guard {
        from: States::WAITING,
        fence: None,
        unless_cancel_requested: false,
        lease_lapsed: false,
        overdue: true,
    };
    Transition::new(task.clone(), guard, change)
}

/// What becomes of a task whose lease has lapsed: cancelled if somebody asked for that; rescued, the attempt given
/// back, while its rescues last; else failed. Guarded by fence and by the lease itself: a renewal in between wins.
pub fn reclaim(lapsed: &Lapsed) -> Transition {
    let seen = if lapsed.entered {
        "its handler had been entered"
    } else {
        "its handler is not known to have been entered"
    };
    let lost = format!("worker {} let its lease lapse; {seen}", lapsed.worker);
    let change = if let Some(reason) = &lapsed.cancel {
        Change {
            cause: Some(Cause::Cancelled),
            error: Some(format!("{reason}; {lost}")),
            ..Change::to(State::Cancelled)
        }
    } else if lapsed.rescues < lapsed.rescues_max {
        Change {
            cause: Some(Cause::LeaseLapsed),
            error: Some(lost),
            rescue: true,
            give_back_attempt: true,
            ..Change::to(State::Ready)
        }
    } else {
        Change {
            cause: Some(Cause::RescuesUsedUp),
            error: Some(match lapsed.rescues_max {
                0 => format!("{lost}; it may not be rescued"),
                max => format!("{lost}; it has been rescued {} of {max} times before", lapsed.rescues),
            }),
            ..Change::to(State::Failed)
        }
    };
    let guard = Guard {
        from: States::RUNNING,
        fence: Some(lapsed.fence),
        unless_cancel_requested: lapsed.cancel.is_none(),
        lease_lapsed: true,
        overdue: false,
    };
    Transition::new(lapsed.task.clone(), guard, change)
}

#[cfg(test)]
mod tests;
