//! The plan of `claim`: promote what is due; where the queue has a limit, lock its row and count in a *later*
//! statement (fact D6); then take ready tasks, skipping what others have locked.

use std::collections::BTreeSet;

use steadfast_core::Error;
use steadfast_core::State;
use steadfast_core::name::Queue;
use steadfast_core::storage::{ClaimRequest, Claimed, Lease};

use crate::db::{LockMode, Next, Rows, Select, Statement};

use super::flaws::Flaw;
use super::rows::{RowKey, StoreRow, table};
use super::transaction::Transaction;

/// The most scheduled tasks that one claim makes ready.
const PROMOTED_MAX: usize = 1_000;

/// Leases ready tasks in one transaction.
pub(super) async fn claim(transaction: Transaction, request: &ClaimRequest) -> Result<Claimed, Error> {
    let mut claimed = Claimed::default();
    for queue in &request.queues {
        if claimed.tasks.len() >= request.limit as usize {
            break;
        }
        promote(&transaction, queue).await?;
        let wanted = request.limit as usize - claimed.tasks.len();
        let room = room(&transaction, queue).await?.map_or(wanted, |room| room.min(wanted));
        if room > 0 {
            claimed.tasks.extend(take(&transaction, queue, room, request).await?);
        }
    }
    if claimed.tasks.len() < request.limit as usize {
        let queues: BTreeSet<Queue> = request.queues.iter().cloned().collect();
        let scheduled = Rows::all(table::TASK).filter(move |row: &StoreRow| {
            row.is_in(State::Scheduled) && queues.contains(&row.as_task().queue)
        });
        let rows = transaction.run(Select::new(scheduled).into()).await?;
        let next = rows.iter().map(|row| row.as_task().due_at).min();
        claimed.next_due = next.map(|due| due.since(transaction.now()));
    }
    transaction.commit().await?;
    Ok(claimed)
}

async fn promote(transaction: &Transaction, queue: &Queue) -> Result<(), Error> {
    let (queue, now) = (queue.clone(), transaction.now());
    let due = Rows::all(table::TASK).filter(move |row: &StoreRow| {
        let task = row.as_task();
        task.state == State::Scheduled && task.queue == queue && task.due_at <= now
    });
    let select = Select::new(due).order_by(|row| row.as_task().due_at).limit(PROMOTED_MAX);
    let promote = Statement::select(transaction.skipping(select)).then(|rows| {
        Next::Run(Statement::update(these(&rows), |row| {
            row.with(|task| {
                task.state = State::Ready;
                task.rev += 1;
            })
        }))
    });
    transaction.run(promote).await.map(|_| ())
}

/// How many more of a queue may run; `None` where it has no limit.
async fn room(transaction: &Transaction, queue: &Queue) -> Result<Option<usize>, Error> {
    let key = || Rows::by_keys(table::LIMIT, [RowKey::Limit(queue.clone())]);
    let count = || {
        let queue = queue.clone();
        let running = Rows::all(table::TASK)
            .filter(move |row: &StoreRow| row.is_in(State::Running) && row.as_task().queue == queue);
        Statement::from(Select::new(running))
    };
    let flawed = transaction.has(Flaw::LimitCountedBeforeLock);
    let early = if flawed { Some(transaction.run(count()).await?.len()) } else { None };
    let limit = transaction.lock(LockMode::Update, Select::new(key())).await?;
    let concurrency = limit.iter().find_map(|row| match row {
        StoreRow::Limit(row) => row.concurrency,
        StoreRow::Task(_) | StoreRow::Edge(_) | StoreRow::Attempt(_) => None,
    });
    let Some(concurrency) = concurrency else { return Ok(None) };
    let running = match early {
        Some(running) => running,
        None => transaction.run(count()).await?.len(),
    };
    Ok(Some((concurrency as usize).saturating_sub(running)))
}

async fn take(
    transaction: &Transaction,
    queue: &Queue,
    limit: usize,
    request: &ClaimRequest,
) -> Result<Vec<Lease>, Error> {
    let (queue, kinds) = (queue.clone(), request.kinds.clone());
    let ready = Rows::all(table::TASK).filter(move |row: &StoreRow| {
        let task = row.as_task();
        task.state == State::Ready && task.queue == queue && kinds.contains(&task.kind)
    });
    let select = Select::new(ready).order_by(order).limit(limit);
    let (worker, lease, now) = (request.worker.clone(), request.lease, transaction.now());
    let claim = Statement::select(transaction.skipping(select)).then(move |rows| {
        Next::Run(Statement::update(these(&rows), move |row| {
            row.with(|task| {
                task.state = State::Running;
                task.rev += 1;
                task.attempt += 1;
                task.fence += 1;
                task.worker = Some(worker.clone());
                task.claimed_at = Some(now);
                task.entered_at = None;
                task.lease_expires_at = Some(now + lease);
            })
        }))
    });
    let mut rows = transaction.run(claim).await?;
    rows.sort_by_key(order);
    Ok(rows.iter().map(lease_of).collect())
}

fn order(row: &StoreRow) -> (i16, u64) {
    match row {
        StoreRow::Task(row) => (row.task.priority, row.seq),
        StoreRow::Edge(_) | StoreRow::Attempt(_) | StoreRow::Limit(_) => {
            unreachable!("only tasks are claimed")
        }
    }
}

fn these(rows: &[StoreRow]) -> Rows<StoreRow> {
    Rows::by_keys(table::TASK, rows.iter().map(|row| RowKey::Task(row.as_task().id.clone())))
}

fn lease_of(row: &StoreRow) -> Lease {
    let task = row.as_task();
    Lease {
        task: task.id.clone(),
        fence: task.fence,
        kind: task.kind.clone(),
        queue: task.queue.clone(),
        slot: task.slot.clone(),
        payload: task.payload.clone(),
        attempt: task.attempt,
        attempts_max: task.attempts_max,
        timeout: task.timeout,
        backoff: task.backoff,
    }
}
