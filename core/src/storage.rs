//! The storage seam and its contract. The core decides; a storage executes.
//!
//! What every storage must hold to, beyond what the signatures say, is in ARCHITECTURE.md ("Storage contract") and is
//! checked by the conformance suite. Its production twins are `SqliteStorage` and `PostgresStorage`; its simulated one
//! is `SimStorage`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::name::{Kind, Queue, Slot, StoreId, TaskId, WorkerId};
use crate::step::{Batch, Head, Outcome};
use crate::task::{Attempt, Backoff, Checkpoint, Fence, LogEntry, Parent, Payload, State, Task};
use crate::time::Timestamp;
use crate::wake::Hints;

/// Where tasks live. Cloning a handle is cheap and all clones are one store.
///
/// Futures may be dropped at any await. A dropped `apply` or `claim` may or may not have been committed, as after
/// [`ErrorKind::Unknown`]; the storage itself stays usable.
pub trait Storage: Clone + Send + Sync + 'static {
    /// Leases up to `limit` ready tasks; the only operation that skips locked rows. One round trip.
    ///
    /// # Errors
    /// After [`ErrorKind::Unknown`] tasks may have been leased to nobody: they lapse, un-entered.
    fn claim(&self, request: &ClaimRequest) -> impl Future<Output = Result<Claimed, Error>> + Send;

    /// Applies batches: one call, one transaction, one round trip. There is one outcome for each batch, in order. A
    /// refused batch changes nothing and its neighbours are unaffected.
    ///
    /// # Errors
    /// The error is the fate of the whole call: nothing was committed, but for [`ErrorKind::Unknown`], where all or
    /// nothing was; sending the same batches again tells.
    fn apply(&self, batches: &[Batch]) -> impl Future<Output = Result<Vec<Outcome>, Error>> + Send;

    /// Reads in a fresh snapshot of its own.
    ///
    /// # Errors
    /// A read never answers [`ErrorKind::Unknown`].
    fn read(&self, query: &Query) -> impl Future<Output = Result<View, Error>> + Send;

    /// Wake-ups: lossy, and they may be spurious. Polling is the truth.
    fn hints(&self) -> Hints;
}

/// Asks for ready tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who leases them.
    pub worker: WorkerId,
    /// From where, in this order until the limit is reached.
    pub queues: Vec<Queue>,
    /// Of which kinds; all others are left alone.
    pub kinds: Vec<Kind>,
    /// How many at most, in all.
    pub limit: u32,
    /// For how long from the store's now.
    pub lease: Duration,
}

/// What a claim got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claimed {
    /// In each queue by priority, then in the order of arrival.
    pub tasks: Vec<Lease>,
    /// How long until the next scheduled task of the queues asked for is due; said only where fewer than `limit` were
    /// leased.
    pub next_due: Option<Duration>,
}

/// A task in the hands of a worker: what its handler and its settling need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which task.
    pub task: TaskId,
    /// The token of this attempt's writes.
    pub fence: Fence,
    /// What it is about.
    pub kind: Kind,
    /// Where it waited.
    pub queue: Queue,
    /// The slot that it holds.
    pub slot: Option<Slot>,
    /// What the handler is given.
    pub payload: Payload,
    /// This attempt's number, from 1.
    pub attempt: u32,
    /// How many it has.
    pub attempts_max: u32,
    /// How long this attempt may take.
    pub timeout: Duration,
    /// How long to wait before another.
    pub backoff: Backoff,
    /// How long until the task's deadline, counted from the claim; zero where it has passed.
    pub deadline: Option<Duration>,
}

/// A question to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// One task, by its id or else by an alias.
    Task(TaskId),
    /// Tasks by filter, newest first.
    Tasks(TaskFilter),
    /// The attempts of a task that others followed, oldest first.
    Attempts(TaskId),
    /// The parents of a task, in order of id, with their states: `None` for one that was pruned.
    Parents(TaskId),
    /// Lines of a task's log after this place, by fence, then by number.
    Log {
        /// Which task.
        task: TaskId,
        /// Fence and number of the last line that is known; (0, 0) for all.
        after: (Fence, u32),
        /// How many at most.
        limit: u32,
    },
    /// The finished steps of a task, in order of name.
    Checkpoints(TaskId),
    /// The few facts about these tasks by which a worker sees whether its attempts should stop.
    Heads(Vec<TaskId>),
    /// Running tasks whose lease has lapsed by the store's clock, longest lapsed first.
    Lapsed {
        /// How many at most.
        limit: u32,
    },
    /// Waiting tasks whose deadline has passed by the store's clock, longest overdue first.
    Overdue {
        /// How many at most.
        limit: u32,
    },
    /// The queues, and how their tasks are doing.
    Stats {
        /// From when on a ready task counts as stale.
        stale: Duration,
        /// For how long a running attempt's handler must have given no sign (entered or reported) to count as stuck.
        stuck: Duration,
    },
    /// The workers, in order of id.
    Workers,
}

/// Which tasks to list. An empty filter is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// In this state.
    pub state: Option<State>,
    /// In this queue.
    pub queue: Option<Queue>,
    /// In this slot.
    pub slot: Option<Slot>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Whether they must not have ended.
    pub unfinished: bool,
    /// Whether they must have a slot.
    pub in_slot: bool,
    /// Older than this one, in the order of arrival: where the last page ended. No answer where it doesn't exist.
    pub before: Option<TaskId>,
    /// How many at most.
    pub limit: u32,
}

/// An answer, and where and when it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Which store answered.
    pub store: StoreId,
    /// The store's clock at the snapshot.
    pub as_of: Timestamp,
    /// The answer.
    pub answer: Answer,
}

/// The answer to the [`Query`] of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The task, if there is one.
    Task(Option<Box<Task>>),
    /// The tasks.
    Tasks(Vec<Task>),
    /// The attempts.
    Attempts(Vec<Attempt>),
    /// Those of the tasks that exist, in any order.
    Heads(Vec<(TaskId, Head)>),
    /// The parents.
    Parents(Vec<(Parent, Option<State>)>),
    /// The lines.
    Log(Vec<LogEntry>),
    /// The finished steps.
    Checkpoints(Vec<Checkpoint>),
    /// The lapsed leases.
    Lapsed(Vec<Lapsed>),
    /// The overdue tasks.
    Overdue(Vec<TaskId>),
    /// The queues.
    Stats(Stats),
    /// The workers.
    Workers(Vec<Worker>),
}

/// How the store's tasks are doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Every queue that has a task, a limit or a pause, in order of name.
    pub queues: Vec<QueueStats>,
}

/// How a queue's tasks are doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Which queue.
    pub queue: Queue,
    /// How many of its tasks may run at once.
    pub concurrency: Option<u32>,
    /// Whether nothing is claimed from it.
    pub paused: bool,
    /// How many tasks are in each state, by [`State::code`].
    pub tasks: [u64; 7],
    /// How long the ready task that is due longest has been due.
    pub oldest_ready: Option<Duration>,
    /// Ready tasks that have been due for longer than asked.
    pub stale: u64,
    /// Running tasks whose handler has given no sign for longer than asked.
    pub stuck: u64,
}

/// A worker as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Which incarnation.
    pub id: WorkerId,
    /// From where it claims.
    pub queues: Vec<Queue>,
    /// What it can run.
    pub kinds: Vec<Kind>,
    /// How many attempts at once.
    pub concurrency: u32,
    /// How many attempts it had when it was last seen.
    pub running: u32,
    /// Whether it was drained.
    pub gone: bool,
    /// When it was first seen.
    pub started_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
}

/// A running task whose lease has lapsed: what its rescue is decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapsed {
    /// Which task.
    pub task: TaskId,
    /// The fence of the lost attempt.
    pub fence: Fence,
    /// Who held it.
    pub worker: WorkerId,
    /// Whether its handler is known to have been entered.
    pub entered: bool,
    /// Rescues so far.
    pub rescues: u32,
    /// Rescues allowed.
    pub rescues_max: u32,
    /// Why somebody asked to cancel it.
    pub cancel: Option<String>,
    /// How long ago the lease lapsed.
    pub since: Duration,
}

/// I/O trouble or a bug. What is to be expected is never an error: see [`Outcome`].
#[derive(Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What a caller should do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// Nothing was committed; the same call may succeed at once (serialization failure, deadlock, busy).
    Conflict,
    /// Nothing was committed: a lock was held by somebody else for longer than a merged call may wait. Part the call.
    Contended,
    /// Nothing was committed, and the same call will fail again: something in it can't be stored. Part the call.
    Rejected,
    /// Whether the call was committed is lost. Send the same call again: it is safe.
    Unknown,
    /// Nothing was committed: the store can't be reached, or can't write (full, read-only). Later, perhaps.
    Unavailable,
    /// A bug, or a store that isn't one of ours. Stop.
    Broken,
}

impl Error {
    /// An error of this kind: what, why, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the error behind it.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
