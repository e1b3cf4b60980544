//! What keeps house: limits and pauses of queues, workers' signs of life, and forgetting what ended long ago. Limits are
//! set among the other steps, the rest after them.

use std::collections::BTreeSet;
use std::sync::Arc;

use steadfast_core::name::{TaskId, WorkerId};
use steadfast_core::step::{Batch, Beat, Prune, QueueLimit, QueuePause, Receipt, Step};
use steadfast_core::storage::Worker;
use steadfast_core::task::{KEY_KEPT, Task};
use steadfast_core::{Error, State, Timestamp};

use crate::db::{Rows, Select, Statement};

use super::apply::{Place, Verdict, Verdicts};
use super::rows::{EdgeRow, QueueRow, RowKey, StoreRow, table};
use super::transaction::Transaction;

/// Carries out what is still to be done of these batches; pauses last, because no queue is claimed from after that.
pub(super) async fn apply(
    transaction: &Transaction,
    steps: &[(Place, &Step)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    let mut pauses = Vec::new();
    for (place, step) in steps {
        let receipt = match step {
            Step::Beat(beat) => {
                see(transaction, beat).await?;
                Receipt::Seen
            }
            Step::Prune(step) => Receipt::Pruned(prune(transaction, step).await?),
            Step::Pause(step) => {
                pauses.push((*place, step));
                continue;
            }
            Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Report(_) | Step::Limit(_) => {
                continue;
            }
        };
        verdicts.set(*place, Verdict::Applied(receipt));
    }
    if !pauses.is_empty() {
        transaction.begin_part("queue");
        transaction.lock_queues().await?;
    }
    for (place, QueuePause { queue, paused }) in pauses {
        let (paused, new) = (*paused, QueueRow { paused: *paused, ..plain(queue) });
        let set = move |row: &QueueRow| QueueRow { paused, ..row.clone() };
        set_queue(transaction, new, set).await?;
        verdicts.set(place, Verdict::Applied(Receipt::Paused));
    }
    Ok(())
}

/// Sets limits.
pub(super) async fn limit(
    transaction: &Transaction,
    limits: &[(Place, &QueueLimit)],
    verdicts: &mut Verdicts<'_>,
) -> Result<(), Error> {
    if limits.is_empty() {
        return Ok(());
    }
    transaction.begin_part("queue");
    transaction.lock_queues().await?;
    for (place, QueueLimit { queue, concurrency }) in limits {
        let (concurrency, new) = (*concurrency, QueueRow { concurrency: *concurrency, ..plain(queue) });
        let set = move |row: &QueueRow| QueueRow { concurrency, ..row.clone() };
        set_queue(transaction, new, set).await?;
        verdicts.set(*place, Verdict::Applied(Receipt::Limited));
    }
    Ok(())
}

/// The steps of batches that keep house.
pub(super) fn of<'a>(batches: impl Iterator<Item = (usize, &'a Batch)>) -> Vec<(Place, &'a Step)> {
    let is_house = |step: &Step| match step {
        Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => true,
        Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Report(_) | Step::Limit(_) => false,
    };
    let steps =
        batches.flat_map(|(b, batch)| batch.steps.iter().enumerate().map(move |(s, step)| ((b, s), step)));
    steps.filter(|(_, step)| is_house(step)).collect()
}

fn plain(queue: &steadfast_core::name::Queue) -> QueueRow {
    QueueRow { queue: queue.clone(), concurrency: None, paused: false }
}

async fn set_queue(
    transaction: &Transaction,
    new: QueueRow,
    set: impl Fn(&QueueRow) -> QueueRow + Send + 'static,
) -> Result<(), Error> {
    transaction.upsert(StoreRow::Queue(new), move |row| StoreRow::Queue(set(row.as_queue()))).await
}

async fn see(transaction: &Transaction, beat: &Beat) -> Result<(), Error> {
    let now = transaction.now();
    let seen = Worker {
        id: beat.worker.clone(),
        queues: beat.queues.clone(),
        kinds: beat.kinds.clone(),
        concurrency: beat.concurrency,
        running: beat.running,
        gone: beat.gone,
        started_at: now,
        seen_at: now,
    };
    let new = StoreRow::Worker(Arc::new(seen.clone()));
    let again = move |row: &StoreRow| match row {
        StoreRow::Worker(before) => {
            StoreRow::Worker(Arc::new(Worker { started_at: before.started_at, ..seen.clone() }))
        }
        other => unreachable!("a row of the table of workers, not {other:?}"),
    };
    transaction.upsert(new, again).await
}

/// Forgets tasks, skipping what others have locked, and workers.
async fn prune(transaction: &Transaction, prune: &Prune) -> Result<u32, Error> {
    let (now, step) = (transaction.now(), prune.clone());
    let old = Rows::all(table::TASK).filter(move |row: &StoreRow| is_over(row.as_task(), &step, now));
    let oldest = Select::new(old)
        .order_by(|row| (row.as_task().finished_at, row.as_task().id.clone()))
        .limit(prune.limit as usize);
    let locked = transaction.run(Statement::select(transaction.skipping(oldest))).await?;
    let ids: Arc<BTreeSet<TaskId>> = Arc::new(locked.iter().map(|row| row.as_task().id.clone()).collect());
    if !ids.is_empty() {
        let keys = ids.iter().cloned().map(RowKey::Task);
        transaction.run(Statement::delete(Rows::by_keys(table::TASK, keys))).await?;
        for of in [table::EDGE, table::ATTEMPT, table::LOG, table::CHECKPOINT, table::ALIAS] {
            let ids = ids.clone();
            let rows = Rows::all(of).filter(move |row: &StoreRow| belongs_to(row, &ids));
            transaction.run(Statement::delete(rows)).await?;
        }
    }
    if !ids.is_empty() {
        let ids = ids.clone();
        let children =
            Rows::all(table::EDGE).filter(move |row: &StoreRow| ids.contains(&row.as_edge().parent));
        let part = |row: &StoreRow| StoreRow::Edge(EdgeRow { gone: true, ..row.as_edge().clone() });
        transaction.run(Statement::update(children, part)).await?;
    }
    let running = Rows::all(table::TASK).filter(|row: &StoreRow| row.is_in(State::Running));
    let running = transaction.run(Select::new(running).into()).await?;
    let busy: BTreeSet<WorkerId> = running.iter().filter_map(|row| row.as_task().worker.clone()).collect();
    let unseen = prune.otherwise;
    let workers = Rows::all(table::WORKER).filter(move |row: &StoreRow| match row {
        StoreRow::Worker(worker) => worker.seen_at + unseen <= now && !busy.contains(&worker.id),
        other => unreachable!("a row of the table of workers, not {other:?}"),
    });
    transaction.run(Statement::delete(workers)).await?;
    Ok(u32::try_from(ids.len()).expect("as many as were asked for"))
}

/// Whether a task ended so long ago that nobody asks for it any more.
fn is_over(task: &Task, prune: &Prune, now: Timestamp) -> bool {
    let Some(finished) = task.finished_at.filter(|_| task.state.is_terminal()) else { return false };
    let kept = if task.state == State::Succeeded { prune.succeeded } else { prune.otherwise };
    let kept = if task.key.is_some() { kept.max(KEY_KEPT) } else { kept };
    finished + kept <= now
}

/// Whether a row goes with these tasks. An edge is the child's: it still names a parent that was forgotten.
fn belongs_to(row: &StoreRow, ids: &BTreeSet<TaskId>) -> bool {
    match row {
        StoreRow::Edge(row) => ids.contains(&row.child),
        StoreRow::Attempt(row) => ids.contains(&row.task),
        StoreRow::Log(row) => ids.contains(&row.task),
        StoreRow::Checkpoint(row) => ids.contains(&row.task),
        StoreRow::Alias(row) => ids.contains(&row.task),
        StoreRow::Task(_) | StoreRow::Queue(_) | StoreRow::Worker(_) | StoreRow::Item(_) => false,
    }
}
