//! Inserts: parents, and the holders of slots that are to be waited for, are share-locked before they are read; then rows
//! are inserted or not; then those that weren't are examined in a later statement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steadfast_core::Error;
use steadfast_core::name::{Key, Slot, TaskId};
use steadfast_core::step::{Batch, Insert, Receipt, Refusal, Step};
use steadfast_core::task::{Backoff, Due, OnConflict, OnParentFailure, Task};
use steadfast_core::time::micros;
use steadfast_core::{Cause, State, Timestamp};

use crate::db::{LockMode, Next, Rows, Select, Statement};

use super::apply::{Place, Verdict, Verdicts, by_id, changed_between, head};
use super::flaws::Flaw;
use super::release::{Parents, blame, waiting_state};
use super::rows::{EdgeRow, RowKey, StoreRow, UniqueKey, awaited_slot, held_slot, table};
use super::transaction::Transaction;
use crate::db::Row;

/// Inserts tasks and their edges; parents and held slots are as they were once locked.
pub(super) async fn apply(
    transaction: &Transaction,
    batches: &[Batch],
    inserts: &[(Place, &Insert)],
    parents: &BTreeMap<TaskId, StoreRow>,
    held: &BTreeSet<Slot>,
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if inserts.is_empty() {
        return Ok(());
    }
    let now = transaction.now();
    let judged = judge_parents(batches, inserts, parents);
    let left = verdicts.left().clone();
    let waiting = find_waiting(transaction, inserts, &judged, held, &left).await?;
    let mut rows = Vec::new();
    let mut missing = BTreeMap::new();
    for (((place, insert), judged), waits) in inserts.iter().zip(judged).zip(&waiting) {
        match judged {
            Ok(parents) => rows.push((*insert, parents, *waits)),
            Err(parent) => {
                missing.insert(*place, parent);
            }
        }
    }
    transaction.begin_part("insert");
    // The store numbers new rows as it stores them, not as they are judged.
    let number = |(insert, parents, waits): (&Insert, Parents, bool)| {
        (new_row(insert, &parents, waits, now, transaction.next_seq()), is_patient(insert))
    };
    let make = || insert_statement(rows.into_iter().map(number).collect());
    let inserted = by_id(transaction.run_made(make).await?);
    let mut edges = Vec::new();
    let mut left_out = Vec::new();
    // Of two inserts of one id in one call the first is the one that was made.
    let mut taken = inserted.clone();
    for (place, insert) in inserts {
        match taken.remove(&insert.task.id) {
            Some(row) if !missing.contains_key(place) => {
                verdicts.set(*place, Verdict::Applied(Receipt::Inserted(insert.task.id.clone(), head(&row))));
                edges.extend(strictest(insert).map(|(parent, on_failure)| {
                    let (parent, child) = (parent.clone(), insert.task.id.clone());
                    StoreRow::Edge(EdgeRow { parent, child, on_failure, gone: false })
                }));
            }
            _ => left_out.push((*place, *insert)),
        }
    }
    if !edges.is_empty() {
        transaction.run(Statement::insert_or_nothing(edges)).await?;
    }
    examine(transaction, &left_out, &missing, &[], verdicts).await?;
    // A parent that the same batch was to store before its child has been stored by somebody else.
    let is_known = |parent: &TaskId| parents.contains_key(parent) || inserted.contains_key(parent);
    let stored = inserts.iter().filter(|(_, insert)| inserted.contains_key(&insert.task.id));
    let is_orphaned = stored.flat_map(|(_, insert)| &insert.task.parents).any(|parent| !is_known(&parent.id));
    if is_orphaned || are_stranded(transaction, &inserted, held, &left).await? {
        return Err(changed_between(transaction));
    }
    Ok(())
}

/// Judges the inserts of batches of several steps before anything is written; parents are as they were once locked.
/// `displaced` are the tasks that their own batches end: they are about to leave a slot.
pub(super) async fn check(
    transaction: &Transaction,
    batches: &[Batch],
    inserts: &[(Place, &Insert)],
    parents: &BTreeMap<TaskId, StoreRow>,
    displaced: &[(usize, TaskId)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    let judged = judge_parents(batches, inserts, parents);
    let missing =
        inserts.iter().zip(judged).filter_map(|((place, _), judged)| Some((*place, judged.err()?))).collect();
    examine(transaction, inserts, &missing, displaced, verdicts).await
}

/// Share-locks the parents, in order of id, and reads them as they are once locked. Before the children of what ends in
/// this call are released: all parents come before all children in the order of locks.
pub(super) async fn lock_parents(
    transaction: &Transaction,
    inserts: &[(Place, &Insert)],
) -> Result<BTreeMap<TaskId, StoreRow>, Error> {
    let parents = inserts.iter().flat_map(|(_, insert)| &insert.task.parents);
    let parents: BTreeSet<TaskId> = parents.map(|parent| parent.id.clone()).collect();
    if parents.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut select = Select::new(Rows::by_keys(table::TASK, parents.into_iter().map(RowKey::Task)));
    if !transaction.has(Flaw::NoShareLockOnParents) {
        select = transaction.locking(LockMode::Share, select);
    }
    transaction.begin_part("parents");
    Ok(by_id(transaction.run(select.into()).await?))
}

/// Share-locks the holders of slots that are to be waited for, as parents, and answers which slots they hold once
/// locked. Who has taken the place of one that ended meanwhile isn't seen.
pub(super) async fn lock_holders(
    transaction: &Transaction,
    inserts: &[(Place, &Insert)],
) -> Result<BTreeSet<Slot>, Error> {
    let patient = inserts.iter().filter(|(_, insert)| is_patient(insert));
    let slots: BTreeSet<Slot> = patient.filter_map(|(_, insert)| slot_of(insert)).collect();
    if slots.is_empty() {
        return Ok(slots);
    }
    let mut select = Select::new(
        Rows::all(table::TASK)
            .filter(move |row: &StoreRow| held_slot(row.as_task()).is_some_and(|slot| slots.contains(slot))),
    );
    if !transaction.has(Flaw::NoShareLockOnHolder) {
        select = transaction.locking(LockMode::Share, select);
    }
    transaction.begin_part("holders");
    let holders = transaction.run(select.into()).await?;
    Ok(holders.iter().filter_map(|row| held_slot(row.as_task()).cloned()).collect())
}

/// Whether the new task waits where its slot is held.
fn is_patient(insert: &Insert) -> bool {
    matches!(insert.task.slot, Some((_, OnConflict::Queue)))
}

fn slot_of(insert: &Insert) -> Option<Slot> {
    insert.task.slot.as_ref().map(|(slot, _)| slot.clone())
}

/// Which of the new tasks have to wait for their slots: behind the holder; behind those that wait for a holder whom this
/// call has ended; or behind one that is stored beside them. Nobody can begin to wait for a slot that the call has left:
/// the end of its holder isn't committed.
async fn find_waiting(
    transaction: &Transaction,
    inserts: &[(Place, &Insert)],
    judged: &[Result<Parents, TaskId>],
    held: &BTreeSet<Slot>,
    left: &BTreeSet<Slot>,
) -> Result<Vec<bool>, Error> {
    let slots: Vec<Option<Slot>> = inserts.iter().map(|(_, insert)| slot_of(insert)).collect();
    let patient = |at: usize| slots[at].as_ref().filter(|_| is_patient(inserts[at].1));
    let asked: BTreeSet<Slot> =
        (0..inserts.len()).filter_map(patient).filter(|slot| left.contains(*slot)).cloned().collect();
    let is_beside = |at: usize| (at + 1..inserts.len()).any(|later| patient(later) == slots[at].as_ref());
    let beside: Vec<&Insert> = (0..inserts.len())
        .filter(|at| slots[*at].is_some() && is_beside(*at))
        .map(|at| inserts[at].1)
        .collect();
    let mut waited_for = BTreeSet::new();
    let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
    if !asked.is_empty() || !beside.is_empty() {
        let known: BTreeSet<TaskId> = beside.iter().map(|insert| insert.task.id.clone()).collect();
        let keyed: BTreeSet<Key> = beside.iter().filter_map(|insert| insert.task.key.clone()).collect();
        let matters = move |row: &StoreRow| {
            let task = row.as_task();
            awaited_slot(task).is_some_and(|slot| asked.contains(slot))
                || known.contains(&task.id)
                || task.key.as_ref().is_some_and(|key| keyed.contains(key))
        };
        for row in transaction.run(Select::new(Rows::all(table::TASK).filter(matters)).into()).await? {
            let task = row.as_task();
            waited_for.extend(awaited_slot(task).cloned());
            ids.insert(task.id.clone());
            keys.extend(task.key.clone());
        }
    }
    let mut sooner = BTreeSet::new();
    let mut waiting = Vec::with_capacity(inserts.len());
    for (at, ((_, insert), judged)) in inserts.iter().zip(judged).enumerate() {
        waiting.push(patient(at).is_some_and(|slot| {
            sooner.contains(slot)
                || if left.contains(slot) { waited_for.contains(slot) } else { held.contains(slot) }
        }));
        let is_new =
            !ids.contains(&insert.task.id) && !insert.task.key.as_ref().is_some_and(|key| keys.contains(key));
        if is_new && judged.as_ref().is_ok_and(|parents| parents.failed.is_none()) {
            sooner.extend(slots[at].clone());
        }
    }
    Ok(waiting)
}

/// Whether a new task waits for a slot of which neither the holder is locked nor is one stored beside it: whoever it was
/// meant to wait for wasn't stored, and who is in the way of that may end without seeing who waits.
async fn are_stranded(
    transaction: &Transaction,
    inserted: &BTreeMap<TaskId, StoreRow>,
    held: &BTreeSet<Slot>,
    left: &BTreeSet<Slot>,
) -> Result<bool, Error> {
    let waits = |row: &StoreRow| awaited_slot(row.as_task()).is_some_and(|slot| !left.contains(slot));
    if !inserted.values().any(waits) {
        return Ok(false);
    }
    let stored = Rows::by_keys(table::TASK, inserted.keys().cloned().map(RowKey::Task));
    let stored = transaction.run(Select::new(stored).into()).await?;
    let beside: BTreeSet<&Slot> = stored.iter().filter_map(|row| held_slot(row.as_task())).collect();
    let is_safe = |slot: &Slot| held.contains(slot) || left.contains(slot) || beside.contains(slot);
    Ok(stored.iter().filter_map(|row| awaited_slot(row.as_task())).any(|slot| !is_safe(slot)))
}

/// What the parents mean for each of the new tasks, or the one that doesn't exist.
fn judge_parents(
    batches: &[Batch],
    inserts: &[(Place, &Insert)],
    found: &BTreeMap<TaskId, StoreRow>,
) -> Vec<Result<Parents, TaskId>> {
    // What fails as it is stored, for its children in the same batch.
    let mut failed: BTreeSet<(usize, &TaskId)> = BTreeSet::new();
    let mut judged = Vec::with_capacity(inserts.len());
    for ((batch, step), insert) in inserts {
        let is_beside = |id: &TaskId| {
            let mut earlier = batches[*batch].steps[..*step].iter();
            earlier.any(|step| matches!(step, Step::Insert(earlier) if earlier.task.id == *id))
        };
        let mut parents = Parents::default();
        let mut missing = None;
        for (parent, on_failure) in strictest(insert) {
            let state = match found.get(parent) {
                Some(row) => row.as_task().state,
                None if failed.contains(&(*batch, parent)) => State::Failed,
                None if is_beside(parent) => State::Blocked,
                None => {
                    missing = missing.or(Some(parent.clone()));
                    continue;
                }
            };
            parents.count(parent, state, on_failure);
        }
        if parents.failed.is_some() {
            failed.insert((*batch, &insert.task.id));
        }
        judged.push(missing.map_or(Ok(parents), Err));
    }
    judged
}

/// The parents in the order in which they are named, each once: of two edges to one parent the stricter counts.
fn strictest(insert: &Insert) -> impl Iterator<Item = (&TaskId, OnParentFailure)> {
    let parents = &insert.task.parents;
    let is_first = |at: usize| parents[..at].iter().all(|earlier| earlier.id != parents[at].id);
    (0..parents.len()).filter(move |at| is_first(*at)).map(move |at| {
        let same = parents.iter().filter(|other| other.id == parents[at].id);
        let strictest = same.map(|other| other.on_failure).min();
        (&parents[at].id, strictest.unwrap_or(parents[at].on_failure))
    })
}

/// Inserts what no other row is in the way of. A task that fails as it is stored is in no index of slots; all the same
/// it is not stored while somebody holds its slot.
/// Those that are ready to wait for their slot are.
fn insert_statement(rows: Vec<(StoreRow, bool)>) -> Statement<StoreRow> {
    let slot_of = |(row, patient): &(StoreRow, bool)| {
        row.as_task().slot.clone().filter(|_| row.is_in(State::Failed) && !patient)
    };
    let wanted: BTreeSet<Slot> = rows.iter().filter_map(slot_of).collect();
    if wanted.is_empty() {
        return Statement::insert_or_nothing(rows.into_iter().map(|(row, _)| row));
    }
    let holds_one = move |row: &StoreRow| held_slot(row.as_task()).is_some_and(|slot| wanted.contains(slot));
    let holders = Select::new(Rows::all(table::TASK).filter(holds_one));
    Statement::select(holders).then(move |holders| {
        let held: BTreeSet<Slot> =
            holders.iter().filter_map(|row| held_slot(row.as_task()).cloned()).collect();
        let is_free = |row: &(StoreRow, bool)| slot_of(row).is_none_or(|slot| !held.contains(&slot));
        let free: Vec<StoreRow> = rows.into_iter().filter(is_free).map(|(row, _)| row).collect();
        Next::Run(Statement::insert_or_nothing(free))
    })
}

/// Tells which of the inserts that weren't made had been before, and why the others are refused. Without
/// a reason an insert is left open.
async fn examine(
    transaction: &Transaction,
    left_out: &[(Place, &Insert)],
    missing: &BTreeMap<Place, TaskId>,
    displaced: &[(usize, TaskId)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if left_out.is_empty() {
        return Ok(());
    }
    let ids = left_out.iter().map(|(_, insert)| RowKey::Task(insert.task.id.clone()));
    transaction.begin_part("examine inserts");
    let by_ids = by_id(transaction.run(Select::new(Rows::by_keys(table::TASK, ids)).into()).await?);
    let wanted: Vec<UniqueKey> = left_out.iter().flat_map(|(_, insert)| uniques(insert)).collect();
    let holds_one = move |row: &StoreRow| row.uniques().any(|held| wanted.contains(&held));
    let holders = transaction.run(Select::new(Rows::all(table::TASK).filter(holds_one)).into()).await?;
    let holder = |wanted: UniqueKey| holders.iter().find(|row| row.uniques().any(|held| held == wanted));
    for (place, insert) in left_out {
        let by_key = insert.task.key.clone().and_then(|key| holder(UniqueKey::Key(key)));
        let by_slot = insert.task.slot.as_ref().and_then(|(slot, _)| holder(UniqueKey::Slot(slot.clone())));
        let by_slot = by_slot.filter(|row| !displaced.contains(&(place.0, row.as_task().id.clone())));
        let by_slot = by_slot.filter(|_| !is_patient(insert));
        let verdict = match (by_ids.get(&insert.task.id), by_key, missing.get(place), by_slot) {
            (Some(row), ..) if row.as_task().digest == insert.digest => already(row),
            (Some(row), ..) => Verdict::Refused(Refusal::IdTaken(head(row))),
            (None, Some(row), ..) if row.as_task().digest == insert.digest => already(row),
            (None, Some(row), ..) => Verdict::Refused(Refusal::KeyTaken(row.as_task().id.clone(), head(row))),
            (None, None, Some(parent), _) => Verdict::Refused(Refusal::ParentMissing(parent.clone())),
            (None, None, None, Some(row)) => {
                Verdict::Refused(Refusal::SlotTaken(row.as_task().id.clone(), head(row)))
            }
            (None, None, None, None) => continue,
        };
        verdicts.set(*place, verdict);
    }
    Ok(())
}

fn already(row: &StoreRow) -> Verdict {
    Verdict::Already(Receipt::Inserted(row.as_task().id.clone(), head(row)))
}

fn uniques(insert: &Insert) -> impl Iterator<Item = UniqueKey> + use<> {
    let key = insert.task.key.clone().map(UniqueKey::Key);
    let slot = insert.task.slot.as_ref().map(|(slot, _)| UniqueKey::Slot(slot.clone()));
    key.into_iter().chain(slot)
}

fn new_row(insert: &Insert, parents: &Parents, waits: bool, now: Timestamp, seq: u64) -> StoreRow {
    let new = insert.task.clone();
    let moment = |due| match due {
        Due::Now => now,
        Due::After(delay) => now + delay,
        Due::At(at) => at,
    };
    let mut task = Task {
        id: new.id,
        kind: new.kind,
        queue: new.queue,
        state: State::Failed,
        cause: parents.failed.as_ref().map(|_| Cause::DependencyFailed),
        error: parents.failed.as_ref().map(|(parent, state)| blame(parent, *state)),
        rev: 0,
        attempt: 0,
        attempts_max: new.attempts_max,
        rescues: 0,
        rescues_max: new.rescues_max,
        fence: 0,
        slot: new.slot.map(|(slot, _)| slot),
        slot_waiting: waits && parents.failed.is_none(),
        key: new.key,
        priority: new.priority,
        payload: new.payload,
        output: None,
        submitted_at: now,
        due_at: moment(new.due),
        deadline_at: new.deadline.map(moment),
        claimed_at: None,
        entered_at: None,
        progress: None,
        reported_at: None,
        finished_at: parents.failed.as_ref().map(|_| now),
        lease_expires_at: None,
        worker: None,
        timeout: kept(new.timeout),
        backoff: Backoff { min: kept(new.backoff.min), max: kept(new.backoff.max) },
        cancel: None,
        parents_pending: parents.pending,
        digest: insert.digest,
        mark: 0,
    };
    if parents.failed.is_none() {
        task.state = waiting_state(&task, now);
    }
    StoreRow::task(task, seq)
}

/// A duration as stores keep it.
fn kept(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(micros(duration)).unwrap_or(0))
}
