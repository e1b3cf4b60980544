//! Slots that are waited for: the first of those that wait gets the slot, last of all in a call and in statements of its
//! own.
//!
//! Those that wait are locked before one of them is chosen, in a later statement with a fresh snapshot: one that is
//! cancelled meanwhile must not be chosen, or the slot would stay free with others waiting. That nobody begins to
//! wait unnoticed is the holder's share lock's business (see `insert`).

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::name::{Slot, TaskId};
use steadfast_core::task::Task;
use steadfast_core::{Error, Timestamp};

use crate::db::{LockMode, Next, Rows, Select, Statement};

use super::flaws::Flaw;
use super::release::waiting_state;
use super::rows::{RowKey, StoreRow, awaited_slot, held_slot, table};
use super::transaction::Transaction;

/// Gives each of these slots that has no holder to the first who waits for it.
pub(super) async fn promote(transaction: &Transaction, left: BTreeSet<Slot>) -> Result<(), Error> {
    if left.is_empty() {
        return Ok(());
    }
    let slots = left.clone();
    let waiting = Rows::all(table::TASK)
        .filter(move |row: &StoreRow| awaited_slot(row.as_task()).is_some_and(|slot| slots.contains(slot)));
    if !transaction.has(Flaw::PromotionWithoutLocks) {
        transaction.begin_part("waiters");
        let locked = transaction.lock(LockMode::NoKeyUpdate, Select::new(waiting)).await?;
        if locked.is_empty() {
            return Ok(());
        }
    }
    let now = transaction.now();
    let rank = if transaction.has(Flaw::LastInLineFirst) {
        |row: &StoreRow| u64::MAX - row.arrival()
    } else {
        StoreRow::arrival
    };
    let promote = Statement::select(in_slots(left))
        .then(move |rows| Next::Run(hand_over(first_of_each(&rows, &BTreeSet::new(), rank), now)));
    transaction.run(promote).await.map(|_| ())
}

/// The statement that ends tasks, with the promotion folded into it, as one specimen has it: what is chosen from is
/// older than the wait for the holders' rows.
pub(super) fn promoting(ends: Statement<StoreRow>, now: Timestamp) -> Statement<StoreRow> {
    ends.then(move |changed| {
        let ended: Vec<&Task> =
            changed.iter().map(StoreRow::as_task).filter(|task| task.state.is_terminal()).collect();
        let left = ended.iter().filter_map(|task| task.slot.clone()).collect();
        let ids: BTreeSet<TaskId> = ended.iter().map(|task| task.id.clone()).collect();
        Next::Run(Statement::select(in_slots(left)).then(move |rows| {
            let promote = hand_over(first_of_each(&rows, &ids, StoreRow::arrival), now);
            Next::Run(promote.then(move |_| Next::Answer(changed)))
        }))
    })
}

/// All that hold one of these slots or wait for it.
fn in_slots(slots: BTreeSet<Slot>) -> Select<StoreRow> {
    Select::new(Rows::all(table::TASK).filter(move |row: &StoreRow| {
        let task = row.as_task();
        !task.state.is_terminal() && task.slot.as_ref().is_some_and(|slot| slots.contains(slot))
    }))
}

/// The first by rank of those that wait for each slot without a holder. `ended` don't hold any more.
fn first_of_each(rows: &[StoreRow], ended: &BTreeSet<TaskId>, rank: fn(&StoreRow) -> u64) -> Vec<RowKey> {
    let live = || rows.iter().filter(|row| !ended.contains(&row.as_task().id));
    let held: BTreeSet<&Slot> = live().filter_map(|row| held_slot(row.as_task())).collect();
    let mut first: BTreeMap<&Slot, &StoreRow> = BTreeMap::new();
    for row in live() {
        let Some(slot) = awaited_slot(row.as_task()).filter(|slot| !held.contains(slot)) else { continue };
        let earliest = first.entry(slot).or_insert(row);
        if rank(row) < rank(earliest) {
            *earliest = row;
        }
    }
    first.values().map(|row| RowKey::Task(row.as_task().id.clone())).collect()
}

fn hand_over(keys: Vec<RowKey>, now: Timestamp) -> Statement<StoreRow> {
    let rows = Rows::by_keys(table::TASK, keys)
        .filter(|row: &StoreRow| row.as_task().slot_waiting && !row.as_task().state.is_terminal());
    Statement::update(rows, move |row| {
        row.with(|task| {
            task.rev += 1;
            task.slot_waiting = false;
            task.state = waiting_state(task, now);
        })
    })
}
