//! Trying again because somebody says so.

use super::{Accepted, DECISION_ROUNDS_MAX, Engine, Submitted, contested};
use crate::decide;
use crate::name::TaskId;
use crate::step::{Outcome, Refusal};
use crate::storage::{Error, Storage};
use crate::task::{State, Task};
use crate::time::Clock;

/// What became of a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It was waiting for its time, and is due now.
    Due,
    /// It had failed or been cancelled: this new task runs in its place, or one that was made so before and hasn't ended.
    Anew(Accepted),
    /// It hasn't ended, and isn't waiting for its time: it is in this state.
    Unfinished(State),
    /// It has succeeded: there is nothing to try again.
    Succeeded,
    /// No such task.
    NotFound,
    /// As many tasks were made from it as may be ([`decide::RETRIES_MAX`]): submit it anew under another id.
    TooOften,
    /// The new task was refused: as a rule because its slot is taken.
    Refused(Refusal),
}

impl<S: Storage, C: Clock> Engine<S, C> {
    /// Tries a task again. One that waits for its backoff or its time is due at once. One that failed or was cancelled has
    /// ended for good; it is submitted once more, as a new task ([`decide::retry_of`]) whose id says so: `ID.retry`,
    /// `ID.retry2` and so on. While such a task is unfinished, it is the answer.
    ///
    /// # Errors
    /// After [`ErrorKind::Unknown`](crate::ErrorKind::Unknown) it was tried again or not. The same retry again is harmless
    /// as long as the task that runs in its place hasn't ended; if that may be, look at `ID.retry` first.
    ///
    /// # Cancellation
    /// As after an unknown outcome.
    pub async fn retry(&self, id: &TaskId) -> Result<Retried, Error> {
        for _ in 0..DECISION_ROUNDS_MAX {
            let Some(task) = self.task(id).await? else { return Ok(Retried::NotFound) };
            match task.state {
                State::Blocked | State::Ready | State::Running => {
                    return Ok(Retried::Unfinished(task.state));
                }
                State::Succeeded => return Ok(Retried::Succeeded),
                State::Failed | State::Cancelled => return self.retry_anew(&task).await,
                State::Scheduled => {}
            }
            match self.settle(decide::hasten(&task.id, task.fence)).await? {
                Outcome::Applied(_) | Outcome::Already(_) => return Ok(Retried::Due),
                // It became due, or was cancelled, in between.
                Outcome::Refused(_) => {}
            }
        }
        Err(contested("the task changed too often while it was being retried"))
    }

    async fn retry_anew(&self, ended: &Task) -> Result<Retried, Error> {
        for number in decide::first_retry(&ended.id)..=decide::RETRIES_MAX {
            let again = decide::retry_of(ended, number);
            match self.task(&again.id).await? {
                None => {}
                // Found by an alias, or under an id that somebody chose: not ours.
                Some(found) if found.id != again.id || found.digest != again.digest() => continue,
                Some(found) if found.state.is_terminal() => continue,
                Some(found) => return Ok(Retried::Anew(Accepted::known(&found))),
            }
            match self.submit(again).await? {
                Submitted::Accepted(accepted) => return Ok(Retried::Anew(accepted)),
                Submitted::Refused(Refusal::IdTaken(_)) => {}
                Submitted::Refused(why) => return Ok(Retried::Refused(why)),
                Submitted::Invalid(invalid) => {
                    unreachable!("what was stored once is a valid request: {invalid}")
                }
            }
        }
        Ok(Retried::TooOften)
    }
}
