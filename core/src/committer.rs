//! The committer: merges the batches that arrive while a commit is in flight into one call of
//! [`Storage::apply`], so that many callers share one round trip and one sync to disk.
//!
//! Merging must not make neighbours suffer for each other. A call that fails for something in it
//! ([`ErrorKind::Rejected`]) or waits for somebody else's lock ([`ErrorKind::Contended`]) is halved until the culprit
//! stands alone. A rejected one is told; a contended one goes on by itself, beside the others.
//!
//! It is a plain future, run by the host; [`Lane`] is the callers' end.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, select_biased};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::name::TaskId;
use crate::step::{Batch, Outcome, Refusal, Step, Transition};
use crate::storage::{Error, ErrorKind, Storage};
use crate::time::Clock;

/// The most batches in one call.
pub const GROUP_BATCHES_MAX: usize = 1_000;
/// The most bytes of payloads and outputs in one call; a single larger batch goes alone.
pub const GROUP_BYTES_MAX: usize = 8 << 20;
/// The most batches that wait for their turn; further callers wait to get in.
pub const WAITING_MAX: usize = 8_192;
/// How often a call is sent again after a conflict.
pub const CONFLICT_RETRIES_MAX: u32 = 10;
/// How often a call whose outcome is unknown is sent again.
pub const UNKNOWN_RETRIES_MAX: u32 = 6;
/// The most contended batches that go on by themselves; further ones are told so at once.
pub const PATIENTS_MAX: usize = 64;
/// How long a contended batch goes on trying.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The wait before the first repetition; it doubles up to `RETRY_DELAY_MAX`.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(2);
/// The longest wait before a repetition.
pub const RETRY_DELAY_MAX: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Entry {
    batch: Batch,
    /// Whether it goes on trying where somebody else holds what it needs.
    is_patient: bool,
    /// An earlier call with this batch may have gone through: no later error is definite.
    unknown: Option<Error>,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// The callers' end. Clones are one lane; when the last is dropped the committer ends.
#[derive(Debug, Clone)]
pub struct Lane {
    entries: mpsc::Sender<Entry>,
}

impl Lane {
    /// Commits one batch, merged with others.
    ///
    /// # Errors
    /// The storage's error, after the committer has repeated what could be repeated.
    ///
    /// # Cancellation
    /// A dropped future leaves the batch committed or not, as after [`ErrorKind::Unknown`].
    pub async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        self.send(batch, true).await
    }

    /// Commits several batches, each for itself, with one answer for each, in order. Where somebody else holds what one
    /// of them needs, that one is [`ErrorKind::Contended`] at once: for callers that come by again.
    ///
    /// # Cancellation
    /// As [`commit`](Self::commit), for each of them.
    pub async fn try_all(&self, batches: Vec<Batch>) -> Vec<Result<Outcome, Error>> {
        join_all(batches.into_iter().map(|batch| self.send(batch, false))).await
    }

    async fn send(&self, batch: Batch, is_patient: bool) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        if self.entries.send(Entry { batch, is_patient, unknown: None, answer }).await.is_err() {
            return Err(Error::new(ErrorKind::Broken, "the engine was stopped: nothing was committed"));
        }
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unknown,
                "the engine was stopped before the commit was answered; send it again",
            ))
        })
    }
}

/// The engine's end: owns the order of commits. Run it with [`run`](Self::run).
#[derive(Debug)]
pub struct Committer<S, C> {
    storage: S,
    clock: C,
    entries: mpsc::Receiver<Entry>,
    /// Taken, but naming a task that the last group named too.
    held: VecDeque<Entry>,
}

/// A lane and its committer.
pub fn lane<S: Storage, C: Clock>(storage: S, clock: C) -> (Lane, Committer<S, C>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Lane { entries: sender }, Committer { storage, clock, entries: receiver, held: VecDeque::new() })
}

impl<S: Storage, C: Clock> Committer<S, C> {
    /// Commits until every [`Lane`] is dropped and all that was taken is answered.
    ///
    /// # Cancellation
    /// Dropping it answers everybody who waits with [`ErrorKind::Unknown`].
    pub async fn run(mut self) {
        let calls =
            Calls { storage: self.storage.clone(), clock: self.clock.clone(), turn: Semaphore::new(1) };
        let mut patients = FuturesUnordered::new();
        loop {
            let group = {
                let mut next = pin!(self.next_group().fuse());
                loop {
                    select_biased! {
                        group = next => break group,
                        () = patients.select_next_some() => {}
                    }
                }
            };
            if group.is_empty() {
                break;
            }
            let contended = {
                let mut commit = pin!(calls.commit(group).fuse());
                loop {
                    select_biased! {
                        contended = commit => break contended,
                        () = patients.select_next_some() => {}
                    }
                }
            };
            for (entry, error) in contended {
                if entry.is_patient && patients.len() < PATIENTS_MAX {
                    patients.push(calls.wait_out(entry));
                } else {
                    entry.fail(error);
                }
            }
        }
        while patients.next().await.is_some() {}
    }

    /// What is to be committed next, in order of arrival; empty at the end.
    async fn next_group(&mut self) -> Vec<Entry> {
        let mut held = std::mem::take(&mut self.held);
        let first = match held.pop_front() {
            Some(first) => first,
            None => match self.entries.recv().await {
                Some(first) => first,
                None => return Vec::new(),
            },
        };
        let mut group = Group::default();
        for entry in std::iter::once(first).chain(held) {
            if let Some(entry) = group.take(entry) {
                self.held.push_back(entry);
            }
        }
        while group.has_room() && self.held.len() < GROUP_BATCHES_MAX {
            let Ok(entry) = self.entries.try_recv() else { break };
            if let Some(entry) = group.take(entry) {
                self.held.push_back(entry);
            }
        }
        group.entries
    }
}

#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    named: BTreeSet<TaskId>,
    bytes: usize,
}

impl Group {
    fn has_room(&self) -> bool {
        self.entries.len() < GROUP_BATCHES_MAX && self.bytes < GROUP_BYTES_MAX
    }

    /// Takes an entry, or gives it back: where it names a task that is named already (one call may write a task only
    /// once), or where there is no room.
    fn take(&mut self, entry: Entry) -> Option<Entry> {
        let bytes = entry.batch.steps.iter().map(step_bytes).sum::<usize>();
        let fits = self.entries.is_empty() || (self.has_room() && self.bytes + bytes <= GROUP_BYTES_MAX);
        if !fits || entry.batch.steps.iter().filter_map(Step::guarded).any(|task| self.named.contains(task)) {
            return Some(entry);
        }
        self.named.extend(entry.batch.steps.iter().filter_map(Step::guarded).cloned());
        self.bytes += bytes;
        self.entries.push(entry);
        None
    }
}

fn step_bytes(step: &Step) -> usize {
    match step {
        Step::Insert(insert) => insert.task.payload.len(),
        Step::Transition(Transition { change, .. }) => {
            let texts = [change.error.as_deref(), change.request_cancel.as_deref()];
            let texts = texts.into_iter().flatten().map(str::len).sum::<usize>();
            change.output.as_ref().map_or(0, |output| output.len()) + texts
        }
        Step::Report(report) => {
            let lines = report.lines.iter().map(|line| line.text.len()).sum::<usize>();
            lines + report.checkpoints.iter().map(|checkpoint| checkpoint.value.len()).sum::<usize>()
        }
        Step::Renew(_) | Step::Limit(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => 0,
    }
}

struct Calls<S, C> {
    storage: S,
    clock: C,
    /// Of those that wait for somebody else's lock, the one that asks.
    turn: Semaphore,
}

impl<S: Storage, C: Clock> Calls<S, C> {
    /// Commits a group and answers each entry, but for the contended ones, which it returns.
    async fn commit(&self, group: Vec<Entry>) -> Vec<(Entry, Error)> {
        let mut parts = vec![group];
        let mut contended = Vec::new();
        while let Some(mut part) = parts.pop() {
            let batches: Vec<Batch> =
                part.iter_mut().map(|entry| std::mem::take(&mut entry.batch.steps).into()).collect();
            let mut unknown = None;
            let result = self.apply(&batches, &mut unknown).await;
            for (entry, batch) in part.iter_mut().zip(batches) {
                entry.batch = batch;
                entry.unknown = entry.unknown.take().or_else(|| unknown.clone());
            }
            match result {
                Ok(outcomes) => answer(part, outcomes),
                Err(error) => match error.kind() {
                    ErrorKind::Rejected | ErrorKind::Contended if part.len() > 1 => {
                        let rest = part.split_off(part.len() / 2);
                        parts.push(rest);
                        parts.push(part);
                    }
                    ErrorKind::Contended => {
                        contended.extend(part.into_iter().map(|entry| (entry, error.clone())))
                    }
                    ErrorKind::Rejected
                    | ErrorKind::Conflict
                    | ErrorKind::Unknown
                    | ErrorKind::Unavailable
                    | ErrorKind::Broken => part.into_iter().for_each(|entry| entry.fail(error.clone())),
                },
            }
        }
        contended
    }

    /// One call, repeated after a conflict, and, because it is safe, while its outcome is unknown. `unknown` is set where
    /// it was: the call may have gone through, whatever the last error says.
    async fn apply(&self, batches: &[Batch], unknown: &mut Option<Error>) -> Result<Vec<Outcome>, Error> {
        let mut delay = RETRY_DELAY_MIN;
        let mut conflicts = 0;
        let mut unknowns = 0;
        loop {
            let error = match self.storage.apply(batches).await {
                Ok(outcomes) => {
                    assert_eq!(outcomes.len(), batches.len(), "a storage answers every batch");
                    return Ok(outcomes);
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Conflict if conflicts < CONFLICT_RETRIES_MAX => conflicts += 1,
                ErrorKind::Unknown if unknowns < UNKNOWN_RETRIES_MAX => {
                    unknowns += 1;
                    *unknown = Some(error);
                }
                // The outcome of the earlier call is still open: go on asking.
                ErrorKind::Unavailable if unknown.is_some() && unknowns < UNKNOWN_RETRIES_MAX => {
                    unknowns += 1
                }
                ErrorKind::Conflict
                | ErrorKind::Contended
                | ErrorKind::Rejected
                | ErrorKind::Unknown
                | ErrorKind::Unavailable
                | ErrorKind::Broken => return Err(error),
            }
            self.clock.sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// Goes on trying a batch that waits for somebody else's lock, by itself, and answers it. One of them at a time
    /// asks the store, so that those who wait don't take its connections from those who needn't.
    async fn wait_out(&self, mut entry: Entry) {
        let until = self.clock.now() + PATIENCE;
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let result = {
                let _turn = self.turn.acquire().await;
                self.apply(std::slice::from_ref(&entry.batch), &mut entry.unknown).await
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Contended && self.clock.now() < until => {
                    self.clock.sleep(delay).await;
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                }
                Err(error) => return entry.fail(error),
                Ok(outcomes) => return answer(vec![entry], outcomes),
            }
        }
    }
}

// A caller that went away leaves a closed channel: its batch was committed or not, as after a lost answer.

fn answer(part: Vec<Entry>, outcomes: Vec<Outcome>) {
    for (Entry { unknown, answer, .. }, outcome) in part.into_iter().zip(outcomes) {
        let _ = answer.send(match (unknown, outcome) {
            // An earlier sending may still be on its way, and find tomorrow that nothing speaks against it.
            (Some(unknown), Outcome::Refused(refused)) if may_be_lifted(&refused.why) => Err(unknown),
            (_, outcome) => Ok(outcome),
        });
    }
}

/// Whether the same batch may be applied later.
fn may_be_lifted(why: &Refusal) -> bool {
    match why {
        Refusal::SlotTaken(..) | Refusal::ParentMissing(_) | Refusal::AliasTaken(_) => true,
        // Guards that fail once fail for ever: fences and revisions only rise. An id and a key stay with their task.
        Refusal::NotFound | Refusal::Stale(_) | Refusal::IdTaken(_) | Refusal::KeyTaken(..) => false,
    }
}

impl Entry {
    /// Answers with an error. What couldn't be stored wasn't; any other error says nothing about an earlier call whose
    /// outcome is unknown.
    fn fail(self, error: Error) {
        let definite = error.kind() == ErrorKind::Rejected;
        let error = self.unknown.filter(|_| !definite).unwrap_or(error);
        let _ = self.answer.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Head, Refused};
    use crate::task::State;

    fn told(unknown: Option<Error>, why: Refusal) -> Result<Outcome, Error> {
        let (answer, mut answered) = oneshot::channel();
        let entry = Entry { batch: Batch::from(Vec::new()), is_patient: true, unknown, answer };
        super::answer(vec![entry], vec![Outcome::Refused(Refused { step: 0, why })]);
        answered.try_recv().expect("it is answered at once")
    }

    #[test]
    fn after_an_unknown_outcome_a_refusal_that_may_be_lifted_is_not_the_last_word() {
        let lost = || Some(Error::new(ErrorKind::Unknown, "the answer was lost"));
        let head = Head { state: State::Running, rev: 2, fence: 1, cancel_requested: false };
        let task = || TaskId::trusted("other");
        for why in
            [Refusal::SlotTaken(task(), head), Refusal::ParentMissing(task()), Refusal::AliasTaken(task())]
        {
            assert!(told(None, why.clone()).is_ok(), "{why:?}");
            assert_eq!(
                told(lost(), why.clone()).expect_err("not definite").kind(),
                ErrorKind::Unknown,
                "{why:?}"
            );
        }
        for why in [Refusal::Stale(head), Refusal::IdTaken(head), Refusal::KeyTaken(task(), head)] {
            assert!(told(lost(), why.clone()).is_ok(), "{why:?} stays");
        }
    }
}
