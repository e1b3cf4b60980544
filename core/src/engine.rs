//! The engine: what a process does with tasks, on any storage and clock. It holds the awaits; the decisions are in
//! [`decide`].
//!
//! It spawns nothing. [`Engine::new`] returns the engine and the future that commits for it, which the host runs.

pub(crate) mod read;
mod retry;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join3, select};

use crate::committer::{self, Lane};
use crate::decide;
use crate::handler::StopReason;
use crate::name::TaskId;
use crate::registry::Registry;
use crate::step::{
    Batch, Beat, Head, Insert, Outcome, Prune, QueueLimit, QueuePause, Receipt, Refusal, Report, Step,
    Transition,
};
use crate::storage::{Answer, Error, ErrorKind, Lapsed, Query, Storage};
use crate::task::{Due, Fence, NewTask, OnConflict, PARENTS_MAX, PAYLOAD_BYTES_MAX, Revision, State, Task};
use crate::time::{Clock, micros};
use crate::wake::Hints;

pub(crate) use read::mismatch;
pub use retry::Retried;

/// How often a decision is made anew because the task changed under it.
pub const DECISION_ROUNDS_MAX: u32 = 32;
/// How long a waiter sleeps at most before it looks again: hints may be lost.
pub const WAIT_POLL: Duration = Duration::from_millis(250);

/// A handle to a store's tasks. Clones are one engine.
#[derive(Debug, Clone)]
pub struct Engine<S, C>(Arc<Inner<S, C>>);

#[derive(Debug)]
struct Inner<S, C> {
    storage: S,
    clock: C,
    /// Submits have a lane of their own: a key that somebody holds in an open transaction must not hold up settling.
    submits: Lane,
    settles: Lane,
    /// So do reports: a flood of log must not hold it up either.
    reports: Lane,
    registry: Registry,
}

/// What became of a submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The task is stored.
    Accepted(Accepted),
    /// The store refused it: an id, key or slot that is taken, or a parent that doesn't exist.
    Refused(Refusal),
    /// The request makes no sense.
    Invalid(InvalidTask),
}

/// A stored task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The task that stands for the request: with a known key, the first one's.
    pub id: TaskId,
    /// Where it is.
    pub state: State,
    /// Its revision.
    pub rev: Revision,
    /// Whether this submit stored it; if not it was known already.
    pub is_new: bool,
    /// The task that it replaced in its slot.
    pub replaced: Option<TaskId>,
    /// Whether it is the holder of the slot, answered in place of a new task.
    pub joined: bool,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidTask {
    /// Which field.
    pub field: &'static str,
    /// The rule that it breaks.
    pub why: String,
}

impl Accepted {
    /// What the receipts of a submit say: the last is the insert's, before it may be that of whom it replaced.
    ///
    /// # Panics
    /// Where the last isn't an insert's.
    pub fn of_receipts(receipts: &[Receipt], is_new: bool, replaced: Option<TaskId>) -> Self {
        match receipts.last() {
            Some(Receipt::Inserted(id, Head { state, rev, .. })) => {
                Self { id: id.clone(), state: *state, rev: *rev, is_new, replaced, joined: false }
            }
            other => unreachable!("an insert is answered by its receipt, not {other:?}"),
        }
    }

    /// A task that was there before.
    fn known(task: &Task) -> Self {
        let Task { id, state, rev, .. } = task;
        Self { id: id.clone(), state: *state, rev: *rev, is_new: false, replaced: None, joined: false }
    }

    /// The holder of the slot, in place of a new task.
    fn joined(holder: &Task) -> Self {
        Self { joined: true, ..Self::known(holder) }
    }
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It hadn't ended, and is cancelled now.
    Ended,
    /// It is running; its worker will be told.
    Requested,
    /// It had ended before.
    HadEnded(State),
    /// No such task.
    NotFound,
}

/// How many times fewer tasks are pruned at once where they were too many.
const PRUNE_SHRINKS: u32 = 8;

impl<S: Storage, C: Clock> Engine<S, C> {
    /// An engine, and the future that commits for it: run it as long as the engine is used. It ends when the last
    /// clone of the engine is dropped.
    pub fn new(storage: S, clock: C) -> (Self, impl Future<Output = ()> + Send + use<S, C>) {
        let (submits, submit_commits) = committer::lane(storage.clone(), clock.clone());
        let (settles, settle_commits) = committer::lane(storage.clone(), clock.clone());
        let (reports, report_commits) = committer::lane(storage.clone(), clock.clone());
        let commits = async {
            join3(submit_commits.run(), settle_commits.run(), report_commits.run()).await;
        };
        let inner = Inner { storage, clock, submits, settles, reports, registry: Registry::new() };
        (Self(Arc::new(inner)), commits)
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.0.storage
    }

    /// The clock.
    pub fn clock(&self) -> &C {
        &self.0.clock
    }

    /// The attempts that live in this process.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Hints from the store.
    pub fn hints(&self) -> Hints {
        self.0.storage.hints()
    }

    /// Stores a task. An id or key that is known with the same request is answered with the task that it stands for.
    /// A held slot is dealt with as the request says.
    ///
    /// # Errors
    /// After [`ErrorKind::Unknown`] the task is stored or not: the same submit again tells.
    ///
    /// # Cancellation
    /// As after an unknown outcome.
    pub async fn submit(&self, task: NewTask) -> Result<Submitted, Error> {
        if let Err(invalid) = check(&task) {
            return Ok(Submitted::Invalid(invalid));
        }
        let replaces = matches!(task.slot, Some((_, OnConflict::Replace)));
        let joins = matches!(task.slot, Some((_, OnConflict::Join)));
        let (newcomer, kind, payload) = (task.id.clone(), task.kind.clone(), task.payload.clone());
        let insert = Step::Insert(Insert::from(task));
        let mut holder: Option<TaskId> = None;
        for _ in 0..DECISION_ROUNDS_MAX {
            let displace = holder.as_ref().map(|holder| Step::Transition(decide::replace(holder, &newcomer)));
            let steps: Vec<Step> = displace.into_iter().chain([insert.clone()]).collect();
            let refused = match self.0.submits.commit(Batch { steps }).await? {
                Outcome::Applied(receipts) => return Ok(self.accepted(&receipts, true, holder)),
                Outcome::Already(receipts) => return Ok(self.accepted(&receipts, false, holder)),
                Outcome::Refused(refused) => refused,
            };
            holder = match refused.why {
                Refusal::SlotTaken(holder, _) if replaces => Some(holder),
                Refusal::SlotTaken(holder, head) if joins => match self.task(&holder).await? {
                    Some(task) if task.state.is_terminal() => None,
                    Some(task) if task.kind == kind && task.payload == payload => {
                        return Ok(Submitted::Accepted(Accepted::joined(&task)));
                    }
                    Some(_) => return Ok(Submitted::Refused(Refusal::SlotTaken(holder, head))),
                    None => None,
                },
                // The holder ended on its own in between.
                Refusal::Stale(_) | Refusal::NotFound if holder.is_some() && refused.step == 0 => None,
                why => return Ok(Submitted::Refused(why)),
            };
        }
        Err(contested("the slot changed hands too often while the task was submitted"))
    }

    fn accepted(&self, receipts: &[Receipt], is_new: bool, replaced: Option<TaskId>) -> Submitted {
        if let Some(replaced) = &replaced {
            tracing::info!(task = %replaced, "task replaced in its slot");
            self.0.registry.stop(
                replaced,
                Fence::MAX,
                &StopReason::Cancelled("replaced by a newer task".into()),
            );
        }
        let accepted = Accepted::of_receipts(receipts, is_new, replaced);
        let Accepted { id, state, .. } = &accepted;
        if is_new {
            tracing::debug!(task = %id, %state, "task accepted");
        } else {
            tracing::debug!(task = %id, %state, "task known already");
        }
        Submitted::Accepted(accepted)
    }

    /// Cancels a task, named by its id or its alias: at once where it waits; where it runs, its worker is told and the
    /// handler has a grace.
    ///
    /// # Errors
    /// After [`ErrorKind::Unknown`] the same cancel again tells.
    pub async fn cancel(&self, id: &TaskId, reason: &str) -> Result<Cancelled, Error> {
        let Some(task) = self.task(id).await? else { return Ok(Cancelled::NotFound) };
        let (id, mut found) = (&task.id, task.state);
        for _ in 0..DECISION_ROUNDS_MAX {
            let Some(transition) = decide::cancel(id, found, reason) else {
                return Ok(Cancelled::HadEnded(found));
            };
            let to = transition.change.to;
            match self.settle(transition).await? {
                Outcome::Applied(_) | Outcome::Already(_) if to == State::Running => {
                    tracing::info!(task = %id, reason, "task asked to stop");
                    self.0.registry.stop(id, Fence::MAX, &StopReason::Cancelled(decide::printable(reason)));
                    return Ok(Cancelled::Requested);
                }
                Outcome::Applied(_) | Outcome::Already(_) => {
                    tracing::info!(task = %id, reason, "task cancelled while it waited");
                    return Ok(Cancelled::Ended);
                }
                Outcome::Refused(refused) => match refused.why {
                    Refusal::Stale(head) if head.state == State::Running && head.cancel_requested => {
                        return Ok(Cancelled::Requested);
                    }
                    // It hadn't ended when we looked: this very cancel may have ended it, sent before its answer was lost.
                    Refusal::Stale(head) if head.state == State::Cancelled => return Ok(Cancelled::Ended),
                    Refusal::Stale(head) => found = head.state,
                    Refusal::NotFound => return Ok(Cancelled::NotFound),
                    other => unreachable!("a transition isn't refused for {other:?}"),
                },
            }
        }
        Err(contested("the task changed too often while it was being cancelled"))
    }

    /// Commits one transition, merged with others.
    pub(crate) fn settle(
        &self,
        transition: Transition,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send {
        // Not an `async fn`, whose future would hold the transition twice.
        self.0.settles.commit(Step::Transition(transition).into())
    }

    /// Rescues or ends running tasks whose lease has lapsed; says how many. Pages through all of them.
    ///
    /// # Errors
    /// What was reclaimed before the error stays so.
    pub async fn reclaim_lapsed(&self, page: u32, pages_max: u32) -> Result<u32, Error> {
        let mut reclaimed = 0;
        for _ in 0..pages_max {
            let lapsed = match self.read(&Query::Lapsed { limit: page }).await?.answer {
                Answer::Lapsed(lapsed) => lapsed,
                other => return Err(mismatch(&other)),
            };
            let full = lapsed.len() as u64 >= u64::from(page);
            let batches =
                lapsed.iter().map(|lapsed| Step::Transition(decide::reclaim(lapsed)).into()).collect();
            let mut progress = false;
            let mut failed = None;
            for (lapsed, outcome) in lapsed.iter().zip(self.0.settles.try_all(batches).await) {
                match outcome {
                    Ok(Outcome::Applied(receipts)) => {
                        log_reclaimed(lapsed, &receipts);
                        self.0.registry.stop(&lapsed.task, lapsed.fence, &StopReason::LeaseLost);
                        reclaimed += 1;
                        progress = true;
                    }
                    // Renewed, settled or reclaimed by another meanwhile.
                    Ok(Outcome::Already(_) | Outcome::Refused(_)) => {}
                    // Whoever holds its row may settle it; if not, the next sweep comes by again.
                    Err(error) if error.kind() == ErrorKind::Contended => {}
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if !full || !progress {
                break;
            }
        }
        Ok(reclaimed)
    }

    /// Fails waiting tasks whose deadline has passed; says how many. Pages through all of them. A running one is left to its
    /// worker, which gives the handler its grace; or, where that is lost, to [`reclaim_lapsed`](Self::reclaim_lapsed), after
    /// which it waits.
    ///
    /// # Errors
    /// What was ended before the error stays so.
    pub async fn expire_overdue(&self, page: u32, pages_max: u32) -> Result<u32, Error> {
        let mut expired = 0;
        for _ in 0..pages_max {
            let overdue = match self.read(&Query::Overdue { limit: page }).await?.answer {
                Answer::Overdue(overdue) => overdue,
                other => return Err(mismatch(&other)),
            };
            let full = overdue.len() as u64 >= u64::from(page);
            let batches = overdue.iter().map(|task| Step::Transition(decide::expire(task)).into()).collect();
            let mut progress = false;
            let mut failed = None;
            for (task, outcome) in overdue.iter().zip(self.0.settles.try_all(batches).await) {
                match outcome {
                    Ok(Outcome::Applied(_)) => {
                        tracing::warn!(%task, "deadline passed");
                        expired += 1;
                        progress = true;
                    }
                    Ok(Outcome::Already(_) | Outcome::Refused(_)) => {}
                    // As above.
                    Err(error) if error.kind() == ErrorKind::Contended => {}
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if !full || !progress {
                break;
            }
        }
        Ok(expired)
    }

    /// Sets or lifts a queue's limit.
    ///
    /// # Errors
    /// As the storage says; setting it again is harmless.
    pub async fn limit(&self, limit: QueueLimit) -> Result<(), Error> {
        self.0.settles.commit(Step::Limit(limit).into()).await.map(|_| ())
    }

    /// Pauses or resumes a queue.
    ///
    /// # Errors
    /// As the storage says; doing it again is harmless.
    pub async fn pause(&self, pause: QueuePause) -> Result<(), Error> {
        self.0.settles.commit(Step::Pause(pause).into()).await.map(|_| ())
    }

    /// Records what a handler says. Refused where the attempt isn't running under that fence any more, or where the alias
    /// is taken.
    ///
    /// # Errors
    /// As the storage says; reporting it again is harmless.
    pub async fn report(&self, report: Report) -> Result<Outcome, Error> {
        self.0.reports.commit(Step::Report(report).into()).await
    }

    /// Says that a worker lives.
    ///
    /// # Errors
    /// As the storage says; the next one makes up for it.
    pub async fn beat(&self, beat: Beat) -> Result<(), Error> {
        self.0.settles.commit(Step::Beat(beat).into()).await.map(|_| ())
    }

    /// Forgets tasks that ended long ago; says how many. At most `prune.limit`: go on while it answers so many. Nobody's
    /// settling waits behind it. Tasks with long logs are many rows: where so many tasks are too much for one transaction,
    /// it takes several.
    ///
    /// # Errors
    /// As the storage says. What was forgotten until then stays so: prune again.
    ///
    /// # Cancellation
    /// What was forgotten until then stays so.
    pub async fn prune(&self, prune: Prune) -> Result<u32, Error> {
        let (mut pruned, mut at_once) = (0, prune.limit);
        while pruned < prune.limit {
            let limit = at_once.min(prune.limit - pruned);
            match self.prune_at_once(Prune { limit, ..prune.clone() }).await {
                Ok(count) => {
                    pruned += count;
                    if count < limit {
                        break;
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Conflict | ErrorKind::Contended if limit > 1 => {
                        at_once = (limit / PRUNE_SHRINKS).max(1);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(pruned)
    }

    async fn prune_at_once(&self, prune: Prune) -> Result<u32, Error> {
        let batch = Batch::from(Step::Prune(prune));
        match self.0.storage.apply(std::slice::from_ref(&batch)).await?.first() {
            Some(Outcome::Applied(receipts) | Outcome::Already(receipts)) => match receipts.first() {
                Some(Receipt::Pruned(count)) => Ok(*count),
                other => unreachable!("pruning is answered by its receipt, not {other:?}"),
            },
            other => unreachable!("pruning isn't refused: {other:?}"),
        }
    }

    /// Waits until a task has ended, or, with `after`, until its revision is a later one; at most for `timeout`.
    /// Answers with the task as it is then, or `None` where there is no such task.
    ///
    /// # Errors
    /// As the storage says, at once.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn wait(
        &self,
        id: &TaskId,
        after: Option<Revision>,
        timeout: Duration,
    ) -> Result<Option<Task>, Error> {
        let mut hints = self.hints();
        let until = self.clock().now() + timeout;
        let Some(task) = self.task(id).await? else { return Ok(None) };
        let has_arrived = |state: State, rev| state.is_terminal() || after.is_some_and(|after| rev > after);
        if has_arrived(task.state, task.rev) || timeout.is_zero() {
            return Ok(Some(task));
        }
        // A task may be large, and is looked at often.
        let id = task.id;
        loop {
            let left = until.since(self.clock().now());
            if left.is_zero() {
                break;
            }
            let nap = pin!(self.clock().sleep(left.min(WAIT_POLL)));
            let hint = pin!(hints.wait());
            match select(hint, nap).await {
                Either::Left(_) | Either::Right(_) => {}
            }
            let heads = self.heads(vec![id.clone()]).await?;
            if heads.first().is_none_or(|(_, head)| has_arrived(head.state, head.rev)) {
                break;
            }
        }
        self.task(&id).await
    }
}

fn log_reclaimed(lapsed: &Lapsed, receipts: &[Receipt]) {
    if let Some(Receipt::Moved(Head { state, .. })) = receipts.first() {
        tracing::warn!(task = %lapsed.task, fence = lapsed.fence, worker = %lapsed.worker, became = %state, "lease lapsed");
    }
}

/// Whether the request makes sense, as far as that can be known without the store.
///
/// # Errors
/// [`InvalidTask`] says what is wrong with it.
pub fn check(task: &NewTask) -> Result<(), InvalidTask> {
    let invalid = |field, why: String| Err(InvalidTask { field, why });
    if task.attempts_max == 0 {
        return invalid("attempts", "must be at least 1".into());
    }
    if task.payload.len() > PAYLOAD_BYTES_MAX {
        return invalid(
            "payload",
            format!("has {} bytes; at most {PAYLOAD_BYTES_MAX} fit", task.payload.len()),
        );
    }
    if micros(task.timeout) == 0 {
        return invalid("timeout", "must be at least a microsecond".into());
    }
    if task.deadline == Some(Due::Now) {
        return invalid("deadline", "must be a time or a duration from now".into());
    }
    if task.parents.len() > PARENTS_MAX {
        return invalid(
            "after",
            format!("names {} tasks; at most {PARENTS_MAX} are allowed", task.parents.len()),
        );
    }
    let mut parents: Vec<&TaskId> = task.parents.iter().map(|parent| &parent.id).collect();
    parents.sort_unstable();
    if let Some(twice) = parents.windows(2).find(|pair| pair[0] == pair[1]) {
        return invalid("after", format!("names {} twice", twice[0]));
    }
    if parents.contains(&&task.id) {
        return invalid("after", "names the task itself".into());
    }
    Ok(())
}

fn contested(what: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{what}; nothing was changed, try again"))
}

#[cfg(test)]
mod tests;
