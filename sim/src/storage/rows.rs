//! The rows of the simulated store, one variant per table of the real ones.

use std::sync::Arc;

use steadfast_core::name::{Key, Queue, Slot, TaskId, WorkerId};
use steadfast_core::storage::Worker;
use steadfast_core::task::{
    Attempt, Checkpoint, Fence, LogEntry, OnParentFailure, PAYLOAD_BYTES_MAX, State, Task,
};

use crate::db::{Row, Table};

/// The tables.
pub mod table {
    use crate::db::Table;
    /// Tasks.
    pub const TASK: Table = Table(0);
    /// Edges from parents to children.
    pub const EDGE: Table = Table(1);
    /// Attempts that others followed.
    pub const ATTEMPT: Table = Table(2);
    /// What is set for queues.
    pub const QUEUE: Table = Table(3);
    /// Lines of logs.
    pub const LOG: Table = Table(4);
    /// Finished steps.
    pub const CHECKPOINT: Table = Table(5);
    /// Other names of tasks.
    pub const ALIAS: Table = Table(6);
    /// Workers.
    pub const WORKER: Table = Table(7);
    /// What users' sessions keep.
    pub const ITEM: Table = Table(8);
    /// How many there are.
    pub const COUNT: u8 = 9;
}

/// A row.
#[derive(Debug, Clone)]
pub enum StoreRow {
    /// A task.
    Task(TaskRow),
    /// An edge.
    Edge(EdgeRow),
    /// An attempt.
    Attempt(Arc<AttemptRow>),
    /// What is set for a queue.
    Queue(QueueRow),
    /// A line of a log.
    Log(Arc<LogRow>),
    /// A finished step.
    Checkpoint(Arc<CheckpointRow>),
    /// Another name of a task.
    Alias(AliasRow),
    /// A worker.
    Worker(Arc<Worker>),
    /// What a user's session keeps.
    Item(Arc<ItemRow>),
}

/// A value that a user's session keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRow {
    /// Its name.
    pub key: String,
    /// What it is.
    pub value: Vec<u8>,
}

/// A task, and its place in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// The task. Shared, because versions, answers and the history hold it.
    pub task: Arc<Task>,
    /// Rises with every insert.
    pub seq: u64,
    /// Whether it ended as the holder of its slot.
    pub left_slot: bool,
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EdgeRow {
    /// The task waited for.
    pub parent: TaskId,
    /// The task that waits.
    pub child: TaskId,
    /// What happens to the child if the parent doesn't succeed.
    pub on_failure: OnParentFailure,
    /// Whether the parent was forgotten: a later task of the same id isn't that parent.
    pub gone: bool,
}

/// An attempt that another followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Of which task.
    pub task: TaskId,
    /// What is shown of it.
    pub attempt: Attempt,
    /// The mark of the transition that ended it.
    pub mark: u64,
}

/// What is set for a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    /// The queue.
    pub queue: Queue,
    /// How many may run at once.
    pub concurrency: Option<u32>,
    /// Whether nothing is claimed from it.
    pub paused: bool,
}

impl QueueRow {
    /// How many may run at once, where that is limited: a pause is a limit of none.
    pub fn limit(&self) -> Option<u32> {
        if self.paused { Some(0) } else { self.concurrency }
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Of which task.
    pub task: TaskId,
    /// The line.
    pub entry: LogEntry,
}

/// A finished step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Of which task.
    pub task: TaskId,
    /// The step.
    pub checkpoint: Checkpoint,
}

/// Another name of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRow {
    /// The other name.
    pub alias: TaskId,
    /// The task that it stands for.
    pub task: TaskId,
}

/// A primary key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// Of a task.
    Task(TaskId),
    /// Of an edge: parent, child.
    Edge(TaskId, TaskId),
    /// Of an attempt.
    Attempt(TaskId, Fence),
    /// Of a queue.
    Queue(Queue),
    /// Of a line: task, fence, number.
    Log(TaskId, Fence, u32),
    /// Of a finished step: task, name.
    Checkpoint(TaskId, String),
    /// Of another name.
    Alias(TaskId),
    /// Of a worker.
    Worker(WorkerId),
    /// Of a value of a user's session.
    Item(String),
}

/// A key of another unique index. Both indexes are partial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UniqueKey {
    /// One task per idempotency key.
    Key(Key),
    /// One holder per slot: the unfinished task in it that doesn't wait for it.
    Slot(Slot),
}

impl Row for StoreRow {
    type Key = RowKey;
    type Unique = UniqueKey;

    fn table(&self) -> Table {
        match self {
            StoreRow::Task(_) => table::TASK,
            StoreRow::Edge(_) => table::EDGE,
            StoreRow::Attempt(_) => table::ATTEMPT,
            StoreRow::Queue(_) => table::QUEUE,
            StoreRow::Log(_) => table::LOG,
            StoreRow::Checkpoint(_) => table::CHECKPOINT,
            StoreRow::Alias(_) => table::ALIAS,
            StoreRow::Worker(_) => table::WORKER,
            StoreRow::Item(_) => table::ITEM,
        }
    }

    fn key(&self) -> RowKey {
        match self {
            StoreRow::Task(row) => RowKey::Task(row.task.id.clone()),
            StoreRow::Edge(row) => RowKey::Edge(row.parent.clone(), row.child.clone()),
            StoreRow::Attempt(row) => RowKey::Attempt(row.task.clone(), row.attempt.fence),
            StoreRow::Queue(row) => RowKey::Queue(row.queue.clone()),
            StoreRow::Log(row) => RowKey::Log(row.task.clone(), row.entry.fence, row.entry.number),
            StoreRow::Checkpoint(row) => RowKey::Checkpoint(row.task.clone(), row.checkpoint.name.clone()),
            StoreRow::Alias(row) => RowKey::Alias(row.alias.clone()),
            StoreRow::Worker(row) => RowKey::Worker(row.id.clone()),
            StoreRow::Item(row) => RowKey::Item(row.key.clone()),
        }
    }

    fn uniques(&self) -> impl Iterator<Item = UniqueKey> {
        let task = if let StoreRow::Task(row) = self { Some(&*row.task) } else { None };
        let key = task.and_then(|task| task.key.clone()).map(UniqueKey::Key);
        let slot = task.and_then(held_slot).cloned();
        key.into_iter().chain(slot.map(UniqueKey::Slot))
    }

    fn is_partial(_unique: &UniqueKey) -> bool {
        true
    }

    fn check(&self) -> Result<(), &'static str> {
        let has_nul = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\0'));
        let is_large = |bytes: &[u8]| bytes.len() > PAYLOAD_BYTES_MAX;
        match self {
            StoreRow::Task(row) if is_large(&row.task.payload) => Err("a payload over 64 MiB"),
            StoreRow::Task(row) if row.task.output.as_ref().is_some_and(|output| is_large(output)) => {
                Err("an output over 64 MiB")
            }
            StoreRow::Task(row) if has_nul(&row.task.error) || has_nul(&row.task.cancel) => {
                Err("text has a NUL")
            }
            StoreRow::Attempt(row) if has_nul(&row.attempt.error) => Err("text has a NUL"),
            StoreRow::Checkpoint(row) if row.checkpoint.name.contains('\0') => Err("text has a NUL"),
            StoreRow::Log(row) if row.entry.text.contains('\0') => Err("text has a NUL"),
            StoreRow::Checkpoint(row) if row.checkpoint.name.contains('\0') => Err("text has a NUL"),
            StoreRow::Task(row)
                if row.task.progress.as_ref().is_some_and(|progress| progress.message.contains('\0')) =>
            {
                Err("text has a NUL")
            }
            StoreRow::Task(_)
            | StoreRow::Edge(_)
            | StoreRow::Attempt(_)
            | StoreRow::Queue(_)
            | StoreRow::Log(_)
            | StoreRow::Checkpoint(_)
            | StoreRow::Alias(_)
            | StoreRow::Worker(_)
            | StoreRow::Item(_) => Ok(()),
        }
    }
}

/// The slot that a task holds: while it hasn't ended, and doesn't wait for it.
pub fn held_slot(task: &Task) -> Option<&Slot> {
    task.slot.as_ref().filter(|_| !task.state.is_terminal() && !task.slot_waiting)
}

/// The slot that a task waits for.
pub fn awaited_slot(task: &Task) -> Option<&Slot> {
    task.slot.as_ref().filter(|_| task.slot_waiting && !task.state.is_terminal())
}

impl StoreRow {
    /// A row of the table of tasks.
    pub fn task(task: Task, seq: u64) -> Self {
        StoreRow::Task(TaskRow { task: Arc::new(task), seq, left_slot: false })
    }

    /// The task in a row that a statement on the table of tasks answered.
    pub fn as_task(&self) -> &Task {
        match self {
            StoreRow::Task(row) => &row.task,
            other => unreachable!("a row of the table of tasks, not {other:?}"),
        }
    }

    /// The edge in a row that a statement on the table of edges answered.
    pub fn as_edge(&self) -> &EdgeRow {
        match self {
            StoreRow::Edge(row) => row,
            other => unreachable!("a row of the table of edges, not {other:?}"),
        }
    }

    /// The place in the order of arrival of a task in a row that a statement on the table of tasks answered.
    pub fn arrival(&self) -> u64 {
        match self {
            StoreRow::Task(row) => row.seq,
            other => unreachable!("a row of the table of tasks, not {other:?}"),
        }
    }

    /// What is set for a queue in a row that a statement on the table of queues answered.
    pub fn as_queue(&self) -> &QueueRow {
        match self {
            StoreRow::Queue(row) => row,
            other => unreachable!("a row of the table of queues, not {other:?}"),
        }
    }

    /// The other name in a row that a statement on the table of aliases answered.
    pub fn as_alias(&self) -> &AliasRow {
        match self {
            StoreRow::Alias(row) => row,
            other => unreachable!("a row of the table of aliases, not {other:?}"),
        }
    }

    /// The value in a row that a statement on the table of users' values answered.
    pub fn as_item(&self) -> &ItemRow {
        match self {
            StoreRow::Item(row) => row,
            other => unreachable!("a row of the table of items, not {other:?}"),
        }
    }

    /// The same row with its task changed.
    pub fn with(&self, change: impl FnOnce(&mut Task)) -> Self {
        match self {
            StoreRow::Task(row) => {
                let mut task = Task::clone(&row.task);
                change(&mut task);
                let left_slot = task.state.is_terminal() && (row.left_slot || held_slot(&row.task).is_some());
                StoreRow::Task(TaskRow { task: Arc::new(task), seq: row.seq, left_slot })
            }
            other => unreachable!("a row of the table of tasks, not {other:?}"),
        }
    }

    /// The slot that a task has left with its end.
    pub fn slot_left(&self) -> Option<&Slot> {
        match self {
            StoreRow::Task(row) if row.left_slot => row.task.slot.as_ref(),
            _ => None,
        }
    }

    /// Whether it is a task in this state.
    pub fn is_in(&self, state: State) -> bool {
        self.as_task().state == state
    }
}
