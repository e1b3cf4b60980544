//! One attempt as a process: started with the lease that is left, told of every renewal and order, and its end judged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::pin::pin;

use serde_json::value::RawValue;
use steadfast_core::handler::{Orders, StopReason};
use steadfast_core::{Cause, Clock, Context, Payload, Verdict, decide};

use super::lines::{LastLine, Watched};
use super::{Observer, Options};
use crate::clock::TokioClock;
use crate::subprocess::{Command, Control, Environment, Exit, Finished, Output, SpawnError, spawn};

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
    if command.environment == Environment::Inherited {
        command.env.splice(0..0, inherited(options));
        command.environment = Environment::Exact;
    }
    command.env.extend(variables(context, options));
    command.output_bytes_max = Some(options.output_bytes_max);
    command.guard = options.guard.clone();
    // Only a first attempt can't have any.
    if context.fence() > 1 {
        match context.checkpoints().await {
            Ok(checkpoints) => {
                command.files.push(("STEADFAST_CHECKPOINTS".into(), as_json(context, &checkpoints)));
            }
            Err(error) => {
                let error = format!("the checkpoints of earlier attempts could not be read: {error}");
                return not_started_here(context, error, temporary);
            }
        }
    }
    command.lease = orders.borrow().lease_until.since(TokioClock.now());
    let last_stderr = LastLine::default();
    let lines = Watched {
        lines: observer.lines(context),
        context: context.clone(),
        last_stderr: last_stderr.clone(),
    };
    let running = match spawn(command, lines) {
        Ok(running) => running,
        Err(error @ SpawnError::TooLarge { .. }) => {
            return Verdict::Fail { cause: Cause::NotStarted, error: error.to_string() };
        }
        Err(error) => return not_started_here(context, error.to_string(), temporary),
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
    judge(context, finished, &last_stderr.text(), temporary)
}

/// What a command is told of its own attempt, some of it only where there is something to say.
const OF_THE_ATTEMPT: [&str; 6] = [
    "STEADFAST_TASK_ID",
    "STEADFAST_ATTEMPT",
    "STEADFAST_FENCE",
    "STEADFAST_SLOT",
    "STEADFAST_OUTPUT",
    "STEADFAST_CHECKPOINTS",
];

/// This process's own variables, as far as they hold for its commands, too. It may itself run in an attempt, such as a
/// `steadfast run` in a script that another one runs: what that was told isn't true of this one.
fn inherited(options: &Options) -> impl Iterator<Item = (OsString, OsString)> {
    // The server stands for the store that this process may have been told of: a command line refuses both.
    let instead = options.server.is_some().then_some("STEADFAST_STORE");
    let is_left_out = move |name: &OsString| OF_THE_ATTEMPT.iter().chain(&instead).any(|out| name == out);
    std::env::vars_os().filter(move |(name, _)| !is_left_out(name))
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
fn judge(context: &Context, finished: Finished, stderr: &str, temporary: TemporaryFailure) -> Verdict {
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
        Said::AgainLater(_) if temporary == TemporaryFailure::GivesBack => given_back(context),
        Said::AgainLater(error) | Said::Failed(error) => {
            Verdict::Retry { cause, error: told(error), after: None }
        }
        // The guard heard of no renewal in time. One may have gone through after all, late, and then the task is still
        // ours; but a command that was killed for that hasn't failed.
        Said::LeaseLost => Verdict::Lost,
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

/// This worker lacks something, descriptors or room for files, or the store is out of its reach: the task hasn't had its
/// attempt. A worker in such trouble would else fail all that waits, a task a millisecond.
fn not_started_here(context: &Context, error: String, temporary: TemporaryFailure) -> Verdict {
    match temporary {
        TemporaryFailure::GivesBack => {
            tracing::warn!(task = %context.task_id(), error, "a command can't be started here: its task is given back");
            context.log(error);
            given_back(context)
        }
        TemporaryFailure::Fails => Verdict::Retry { cause: Cause::NotStarted, error, after: None },
    }
}

fn given_back(context: &Context) -> Verdict {
    // The attempts don't rise when they are given back; the claims do.
    let claims = u32::try_from(context.fence()).unwrap_or(u32::MAX);
    Verdict::Snooze { after: decide::retry_delay(context.task_id(), claims, context.lease().backoff) }
}

/// One JSON object: each finished step's result under its name.
fn as_json(context: &Context, checkpoints: &BTreeMap<String, Payload>) -> Vec<u8> {
    let mut steps = BTreeMap::new();
    for (name, value) in checkpoints {
        match serde_json::from_slice::<&RawValue>(value) {
            Ok(value) => drop(steps.insert(name, value)),
            // Stored by a handler that isn't a command.
            Err(_) => context.log(format!("the checkpoint {name} isn't JSON: the command isn't given it")),
        }
    }
    let mut json = serde_json::to_vec(&steps).expect("texts and JSON values are JSON");
    json.push(b'\n');
    json
}
