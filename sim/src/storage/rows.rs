//! The rows of the simulated store, one variant per table of the real ones.

use std::sync::Arc;

use steadfast_core::name::{Key, Queue, Slot, TaskId};
use steadfast_core::task::{Attempt, Fence, OnParentFailure, PAYLOAD_BYTES_MAX, State, Task};

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
    /// Limits of queues.
    pub const LIMIT: Table = Table(3);
}

/// A row.
#[derive(Debug, Clone)]
pub enum StoreRow {
    /// A task. Shared, because versions, snapshots and answers hold it.
    Task(Arc<TaskRow>),
    /// An edge.
    Edge(EdgeRow),
    /// An attempt.
    Attempt(Arc<AttemptRow>),
    /// A queue's limit.
    Limit(LimitRow),
}

/// A task, and its place in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// The task.
    pub task: Task,
    /// Rises with every insert.
    pub seq: u64,
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

/// A queue's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRow {
    /// The queue.
    pub queue: Queue,
    /// How many may run at once.
    pub concurrency: Option<u32>,
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
    /// Of a limit.
    Limit(Queue),
}

/// A key of another unique index. Both indexes are partial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UniqueKey {
    /// One task per idempotency key.
    Key(Key),
    /// One unfinished task per slot.
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
            StoreRow::Limit(_) => table::LIMIT,
        }
    }

    fn key(&self) -> RowKey {
        match self {
            StoreRow::Task(row) => RowKey::Task(row.task.id.clone()),
            StoreRow::Edge(row) => RowKey::Edge(row.parent.clone(), row.child.clone()),
            StoreRow::Attempt(row) => RowKey::Attempt(row.task.clone(), row.attempt.fence),
            StoreRow::Limit(row) => RowKey::Limit(row.queue.clone()),
        }
    }

    fn uniques(&self) -> impl Iterator<Item = UniqueKey> {
        let task = match self {
            StoreRow::Task(row) => Some(&row.task),
            StoreRow::Edge(_) | StoreRow::Attempt(_) | StoreRow::Limit(_) => None,
        };
        let key = task.and_then(|task| task.key.clone()).map(UniqueKey::Key);
        let slot = task.filter(|task| !task.state.is_terminal()).and_then(|task| task.slot.clone());
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
            StoreRow::Task(_) | StoreRow::Edge(_) | StoreRow::Attempt(_) | StoreRow::Limit(_) => Ok(()),
        }
    }
}

impl StoreRow {
    /// A row of the table of tasks.
    pub fn task(task: Task, seq: u64) -> Self {
        StoreRow::Task(Arc::new(TaskRow { task, seq }))
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

    /// The same row with its task changed.
    pub fn with(&self, change: impl FnOnce(&mut Task)) -> Self {
        match self {
            StoreRow::Task(row) => {
                let mut row = TaskRow::clone(row);
                change(&mut row.task);
                StoreRow::Task(Arc::new(row))
            }
            other => unreachable!("a row of the table of tasks, not {other:?}"),
        }
    }

    /// Whether it is a task in this state.
    pub fn is_in(&self, state: State) -> bool {
        self.as_task().state == state
    }
}
