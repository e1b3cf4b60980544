//! `watch` and `logs`: what becomes of a task, and what it writes, as it happens.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::tasks::ended;
use super::{Out, Target, json_line, nobody_reads};
use crate::api::{WAIT_MAX, place};
use crate::backend::Missing;
use crate::cli;
use crate::failure::{Exit, Failure};
use crate::patience::Patience;
use crate::service::LOG_LINES_MAX;
use crate::show::{cut, state_style};
use crate::wire::{EventJson, LogLineJson, TaskJson};

/// Shows each revision that is observed, the last one for sure; exits as `wait` does, or when nobody reads any more.
pub(super) async fn watch(args: cli::One, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    let bar = bar();
    let mut patience = Patience::new(None);
    let mut after = None;
    loop {
        let wait = if after.is_none() { Duration::ZERO } else { WAIT_MAX };
        let task = tokio::select! {
            task = patience.ask(async || backend.task(&args.id, after, wait).await) => task?,
            () = nobody_reads() => return Ok(ExitCode::SUCCESS),
        };
        if after.is_some_and(|after| task.rev <= after) {
            continue;
        }
        after = Some(task.rev);
        show(&task, &bar, out)?;
        if task.has_ended() {
            bar.finish_and_clear();
            return Ok(ended(&task));
        }
    }
}

/// A line that tells how the task is, on stderr and only where that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(100).with_style(style("{spinner} {elapsed} {msg}"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant of the right form")
}

fn show(task: &TaskJson, bar: &ProgressBar, out: Out) -> Result<(), Failure> {
    let event = EventJson::new(task.clone());
    match &task.progress {
        Some(progress) if event.event == "task_progress" => {
            bar.set_style(style("{spinner} {elapsed} {wide_bar} {pos:>3} % {msg}"));
            bar.set_position(progress.percent.into());
            bar.set_message(cut(&progress.message));
            if !out.json && !bar.is_hidden() {
                return Ok(());
            }
        }
        Some(_) | None => bar.set_message(task.state.clone()),
    }
    bar.suspend(|| {
        out.write(&event, |out| {
            let style = state_style(&task.state);
            let name = event.event.trim_start_matches("task_");
            writeln!(out, "{:>4}  {style}{name:<16}{style:#}  {}", task.rev, cut(&event.message))
        })
    })
}

/// Shows a task's log, and with `--follow` goes on until the task has ended.
pub(super) async fn logs(args: cli::Logs, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    let mut patience = Patience::new(None);
    let mut after = (0, 0);
    loop {
        let wait = if args.follow { WAIT_MAX } else { Duration::ZERO };
        let log = tokio::select! {
            log = patience.ask(async || backend.log(&args.id, after, LOG_LINES_MAX, wait).await) => log?,
            () = nobody_reads() => return Ok(ExitCode::SUCCESS),
        };
        match write(&log.lines, out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => {
                return Err(Failure::new(Exit::Failed, format!("stdout can't be written: {error}")));
            }
            Ok(()) => {}
        }
        after = place(&log.next).map_err(|why| Failure::new(Exit::Unreachable, why))?;
        let is_full = log.lines.len() >= LOG_LINES_MAX as usize;
        if log.complete || !(args.follow || is_full) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Each line as it was written. On a terminal what went to stderr is told apart.
fn write(lines: &[LogLineJson], out: Out) -> io::Result<()> {
    // Not through what drops colours: they are the program's.
    let mut stdout = io::stdout().lock();
    let colours =
        stdout.is_terminal() && anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    for line in lines {
        if out.json {
            writeln!(stdout, "{}", json_line(line))?;
        } else if colours && line.stream != "stdout" {
            let style = anstyle::Style::new().dimmed();
            writeln!(stdout, "{style}{}{style:#}", line.text)?;
        } else {
            writeln!(stdout, "{}", line.text)?;
        }
    }
    stdout.flush()
}
