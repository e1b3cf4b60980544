//! The release of children: always in statements after the one that ended the parents, with snapshots of their own
//! (fact B5: folded into one statement, a child that was added meanwhile stays blocked for ever).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use steadfast_core::decide::{EdgeOutcome, edge};
use steadfast_core::name::{Slot, TaskId};
use steadfast_core::task::{OnParentFailure, Task};
use steadfast_core::{Cause, Error, State, Timestamp};

use crate::db::{LockMode, Rows, Select, Statement};

use super::flaws::Flaw;
use super::release_flaws::by_not_exists;
use super::rows::{EdgeRow, RowKey, StoreRow, table};
use super::transaction::Transaction;

/// A task that ended in this transaction.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) task: TaskId,
    pub(super) state: State,
    /// The slot that it held, or waited for.
    pub(super) slot: Option<Slot>,
    /// The edges to its children, where a specimen has looked them up in the statement that ended it.
    pub(super) edges: Option<Vec<EdgeRow>>,
}

/// What an ended parent means for a child.
#[derive(Debug, Clone, Default)]
pub(super) struct Release {
    satisfied: u32,
    pub(super) failed_parent: Option<(TaskId, State)>,
}

/// Releases the children of ended tasks, and theirs in turn where one fails. Says whether any of them still waited. Notes
/// the slots of all that ended.
pub(super) async fn release(
    transaction: &Transaction,
    mut ended: Vec<Ended>,
    left: &mut BTreeSet<Slot>,
) -> Result<bool, Error> {
    let mut any = false;
    left.extend(ended.iter().filter_map(|ended| ended.slot.clone()));
    // The edges form no circle: each round goes one generation down.
    while !ended.is_empty() {
        let parents: Arc<BTreeMap<TaskId, State>> =
            Arc::new(ended.iter().map(|ended| (ended.task.clone(), ended.state)).collect());
        let of = parents.clone();
        let edges = Rows::all(table::EDGE).filter(move |row: &StoreRow| {
            let edge = row.as_edge();
            of.contains_key(&edge.parent) && !edge.gone
        });
        let folded = ended.iter().filter_map(|ended| ended.edges.as_ref());
        let edges: Vec<EdgeRow> = if ended.iter().all(|ended| ended.edges.is_some()) {
            folded.flatten().cloned().collect()
        } else {
            transaction.begin_part("children");
            let edges = transaction.run(Select::new(edges).into()).await?;
            edges.iter().map(|row| row.as_edge().clone()).collect()
        };
        let mut releases: BTreeMap<TaskId, Release> = BTreeMap::new();
        for row in &edges {
            let state = parents[&row.parent];
            let release = releases.entry(row.child.clone()).or_default();
            match edge(state, row.on_failure) {
                Some(EdgeOutcome::Satisfied) => release.satisfied += 1,
                Some(EdgeOutcome::Fails) => {
                    release.failed_parent.get_or_insert((row.parent.clone(), state));
                }
                None => unreachable!("the parent has ended"),
            }
        }
        if releases.is_empty() {
            break;
        }
        let children: Vec<RowKey> = releases.keys().cloned().map(RowKey::Task).collect();
        let rows = || {
            Rows::by_keys(table::TASK, children.clone()).filter(|row: &StoreRow| row.is_in(State::Blocked))
        };
        let now = transaction.now();
        let first_releases = transaction.has(Flaw::FirstParentReleases);
        let update = |releases: BTreeMap<TaskId, Release>| {
            Statement::update(rows(), move |row| {
                released(row, &releases[&row.as_task().id], first_releases, now)
            })
        };
        let changed = if transaction.has(Flaw::FanInByNotExists) {
            transaction.run(by_not_exists(rows(), releases, now)).await?
        } else {
            if !transaction.lock(LockMode::NoKeyUpdate, Select::new(rows())).await?.is_empty() {
                transaction.begin_part("release");
            }
            transaction.run(update(releases)).await?
        };
        any |= !changed.is_empty();
        ended = changed
            .iter()
            .filter(|row| row.as_task().state.is_terminal())
            .map(|row| Ended {
                task: row.as_task().id.clone(),
                state: row.as_task().state,
                slot: row.slot_left().cloned(),
                edges: None,
            })
            .collect();
        left.extend(ended.iter().filter_map(|ended| ended.slot.clone()));
    }
    Ok(any)
}

/// A child after its parents' end. `first_releases`: whatever it still waits for.
pub(super) fn released(row: &StoreRow, release: &Release, first_releases: bool, now: Timestamp) -> StoreRow {
    row.with(|task| {
        task.rev += 1;
        task.parents_pending -= if first_releases { task.parents_pending } else { release.satisfied };
        if let Some((parent, state)) = &release.failed_parent {
            task.state = State::Failed;
            task.cause = Some(Cause::DependencyFailed);
            task.error = Some(blame(parent, *state));
            task.finished_at = Some(now);
            task.slot_waiting = false;
        } else {
            task.state = waiting_state(task, now);
        }
    })
}

/// In which state a task waits that nobody has claimed.
pub(super) fn waiting_state(task: &Task, now: Timestamp) -> State {
    if task.slot_waiting || task.parents_pending > 0 {
        State::Blocked
    } else if task.due_at > now {
        State::Scheduled
    } else {
        State::Ready
    }
}

/// The error text of a task that fails because this parent ended like that.
pub(super) fn blame(parent: &TaskId, state: State) -> String {
    match state {
        State::Cancelled => format!("parent {parent} was cancelled"),
        _ => format!("parent {parent} failed"),
    }
}

/// What the parents of a new task, as they are now, mean for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Parents {
    pub(super) pending: u32,
    pub(super) failed: Option<(TaskId, State)>,
}

impl Parents {
    pub(super) fn count(&mut self, parent: &TaskId, state: State, on_failure: OnParentFailure) {
        match edge(state, on_failure) {
            None => self.pending += 1,
            Some(EdgeOutcome::Satisfied) => {}
            Some(EdgeOutcome::Fails) => {
                self.failed.get_or_insert((parent.clone(), state));
            }
        }
    }
}
