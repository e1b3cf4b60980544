//! What a command prints, on its way: into the task's log, to the observer, and, where a line is a directive, to the
//! task.

use std::sync::{Arc, Mutex, PoisonError};

use steadfast_core::task;
use steadfast_core::{Context, ReportError, TaskId};

use crate::subprocess::{Directive, Line, LineSink, Stream, directive};

/// How much of the last line on stderr goes into an error, in characters.
const STDERR_CHARS_MAX: usize = 500;

/// The last line on stderr that says anything.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLine(Arc<Mutex<String>>);

impl LastLine {
    pub(super) fn text(&self) -> String {
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
pub(super) struct Watched<L> {
    pub(super) lines: L,
    pub(super) context: Context,
    pub(super) last_stderr: LastLine,
}

impl<L: LineSink> LineSink for Watched<L> {
    async fn line(&mut self, line: Line<'_>) {
        if line.stream == Stream::Stderr {
            self.last_stderr.take(line.bytes);
        }
        hear(&self.context, &line).await;
        self.lines.line(line).await;
    }
}

/// Takes a line of a command's output: into the task's log, and, where it is a directive, does what it says. What
/// can't be done is said in the log.
///
/// # Cancellation
/// A dropped future leaves what the directive says stored or not.
pub async fn hear(context: &Context, line: &Line<'_>) {
    let stream = match line.stream {
        Stream::Stdout => task::Stream::Stdout,
        Stream::Stderr => task::Stream::Stderr,
    };
    // The log keeps the beginning of a line that is too long.
    if !line.continues {
        context.log_from(stream, String::from_utf8_lossy(line.bytes));
    }
    if line.stream == Stream::Stdout && line.is_whole() {
        follow(context, line.bytes).await;
    } else if line.stream == Stream::Stdout && !line.continues && directive(line.bytes) != Ok(None) {
        let why = if line.cut { "is too long" } else { "has no newline: its end may be missing" };
        refuse(context, format!("not followed: {:?} {why}", beginning(line.bytes)));
    }
}

/// Does what a directive says. The command's next line is read when that is done: what it printed after a checkpoint
/// it printed after the checkpoint was stored. What can't be done is said in the log.
async fn follow(context: &Context, line: &[u8]) {
    let refused = match directive(line) {
        Ok(None) => return,
        Ok(Some(Directive::Progress { percent, message })) => return context.progress(percent, message),
        Ok(Some(Directive::Checkpoint { name, json })) => {
            context.checkpoint(name, json.as_bytes()).await.map_err(|error| said("checkpoint", name, &error))
        }
        Ok(Some(Directive::Alias { id })) => {
            let alias = TaskId::new(id).map_err(|invalid| ReportError::Invalid(invalid.to_string()));
            let stored = match alias {
                Ok(alias) => context.alias(alias).await,
                Err(invalid) => Err(invalid),
            };
            stored.map_err(|error| said("alias", id, &error))
        }
        Err(malformed) => Err(format!("not followed: {:?}: {malformed}", beginning(line))),
    };
    if let Err(why) = refused {
        refuse(context, why);
    }
}

fn refuse(context: &Context, why: String) {
    tracing::warn!(task = %context.task_id(), why, "a directive was not followed");
    context.log(why);
}

fn beginning(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(STDERR_CHARS_MAX).collect()
}

fn said(what: &str, name: &str, error: &ReportError) -> String {
    format!("::{what} {name} was not followed: {error}")
}
