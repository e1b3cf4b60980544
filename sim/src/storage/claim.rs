//! The plan of `claim`: lock what limits or pauses the queues asked for; then, queue by queue, promote what is due, where there is
//! a limit count what runs in a *later* statement than the lock (fact D6), and take ready tasks, skipping what others
//! have locked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steadfast_core::name::Queue;
use steadfast_core::storage::{ClaimRequest, Claimed, Lease};
use steadfast_core::{Error, State, Timestamp};

use crate::db::{LockMode, Next, Rows, Select, Statement};

use super::flaws::Flaw;
use super::rows::{RowKey, StoreRow, table};
use super::transaction::Transaction;

/// The most scheduled tasks that one claim makes ready.
const PROMOTED_MAX: usize = 1_000;

/// Leases ready tasks in one transaction.
pub(super) async fn claim(transaction: Transaction, request: &ClaimRequest) -> Result<Claimed, Error> {
    let mut claimed = Claimed::default();
    let limits = Limits::lock(&transaction, request).await?;
    let since = transaction.now();
    let mut more_due = false;
    for queue in &request.queues {
        if claimed.tasks.len() >= request.limit as usize {
            break;
        }
        more_due |= promote(&transaction, queue).await? >= PROMOTED_MAX;
        let wanted = request.limit as usize - claimed.tasks.len();
        let room = limits.room(&transaction, queue).await?.map_or(wanted, |room| room.min(wanted));
        if room > 0 {
            claimed.tasks.extend(take(&transaction, queue, room, request).await?);
        }
    }
    if claimed.tasks.len() < request.limit as usize {
        let queues: BTreeSet<Queue> = request.queues.iter().cloned().collect();
        // What was due before is promoted, or in somebody's hands: nothing to come again for at once, and for ever.
        let scheduled = Rows::all(table::TASK).filter(move |row: &StoreRow| {
            row.is_in(State::Scheduled)
                && row.as_task().due_at > since
                && queues.contains(&row.as_task().queue)
        });
        transaction.begin_part("next due");
        let rows = transaction.run(Select::new(scheduled).into()).await?;
        let next = rows.iter().map(|row| row.as_task().due_at).min();
        claimed.next_due =
            if more_due { Some(Duration::ZERO) } else { next.map(|due| due.since(transaction.now())) };
    }
    transaction.commit().await?;
    Ok(claimed)
}

/// Makes what is due ready; says how many tasks that were.
async fn promote(transaction: &Transaction, queue: &Queue) -> Result<usize, Error> {
    let (queue, now) = (queue.clone(), transaction.now());
    let due = Rows::all(table::TASK).filter(move |row: &StoreRow| {
        let task = row.as_task();
        task.state == State::Scheduled && task.queue == queue && task.due_at <= now
    });
    let select = Select::new(due).order_by(|row| row.as_task().due_at).limit(PROMOTED_MAX);
    let counts = !transaction.has(Flaw::PromotionKeepsRevision);
    let promote = Statement::select(transaction.skipping(select)).then(move |rows| {
        Next::Run(Statement::update(these(&rows), move |row| {
            row.with(|task| {
                task.state = State::Ready;
                task.rev += u64::from(counts);
            })
        }))
    });
    transaction.begin_part("promote");
    transaction.run(promote).await.map(|promoted| promoted.len())
}

/// The limits of the queues asked for, locked in the order of their names.
struct Limits {
    by_queue: BTreeMap<Queue, usize>,
    /// What ran before the lock was waited for: only where a flaw asks for that.
    early: Option<Vec<StoreRow>>,
}

impl Limits {
    async fn lock(transaction: &Transaction, request: &ClaimRequest) -> Result<Self, Error> {
        let flawed = transaction.has(Flaw::LimitCountedBeforeLock);
        let early = if flawed { Some(transaction.run(running(&request.queues)).await?) } else { None };
        let keys = request.queues.iter().cloned().map(RowKey::Queue);
        let rows = Rows::by_keys(table::QUEUE, keys).filter(|row| limit(row).is_some());
        transaction.begin_part("limits");
        let locked = if transaction.has(Flaw::LimitOutsideClaim) {
            transaction.run(Select::new(rows).into()).await?
        } else {
            transaction.lock(LockMode::Update, Select::new(rows)).await?
        };
        let by_queue = locked.iter().filter_map(limit).collect();
        Ok(Self { by_queue, early })
    }

    /// How many more of a queue may run; `None` where it has no limit.
    async fn room(&self, transaction: &Transaction, queue: &Queue) -> Result<Option<usize>, Error> {
        let Some(limit) = self.by_queue.get(queue) else { return Ok(None) };
        let running = match &self.early {
            Some(early) => early.iter().filter(|row| row.as_task().queue == *queue).count(),
            None => {
                transaction.begin_part("count");
                transaction.run(running(std::slice::from_ref(queue))).await?.len()
            }
        };
        Ok(Some(limit.saturating_sub(running)))
    }
}

fn limit(row: &StoreRow) -> Option<(Queue, usize)> {
    let row = row.as_queue();
    Some((row.queue.clone(), row.limit()? as usize))
}

/// What runs in these queues.
fn running(queues: &[Queue]) -> Statement<StoreRow> {
    let queues = queues.to_vec();
    let running = Rows::all(table::TASK)
        .filter(move |row: &StoreRow| row.is_in(State::Running) && queues.contains(&row.as_task().queue));
    Select::new(running).into()
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
    let chosen = if transaction.has(Flaw::ClaimWithoutLock) { select } else { transaction.skipping(select) };
    let claim = Statement::select(chosen).then(move |rows| {
        Next::Run(Statement::update(these(&rows), move |row| {
            row.with(|task| {
                task.state = State::Running;
                task.rev += 1;
                task.attempt += 1;
                task.fence += 1;
                task.worker = Some(worker.clone());
                task.claimed_at = Some(now);
                task.entered_at = None;
                task.progress = None;
                task.reported_at = None;
                task.lease_expires_at = Some(now + lease);
            })
        }))
    });
    transaction.begin_part("claim");
    let mut rows = transaction.run(claim).await?;
    rows.sort_by_key(order);
    Ok(rows.iter().map(|row| lease_of(row, now)).collect())
}

fn order(row: &StoreRow) -> (i16, u64) {
    (row.as_task().priority, row.arrival())
}

fn these(rows: &[StoreRow]) -> Rows<StoreRow> {
    Rows::by_keys(table::TASK, rows.iter().map(|row| RowKey::Task(row.as_task().id.clone())))
}

fn lease_of(row: &StoreRow, now: Timestamp) -> Lease {
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
        deadline: task.deadline_at.map(|deadline| deadline.since(now)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
    use steadfast_core::storage::ClaimRequest;
    use steadfast_core::task::{Due, NewTask};
    use steadfast_core::{Engine, Storage};

    use crate::choices::Choices;
    use crate::scheduler::{Bounds, Scheduler};
    use crate::world::{Kind as Store, Profile, World};

    #[test]
    fn a_due_task_that_somebody_holds_is_nothing_to_come_again_for_at_once() {
        let bounds = Bounds { polls: 10_000, time: Duration::from_secs(60) };
        let choices = Choices::from_decisions([]);
        let scheduler = Scheduler::new(choices.clone(), 0);
        let world = World::on(scheduler.clone(), choices, Store::of(Profile::Postgres));
        let claimed = scheduler.run(bounds, async move {
            let node = world.start("api", 100);
            let (engine, commits) = Engine::new(node.storage(), node.clock());
            node.spawn("committer", commits);
            for (id, seconds) in [("a", 1), ("b", 9)] {
                let mut task = NewTask::new(TaskId::trusted(id), Kind::trusted("work"), *b"{}");
                task.due = Due::After(Duration::from_secs(seconds));
                engine.submit(task).await.expect("there are no faults");
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            let stranger = world.start("stranger", 100);
            let held = stranger.storage();
            stranger.spawn("holds", async move {
                held.hold(&TaskId::trusted("a"), Duration::from_secs(3)).await.expect("nobody else has it");
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            let request = ClaimRequest {
                worker: WorkerId::trusted("w"),
                queues: vec![Queue::default_queue()],
                kinds: vec![Kind::trusted("work")],
                limit: 1,
                lease: Duration::from_secs(30),
            };
            node.storage().claim(&request).await.expect("there are no faults")
        });
        let claimed = claimed.expect("it comes to an end");
        assert_eq!((claimed.tasks.len(), claimed.next_due), (0, Some(Duration::from_secs(6))));
    }
}
