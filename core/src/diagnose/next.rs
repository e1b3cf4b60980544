//! What happens to a task next, and when.

use std::time::Duration;

use crate::decide;
use crate::task::{OnParentFailure, State};
use crate::time::Timestamp;

use super::page::{list, rough};
use super::{Facts, Finding, LackingWorker, STUCK, Standing};

/// Every worker and server sweeps each second. When ten of anybody's sweeps in a row haven't taken a lapsed lease up, none
/// is under way; a sweep that waits for a slow store, or goes through many pages, isn't late yet.
pub(super) const SWEEP_LATE: Duration = Duration::from_secs(10 * crate::sweeper::SWEEP.as_secs());

/// Something that is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// When; where it isn't said, once the condition in the words is met.
    pub at: Option<Timestamp>,
    /// What.
    pub what: String,
}

pub(super) fn next(facts: &Facts, finding: &Finding) -> Vec<Next> {
    let mut next = match finding {
        Finding::WaitsForParents(_) => parents(facts),
        Finding::WaitsForSlot { holder, .. } => {
            vec![once(format!("takes the slot when {holder} and those before it have ended"))]
        }
        Finding::BlockedByNothing => vec![once("nothing: it stays so until somebody acts")],
        Finding::DueLater { due_at, .. } => vec![at(*due_at, "is due, and may be claimed")],
        Finding::QueuePaused(_) => vec![once("is claimed when the queue has been resumed")],
        Finding::QueueFull { limit: 0, .. } => vec![once("is claimed when the limit has been raised")],
        Finding::QueueFull { .. } => vec![once("is claimed when another task of the queue has ended")],
        Finding::NoWorker(lacking) => vec![once(match lacking {
            LackingWorker::AtAll | LackingWorker::Alive { .. } => {
                "is claimed when a worker for it is started"
            }
            LackingWorker::ForQueue(_) => "is claimed when a worker claims from its queue",
            LackingWorker::ForKind(_) => "is claimed when a worker has a handler for its kind",
        })],
        Finding::WorkersBusy { .. } => vec![once("is claimed when one of them has room")],
        Finding::NextUp { .. } | Finding::Overlooked { .. } => {
            vec![once("is claimed when a worker looks: at a hint, or at its next poll")]
        }
        Finding::Runs(standing) | Finding::Claimed(standing) | Finding::Stuck(standing) => {
            running(facts, standing)
        }
        Finding::Stopping { standing, .. } => vec![
            once("ends when its handler has stopped, or is dropped when its grace is over"),
            at(standing.lease_until, "its lease lapses unless it is renewed; then it is cancelled"),
        ],
        Finding::LeaseLapsed { standing, becomes } => {
            let what = match becomes {
                State::Cancelled => "a sweeper cancels it",
                State::Failed => "a sweeper fails it, with cause rescues_used_up",
                State::Blocked | State::Scheduled | State::Ready | State::Running | State::Succeeded => {
                    "a sweeper makes it ready again, and it may be claimed"
                }
            };
            vec![at(standing.lease_until + crate::sweeper::SWEEP, what)]
        }
        Finding::Ended(_) => vec![once("nothing: an end is final")],
    };
    if let (Some(deadline), false) = (facts.task.deadline_at, facts.task.state.is_terminal()) {
        let what = match facts.task.state {
            State::Running => {
                "its deadline: its handler is told to stop, has its grace, and it fails unless it is done"
            }
            _ => "its deadline: it fails unless it has ended",
        };
        next.push(at(deadline, what));
    }
    // The sort is stable: what has no time stays in front, as it was put.
    next.sort_by_key(|next| next.at);
    next
}

fn at(at: Timestamp, what: impl Into<String>) -> Next {
    Next { at: Some(at), what: what.into() }
}

fn once(what: impl Into<String>) -> Next {
    Next { at: None, what: what.into() }
}

fn parents(facts: &Facts) -> Vec<Next> {
    let mut next = vec![once("may be claimed when the last of them has ended")];
    let unfinished =
        facts.parents.iter().filter(|(_, state)| state.is_some_and(|state| !state.is_terminal()));
    let fatal = unfinished.filter(|(parent, _)| parent.on_failure == OnParentFailure::Fail);
    let fatal: Vec<String> = fatal.map(|(parent, _)| parent.id.to_string()).collect();
    if !fatal.is_empty() {
        next.push(once(format!(
            "fails at once if one of these doesn't succeed: {}",
            list(fatal.into_iter())
        )));
    }
    next
}

fn running(facts: &Facts, standing: &Standing) -> Vec<Next> {
    let task = &facts.task;
    let lapse = "its lease lapses unless it is renewed, and a sweeper takes it from the worker";
    let mut next = vec![at(standing.lease_until, lapse)];
    // The timeout counts from the handler's entry, which comes right after the claim.
    if let Some(entered) = standing.entered_at.or(task.claimed_at) {
        let after = if task.attempt < task.attempts_max {
            let delay = rough(decide::retry_delay(&task.id, task.attempt.max(1), task.backoff));
            format!("attempt {} follows {delay} later", task.attempt + 1)
        } else {
            "the task fails".into()
        };
        next.push(at(entered + task.timeout, format!("the attempt times out unless it has ended; {after}")));
    }
    let silent_since = standing.last_sign.or(task.claimed_at);
    if let Some(stuck) = silent_since.map(|since| since + STUCK).filter(|stuck| *stuck > facts.now) {
        next.push(at(stuck, "counts as stuck unless its handler gives a sign of life"));
    }
    next
}
