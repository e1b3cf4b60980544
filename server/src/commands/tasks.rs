//! `submit`, `status`, `list`, `wait` and `cancel`: on a store, or through a server.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;
use steadfast::core::storage::TaskFilter;
use steadfast::core::task::{Due, OnConflict, PAYLOAD_BYTES_MAX};
use steadfast::{Kind, TaskId};

use super::{Out, Target, blocking, note, tell};
use crate::backend::{Backend, Missing};
use crate::cli;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::patience::Patience;
use crate::request::{TaskRequest, reserved};
use crate::show;
use crate::units::duration_text;
use crate::wire::{TaskJson, TasksJson};

pub(super) async fn submit(args: cli::Submit, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    // A server fills in from its own configuration.
    let config = match target.server {
        None => Config::load(args.config.as_deref())?,
        Some(_) => Config::default(),
    };
    let Some(kind) = args.kind.clone() else {
        let file = args.bulk.as_deref().expect("one of the two is asked for");
        return super::bulk::submit(file, &config, target, out).await;
    };
    if kind.is_reserved() {
        return Err(Failure::new(Exit::Usage, format!("the kind {}", reserved(&kind))));
    }
    let wait = args.wait;
    let joins = args.on_conflict == Some(OnConflict::Join);
    if target.server.is_none() && std::io::stderr().is_terminal() && !config.kinds().contains(&kind) {
        note(format_args!(
            "no handler for kind {kind:?} is configured here: the task waits until a worker comes that has one"
        ));
    }
    // Whoever writes to our stdin, or to a pipe that has a name, may take their time.
    let payload = match args.payload.clone() {
        Some(text) => blocking(move || payload(&text)).await?,
        None => Vec::new(),
    };
    let mut request = request(kind, payload, args);
    if !joins {
        // Known here, it can be asked after where the answer is lost. A task with an id of its own can't join another.
        request.id.get_or_insert_with(steadfast::task_id);
    }
    let id = request.id.clone();
    let backend = target.backend(Missing::Create).await?;
    let submitted =
        backend.submit(request, &config).await.map_err(|failure| unanswered(failure, id.as_ref()))?;
    if wait && std::io::stderr().is_terminal() {
        note(format_args!("waiting for task {}", submitted.id));
    }
    if !wait {
        out.write(&submitted, |out| writeln!(out, "{}", submitted.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = submitted.id.parse().map_err(|error| Failure::new(Exit::Unreachable, format!("{error}")))?;
    let task = backend.wait(&id, None, Patience::new(None).answered()).await?;
    out.write(&task, |out| show::page(out, &task))?;
    Ok(ended(&task))
}

/// Where it isn't known whether the task was stored: how to find out.
fn unanswered(failure: Failure, id: Option<&TaskId>) -> Failure {
    match (failure.exit, id) {
        (Exit::Unreachable, Some(id)) => {
            let help = format!(
                "the task may have been stored all the same: `steadfast status {id}` tells; the same again with \
                --id {id} stores it once"
            );
            failure.more_help(help)
        }
        _ => failure,
    }
}

fn request(kind: Kind, payload: Vec<u8>, args: cli::Submit) -> TaskRequest {
    TaskRequest {
        id: args.id,
        key: args.key,
        queue: args.queue,
        slot: args.slot.map(|slot| (slot, args.on_conflict.unwrap_or(OnConflict::Reject))),
        after: args.after,
        due: match (args.delay, args.at) {
            (Some(delay), _) => Due::After(delay),
            (None, Some(at)) => Due::At(at),
            (None, None) => Due::Now,
        },
        deadline: args.deadline,
        priority: args.priority,
        attempts: args.attempts.map(Into::into),
        rescues: args.rescues,
        timeout: args.timeout,
        ..TaskRequest::new(kind, payload)
    }
}

/// The bytes of a payload: a file or stdin as they are; what stands on the command line must be JSON, so that a
/// forgotten `@` or quote isn't stored.
fn payload(text: &str) -> Result<Vec<u8>, Failure> {
    if text == "-" {
        return whole("stdin", std::io::stdin().lock());
    }
    if let Some(path) = text.strip_prefix('@') {
        return whole(path, std::fs::File::open(path).map_err(|error| unreadable(path, &error))?);
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => Ok(text.as_bytes().to_vec()),
        Err(error) => Err(Failure::new(Exit::Usage, format!("--payload: {text:?} is no JSON: {error}"))
            .help(
                "a text wants quotes of its own, as in '\"text\"'; @FILE and - take any bytes as they are",
            )),
    }
}

fn unreadable(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("--payload: {what}: {error}"))
}

/// All that a file holds; of one that no store takes, not much more than fits is read.
fn whole(what: &str, file: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    file.take(PAYLOAD_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(what, &error))?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        let why = format!(
            "--payload: {what} holds more than {PAYLOAD_BYTES_MAX} bytes, which is the most that fits"
        );
        return Err(
            Failure::new(Exit::Usage, why).help("keep large data elsewhere, and submit a reference to it")
        );
    }
    Ok(bytes)
}

pub(super) async fn status(args: cli::One, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let task = target.backend(Missing::Refuse).await?.task(&args.id, None, Duration::ZERO).await?;
    out.write(&task, |out| show::page(out, &task))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn diagnose(args: cli::One, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let diagnosis = target.backend(Missing::Refuse).await?.diagnosis(&args.id).await?;
    out.write(&diagnosis, |out| write!(out, "{}", diagnosis.page))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(args: cli::List, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let mut filter = TaskFilter {
        state: args.state,
        queue: args.queue,
        slot: args.slot,
        kind: args.kind,
        before: args.cursor,
        limit: args.limit,
        ..TaskFilter::default()
    };
    let backend = target.backend(Missing::Refuse).await?;
    let mut tasks = Vec::new();
    // Where tasks are large a page has fewer than were asked for, and isn't the last.
    let next = loop {
        let TasksJson { tasks: of_page, next } = backend.list(filter.clone()).await?;
        filter.limit = filter.limit.saturating_sub(u32::try_from(of_page.len()).unwrap_or(u32::MAX));
        tasks.extend(of_page);
        filter.before = next.clone().filter(|_| filter.limit > 0).map(TaskId::trusted);
        if filter.before.is_none() {
            break next;
        }
    };
    out.write(&tasks, |out| show::tasks(out, &tasks))?;
    if let (Some(next), true) = (next, std::io::stderr().is_terminal()) {
        note(format_args!("older ones follow: --cursor {next}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn wait(args: cli::Wait, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let patience = Patience::new(args.timeout);
    let task = target.backend(Missing::Refuse).await?.wait(&args.id, args.timeout, patience).await?;
    out.write(&task, |out| show::page(out, &task))?;
    if !task.has_ended() {
        let waited = args.timeout.map(duration_text).unwrap_or_default();
        return Err(Failure::new(
            Exit::Failed,
            format!("task {} is still {} after {waited}", task.id, task.state),
        ));
    }
    Ok(ended(&task))
}

pub(super) fn ended(task: &TaskJson) -> ExitCode {
    if task.has_succeeded() { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) }
}

/// Cancels each of them, whatever becomes of the others; the exit code is that of the last failure.
pub(super) async fn cancel(args: cli::Cancel, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        match backend.cancel(id, &args.reason).await {
            Ok(cancelled) => out.write(&cancelled, |out| {
                let text = match cancelled.cancel.as_str() {
                    "ended" => "cancelled",
                    "requested" => "running: its worker is told to stop it",
                    _ => "was cancelled before",
                };
                writeln!(out, "{id}  {text}")
            })?,
            Err(failure) => {
                tell(&failure, out.json);
                code = ExitCode::from(failure.exit as u8);
            }
        }
    }
    Ok(code)
}

/// Retries each of them, whatever becomes of the others; the exit code is that of the last failure.
/// Whether a task is a command of `run`, which no worker's handler is for.
async fn is_of_run(backend: &Backend, id: &str) -> bool {
    let Ok(id) = id.parse() else { return false };
    let task = backend.task(&id, None, Duration::ZERO).await;
    task.is_ok_and(|task| task.kind == steadfast::exec::RUN_KIND)
}

pub(super) async fn retry(args: cli::Many, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        match backend.retry(id).await {
            Ok(retried) => {
                let is_of_run =
                    !out.json && retried.retry == "new" && is_of_run(&backend, &retried.task).await;
                out.write(&retried, |out| {
                    let task = &retried.task;
                    match retried.retry.as_str() {
                        "now" => writeln!(out, "{id}  runs again now"),
                        "new" if is_of_run => {
                            writeln!(out, "{id}  waits as {task}: `steadfast run --resume {task}` runs it")
                        }
                        "new" => writeln!(out, "{id}  runs again as {task}"),
                        _ => writeln!(out, "{id}  was retried before, as {task}, which is {}", retried.state),
                    }
                })?;
            }
            Err(failure) => {
                tell(&failure, out.json);
                code = ExitCode::from(failure.exit as u8);
            }
        }
    }
    Ok(code)
}
