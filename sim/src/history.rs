//! What happened in a run, in order: commits as the store made them, and what handlers and clients saw. The oracle
//! judges it; a failure prints it.

mod lines;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::name::{Queue, TaskId, WorkerId};
use steadfast_core::task::{Fence, Revision, Task};
use steadfast_core::{Cause, State, Timestamp};

use crate::storage::rows::{EdgeRow, RowKey, StoreRow};

pub use words::{Awaited, SubmitAnswer, Word};

/// One thing that happened.
#[derive(Debug, Clone, Hash)]
pub enum Event {
    /// A transaction changed a task.
    Changed {
        /// As it was before; `None` for a new one.
        before: Option<Arc<Task>>,
        /// As it is now.
        after: Arc<Task>,
    },
    /// A transaction added an edge.
    Edge(EdgeRow),
    /// A transaction set a queue's limit, or paused or resumed it.
    Limited {
        /// The queue.
        queue: Queue,
        /// How many may run: none while it is paused.
        concurrency: Option<u32>,
    },
    /// A transaction kept a line of a log, or a finished step.
    Kept {
        /// Of which task.
        task: TaskId,
        /// The fence under which it was said.
        fence: Fence,
        /// The line's number; 0 for a finished step.
        number: u32,
    },
    /// A transaction gave a task another name.
    Aliased {
        /// The other name.
        alias: TaskId,
        /// The task.
        task: TaskId,
    },
    /// A transaction forgot a task.
    Pruned {
        /// As it was.
        task: Arc<Task>,
    },
    /// A task that was committed isn't there any more.
    Lost {
        /// As it was.
        task: Arc<Task>,
    },
    /// A report of a handler was answered.
    Reported {
        /// The task.
        task: TaskId,
        /// The fence under which it was sent.
        fence: Fence,
        /// The number of the line that it brought; 0 for a finished step.
        number: u32,
        /// Whether it was kept.
        kept: bool,
    },
    /// A client sent a submit.
    Submitting {
        /// The id it gave.
        task: TaskId,
    },
    /// A submit was answered.
    Submitted {
        /// The id it gave.
        task: TaskId,
        /// What it was told.
        answer: SubmitAnswer,
    },
    /// A cancel was answered: acknowledged if the task was found unfinished.
    Cancelled {
        /// The task.
        task: TaskId,
        /// Whether it was acknowledged.
        acknowledged: bool,
    },
    /// A cancel was told that it came too late, and had ended the task itself, or the task hadn't ended.
    Overlooked {
        /// The task.
        task: TaskId,
    },
    /// It has waited for this for too long.
    Overdue {
        /// The task.
        task: TaskId,
        /// For what.
        what: Awaited,
    },
    /// Somebody asked to try a task again: at once where it waits for its time, and anew, as a task of its family, where it
    /// has ended.
    Retrying {
        /// The task.
        task: TaskId,
    },
    /// A handler was entered.
    Entered {
        /// The process.
        node: String,
        /// The id that it was given.
        task: TaskId,
        /// The id in its payload.
        payload_id: String,
        /// Its fence.
        fence: Fence,
    },
    /// A handler saw that it should stop.
    Told {
        /// The task.
        task: TaskId,
        /// The fence of the attempt.
        fence: Fence,
        /// Whether because its lease is lost.
        lost: bool,
    },
    /// A handler said its last word.
    Said {
        /// The task.
        task: TaskId,
        /// The fence of the attempt.
        fence: Fence,
        /// What it came to.
        word: Word,
    },
    /// A handler that hears nothing was still at work long after its attempt's timeout and grace.
    Outlived {
        /// The process.
        node: String,
        /// The task.
        task: TaskId,
        /// The fence of the attempt.
        fence: Fence,
    },
    /// A reader was shown a task.
    Looked {
        /// Who asked.
        reader: String,
        /// The task.
        task: TaskId,
        /// The revision that it was shown.
        rev: Revision,
        /// In which state.
        state: State,
        /// When it asked: it must be shown what was committed by then.
        asked_at: Timestamp,
    },
    /// A reader was told that there is no such task.
    Missed {
        /// Who asked.
        reader: String,
        /// The id that it asked for.
        task: TaskId,
        /// When it asked.
        asked_at: Timestamp,
    },
    /// A reader begins to follow a task, or goes on after its stream broke off.
    Follows {
        /// Who.
        reader: String,
        /// The task.
        task: TaskId,
    },
    /// A reader that follows a task was told of a revision.
    Followed {
        /// Who.
        reader: String,
        /// The task.
        task: TaskId,
        /// Which revision.
        rev: Revision,
        /// In which state.
        state: State,
    },
    /// A worker that was drained is through.
    Drained {
        /// Which.
        node: String,
        /// How many attempts its process still knows.
        attempts: usize,
    },
    /// Everybody has gone.
    Closed {
        /// How many connections the store still has.
        connections: usize,
    },
    /// A node started.
    Started {
        /// Which.
        node: String,
    },
    /// A node crashed.
    Crashed {
        /// Which.
        node: String,
    },
    /// A node stands still.
    Froze {
        /// Which.
        node: String,
    },
    /// A node goes on.
    Thawed {
        /// Which.
        node: String,
    },
    /// Something that isn't Steadfast's was noted: a fake was used, a test went on.
    Noted {
        /// In which process; `None` for the test itself.
        node: Option<String>,
        /// By the handler of which task.
        task: Option<TaskId>,
        /// What.
        text: String,
    },
    /// The test's own assertion failed.
    Asserted {
        /// What it said.
        what: String,
    },
    /// The database crashed; for so long it can't be reached.
    StoreCrashed {
        /// How long.
        down: Duration,
    },
    /// Another process than its worker's prolonged a task's lease.
    Prolonged {
        /// The task.
        task: TaskId,
        /// The worker that has the lease.
        worker: String,
        /// The process.
        by: String,
    },
    /// A stranger locks a task's row for longer than a lease.
    Held {
        /// The task.
        task: TaskId,
    },
    /// A worker was told to drain.
    Draining {
        /// Its process.
        node: String,
    },
    /// A transaction stood still with its locks, or waited long for the lock that SQLite has.
    Stalled {
        /// For how long.
        time: Duration,
    },
    /// A call was told that another had overtaken it, and nobody has committed since it began.
    Misled {
        /// Whose.
        node: String,
    },
    /// A clock was set forward, or back.
    Jumped {
        /// Whose: a node's, or the store's.
        node: String,
        /// How far, in microseconds.
        micros: i64,
    },
    /// Somebody asked for something, or saw something, that a sweep must come by.
    Did {
        /// As a goal.
        what: &'static str,
    },
    /// Faults have stopped, and not everything has ended within the bound that was computed for it.
    Overran {
        /// How much later it is.
        by: Duration,
    },
    /// From here on there are no faults.
    Healed,
    /// What was asked for while there were faults has been answered or lost since, and so has what had to wait for that.
    Calm,
    /// These kinds of faults have happened.
    Met {
        /// As goals.
        faults: Vec<&'static str>,
    },
    /// Another process than its worker's ended a running task for its deadline.
    CutShort {
        /// The task.
        task: TaskId,
        /// The worker that runs it.
        worker: String,
        /// The process.
        by: String,
    },
}

/// An event and when it happened, by the store's clock.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

/// A handle to a run's history. Clones are one history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    entries: Vec<Entry>,
    /// The newest committed version of each task.
    tasks: BTreeMap<TaskId, Arc<Task>>,
}

impl History {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn record(&self, at: Timestamp, event: Event) {
        self.lock().entries.push(Entry { at, event });
    }

    /// Adds what a transaction of this process has written: of its changes, which all happen at once, those that end a task first.
    pub(crate) fn committed(&self, at: Timestamp, by: &str, rows: &[StoreRow], deleted: &[RowKey]) {
        let state = &mut *self.lock();
        let ends = |row: &&StoreRow| matches!(row, StoreRow::Task(row) if row.task.state.is_terminal());
        for row in rows.iter().filter(ends).chain(rows.iter().filter(|row| !ends(row))) {
            let event = match row {
                StoreRow::Task(row) => {
                    let after = row.task.clone();
                    let before = state.tasks.insert(after.id.clone(), after.clone());
                    let by_another = before.as_ref().and_then(|before| done_by_another(before, &after, by));
                    state.entries.extend(by_another.map(|event| Entry { at, event }));
                    Event::Changed { before, after }
                }
                StoreRow::Edge(edge) if edge.gone => continue,
                StoreRow::Edge(edge) => Event::Edge(edge.clone()),
                StoreRow::Queue(row) => Event::Limited { queue: row.queue.clone(), concurrency: row.limit() },
                StoreRow::Log(row) => {
                    Event::Kept { task: row.task.clone(), fence: row.entry.fence, number: row.entry.number }
                }
                StoreRow::Checkpoint(row) => match fence_in(&row.checkpoint.value) {
                    Some(fence) => Event::Kept { task: row.task.clone(), fence, number: 0 },
                    None => continue,
                },
                StoreRow::Alias(row) => Event::Aliased { alias: row.alias.clone(), task: row.task.clone() },
                StoreRow::Attempt(_) | StoreRow::Worker(_) | StoreRow::Item(_) => continue,
            };
            state.entries.push(Entry { at, event });
        }
        for key in deleted {
            if let RowKey::Task(id) = key
                && let Some(task) = state.tasks.remove(id)
            {
                state.entries.push(Entry { at, event: Event::Pruned { task } });
            }
        }
    }

    /// Notes that the store is back where it was: these are all its rows.
    pub(crate) fn fell_back(&self, at: Timestamp, rows: &[StoreRow]) {
        let state = &mut *self.lock();
        let mut kept: BTreeMap<TaskId, Arc<Task>> = BTreeMap::new();
        for row in rows {
            if let StoreRow::Task(row) = row {
                kept.insert(row.task.id.clone(), row.task.clone());
            }
        }
        let before = std::mem::replace(&mut state.tasks, kept.clone());
        for (id, before) in before {
            let event = match kept.get(&id) {
                None => Event::Lost { task: before },
                Some(after) if **after != *before => {
                    Event::Changed { before: Some(before), after: after.clone() }
                }
                Some(_) => continue,
            };
            state.entries.push(Entry { at, event });
        }
    }

    /// The tasks that are stored now, by id.
    pub fn tasks(&self) -> BTreeMap<TaskId, Arc<Task>> {
        self.lock().tasks.clone()
    }

    /// The parents of each task, by the edges so far.
    pub(crate) fn parents(&self) -> BTreeMap<TaskId, Vec<TaskId>> {
        parents(&self.lock().entries)
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// Hands over everything so far: it isn't here any more.
    pub(crate) fn take_entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
    }

    /// Whether a task that is stored now is like this.
    pub(crate) fn any_task(&self, is: impl Fn(&Task) -> bool) -> bool {
        self.lock().tasks.values().any(|task| is(task))
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only the worker of a running task does to it, and a transaction of this process, which isn't that worker's, has
/// done: prolonged its lease, or ended it for its deadline.
fn done_by_another(before: &Task, after: &Task, by: &str) -> Option<Event> {
    let is_another = |worker: &&WorkerId| before.state == State::Running && worker.as_str() != by;
    let worker = before.worker.as_ref().filter(is_another)?.to_string();
    let (task, by) = (after.id.clone(), by.to_owned());
    if before.rev == after.rev && after.lease_expires_at > before.lease_expires_at {
        Some(Event::Prolonged { task, worker, by })
    } else if after.state.is_terminal() && after.cause == Some(Cause::Deadline) {
        Some(Event::CutShort { task, worker, by })
    } else {
        None
    }
}

/// The parents of each task, by the edges in a history.
pub(crate) fn parents(entries: &[Entry]) -> BTreeMap<TaskId, Vec<TaskId>> {
    let mut parents: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
    for entry in entries {
        if let Event::Edge(edge) = &entry.event {
            parents.entry(edge.child.clone()).or_default().push(edge.parent.clone());
        }
    }
    parents
}

/// The fence that an attempt of the simulation writes into whatever it leaves behind.
pub(crate) fn fence_in(bytes: &[u8]) -> Option<Fence> {
    std::str::from_utf8(bytes).ok()?.strip_prefix("fence ")?.parse().ok()
}
