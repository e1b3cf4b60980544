//! The model: a task, its states and causes, and what a caller asks for when it submits one. Plain data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::name::{Key, Kind, Queue, Slot, TaskId, WorkerId};
use crate::time::Timestamp;

/// A payload or an output: bytes to us, JSON by convention, kept byte for byte.
pub type Payload = Arc<[u8]>;

/// Rises by one with every change of a task, except the renewal of its lease.
pub type Revision = u64;

/// Rises with every claim of a task, for ever. With the task's id it is the token on every write of an attempt.
pub type Fence = u64;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Waits for parents that haven't ended.
    Blocked = 0,
    /// Due later.
    Scheduled = 1,
    /// May be claimed.
    Ready = 2,
    /// Leased by a worker.
    Running = 3,
    /// Ended well.
    Succeeded = 4,
    /// Ended badly; the cause says how.
    Failed = 5,
    /// Ended because somebody wanted it to.
    Cancelled = 6,
}

impl State {
    /// All states, in the order of a task's life.
    pub const ALL: [State; 7] = [
        State::Blocked,
        State::Scheduled,
        State::Ready,
        State::Running,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
    ];

    /// Whether the task has ended. A terminal state is never left.
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Blocked | State::Scheduled | State::Ready | State::Running => false,
            State::Succeeded | State::Failed | State::Cancelled => true,
        }
    }

    /// Whether the task hasn't ended and nobody works on it.
    pub const fn is_waiting(self) -> bool {
        match self {
            State::Blocked | State::Scheduled | State::Ready => true,
            State::Running | State::Succeeded | State::Failed | State::Cancelled => false,
        }
    }

    /// The number under which stores keep the state.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state with this number.
    pub fn from_code(code: i64) -> Option<State> {
        usize::try_from(code).ok().and_then(|code| State::ALL.get(code).copied())
    }

    /// The word that people and interfaces see.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Blocked => "blocked",
            State::Scheduled => "scheduled",
            State::Ready => "ready",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word that stores keep and people see.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The one with this word.
            pub fn from_word(word: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(
    /// Why a task or an attempt ended. The details are in the task's `error` text.
    Cause {
        /// The handler said that it is done.
        Done = "done",
        /// The handler reported an error.
        Error = "error",
        /// The handler panicked.
        Panic = "panic",
        /// The attempt took longer than its timeout.
        Timeout = "timeout",
        /// The program exited with another code than 0.
        ExitCode = "exit_code",
        /// The program was ended by a signal.
        Signal = "signal",
        /// The program could not be started.
        NotStarted = "not_started",
        /// The attempt's lease lapsed: its worker died, froze or lost the store.
        LeaseLapsed = "lease_lapsed",
        /// The lease lapsed more often than the task's rescues allow.
        RescuesUsedUp = "rescues_used_up",
        /// A parent failed or was cancelled, and the edge's policy is to fail.
        DependencyFailed = "dependency_failed",
        /// The task's deadline passed.
        Deadline = "deadline",
        /// Somebody cancelled the task, or its handler did.
        Cancelled = "cancelled",
        /// A newer task took the slot.
        Replaced = "replaced",
        /// The handler asked to go on later; the attempt was given back.
        Snoozed = "snoozed",
        /// The worker was drained; the attempt was given back.
        Drained = "drained",
        /// The outcome could not be stored; the error says why.
        Unrecordable = "unrecordable",
    }
);

words!(
    /// What becomes of a child when this parent fails or is cancelled.
    OnParentFailure {
        /// The child fails with cause `dependency_failed`.
        Fail = "fail",
        /// The child runs all the same.
        Run = "run",
    }
);

words!(
    /// What happens when a task is submitted for a slot that an unfinished task holds.
    OnConflict {
        /// The holder is cancelled (cause `replaced`) and the newcomer takes the slot, in one commit.
        Replace = "replace",
        /// The newcomer is refused.
        Reject = "reject",
        /// The newcomer is stored and waits, in the order of arrival, until the slot is free.
        Queue = "queue",
        /// No new task: the caller is answered with the holder, where the payload is the same.
        Join = "join",
    }
);

/// A task as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// What it is about.
    pub kind: Kind,
    /// Where it waits.
    pub queue: Queue,
    /// Where it is.
    pub state: State,
    /// Why it, or its last attempt, ended.
    pub cause: Option<Cause>,
    /// What went wrong last, for people.
    pub error: Option<String>,
    /// How often it has changed.
    pub rev: Revision,
    /// Attempts that count towards the maximum.
    pub attempt: u32,
    /// How many attempts it has.
    pub attempts_max: u32,
    /// Attempts lost to a dead or stopped worker.
    pub rescues: u32,
    /// How many such losses it survives; 0 = at most once.
    pub rescues_max: u32,
    /// How often it was claimed.
    pub fence: Fence,
    /// The slot that it holds until it ends, or waits for.
    pub slot: Option<Slot>,
    /// Whether it waits for its slot, `blocked`, behind the holder and those that came before it.
    pub slot_waiting: bool,
    /// Its idempotency key.
    pub key: Option<Key>,
    /// Smaller runs first.
    pub priority: i16,
    /// What the handler is given.
    pub payload: Payload,
    /// What the handler gave back.
    pub output: Option<Payload>,
    /// When it was stored.
    pub submitted_at: Timestamp,
    /// When it may run.
    pub due_at: Timestamp,
    /// When it fails, with cause `deadline`, unless it has ended. Where it runs then, its handler is told to stop, and has its
    /// grace.
    pub deadline_at: Option<Timestamp>,
    /// When it was last claimed.
    pub claimed_at: Option<Timestamp>,
    /// When the last attempt's handler was entered; unknown while the worker hasn't said so.
    pub entered_at: Option<Timestamp>,
    /// What the last attempt's handler last said about how far it is.
    pub progress: Option<Progress>,
    /// The last report of the last attempt's handler: progress, a line of log, a checkpoint or an alias.
    pub reported_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Until when its worker holds it.
    pub lease_expires_at: Option<Timestamp>,
    /// Who claimed it last.
    pub worker: Option<WorkerId>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long it waits before another attempt.
    pub backoff: Backoff,
    /// Why it should stop, once somebody asked.
    pub cancel: Option<String>,
    /// Parents that haven't ended.
    pub parents_pending: u32,
    /// The request it was made from, for idempotency.
    pub digest: u64,
    /// The last transition's mark, for recognising a repeated one.
    pub mark: u64,
}

/// How far an attempt is, in its handler's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What it is doing, for people; at most [`PROGRESS_BYTES_MAX`] bytes.
    pub message: String,
}

/// The longest message of a progress report.
pub const PROGRESS_BYTES_MAX: usize = 1_024;
/// The longest line of a log; a longer one is cut.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;
/// The most that is kept of one attempt's log.
pub const LOG_BYTES_MAX: usize = 1 << 20;
/// The longest name of a checkpoint.
pub const CHECKPOINT_NAME_BYTES_MAX: usize = 128;
/// The most checkpoints that a task may have.
pub const CHECKPOINTS_MAX: usize = 1_000;
/// How long a task that ended keeps its idempotency key at least, however eagerly tasks are pruned.
pub const KEY_KEPT: Duration = Duration::from_secs(24 * 3600);

words!(
    /// Where a line of a log came from.
    Stream {
        /// The program's standard output.
        Stdout = "stdout",
        /// The program's standard error.
        Stderr = "stderr",
        /// The handler itself, or its worker.
        Log = "log",
    }
);

/// A line of an attempt's log. With the task and the fence its number is its identity: storing it again changes
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// From 1, in the attempt's order.
    pub number: u32,
    /// How long before the report that carries it it was written.
    pub ago: Duration,
    /// Where it came from.
    pub stream: Stream,
    /// The text, without its line break.
    pub text: String,
}

/// A line of a log as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Which attempt wrote it.
    pub fence: Fence,
    /// From 1, in the attempt's order.
    pub number: u32,
    /// When it was written, by the store's clock.
    pub at: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// The text.
    pub text: String,
}

/// The result of a finished step of a handler, for the attempts that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which step; at most [`CHECKPOINT_NAME_BYTES_MAX`] bytes, unique within the task.
    pub name: String,
    /// What came of it: bytes to us, JSON by convention.
    pub value: Payload,
}

/// The wait before another attempt: `min × 2ⁿ`, at most `max`, ± 20 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// Before the second attempt.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Backoff {
    /// 1 s, doubling up to 5 min.
    fn default() -> Self {
        Self { min: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

/// When a new task may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// This long after it was stored.
    After(Duration),
    /// At this time by the store's clock.
    At(Timestamp),
}

/// A parent that must end before the task may run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parent {
    /// The task waited for.
    pub id: TaskId,
    /// What happens if it doesn't succeed.
    pub on_failure: OnParentFailure,
}

/// What a caller asks for. The defaults are those of the published interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// Its identity, chosen before it is stored.
    pub id: TaskId,
    /// What it is about.
    pub kind: Kind,
    /// Where it waits.
    pub queue: Queue,
    /// The slot it takes, and what happens if that is held.
    pub slot: Option<(Slot, OnConflict)>,
    /// Its idempotency key.
    pub key: Option<Key>,
    /// Smaller runs first.
    pub priority: i16,
    /// What the handler is given.
    pub payload: Payload,
    /// When it may run.
    pub due: Due,
    /// When it fails unless it has ended; [`Due::Now`] makes no sense here and is refused.
    pub deadline: Option<Due>,
    /// How many attempts it has, at least 1.
    pub attempts_max: u32,
    /// How many lost attempts it survives; 0 = at most once.
    pub rescues_max: u32,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long it waits before another attempt.
    pub backoff: Backoff,
    /// What must end before.
    pub parents: Vec<Parent>,
    /// Which of its settings nobody asked for.
    pub defaulted: Defaulted,
}

/// Settings that a caller left to the service, which filled them in. They aren't part of the request: by the time it is
/// sent again, to be on the safe side, the service may have other defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaulted {
    /// [`NewTask::queue`].
    pub queue: bool,
    /// [`NewTask::attempts_max`].
    pub attempts_max: bool,
    /// [`NewTask::rescues_max`].
    pub rescues_max: bool,
    /// [`NewTask::timeout`].
    pub timeout: bool,
}

/// Attempts where the caller names none.
pub const ATTEMPTS_MAX: u32 = 3;
/// Rescues where the caller names none.
pub const RESCUES_MAX: u32 = 5;
/// The attempt timeout where the caller names none.
pub const TIMEOUT: Duration = Duration::from_secs(3600);
/// The largest payload or output that any configuration allows, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// The most parents that one task may have.
pub const PARENTS_MAX: usize = 1_000;

impl NewTask {
    /// A task of this kind with every default: queue `default`, 3 attempts, 5 rescues, 1 h a attempt, due at once.
    pub fn new(id: TaskId, kind: Kind, payload: impl Into<Payload>) -> Self {
        Self {
            id,
            kind,
            queue: Queue::default_queue(),
            slot: None,
            key: None,
            priority: 0,
            payload: payload.into(),
            due: Due::Now,
            deadline: None,
            attempts_max: ATTEMPTS_MAX,
            rescues_max: RESCUES_MAX,
            timeout: TIMEOUT,
            backoff: Backoff::default(),
            parents: Vec::new(),
            defaulted: Defaulted::default(),
        }
    }

    /// A number that is equal for equal requests. The id isn't part of it: under one key, ids made by the
    /// library differ while the request is the same. Nor is what was [defaulted](Defaulted).
    pub fn digest(&self) -> u64 {
        // Every field is named, so that a new one can't be forgotten.
        let Self {
            id: _,
            kind,
            queue,
            slot,
            key,
            priority,
            payload,
            due,
            deadline,
            attempts_max,
            rescues_max,
            timeout,
            backoff,
            parents,
            defaulted,
        } = self;
        let Defaulted {
            queue: no_queue,
            attempts_max: no_attempts,
            rescues_max: no_rescues,
            timeout: no_timeout,
        } = *defaulted;
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let mut text = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        text(kind.as_str());
        text(if no_queue { "" } else { queue.as_str() });
        match slot {
            Some((slot, on_conflict)) => {
                text(slot.as_str());
                text(on_conflict.as_str());
            }
            None => text(""),
        }
        text(key.as_ref().map_or("", Key::as_str));
        for parent in parents {
            text(parent.id.as_str());
            text(parent.on_failure.as_str());
        }
        let moment = |due| match due {
            Due::Now => (0_u8, 0_i64),
            Due::After(delay) => (1, crate::time::micros(delay)),
            Due::At(at) => (2, at.as_micros()),
        };
        let (due_kind, due_at) = moment(*due);
        let asked = |number, defaulted| if defaulted { -1 } else { number };
        let numbers = [
            i64::from(*priority),
            i64::from(due_kind),
            due_at,
            asked(i64::from(*attempts_max), no_attempts),
            asked(i64::from(*rescues_max), no_rescues),
            asked(crate::time::micros(*timeout), no_timeout),
            crate::time::micros(backoff.min),
            crate::time::micros(backoff.max),
        ];
        for number in numbers {
            hash.update(&number.to_le_bytes());
        }
        if let Some((kind, deadline)) = deadline.map(moment) {
            hash.update(&[kind]);
            hash.update(&deadline.to_le_bytes());
        }
        hash.update(payload);
        hash.digest()
    }
}

/// An attempt that another attempt followed. The last attempt's facts are in the task itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The fence it ran under.
    pub fence: Fence,
    /// Its number when it ran.
    pub attempt: u32,
    /// Who ran it.
    pub worker: WorkerId,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When its handler was entered, if the worker said so.
    pub entered_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it ended.
    pub cause: Cause,
    /// What went wrong, for people.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests;
