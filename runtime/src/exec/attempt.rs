//! One attempt as a process: started with the lease that is left, told of every renewal and order, and its end judged.

use std::ffi::OsString;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use steadfast_core::handler::{Orders, StopReason};
use steadfast_core::{Cause, Clock, Context, TaskId, Verdict, decide};

use super::{Observer, Options};
use crate::clock::TokioClock;
use crate::subprocess::{
    Command, Control, Directive, Exit, Finished, Line, LineSink, Output, SpawnError, Stream, directive, spawn,
};

/// How much of the last line on stderr goes into an error, in characters.
const STDERR_CHARS_MAX: usize = 500;

/// What exit code 75 (`EX_TEMPFAIL`) means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TemporaryFailure {
    /// The attempt is given back and the command comes again.
    GivesBack,
    /// As any other failure: somebody waits for the code.
    Fails,
}

/// Runs the command as this attempt, to its end.
///
/// # Cancellation
/// Dropping the future kills the command's process group.
pub(super) async fn run(
    context: &Context,
    mut command: Command,
    options: &Options,
    observer: &impl Observer,
    temporary: TemporaryFailure,
) -> Verdict {
    let mut orders = context.orders();
    command.env.extend(variables(context, options));
    command.output_bytes_max = Some(options.output_bytes_max);
    command.guard = options.guard.clone();
    command.lease = orders.borrow().lease_until.since(TokioClock.now());
    let last_stderr = LastLine::default();
    let lines = Watched {
        lines: observer.lines(context),
        task: context.task_id().clone(),
        last_stderr: last_stderr.clone(),
    };
    let running = match spawn(command, lines) {
        Ok(running) => running,
        Err(error) => return not_spawned(&error),
    };
    let control = running.control();
    observer.started(context, control.clone());
    let mut relay = Relay { control, options, is_stopping: false };
    let mut ended = pin!(running.wait());
    let finished = loop {
        relay.pass_on(&orders.borrow_and_update());
        tokio::select! {
            finished = &mut ended => break finished,
            changed = orders.changed() => if changed.is_err() {
                // The supervisor is gone, and with it whoever renewed the lease.
                relay.control.kill();
                break ended.await;
            }
        }
    };
    observer.ended(context, &finished.exit);
    if finished.escaped {
        tracing::warn!(task = %context.task_id(), "a process left the command's group and may still run");
    }
    judge(context, finished, &last_stderr.text(), temporary).await
}

/// What the command is told about its attempt.
fn variables(context: &Context, options: &Options) -> Vec<(OsString, OsString)> {
    let lease = context.lease();
    let mut variables: Vec<(OsString, OsString)> = vec![
        ("STEADFAST_TASK_ID".into(), lease.task.as_str().into()),
        ("STEADFAST_ATTEMPT".into(), lease.attempt.to_string().into()),
        ("STEADFAST_FENCE".into(), lease.fence.to_string().into()),
    ];
    if let Some(slot) = &lease.slot {
        variables.push(("STEADFAST_SLOT".into(), slot.as_str().into()));
    }
    if let Some(server) = &options.server {
        variables.push(("STEADFAST_SERVER".into(), server.into()));
    }
    variables
}

/// Passes the worker's orders on to the guard.
struct Relay<'a> {
    control: Control,
    options: &'a Options,
    is_stopping: bool,
}

impl Relay<'_> {
    fn pass_on(&mut self, orders: &Orders) {
        self.control.renewed(orders.lease_until.since(TokioClock.now()));
        match orders.stop {
            None => {}
            Some(StopReason::LeaseLost) => self.control.kill(),
            Some(
                StopReason::Cancelled(_)
                | StopReason::Timeout(_)
                | StopReason::Deadline
                | StopReason::Drained,
            ) => {
                if !self.is_stopping {
                    self.control.stop(self.options.kill_after());
                }
                self.is_stopping = true;
            }
        }
    }
}

/// What the contract makes of the end.
async fn judge(context: &Context, finished: Finished, stderr: &str, temporary: TemporaryFailure) -> Verdict {
    use crate::subprocess::Verdict as Said;
    let Finished { exit, output, .. } = finished;
    let cause = cause(&exit);
    let told = |error: String| match (stderr, &exit) {
        ("", _) | (_, Exit::NotFound(_) | Exit::NotExecutable(_) | Exit::StartFailed(_)) => error,
        (stderr, _) => format!("{error}; its last words: {stderr}"),
    };
    match exit.verdict() {
        Said::Succeeded => succeeded(output),
        Said::FailedForGood(error) => Verdict::Fail { cause, error: told(error) },
        Said::AgainLater(_) if temporary == TemporaryFailure::GivesBack => {
            // The attempts don't rise when they are given back; the claims do.
            let claims = u32::try_from(context.fence()).unwrap_or(u32::MAX);
            Verdict::Snooze { after: decide::retry_delay(context.task_id(), claims, context.lease().backoff) }
        }
        Said::AgainLater(error) | Said::Failed(error) => {
            Verdict::Retry { cause, error: told(error), after: None }
        }
        Said::LeaseLost => lease_lost(context, exit.to_string()).await,
    }
}

fn cause(exit: &Exit) -> Cause {
    match exit {
        Exit::Code(_) => Cause::ExitCode,
        Exit::Signal(_) => Cause::Signal,
        Exit::NotFound(_) | Exit::NotExecutable(_) | Exit::StartFailed(_) => Cause::NotStarted,
        Exit::LeaseLapsed => Cause::LeaseLapsed,
        Exit::GuardLost(_) => Cause::Error,
    }
}

fn succeeded(output: Output) -> Verdict {
    let unrecordable = |error| Verdict::Fail { cause: Cause::Unrecordable, error };
    match output {
        Output::None => Verdict::done([]),
        Output::Bytes(bytes) => Verdict::done(bytes),
        Output::TooLarge { bytes, bytes_max } => unrecordable(format!(
            "the command succeeded, but wrote {bytes} bytes to STEADFAST_OUTPUT; {bytes_max} are allowed"
        )),
        Output::Unreadable(why) => unrecordable(format!(
            "the command succeeded, but what it left at STEADFAST_OUTPUT can't be read: {why}"
        )),
    }
}

/// The guard killed the command because it heard of no renewal in time. As a rule the worker's own clock says so, too,
/// and there is nothing to settle: the order comes, and whatever is answered is void. But a renewal may have gone
/// through after all, late; then the task is still ours and must not be left running without anybody.
async fn lease_lost(context: &Context, error: String) -> Verdict {
    let mut orders = context.orders();
    let renewed = orders.wait_for(|orders| orders.stop.is_some() || orders.lease_until > TokioClock.now());
    let _ = renewed.await;
    Verdict::Retry { cause: Cause::LeaseLapsed, error, after: None }
}

fn not_spawned(error: &SpawnError) -> Verdict {
    let text = error.to_string();
    match error {
        SpawnError::TooLarge { .. } => Verdict::Fail { cause: Cause::NotStarted, error: text },
        _ => Verdict::Retry { cause: Cause::NotStarted, error: text, after: None },
    }
}

/// The last line on stderr that says anything.
#[derive(Debug, Clone, Default)]
struct LastLine(Arc<Mutex<String>>);

impl LastLine {
    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = line.trim().chars().map(printable).take(STDERR_CHARS_MAX).collect();
        if !text.is_empty() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    }
}

/// Looks at the lines on their way to the observer.
struct Watched<L> {
    lines: L,
    task: TaskId,
    last_stderr: LastLine,
}

impl<L: LineSink> LineSink for Watched<L> {
    async fn line(&mut self, line: Line<'_>) {
        match line.stream {
            Stream::Stderr => self.last_stderr.take(line.bytes),
            Stream::Stdout if line.is_whole() => note_directive(&self.task, line.bytes),
            Stream::Stdout => {}
        }
        self.lines.line(line).await;
    }
}

fn note_directive(task: &TaskId, line: &[u8]) {
    match directive(line) {
        Ok(None) => {}
        Ok(Some(Directive::Progress { percent, message })) => {
            tracing::debug!(%task, percent, message, "progress");
        }
        Ok(Some(Directive::Checkpoint { name, .. })) => tracing::debug!(%task, name, "checkpoint"),
        Ok(Some(Directive::Alias { id })) => tracing::debug!(%task, alias = id, "alias"),
        Err(malformed) => tracing::warn!(%task, %malformed, "a directive that isn't one"),
    }
}
