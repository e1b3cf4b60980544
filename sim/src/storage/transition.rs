//! Transitions: one guarded, set-oriented update, then an examination of those that it left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use steadfast_core::name::TaskId;
use steadfast_core::step::{Change, Guard, Receipt, Refusal, Transition};
use steadfast_core::task::{Attempt, Task};
use steadfast_core::{Cause, Error, State, Timestamp};

use crate::db::{Row, Rows, Select, Statement};

use super::apply::{Place, Verdict, Verdicts, by_id, changed_between, head};
use super::flaws::Flaw;
use super::release::Ended;
use super::release_flaws;
use super::rows::{AttemptRow, RowKey, StoreRow, table};
use super::slots;
use super::transaction::Transaction;

/// Applies transitions; returns the tasks that ended.
pub(super) async fn apply(
    transaction: &Transaction,
    transitions: &[(Place, &Transition)],
    verdicts: &mut Verdicts<'_>,
) -> Result<Vec<Ended>, Error> {
    if transitions.is_empty() {
        return Ok(Vec::new());
    }
    let by_task: Arc<BTreeMap<TaskId, Transition>> =
        Arc::new(transitions.iter().map(|(_, t)| (t.task.clone(), (*t).clone())).collect());
    assert_eq!(by_task.len(), transitions.len(), "a call names a task once");
    let now = transaction.now();
    let flaws = GuardFlaws::of(transaction);
    let (guards, changes) = (by_task.clone(), by_task.clone());
    let rows = Rows::by_keys(table::TASK, by_task.keys().cloned().map(RowKey::Task))
        .filter(move |row: &StoreRow| holds(&guards[&row.as_task().id].guard, row.as_task(), now, flaws));
    let forgets_fence = transaction.has(Flaw::FenceResetOnRelease);
    let mut update = Statement::update(rows, move |row| {
        let moved = moved(row, &changes[&row.as_task().id], now);
        if forgets_fence && row.is_in(State::Running) && moved.as_task().state.is_waiting() {
            return moved.with(|task| task.fence = 0);
        }
        moved
    });
    if transaction.has(Flaw::PromotionInStatementOfEnd) {
        update = slots::promoting(update, now);
    }
    let folded = transaction.has(Flaw::ReleaseInStatementOfEnd);
    if folded {
        update = release_flaws::releasing(update);
    }
    // Of a batch of several steps the tasks are locked and judged already.
    let alone = transitions.iter().all(|(place, _)| verdicts.is_alone(*place));
    if alone {
        transaction.begin_part("move");
    }
    let (tasks, edges) = release_flaws::parted(transaction.run(update).await?);
    let applied = by_id(tasks);

    let mut ended = Vec::new();
    let mut history = Vec::new();
    let mut left_out = Vec::new();
    for (place, transition) in transitions {
        let Some(row) = applied.get(&transition.task) else {
            left_out.push((*place, *transition));
            continue;
        };
        verdicts.set(*place, Verdict::Applied(Receipt::Moved(head(row))));
        let task = row.as_task();
        if task.state.is_terminal() {
            let slot = row.slot_left().filter(|_| !transaction.has(Flaw::PromotionInStatementOfEnd)).cloned();
            let of_parent = || edges.iter().filter(|edge| edge.parent == task.id).cloned().collect();
            let edges = folded.then(of_parent);
            ended.push(Ended { task: task.id.clone(), state: task.state, slot, edges });
        } else if transition.guard.from.contains(State::Running) && task.state.is_waiting() {
            history.push(attempt_of(task, transition, now));
        }
    }
    if !history.is_empty() {
        transaction.run(Statement::insert_or_nothing(history)).await?;
    }
    if alone && !left_out.is_empty() {
        transaction.begin_part("examine moves");
    }
    examine(transaction, &left_out, None, (now, flaws), verdicts).await?;
    Ok(ended)
}

/// Judges the transitions of batches of several steps against rows that are locked: refuses, or finds them done.
pub(super) async fn check(
    transaction: &Transaction,
    transitions: &[(Place, &Transition)],
    found: &BTreeMap<TaskId, StoreRow>,
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    let now = transaction.now();
    let flaws = GuardFlaws::of(transaction);
    let left_out: Vec<(Place, &Transition)> = transitions
        .iter()
        .filter(|(_, t)| !found.get(&t.task).is_some_and(|row| holds(&t.guard, row.as_task(), now, flaws)))
        .copied()
        .collect();
    examine(transaction, &left_out, Some(found), (now, flaws), verdicts).await
}

/// Tells which of the transitions that weren't applied had been before, and why the others are refused.
async fn examine(
    transaction: &Transaction,
    left_out: &[(Place, &Transition)],
    found: Option<&BTreeMap<TaskId, StoreRow>>,
    (now, flaws): (Timestamp, GuardFlaws),
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if left_out.is_empty() {
        return Ok(());
    }
    let read = found.is_none();
    let rows;
    let found = match found {
        Some(found) => found,
        None => {
            let keys = left_out.iter().map(|(_, t)| RowKey::Task(t.task.clone()));
            rows = by_id(transaction.run(Select::new(Rows::by_keys(table::TASK, keys)).into()).await?);
            &rows
        }
    };
    let attempt_keys =
        left_out.iter().filter_map(|(_, t)| Some(RowKey::Attempt(t.task.clone(), t.guard.fence?)));
    let attempts = transaction.run(Select::new(Rows::by_keys(table::ATTEMPT, attempt_keys)).into()).await?;
    let was_attempt = |transition: &Transition| {
        attempts.iter().any(|row| match row {
            StoreRow::Attempt(row) => row.task == transition.task && row.mark == transition.mark,
            other => unreachable!("a row of the table of attempts, not {other:?}"),
        })
    };
    for (place, transition) in left_out {
        let verdict = match found.get(&transition.task) {
            None => Verdict::Refused(Refusal::NotFound),
            // A refusal must have a reason: the row came, or came back, after the statement that passed it over.
            Some(row) if read && holds(&transition.guard, row.as_task(), now, flaws) => {
                return Err(changed_between(transaction));
            }
            Some(row) if row.as_task().mark == transition.mark || was_attempt(transition) => {
                if row.as_task().state.is_terminal() && transaction.has(Flaw::RepeatedEndIsWritten) {
                    transaction.run(Statement::update(these([row.key()]), StoreRow::clone)).await?;
                }
                Verdict::Already(Receipt::Moved(head(row)))
            }
            Some(row) => Verdict::Refused(Refusal::Stale(head(row))),
        };
        verdicts.set(*place, verdict);
    }
    Ok(())
}

fn these(keys: impl IntoIterator<Item = RowKey>) -> Rows<StoreRow> {
    Rows::by_keys(table::TASK, keys)
}

/// The guards that a specimen leaves out.
#[derive(Clone, Copy)]
struct GuardFlaws {
    unfenced: bool,
    ignores_lease: bool,
    ignores_cancel: bool,
    /// By which time leases are judged.
    lapsed_by: Timestamp,
}

impl GuardFlaws {
    fn of(transaction: &Transaction) -> Self {
        Self {
            unfenced: transaction.has(Flaw::UnfencedTransition),
            ignores_lease: transaction.has(Flaw::UncheckedLeaseOnReclaim),
            ignores_cancel: transaction.has(Flaw::RetryIgnoresCancel),
            lapsed_by: transaction.lapsed_by(),
        }
    }
}

fn holds(guard: &Guard, task: &Task, now: Timestamp, flaws: GuardFlaws) -> bool {
    let fence = guard.fence.is_none_or(|fence| fence == task.fence) || flaws.unfenced;
    let cancel = !guard.unless_cancel_requested || task.cancel.is_none() || flaws.ignores_cancel;
    let lapsed = task.lease_expires_at.is_some_and(|expires| expires <= flaws.lapsed_by);
    let lease = !guard.lease_lapsed || lapsed || flaws.ignores_lease;
    let overdue = !guard.overdue || task.deadline_at.is_some_and(|deadline| deadline <= now);
    guard.from.contains(task.state) && fence && cancel && lease && overdue
}

fn moved(row: &StoreRow, transition: &Transition, now: Timestamp) -> StoreRow {
    let Change { to, delay, give_back_attempt, rescue, cause, error, output, request_cancel, entered } =
        &transition.change;
    row.with(|task| {
        if task.state == State::Running {
            task.entered_at = task.entered_at.or(entered.map(|ago| now - ago));
        }
        task.state = *to;
        task.rev += 1;
        task.mark = transition.mark;
        task.attempt = task.attempt.saturating_sub(u32::from(*give_back_attempt));
        task.rescues += u32::from(*rescue);
        match to {
            State::Scheduled => task.due_at = now + *delay,
            State::Ready => task.due_at = task.due_at.min(now),
            State::Blocked | State::Running | State::Succeeded | State::Failed | State::Cancelled => {}
        }
        if *to != State::Running {
            task.lease_expires_at = None;
        }
        if to.is_terminal() {
            task.finished_at = Some(now);
            task.slot_waiting = false;
        }
        if cause.is_some() {
            task.cause = *cause;
            task.error.clone_from(error);
        }
        if output.is_some() {
            task.output.clone_from(output);
        }
        if request_cancel.is_some() {
            task.cancel.clone_from(request_cancel);
        }
    })
}

fn attempt_of(task: &Task, transition: &Transition, now: Timestamp) -> StoreRow {
    let attempt = Attempt {
        fence: task.fence,
        attempt: task.attempt + u32::from(transition.change.give_back_attempt),
        worker: task.worker.clone().expect("a claimed task has a worker"),
        claimed_at: task.claimed_at.expect("a claimed task has a time of its claim"),
        entered_at: task.entered_at,
        ended_at: now,
        cause: transition.change.cause.unwrap_or(Cause::Error),
        error: transition.change.error.clone(),
    };
    StoreRow::Attempt(Arc::new(AttemptRow { task: task.id.clone(), attempt, mark: transition.mark }))
}
