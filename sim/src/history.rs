//! What happened in a run, in order: commits as the store made them, and what handlers and clients saw. The oracle
//! judges it; a failure prints it.

mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::name::{Queue, TaskId};
use steadfast_core::task::{Fence, Revision, Task};
use steadfast_core::{State, Timestamp};

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
    /// A cancel was told that it came too late, and had ended the task itself.
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
                    if let Some(before) = &before
                        && let Some(worker) = prolonged_by_another(before, &after, by)
                    {
                        let (task, by) = (after.id.clone(), by.to_owned());
                        state.entries.push(Entry { at, event: Event::Prolonged { task, worker, by } });
                    }
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

/// The worker whose lease a transaction of this process has prolonged, if it is another's.
fn prolonged_by_another(before: &Task, after: &Task, by: &str) -> Option<String> {
    let is_renewal = before.rev == after.rev && after.lease_expires_at > before.lease_expires_at;
    let worker = after.worker.as_ref().filter(|worker| is_renewal && worker.as_str() != by)?;
    Some(worker.to_string())
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

impl fmt::Display for Entry {
    /// One line, in the terms of tasks, leases and rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.since(crate::world::EPOCH).as_secs_f64();
        write!(f, "{seconds:>10.3}s  ")?;
        match &self.event {
            Event::Changed { before, after } => write_change(f, before.as_deref(), after),
            Event::Edge(edge) => {
                write!(f, "commit    edge {} → {} ({})", edge.parent, edge.child, edge.on_failure)
            }
            Event::Limited { queue, concurrency } => {
                write!(f, "commit    queue {queue} limit {concurrency:?}")
            }
            Event::Kept { task, fence, number: 0 } => {
                write!(f, "commit    {task} keeps a step of fence {fence}")
            }
            Event::Kept { task, fence, number } => {
                write!(f, "commit    {task} keeps line {number} of fence {fence}")
            }
            Event::Aliased { alias, task } => write!(f, "commit    {alias} stands for {task}"),
            Event::Pruned { task } => write!(f, "commit    {} is forgotten", task.id),
            Event::Lost { task } => write!(f, "store     has lost {}", task.id),
            Event::Reported { task, fence, number: 0, .. } => {
                write!(f, "handler   of {task} fence {fence} hears that a step was kept")
            }
            Event::Reported { task, fence, number, kept } => {
                let what = if *kept { "kept" } else { "refused" };
                write!(f, "handler   of {task} fence {fence} hears that line {number} was {what}")
            }
            Event::Submitting { task } => write!(f, "client    submits {task}"),
            Event::Submitted { task, answer } => write!(f, "client    is told about {task}: {answer:?}"),
            Event::Cancelled { task, acknowledged } => {
                let how = if *acknowledged { "acknowledged" } else { "came too late" };
                write!(f, "client    cancel of {task} {how}")
            }
            Event::Overlooked { task } => write!(f, "client    finds that its own cancel has ended {task}"),
            Event::Overdue { task, what } => write!(f, "client    finds that {task} waits too long {what}"),
            Event::Retrying { task } => write!(f, "client    asks to try {task} again"),
            Event::Entered { node, task, fence, .. } => {
                write!(f, "handler   {node} enters {task} fence {fence}")
            }
            Event::Told { task, fence, lost } => {
                let why = if *lost { ": its lease is lost" } else { "" };
                write!(f, "handler   of {task} fence {fence} is told to stop{why}")
            }
            Event::Said { task, fence, word } => {
                let says = match word {
                    Word::Done => "done",
                    Word::NotDone => "not done",
                    Word::Lost => "that it is lost",
                };
                write!(f, "handler   of {task} fence {fence} says {says}")
            }
            Event::Outlived { task, fence, .. } => {
                write!(f, "handler   of {task} fence {fence} is still at work")
            }
            Event::Prolonged { task, worker, by } => {
                write!(f, "commit    the lease of {worker} on {task} is prolonged by {by}")
            }
            Event::Held { task } => write!(f, "store     a stranger locks the row of {task}"),
            Event::Looked { reader, task, rev, state, .. } => {
                write!(f, "reader    {reader} is shown {task} {state} rev {rev}")
            }
            Event::Missed { reader, task, .. } => {
                write!(f, "reader    {reader} is told that there is no {task}")
            }
            Event::Follows { reader, task } => write!(f, "reader    {reader} follows {task}"),
            Event::Followed { reader, task, rev, state } => {
                write!(f, "reader    {reader} is told of {task} {state} rev {rev}")
            }
            of_world => write_of_world(f, of_world),
        }
    }
}

/// What happens to processes and to the store, and what the simulation notes itself.
fn write_of_world(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    match event {
        Event::Drained { node, attempts: 0 } => write!(f, "node      {node} is drained"),
        Event::Drained { node, attempts } => {
            write!(f, "node      {node} is drained and still knows {attempts} attempts")
        }
        Event::Closed { connections } => {
            write!(f, "store     has {connections} connections when everybody has gone")
        }
        Event::Draining { node } => write!(f, "node      {node} is told to drain"),
        Event::Started { node } => write!(f, "node      {node} starts"),
        Event::Crashed { node } => write!(f, "node      {node} crashes"),
        Event::Froze { node } => write!(f, "node      {node} freezes"),
        Event::Thawed { node } => write!(f, "node      {node} thaws"),
        Event::Noted { text, .. } => write!(f, "note      {text}"),
        Event::Asserted { .. } => write!(f, "test      fails"),
        Event::StoreCrashed { down } => {
            write!(f, "store     the database crashes and is down for {down:?}")
        }
        Event::Stalled { time } => write!(f, "store     a transaction has stood still for {time:?}"),
        Event::Jumped { node, micros } => {
            let seconds = Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
            let way = if *micros < 0 { "back" } else { "forward" };
            write!(f, "clock     of {node} jumps {way} by {seconds} s")
        }
        Event::Did { what } => write!(f, "client    {what}"),
        Event::Overran { by } => {
            write!(f, "—         it is {by:?} past the time by which all must have ended")
        }
        Event::Healed => write!(f, "—         faults stop"),
        Event::Calm => write!(f, "—         all that was under way is over"),
        Event::Met { faults } => write!(f, "—         there were {} kinds of faults", faults.len()),
        Event::Changed { .. }
        | Event::Edge(_)
        | Event::Limited { .. }
        | Event::Kept { .. }
        | Event::Aliased { .. }
        | Event::Pruned { .. }
        | Event::Lost { .. }
        | Event::Reported { .. }
        | Event::Submitting { .. }
        | Event::Submitted { .. }
        | Event::Cancelled { .. }
        | Event::Overlooked { .. }
        | Event::Overdue { .. }
        | Event::Retrying { .. }
        | Event::Entered { .. }
        | Event::Told { .. }
        | Event::Said { .. }
        | Event::Outlived { .. }
        | Event::Held { .. }
        | Event::Prolonged { .. }
        | Event::Looked { .. }
        | Event::Missed { .. }
        | Event::Follows { .. }
        | Event::Followed { .. } => unreachable!("written above"),
    }
}

fn write_change(f: &mut fmt::Formatter<'_>, before: Option<&Task>, after: &Task) -> fmt::Result {
    let from = before.map_or("–", |task| task.state.as_str());
    write!(f, "commit    {} {from} → {} rev {} fence {}", after.id, after.state, after.rev, after.fence)?;
    write!(f, " attempt {}/{}", after.attempt, after.attempts_max)?;
    if after.rescues > 0 {
        write!(f, " rescues {}/{}", after.rescues, after.rescues_max)?;
    }
    if after.parents_pending > 0 {
        write!(f, " waits for {}", after.parents_pending)?;
    }
    if let (true, Some(slot)) = (after.slot_waiting, &after.slot) {
        write!(f, " waits for slot {slot}")?;
    }
    if let (State::Running, Some(worker)) = (after.state, &after.worker) {
        write!(f, " by {worker}")?;
    }
    if let Some(cause) = after.cause {
        write!(f, " [{cause}]")?;
    }
    if after.cancel.is_some() {
        write!(f, " cancel asked for")?;
    }
    Ok(())
}
