//! The plan of `apply`: the same statements, in the same order, as the adapters send.
//!
//! Lock order over the whole transaction: all tasks that are written, then all parents, then all holders of slots, then
//! all children, then all that wait for slots that were left, each sorted by id (the kernel meets rows in the order of
//! their keys).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steadfast_core::name::{Slot, TaskId};
use steadfast_core::step::{
    Batch, Head, Insert, Outcome, QueueLimit, Receipt, Refusal, Refused, Renewal, Report, Step, Transition,
};
use steadfast_core::{Error, State};

use crate::db::{LockMode, Mode, Rows, Select, Statement};

use super::flaws::Flaw;
use super::release::release;
use super::rows::{RowKey, StoreRow, table};
use super::transaction::Transaction;
use super::waves::{Twins, as_already, waves};
use super::{house, insert, report, slots, transition};

/// What is known of a step.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    Applied(Receipt),
    Already(Receipt),
    Refused(Refusal),
}

/// The place of a step: which batch, which of its steps.
pub(super) type Place = (usize, usize);

/// The verdicts as they become known.
#[derive(Debug)]
pub(super) struct Verdicts<'a> {
    mode: Mode,
    batches: &'a [Batch],
    waves: Vec<usize>,
    /// The wave that is being carried out; `None` once all are.
    wave: Option<usize>,
    by_place: BTreeMap<Place, Verdict>,
    /// Slots that the call's ends may have left without a holder.
    left: BTreeSet<Slot>,
}

impl<'a> Verdicts<'a> {
    fn new(mode: Mode, batches: &'a [Batch]) -> Self {
        let waves = match mode {
            Mode::Postgres => waves(batches),
            // Its adapter goes through them one by one.
            Mode::Sqlite => (0..batches.len()).collect(),
        };
        Self { mode, batches, waves, wave: None, by_place: BTreeMap::new(), left: BTreeSet::new() }
    }

    pub(super) fn set(&mut self, place: Place, verdict: Verdict) {
        self.by_place.insert(place, verdict);
    }

    /// Slots that the call's ends may have left without a holder.
    pub(super) fn left(&self) -> &BTreeSet<Slot> {
        &self.left
    }

    /// Whether a batch has no other step.
    pub(super) fn is_alone(&self, (batch, _): Place) -> bool {
        self.batches[batch].steps.len() == 1
    }

    /// The batches of the wave that is being carried out, or, after them, all; but for those that have been refused.
    fn current(&self) -> impl Iterator<Item = (usize, &'a Batch)> {
        let is_due = |b: usize| self.wave.is_none_or(|wave| self.waves[b] == wave);
        let is_open = move |(b, _): &(usize, &Batch)| is_due(*b) && !self.is_refused(*b);
        self.batches.iter().enumerate().filter(is_open)
    }

    /// Whether a batch has been refused: nothing of it may be written any more.
    fn is_refused(&self, batch: usize) -> bool {
        let of_batch = self.by_place.range((batch, 0)..(batch + 1, 0));
        of_batch.into_iter().any(|(_, verdict)| matches!(verdict, Verdict::Refused(_)))
    }

    /// The steps of a kind that are still to be done.
    fn open<T>(&self, of_kind: impl Fn(&'a Step) -> Option<&'a T>) -> Vec<(Place, &'a T)> {
        let mut open = Vec::new();
        for (b, batch) in self.current() {
            for (s, step) in batch.steps.iter().enumerate() {
                if let (Some(step), None) = (of_kind(step), self.by_place.get(&(b, s))) {
                    open.push(((b, s), step));
                }
            }
        }
        open
    }

    /// A batch of several steps was checked before anything was written. If one of its steps is refused all the same,
    /// somebody came in between: the whole call is taken back, and the caller sends it again.
    fn late_refusal(&self) -> Option<&Refusal> {
        let several = |batch: usize| self.batches[batch].steps.len() > 1;
        let has_written = |batch: usize| {
            self.by_place
                .range((batch, 0)..(batch + 1, 0))
                .any(|(_, verdict)| matches!(verdict, Verdict::Applied(_)))
        };
        self.by_place.iter().find_map(|((batch, _), verdict)| match verdict {
            Verdict::Refused(refusal) if several(*batch) && has_written(*batch) => Some(refusal),
            Verdict::Refused(_) | Verdict::Applied(_) | Verdict::Already(_) => None,
        })
    }

    fn into_outcomes(mut self) -> Vec<Outcome> {
        let outcome = |(b, batch): (usize, &Batch)| {
            let order = |step: &usize| (rank(self.mode, &batch.steps[*step]), *step);
            let is_refused =
                |step: &usize| matches!(self.by_place.get(&(b, *step)), Some(Verdict::Refused(_)));
            if let Some(step) = (0..batch.steps.len()).filter(is_refused).min_by_key(order)
                && let Some(Verdict::Refused(why)) = self.by_place.remove(&(b, step))
            {
                return Outcome::Refused(Refused { step, why });
            }
            let mut receipts = Vec::with_capacity(batch.steps.len());
            let mut applied = false;
            for step in 0..batch.steps.len() {
                match self.by_place.remove(&(b, step)) {
                    Some(Verdict::Refused(_)) => unreachable!("there is no refused step"),
                    Some(Verdict::Applied(receipt)) => {
                        applied = true;
                        receipts.push(receipt);
                    }
                    Some(Verdict::Already(receipt)) => receipts.push(receipt),
                    // Suppressed, because a later step of the batch was refused.
                    None => {}
                }
            }
            if applied { Outcome::Applied(receipts) } else { Outcome::Already(receipts) }
        };
        self.batches.iter().enumerate().map(outcome).collect()
    }
}

/// Applies batches in one transaction.
pub(super) async fn apply(transaction: Transaction, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
    let mut verdicts = Verdicts::new(transaction.mode(), batches);
    let twins = Twins::find(batches);
    for (place, refusal) in &twins.refused {
        verdicts.set(*place, Verdict::Refused(refusal.clone()));
    }
    for wave in 0..=verdicts.waves.iter().copied().max().unwrap_or(0) {
        verdicts.wave = Some(wave);
        apply_wave(&transaction, batches, &twins, &mut verdicts).await?;
    }
    verdicts.wave = None;
    if let Some(refusal) = verdicts.late_refusal() {
        return Err(transaction.overtaken(format!("overtaken between check and write: {refusal:?}")));
    }
    slots::promote(&transaction, std::mem::take(&mut verdicts.left)).await?;
    if verdicts.mode == Mode::Postgres {
        // Last of all: another function keeps them.
        keep(&transaction, &mut verdicts).await?;
    }
    transaction.commit().await?;
    Ok(verdicts.into_outcomes())
}

/// Carries out the batches of one wave.
async fn apply_wave(
    transaction: &Transaction,
    batches: &[Batch],
    twins: &Twins,
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    let is_twin = |place: Place| twins.same.iter().any(|(same, _)| *same == place);
    judge_beforehand(transaction, batches, &is_twin, verdicts).await?;
    let transitions = verdicts.open(as_transition);
    let mut ended = Vec::new();
    match verdicts.mode {
        Mode::Postgres => ended = transition::apply(transaction, &transitions, verdicts).await?,
        // Its adapter goes through them one by one, and releases the children of each at once.
        Mode::Sqlite => {
            for one in transitions {
                let ended = transition::apply(transaction, &[one], verdicts).await?;
                release(transaction, ended, &mut verdicts.left).await?;
            }
        }
    }
    let renewals = verdicts.open(as_renewal);
    renew(transaction, &renewals, verdicts).await?;
    // Before the inserts: an edge that is added now counts its parent as it is now, and must not be released again.
    let mut inserts = verdicts.open(as_insert);
    inserts.retain(|(place, _)| !is_twin(*place));
    let mut parents = insert::lock_parents(transaction, &inserts).await?;
    let held = insert::lock_holders(transaction, &inserts).await?;
    // Of the slots that the call has freed, an earlier wave may have given some away again.
    if !transaction.has(Flaw::FreedSlotGivenTwice) {
        verdicts.left.retain(|slot| !held.contains(slot));
    }
    ended.sort_unstable_by(|one, other| one.task.cmp(&other.task));
    if release(transaction, ended, &mut verdicts.left).await? {
        // Some of them may have failed by it.
        parents = insert::lock_parents(transaction, &inserts).await?;
    }
    insert::apply(transaction, batches, &inserts, &parents, &held, verdicts).await?;
    for (place, earlier) in &twins.same {
        if let Some(verdict) = verdicts.by_place.get(earlier).map(as_already) {
            verdicts.set(*place, verdict);
        }
    }
    let limits = verdicts.open(as_limit);
    house::limit(transaction, &limits, verdicts).await?;
    if verdicts.mode == Mode::Sqlite {
        // Batch by batch.
        keep(transaction, verdicts).await?;
    }
    if transaction.has(Flaw::InsertLostWithItsHolder) {
        for (place, insert) in verdicts.open(as_insert) {
            let head = Head { state: State::Ready, rev: 0, fence: 0, cancel_requested: false };
            verdicts.set(place, Verdict::Already(Receipt::Inserted(insert.task.id.clone(), head)));
        }
    }
    if !verdicts.open(as_insert).is_empty() {
        return Err(transaction.overtaken("whoever was in an insert's way was gone when it was examined"));
    }
    Ok(())
}

/// A step wasn't carried out, and nothing speaks against it any more: the caller sends the call again.
pub(super) fn changed_between(transaction: &Transaction) -> Error {
    transaction.overtaken("what a step is about changed between two statements")
}

/// In which order the steps of a batch are judged, whatever order they stand in.
fn rank(mode: Mode, step: &Step) -> u8 {
    match (mode, step) {
        (_, Step::Insert(_)) => 2,
        (Mode::Postgres, Step::Renew(_)) => 1,
        (
            Mode::Postgres | Mode::Sqlite,
            Step::Transition(_)
            | Step::Limit(_)
            | Step::Renew(_)
            | Step::Report(_)
            | Step::Pause(_)
            | Step::Beat(_)
            | Step::Prune(_),
        ) => 0,
    }
}

fn as_transition(step: &Step) -> Option<&Transition> {
    if let Step::Transition(transition) = step { Some(transition) } else { None }
}

fn as_renewal(step: &Step) -> Option<&Renewal> {
    if let Step::Renew(renewal) = step { Some(renewal) } else { None }
}

fn as_insert(step: &Step) -> Option<&Insert> {
    if let Step::Insert(insert) = step { Some(insert) } else { None }
}

fn as_report(step: &Step) -> Option<&Report> {
    if let Step::Report(report) = step { Some(report) } else { None }
}

fn as_limit(step: &Step) -> Option<&QueueLimit> {
    if let Step::Limit(limit) = step { Some(limit) } else { None }
}

/// Keeps what is reported, and house. After the inserts: one that is refused is told of the task before its report.
async fn keep(transaction: &Transaction, verdicts: &mut Verdicts<'_>) -> Result<(), Error> {
    let reports = verdicts.open(as_report);
    report::apply(transaction, &reports, verdicts).await?;
    let house = house::of(verdicts.current());
    house::apply(transaction, &house, verdicts).await
}

/// Locks what is written in one order where one statement wouldn't do so, and checks all guards of batches of several
/// steps before anything is written, so that a refused one changes nothing.
async fn judge_beforehand(
    transaction: &Transaction,
    batches: &[Batch],
    is_twin: &impl Fn(Place) -> bool,
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    let together = verdicts.current().any(|(_, batch)| batch.steps.len() > 1);
    let mut transitions = verdicts.open(as_transition);
    let mut renewals = verdicts.open(as_renewal);
    if !together && (transitions.is_empty() || renewals.is_empty()) {
        return Ok(());
    }
    let ids = transitions.iter().map(|(_, t)| &t.task).chain(renewals.iter().map(|(_, r)| &r.task));
    let tasks = Rows::by_keys(table::TASK, ids.cloned().map(RowKey::Task));
    transaction.begin_part("tasks");
    let found = by_id(transaction.lock(LockMode::NoKeyUpdate, Select::new(tasks)).await?);
    if !together {
        return Ok(());
    }
    let mut inserts = verdicts.open(as_insert);
    inserts.retain(|(place, _)| !is_twin(*place));
    let parents = insert::lock_parents(transaction, &inserts).await?;
    transitions.retain(|(place, _)| !verdicts.is_alone(*place));
    renewals.retain(|(place, _)| !verdicts.is_alone(*place));
    inserts.retain(|(place, _)| !verdicts.is_alone(*place));
    transition::check(transaction, &transitions, &found, verdicts).await?;
    for (place, renewal) in renewals {
        if let Some(refusal) = refuse_renewal(renewal, found.get(&renewal.task)) {
            verdicts.set(place, Verdict::Refused(refusal));
        }
    }
    let ends = transitions.iter().filter(|(_, transition)| transition.change.to.is_terminal());
    let displaced: Vec<(usize, TaskId)> =
        ends.map(|((batch, _), transition)| (*batch, transition.task.clone())).collect();
    insert::check(transaction, batches, &inserts, &parents, &displaced, verdicts).await
}

async fn renew(
    transaction: &Transaction,
    renewals: &[(Place, &Renewal)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if renewals.is_empty() {
        return Ok(());
    }
    let by_task: Arc<BTreeMap<TaskId, Renewal>> =
        Arc::new(renewals.iter().map(|(_, renewal)| (renewal.task.clone(), (*renewal).clone())).collect());
    let now = transaction.now();
    let keys: Vec<RowKey> = by_task.keys().cloned().map(RowKey::Task).collect();
    let (guards, changes) = (by_task.clone(), by_task);
    let rows = Rows::by_keys(table::TASK, keys.clone())
        .filter(move |row: &StoreRow| refuse_renewal(&guards[&row.as_task().id], Some(row)).is_none());
    let update = Statement::update(rows, move |row| {
        let renewal = &changes[&row.as_task().id];
        row.with(|task| {
            task.lease_expires_at = Some(now + renewal.lease);
            task.entered_at = task.entered_at.or(renewal.entered.map(|ago| now - ago));
        })
    });
    transaction.begin_part("renew");
    let renewed = by_id(transaction.run(update).await?);
    let found = if renewed.len() < renewals.len() {
        transaction.begin_part("examine renewals");
        by_id(transaction.run(Select::new(Rows::by_keys(table::TASK, keys)).into()).await?)
    } else {
        BTreeMap::new()
    };
    for (place, renewal) in renewals {
        let verdict = match renewed.get(&renewal.task) {
            Some(row) => Verdict::Applied(Receipt::Renewed { cancel: row.as_task().cancel.clone() }),
            None => match found.get(&renewal.task) {
                Some(row) if refuse_renewal(renewal, Some(row)).is_none() => {
                    return Err(changed_between(transaction));
                }
                Some(row) => Verdict::Refused(Refusal::Stale(head(row))),
                None => Verdict::Refused(Refusal::NotFound),
            },
        };
        verdicts.set(*place, verdict);
    }
    Ok(())
}

fn refuse_renewal(renewal: &Renewal, row: Option<&StoreRow>) -> Option<Refusal> {
    let Some(row) = row else { return Some(Refusal::NotFound) };
    let task = row.as_task();
    let holds = task.state == State::Running && task.fence == renewal.fence;
    (!holds).then(|| Refusal::Stale(head(row)))
}

/// Rows of the table of tasks by id.
pub(super) fn by_id(rows: Vec<StoreRow>) -> BTreeMap<TaskId, StoreRow> {
    rows.into_iter().map(|row| (row.as_task().id.clone(), row)).collect()
}

/// What the core is told of a task.
pub(super) fn head(row: &StoreRow) -> Head {
    let task = row.as_task();
    Head { state: task.state, rev: task.rev, fence: task.fence, cancel_requested: task.cancel.is_some() }
}
