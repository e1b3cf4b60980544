//! The handlers that run a task as a command: [`Exec`] for the commands of the operator's configuration, and
//! [`Recorded`] for those that `steadfast run` recorded.
//!
//! This is the glue between a task and a process: it knows what the subprocess contract makes of an attempt, and
//! leaves processes to [`subprocess`](crate::subprocess) and states to the core.
//!
//! The contract, in short. stdin is the payload. The environment is the worker's, without what that may have been told of
//! an attempt that it runs in itself. It has `STEADFAST_TASK_ID`, `STEADFAST_ATTEMPT`, `STEADFAST_FENCE`,
//! `STEADFAST_SLOT` where there is one, `STEADFAST_SERVER` where there is one, and `STEADFAST_OUTPUT`: what the command
//! writes to that file is the task's output, and nothing else is; a last line on stdout isn't, because programs print
//! there what they like. Both streams go into the task's log. A line on stdout may be a directive:
//! `::progress 40 half of it`, `::checkpoint NAME JSON`, `::alias ID`; on a later attempt `STEADFAST_CHECKPOINTS` names a
//! file with the checkpoints, one JSON object. Exit 0 succeeded, 65 failed for good, 75 gives the attempt back and asks to
//! come again, any other code or a signal is a failed attempt.

mod attempt;
mod lines;
mod recorded;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::handler::Running;
use steadfast_core::{Context, Handler};

use crate::subprocess::{Command, Control, Exit, GuardExe, Line, LineSink, Stream};
use attempt::TemporaryFailure;

pub use lines::hear;
pub use recorded::{InvalidRecord, RUN_KIND, Recorded, RunCommand};

/// The largest output where the options don't say, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// How commands are run, whatever they are.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's grace: how long an attempt may go on after it was told to stop. SIGTERM comes at once, SIGKILL a
    /// tenth before the end, so that the end can still be told.
    pub grace: Duration,
    /// The largest output, in bytes. More fails the task: a part of a result isn't a result.
    pub output_bytes_max: u64,
    /// The URL of the HTTP API, for `STEADFAST_SERVER`.
    pub server: Option<String>,
    /// The executable that acts as the guard.
    pub guard: GuardExe,
}

impl Options {
    /// For a worker with this grace: 1 MiB of output, no server, this same executable as the guard.
    pub fn new(grace: Duration) -> Self {
        Self { grace, output_bytes_max: OUTPUT_BYTES_MAX, server: None, guard: GuardExe::this_executable() }
    }

    /// From the order to stop until SIGKILL.
    fn kill_after(&self) -> Duration {
        self.grace / 10 * 9
    }
}

/// Sees what becomes of a handler's attempts.
pub trait Observer: Send + Sync + 'static {
    /// Takes an attempt's lines.
    type Lines: LineSink;

    /// A process is about to be started for this attempt: gives what takes its lines.
    fn lines(&self, context: &Context) -> Self::Lines;

    /// It was started. It can be ordered about with `control`, beside what the worker orders.
    fn started(&self, context: &Context, control: Control);

    /// The attempt's process has ended, or never ran.
    fn ended(&self, context: &Context, exit: &Exit);
}

/// Writes lines and ends to the log, at the level `debug`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logged;

/// The lines of one attempt, on their way to the log.
#[derive(Debug)]
pub struct LoggedLines {
    task: steadfast_core::TaskId,
    attempt: u32,
}

impl Observer for Logged {
    type Lines = LoggedLines;

    fn lines(&self, context: &Context) -> LoggedLines {
        LoggedLines { task: context.task_id().clone(), attempt: context.attempt() }
    }

    fn started(&self, context: &Context, _: Control) {
        tracing::debug!(task = %context.task_id(), attempt = context.attempt(), "command started");
    }

    fn ended(&self, context: &Context, exit: &Exit) {
        tracing::debug!(task = %context.task_id(), attempt = context.attempt(), %exit, "command ended");
    }
}

impl LineSink for LoggedLines {
    async fn line(&mut self, line: Line<'_>) {
        let stream = match line.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let text = String::from_utf8_lossy(line.bytes);
        tracing::debug!(task = %self.task, attempt = self.attempt, stream, "{text}");
    }
}

/// Runs every attempt of a kind as the same command.
#[derive(Debug)]
pub struct Exec<O = Logged> {
    argv: Vec<OsString>,
    cwd: Option<PathBuf>,
    options: Options,
    observer: Arc<O>,
}

impl Exec {
    /// Runs `program` with these arguments, in `cwd` or else in the worker's own directory, with the worker's
    /// environment. Lines go to the log.
    pub fn new(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        cwd: Option<PathBuf>,
        options: Options,
    ) -> Self {
        let argv = std::iter::once(program.into()).chain(args.into_iter().map(Into::into)).collect();
        Self { argv, cwd, options, observer: Arc::new(Logged) }
    }
}

impl<O: Observer> Exec<O> {
    /// The same with another observer.
    #[must_use]
    pub fn observed_by<P: Observer>(self, observer: P) -> Exec<P> {
        let Self { argv, cwd, options, observer: _ } = self;
        Exec { argv, cwd, options, observer: Arc::new(observer) }
    }
}

impl<O> Clone for Exec<O> {
    fn clone(&self) -> Self {
        let Self { argv, cwd, options, observer } = self;
        Self { argv: argv.clone(), cwd: cwd.clone(), options: options.clone(), observer: observer.clone() }
    }
}

impl<O: Observer> Handler for Exec<O> {
    fn call(&self, context: Context) -> Running {
        let exec = self.clone();
        Box::pin(async move {
            let (program, args) = exec.argv.split_first().expect("made with a program");
            // The attempt fills in the lease.
            let mut command = Command::new(program, Duration::ZERO);
            command.args = args.to_vec();
            command.cwd = exec.cwd;
            command.stdin = context.payload().to_vec();
            let temporary = TemporaryFailure::GivesBack;
            attempt::run(&context, command, &exec.options, &*exec.observer, temporary).await
        })
    }
}
