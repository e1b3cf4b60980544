//! The vocabulary of writes: small guarded steps that the core composes and a storage executes.
//!
//! Those about tasks are [`Insert`], [`Transition`], [`Renewal`] and [`Report`]; the others keep house: [`QueueLimit`],
//! [`QueuePause`], [`Beat`] and [`Prune`]. Claiming is the one write outside
//! ([`Storage::claim`](crate::Storage::claim)). Settling, retrying, snoozing, cancelling, replacing and rescuing are
//! all a `Transition` with another guard and another change, so that a storage has one statement to get right.
//!
//! Steps say durations, never times: when a lease lapses or a task is due is the store's clock's business.

use std::time::Duration;

use crate::name::{Kind, Queue, TaskId, WorkerId};
use crate::task::{Cause, Checkpoint, Fence, LogLine, NewTask, Payload, Progress, Revision, State};

/// Steps that are applied together or not at all. Reports and what keeps house stand alone in their batch.
///
/// Within one call of [`Storage::apply`](crate::Storage::apply) at most one transition, renewal or report may name a
/// task.
/// Inside a batch, transitions come before inserts, whatever order they stand in; a task may name a parent that
/// the same batch inserts before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// At least one.
    pub steps: Vec<Step>,
}

impl From<Step> for Batch {
    fn from(step: Step) -> Self {
        Self { steps: vec![step] }
    }
}

/// One guarded write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Stores a new task.
    Insert(Insert),
    /// Moves a task from one state to another.
    Transition(Transition),
    /// Prolongs a lease.
    Renew(Renewal),
    /// Records what a handler says while it runs.
    Report(Report),
    /// Sets or lifts a queue's limit.
    Limit(QueueLimit),
    /// Pauses or resumes a queue.
    Pause(QueuePause),
    /// Says that a worker lives.
    Beat(Beat),
    /// Forgets tasks that ended long ago.
    Prune(Prune),
}

impl Step {
    /// The task that is there already and that the step is about. One call is about each once at most.
    pub fn guarded(&self) -> Option<&TaskId> {
        match self {
            Step::Transition(transition) => Some(&transition.task),
            Step::Renew(renewal) => Some(&renewal.task),
            Step::Report(report) => Some(&report.task),
            Step::Insert(_) | Step::Limit(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => None,
        }
    }
}

/// Stores a new task with its edges.
///
/// Guards, in this order: the id is unknown (known with the same digest: already; else [`Refusal::IdTaken`]); the key
/// is unknown (likewise, [`Refusal::KeyTaken`]); every parent exists ([`Refusal::ParentMissing`]); no unfinished task
/// holds the slot ([`Refusal::SlotTaken`]), unless the request says
/// [`OnConflict::Queue`](crate::task::OnConflict::Queue): then the new task is stored and waits for it.
///
/// A slot has at most one holder: the unfinished task in it that isn't `slot_waiting`. Whoever decides by the holder
/// share-locks it, like a parent: a task is never stored behind one that is neither locked nor stored by the same call.
/// A task that waits for its slot is `blocked`, whatever else it waits for.
///
/// The parents are share-locked before they are read. Children of what ends in the same call are
/// released before: an edge that is added counts its parent as it is then, and is not released for that end again. The new task is `failed` with cause `dependency_failed` if one
/// of them has failed or was cancelled and its edge says so; else `blocked` while one is unfinished; else `scheduled`
/// or `ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// The request.
    pub task: NewTask,
    /// [`NewTask::digest`], computed once.
    pub digest: u64,
}

impl From<NewTask> for Insert {
    fn from(task: NewTask) -> Self {
        let digest = task.digest();
        Self { task, digest }
    }
}

/// Moves a task to another state, if it is still as the guard says.
///
/// A move to a terminal state also releases the task's children, in a later statement of the same transaction: a
/// child whose edge is satisfied loses one from its counter and becomes `scheduled` or `ready` at zero; a child
/// whose edge isn't fails with cause `dependency_failed`, and its children are released in turn.
///
/// Last of all in the call, after the inserts, each slot that lost its holder goes to the first of those that wait for
/// it, in the order of arrival: its revision rises, and it becomes `blocked`, `scheduled` or `ready` as if it were new. A newcomer that took
/// the slot in the same batch ([`decide::replace`](crate::decide::replace)) was quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Which task.
    pub task: TaskId,
    /// What must hold.
    pub guard: Guard,
    /// What becomes of it.
    pub change: Change,
    /// Tells this transition from every other; a task keeps its last one. See [`Outcome::Already`].
    pub mark: u64,
}

/// What must hold for a transition, judged under the row's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The states that the task may be in.
    pub from: States,
    /// The fence that it must have. Required wherever `from` is `Running` and the change ends the attempt for the
    /// sake of its worker.
    pub fence: Option<Fence>,
    /// Whether nobody may have asked to cancel it.
    pub unless_cancel_requested: bool,
    /// Whether its lease must have lapsed, by the store's clock.
    pub lease_lapsed: bool,
    /// Whether its deadline must have passed, by the store's clock.
    pub overdue: bool,
}

/// A set of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u8);

impl States {
    /// `blocked`, `scheduled` and `ready`.
    pub const WAITING: States = States::of(&[State::Blocked, State::Scheduled, State::Ready]);
    /// `running`.
    pub const RUNNING: States = States::of(&[State::Running]);
    /// All that aren't terminal.
    pub const UNFINISHED: States =
        States::of(&[State::Blocked, State::Scheduled, State::Ready, State::Running]);

    /// These states.
    pub const fn of(states: &[State]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            bits |= 1 << states[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether the state is one of them.
    pub const fn contains(self, state: State) -> bool {
        self.0 & (1 << state as u8) != 0
    }

    /// Bit `n` stands for the state with code `n`.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// What a transition writes. The revision rises by one in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The new state. From `Running` to a waiting state the ended attempt gets a history row of its own; to a
    /// terminal state its history stays in the task. Anything but `Running` ends the lease.
    pub to: State,
    /// For `Scheduled`: due this long after the store's now. Zero for every other state. Then due stays as it is, but that what
    /// becomes `Ready` is due now at the latest.
    pub delay: Duration,
    /// Whether the attempt is taken off the count again: snoozed, drained or rescued.
    pub give_back_attempt: bool,
    /// Whether this is a rescue, and counts as one.
    pub rescue: bool,
    /// Why the attempt or the task ended. `None` leaves what is there.
    pub cause: Option<Cause>,
    /// What went wrong, for people. Written together with a cause: `Some(cause)` with `None` here clears it.
    pub error: Option<String>,
    /// The result. `None` leaves what is there.
    pub output: Option<Payload>,
    /// For `Running`: asks the worker to stop, for this reason.
    pub request_cancel: Option<String>,
    /// How long ago the handler was entered, where the worker knows: kept unless it is known already.
    pub entered: Option<Duration>,
}

impl Change {
    /// A change of state alone.
    pub fn to(state: State) -> Self {
        Self {
            to: state,
            delay: Duration::ZERO,
            give_back_attempt: false,
            rescue: false,
            cause: None,
            error: None,
            output: None,
            request_cancel: None,
            entered: None,
        }
    }
}

impl Transition {
    /// Puts a transition together and computes its mark, from everything but the guard's optional parts and
    /// `entered`, which differs from one sending to the next.
    pub fn new(task: TaskId, guard: Guard, change: Change) -> Self {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let mut field = |tag: u8, bytes: &[u8]| {
            hash.update(&[tag]);
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(
            0,
            &[
                guard.from.bits(),
                change.to.code(),
                u8::from(change.rescue),
                u8::from(change.give_back_attempt),
            ],
        );
        field(1, &guard.fence.unwrap_or(u64::MAX).to_le_bytes());
        field(2, &crate::time::micros(change.delay).to_le_bytes());
        field(3, change.cause.map_or("", Cause::as_str).as_bytes());
        field(4, change.error.as_deref().unwrap_or("").as_bytes());
        field(5, change.request_cancel.as_deref().unwrap_or("").as_bytes());
        field(6, change.output.as_deref().unwrap_or(&[]));
        let mark = hash.digest();
        Self { task, guard, change, mark }
    }
}

/// Prolongs a lease to the store's now plus `lease`, if the task is running under this fence; also where the lease
/// has lapsed but nobody has rescued the task. Repeating it is harmless. No revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Which task.
    pub task: TaskId,
    /// Under which fence.
    pub fence: Fence,
    /// For how long from now.
    pub lease: Duration,
    /// How long ago the handler was entered: kept unless it is known already.
    pub entered: Option<Duration>,
}

/// What a handler says while it runs, if the task is running under this fence; else the batch is refused as stale and
/// nothing is kept. `reported_at` becomes the store's now. The revision rises by one where there is progress, and not
/// otherwise. Repeating it is harmless: lines are known by their number, checkpoints by their name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which task.
    pub task: TaskId,
    /// Under which fence.
    pub fence: Fence,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Lines for its log.
    pub lines: Vec<LogLine>,
    /// Steps that are finished; one of the same name is replaced.
    pub checkpoints: Vec<Checkpoint>,
    /// Another name under which the task is to be found: refused with [`Refusal::AliasTaken`] where it is the id of a task or an
    /// alias of another one; known already where it is this one's.
    pub alias: Option<TaskId>,
}

impl Report {
    /// A report that says nothing yet.
    pub fn new(task: TaskId, fence: Fence) -> Self {
        Self { task, fence, progress: None, lines: Vec::new(), checkpoints: Vec::new(), alias: None }
    }
}

/// Sets how many tasks of a queue may run at once; `None` lifts the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueLimit {
    /// Which queue.
    pub queue: Queue,
    /// How many; 0 lets none run.
    pub concurrency: Option<u32>,
}

/// Pauses a queue, so that nothing is claimed from it; or resumes it. What runs goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePause {
    /// Which queue.
    pub queue: Queue,
    /// Paused or not.
    pub paused: bool,
}

/// A worker's sign of life. The store keeps when it was first and last seen, by its own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Which incarnation.
    pub worker: WorkerId,
    /// From where it claims.
    pub queues: Vec<Queue>,
    /// What it can run.
    pub kinds: Vec<Kind>,
    /// How many attempts at once.
    pub concurrency: u32,
    /// How many attempts it has.
    pub running: u32,
    /// Whether it was drained and won't come back.
    pub gone: bool,
}

/// Forgets tasks that ended at least so long ago, with all that belongs to them: edges, attempts, logs, checkpoints,
/// aliases. A task with a key is kept for [`KEY_KEPT`](crate::task::KEY_KEPT) in any case. Workers that weren't seen
/// for as long as `otherwise`, and hold no running task, are forgotten too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// For those that succeeded.
    pub succeeded: Duration,
    /// For those that failed or were cancelled.
    pub otherwise: Duration,
    /// How many tasks at most, the longest ended first.
    pub limit: u32,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was applied just now, or stood already beside one that was.
    Applied(Vec<Receipt>),
    /// Every step had been applied before: an insert by id or key with the same digest; a transition by its mark on
    /// the task, or on the attempt's history row under the same fence.
    Already(Vec<Receipt>),
    /// A guard failed, and nothing of the batch was applied.
    Refused(Refused),
}

/// What a step left behind, in the order of the batch's steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// The task that stands for the request: the new one, or the one with the same key.
    Inserted(TaskId, Head),
    /// The task after the transition.
    Moved(Head),
    /// The lease was prolonged; the reason to stop, if somebody asked for it.
    Renewed {
        /// Why the attempt should stop.
        cancel: Option<String>,
    },
    /// The report was kept.
    Reported,
    /// The limit was set.
    Limited,
    /// The queue is paused or not, as asked.
    Paused,
    /// The worker was seen.
    Seen,
    /// So many tasks were forgotten.
    Pruned(u32),
}

/// The few facts about a task by which the core decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where it is.
    pub state: State,
    /// How often it has changed.
    pub rev: Revision,
    /// How often it was claimed.
    pub fence: Fence,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
}

/// Which step was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The first step of the batch whose guard failed.
    pub step: usize,
    /// Why.
    pub why: Refusal,
}

/// Why a guard failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such task.
    NotFound,
    /// The task isn't as the guard says; this is how it was found.
    Stale(Head),
    /// The id belongs to another request.
    IdTaken(Head),
    /// The key belongs to this task, made from another request.
    KeyTaken(TaskId, Head),
    /// This unfinished task holds the slot.
    SlotTaken(TaskId, Head),
    /// No such parent.
    ParentMissing(TaskId),
    /// The alias is the id of a task, or an alias of another one: this one.
    AliasTaken(TaskId),
}

impl From<Vec<Step>> for Batch {
    fn from(steps: Vec<Step>) -> Self {
        Self { steps }
    }
}
