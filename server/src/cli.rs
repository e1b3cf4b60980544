//! The command line: what may be said, and how it is read. No decisions.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use steadfast::core::task::{Due, OnConflict};
use steadfast::{Key, Kind, Queue, Slot, State, StoreUrl, TaskId, Timestamp};

use crate::api::{limit, state};
use crate::bench::Bench;
use crate::request::{deadline, on_conflict};
use crate::units::{duration, some_duration, time};

/// Where to look where nothing is said.
pub const DEFAULT_STORE: &str = "sqlite:steadfast.db";

/// Durable tasks: accepted once, run to an end, and never lost track of.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(
    after_help = "Durations are 500ms, 30s, 10m, 2h. Exit codes: 0 ok, 1 the task failed, 2 usage, 3 not found, \
                        4 refused, 5 store or server unreachable, 130 interrupted; `run` exits as its command does. \
                        STEADFAST_LOG says what is logged on stderr, such as debug."
)]
pub struct Cli {
    /// What goes with every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What goes with every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where tasks live: sqlite:PATH or postgres://… [default: sqlite:steadfast.db]
    #[arg(long, global = true, env = "STEADFAST_STORE", value_name = "URL", help_heading = "Global options")]
    pub store: Option<StoreUrl>,
    /// Talk to this server instead of a store, such as http://127.0.0.1:7878
    #[arg(
        long,
        global = true,
        env = "STEADFAST_SERVER",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub server: Option<String>,
    /// The token for the server; with `serve`, one that it accepts
    #[arg(
        long,
        global = true,
        env = "STEADFAST_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Global options"
    )]
    pub token: Option<String>,
    /// Write JSON, for machines
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the HTTP API, and run the configured handlers
    Serve(Serve),
    /// Run the configured handlers, without an API
    Worker(Worker),
    /// Run a command here as a durable task, and exit as it does
    Run(Run),
    /// Submit a task
    Submit(Submit),
    /// Show a task
    Status(One),
    /// List tasks, newest first
    List(List),
    /// Show what becomes of a task, until it has ended
    Watch(One),
    /// Wait until a task has ended
    Wait(Wait),
    /// Show what a task's attempts have written
    Logs(Logs),
    /// Say where a task is and why, and what happens next
    Diagnose(One),
    /// Cancel tasks
    Cancel(Cancel),
    /// Run tasks again that failed, were cancelled, or wait for another attempt
    Retry(Many),
    /// Show who holds which slot, or free one
    Slots(Slots),
    /// Show the queues
    Queues,
    /// Pause, resume or limit queues
    Queue(Queueing),
    /// Check a deployment: one PASS, WARN or FAIL line each
    Doctor,
    /// Bring a store's schema up to date, or make a new store
    Migrate,
    /// Forget tasks that ended long ago
    Prune(Prune),
    /// Measure this machine, on a temporary store of its own
    Bench(Bench),
    /// Search the simulator for what breaks under faults, or replay it
    #[cfg(feature = "sim")]
    Sim(crate::commands::sim::Sim),
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration [default: steadfast.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7878]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<String>,
    /// Serve the API only, and leave the tasks to other workers
    #[arg(long)]
    pub no_worker: bool,
    /// Accept tasks of kinds that no handler here is configured for
    #[arg(long)]
    pub allow_unknown_kinds: bool,
    /// How the worker works.
    #[command(flatten)]
    pub work: Work,
}

/// `worker`.
#[derive(Debug, Args)]
pub struct Worker {
    /// The configuration [default: steadfast.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The queues to serve, parted by commas [default: `default` and those of the configuration]
    #[arg(long, value_name = "QUEUES", value_delimiter = ',')]
    pub queues: Vec<Queue>,
    /// How the worker works.
    #[command(flatten)]
    pub work: Work,
}

/// How a worker works.
#[derive(Debug, Args)]
pub struct Work {
    /// How many attempts at once [default: 16]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// How long a lease lasts: a dead worker's tasks are taken up after it [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = some_duration)]
    pub lease: Option<Duration>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The task's id [default: a new UUIDv7]
    #[arg(long, conflicts_with = "resume")]
    pub id: Option<TaskId>,
    /// Carry on the command of this task, which an earlier `run` left behind
    #[arg(long, value_name = "ID", conflicts_with_all = ["command", "queue", "slot", "timeout", "attempts", "rescues"])]
    pub resume: Option<TaskId>,
    /// Wait in this queue, whose limit then counts [default: one of its own]
    #[arg(long)]
    pub queue: Option<Queue>,
    /// Hold this slot while it runs
    #[arg(long)]
    pub slot: Option<Slot>,
    /// If the slot is taken: replace, reject, queue
    #[arg(long, value_name = "WHAT", value_parser = run_on_conflict, requires = "slot")]
    pub on_conflict: Option<OnConflict>,
    /// How long one attempt may take [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = some_duration)]
    pub timeout: Option<Duration>,
    /// How many attempts it has
    #[arg(long, value_name = "N", default_value = "1")]
    pub attempts: NonZeroU32,
    /// How often it may be carried on after its worker died; 0 = at most once [default: 5]
    #[arg(long, value_name = "N")]
    pub rescues: Option<u32>,
    /// How long the lease lasts: after that long without a sign of life the task can be carried on [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = some_duration)]
    pub lease: Option<Duration>,
    /// The command and its arguments; its stdin is empty, for it may be carried on elsewhere
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "resume")]
    pub command: Vec<OsString>,
}

/// `submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// Which handler
    #[arg(required_unless_present = "bulk")]
    pub kind: Option<Kind>,
    /// Submit many: a file with a task's JSON on each line, as POST /v1/tasks takes it; - for stdin
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "kind", "payload", "id", "key", "queue", "slot", "after", "delay", "at", "priority", "attempts", "rescues",
            "timeout", "deadline", "wait",
        ]
    )]
    pub bulk: Option<PathBuf>,
    /// What the handler is given: JSON, or @FILE, or - for stdin, as they are
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// The task's id [default: a new UUIDv7]
    #[arg(long)]
    pub id: Option<TaskId>,
    /// An idempotency key: the same again is answered with the first task
    #[arg(long)]
    pub key: Option<Key>,
    /// Where it waits [default: the handler's queue, or `default`]
    #[arg(long)]
    pub queue: Option<Queue>,
    /// A slot: at most one unfinished task holds it
    #[arg(long)]
    pub slot: Option<Slot>,
    /// If the slot is taken: replace, reject, queue, join [default: reject]
    #[arg(long, value_name = "WHAT", value_parser = on_conflict, requires = "slot")]
    pub on_conflict: Option<OnConflict>,
    /// Wait for these tasks to succeed first; several are parted by commas
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub after: Vec<TaskId>,
    /// Not before this long from now
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "at")]
    pub delay: Option<Duration>,
    /// Not before this time, such as 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<Timestamp>,
    /// Smaller runs first
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    pub priority: i16,
    /// How many attempts it has [default: the handler's, or 3]
    #[arg(long, value_name = "N")]
    pub attempts: Option<NonZeroU32>,
    /// How many attempts it may lose to dead workers; 0 = at most once [default: the handler's, or 5]
    #[arg(long, value_name = "N")]
    pub rescues: Option<u32>,
    /// How long one attempt may take [default: the handler's, or 1h]
    #[arg(long, value_name = "DURATION", value_parser = some_duration)]
    pub timeout: Option<Duration>,
    /// Fail unless it has ended this long from now, or at this time [default: none]
    #[arg(long, value_name = "DURATION|TIME", value_parser = deadline)]
    pub deadline: Option<Due>,
    /// Wait until it has ended, and exit 0 if it succeeded and 1 if not
    #[arg(long)]
    pub wait: bool,
    /// Where the handlers' defaults stand [default: steadfast.toml, if it is there; a server has its own]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `status`.
#[derive(Debug, Args)]
pub struct One {
    /// Which task
    pub id: TaskId,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// In this state: blocked, scheduled, ready, running, succeeded, failed, cancelled
    #[arg(long, value_parser = state)]
    pub state: Option<State>,
    /// In this queue
    #[arg(long)]
    pub queue: Option<Queue>,
    /// In this slot
    #[arg(long)]
    pub slot: Option<Slot>,
    /// Of this kind
    #[arg(long)]
    pub kind: Option<Kind>,
    /// How many at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = limit)]
    pub limit: u32,
    /// Older than this task: the last one of the page before
    #[arg(long, value_name = "ID")]
    pub cursor: Option<TaskId>,
}

/// `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Which task
    pub id: TaskId,
    /// How long at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// `cancel`.
#[derive(Debug, Args)]
pub struct Cancel {
    /// Which tasks
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<TaskId>,
    /// Why, for the record
    #[arg(long, default_value = "cancelled from the command line")]
    pub reason: String,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Which task
    pub id: TaskId,
    /// Go on until it has ended
    #[arg(short, long)]
    pub follow: bool,
}

/// `retry`.
#[derive(Debug, Args)]
pub struct Many {
    /// Which tasks
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<TaskId>,
}

/// `slots`.
#[derive(Debug, Args)]
pub struct Slots {
    /// Only this one
    pub slot: Option<Slot>,
    /// Cancel its holder: the next that waits takes it
    #[arg(long, requires = "slot")]
    pub cancel: bool,
}

/// `queue`.
#[derive(Debug, Args)]
pub struct Queueing {
    /// What to do with them.
    #[command(subcommand)]
    pub act: QueueAct,
}

/// What can be done with queues.
#[derive(Debug, Subcommand)]
pub enum QueueAct {
    /// Claim nothing more from these queues; what runs goes on
    Pause(Queues),
    /// Claim from these queues again
    Resume(Queues),
    /// Set how many of a queue's tasks may run at once, on all workers together
    Limit {
        /// Which queue
        queue: Queue,
        /// How many; `none` lifts the limit
        #[arg(value_name = "N|none", value_parser = concurrency)]
        concurrency: Concurrency,
    },
}

/// Some queues.
#[derive(Debug, Args)]
pub struct Queues {
    /// Which queues
    #[arg(required = true, value_name = "QUEUE")]
    pub queues: Vec<Queue>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency(pub Option<u32>);

/// `prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Those that ended at least so long ago; a task with a key is kept for a day in any case
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older: Duration,
}

fn concurrency(text: &str) -> Result<Concurrency, String> {
    match (text, text.parse()) {
        ("none", _) => Ok(Concurrency(None)),
        (_, Ok(number)) => Ok(Concurrency(Some(number))),
        (_, Err(_)) => Err("must be a whole number from 0, or none".into()),
    }
}

/// A command's process can't run as another task.
fn run_on_conflict(word: &str) -> Result<OnConflict, String> {
    match on_conflict(word) {
        Ok(OnConflict::Join) | Err(_) => Err(format!("must be replace, reject or queue, not {word:?}")),
        Ok(on_conflict @ (OnConflict::Replace | OnConflict::Reject | OnConflict::Queue)) => Ok(on_conflict),
    }
}

/// An address and a port, as text: what it stands for is looked up when it is used.
fn address(text: &str) -> Result<String, String> {
    match text.to_socket_addrs() {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{error}: write it as 127.0.0.1:7878, or 127.0.0.1:0 for any free port")),
    }
}
