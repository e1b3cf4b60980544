//! What goes over the wire and comes out of `--json`: tasks, answers to submits and cancels, problems. Plain data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use steadfast::core::engine::Accepted;
use steadfast::{StoreId, Task, TaskId, Timestamp};

use crate::units::time_text;

mod views;

pub use views::*;

/// A task, as the API and `--json` show it.
///
/// Payload and output are the very bytes that were given, where those are JSON (`payload`, `output`); other bytes
/// stand in `payload_base64` and `output_base64`, with `payload` or `output` null. Without any bytes both are null.
/// White space around a JSON value, such as the newline at a file's end, is kept in the store and not shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the published interface, and the core documents them")]
pub struct TaskJson {
    pub id: String,
    pub kind: String,
    pub queue: String,
    pub state: String,
    pub cause: Option<String>,
    pub rev: u64,
    pub attempt: u32,
    pub attempts_max: u32,
    pub rescues: u32,
    pub rescues_max: u32,
    pub slot: Option<String>,
    /// Whether it waits for its slot, behind the holder and those that came before it.
    #[serde(default)]
    pub slot_waiting: bool,
    pub key: Option<String>,
    pub priority: i16,
    pub payload: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    pub output: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_base64: Option<String>,
    pub error: Option<String>,
    pub progress: Option<Progress>,
    pub submitted_at: String,
    pub due_at: String,
    /// When it fails unless it has ended.
    #[serde(default)]
    pub deadline_at: Option<String>,
    pub claimed_at: Option<String>,
    pub entered_at: Option<String>,
    /// The last sign of its handler: progress, a line of log, a checkpoint.
    #[serde(default)]
    pub reported_at: Option<String>,
    pub finished_at: Option<String>,
    pub lease_expires_at: Option<String>,
    pub worker: Option<String>,
    /// Whether somebody asked to cancel it, and why.
    pub cancel: Option<String>,
    pub parents: Vec<String>,
    pub store: String,
}

/// How far a task is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What is being done.
    pub message: String,
}

impl TaskJson {
    /// The task as this store has it, with the tasks that it waited for or still does.
    pub fn new(task: &Task, parents: &[TaskId], store: &StoreId) -> Self {
        let (payload, payload_base64) = bytes(&task.payload);
        let (output, output_base64) = task.output.as_deref().map_or((None, None), bytes);
        let at = |time: Option<Timestamp>| time.map(time_text);
        Self {
            id: task.id.to_string(),
            kind: task.kind.to_string(),
            queue: task.queue.to_string(),
            state: task.state.to_string(),
            cause: task.cause.map(|cause| cause.to_string()),
            rev: task.rev,
            attempt: task.attempt,
            attempts_max: task.attempts_max,
            rescues: task.rescues,
            rescues_max: task.rescues_max,
            slot: task.slot.as_ref().map(ToString::to_string),
            slot_waiting: task.slot_waiting,
            key: task.key.as_ref().map(ToString::to_string),
            priority: task.priority,
            payload,
            payload_base64,
            output,
            output_base64,
            error: task.error.clone(),
            progress: task
                .progress
                .as_ref()
                .map(|progress| Progress { percent: progress.percent, message: progress.message.clone() }),
            submitted_at: time_text(task.submitted_at),
            due_at: time_text(task.due_at),
            deadline_at: at(task.deadline_at),
            claimed_at: at(task.claimed_at),
            entered_at: at(task.entered_at),
            reported_at: at(task.reported_at),
            finished_at: at(task.finished_at),
            lease_expires_at: at(task.lease_expires_at),
            worker: task.worker.as_ref().map(ToString::to_string),
            cancel: task.cancel.clone(),
            parents: parents.iter().map(ToString::to_string).collect(),
            store: store.to_string(),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }

    /// Whether it has ended well.
    pub fn has_succeeded(&self) -> bool {
        self.state == "succeeded"
    }
}

/// The bytes as JSON, or as base64 where they are something else; neither where there are none.
fn bytes(bytes: &[u8]) -> (Option<Box<RawValue>>, Option<String>) {
    if bytes.is_empty() {
        return (None, None);
    }
    match str::from_utf8(bytes).ok().and_then(|text| RawValue::from_string(text.to_owned()).ok()) {
        Some(json) => (Some(json), None),
        None => (None, Some(BASE64.encode(bytes))),
    }
}

/// Reads base64.
///
/// # Errors
/// It isn't any.
pub fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|error| format!("is no base64: {error}"))
}

/// Writes base64.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The tasks of a listing.
#[derive(Debug, Serialize, Deserialize)]
pub struct TasksJson {
    /// Newest first.
    pub tasks: Vec<TaskJson>,
    /// Where the next page begins, as `cursor`; none where this is the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// The answer to a submit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmittedJson {
    /// The task that stands for the request.
    pub id: String,
    /// Where it is.
    pub state: String,
    /// Its revision.
    pub rev: u64,
    /// Whether this submit stored it; if not it was known already.
    pub new: bool,
    /// The task that it replaced in its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// Whether it is the holder of the slot, answered in place of a new task.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joined: bool,
    /// Which store has it.
    pub store: String,
}

impl SubmittedJson {
    /// What this store accepted.
    pub fn new(accepted: &Accepted, store: &StoreId) -> Self {
        Self {
            id: accepted.id.to_string(),
            state: accepted.state.to_string(),
            rev: accepted.rev,
            new: accepted.is_new,
            replaced: accepted.replaced.as_ref().map(ToString::to_string),
            joined: accepted.joined,
            store: store.to_string(),
        }
    }
}

/// The answer to a cancel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelledJson {
    /// Which task.
    pub id: String,
    /// `ended`: it was waiting and is cancelled. `requested`: it is running, and its worker is told. `had_ended`: it
    /// was cancelled before.
    pub cancel: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The answer for one task of many: what it alone would have been answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ItemJson {
    /// The HTTP status that it alone would have had.
    pub status: u16,
    /// What became of it.
    #[serde(flatten)]
    pub answer: ItemAnswer,
}

/// What became of one task of many.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "each says what it is by its type")]
pub enum ItemAnswer {
    Submitted(SubmittedJson),
    Problem { problem: Problem },
}

/// What went wrong, after RFC 9457: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Tells kinds of problem apart: `urn:steadfast:` and a word.
    pub r#type: Box<str>,
    /// The kind of problem in a few words.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong in this case.
    pub detail: Box<str>,
    /// Which field of the request it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    /// Which task is in the way, or meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<str>>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<Box<str>>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: u16, word: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("urn:steadfast:{word}").into(),
            title: title.into(),
            status,
            detail: detail.into().into(),
            field: None,
            task: None,
            help: None,
        }
    }

    /// Names the field that it is about.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into().into());
        self
    }

    /// Names the task that it is about.
    #[must_use]
    pub fn task(mut self, task: &steadfast::TaskId) -> Self {
        self.task = Some(task.as_str().into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into().into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[u8], json: Option<&str>, base64: Option<&str>) {
        let (got_json, got_base64) = bytes(given);
        assert_eq!(got_json.as_ref().map(|json| json.get()), json);
        assert_eq!(got_base64.as_deref(), base64);
    }

    #[test]
    fn bytes_are_shown_as_they_are_or_as_base64() {
        check(b"", None, None);
        check(b"12345678901234567890123", Some("12345678901234567890123"), None);
        check(b"{\"a\":  [1 ,2]}", Some("{\"a\":  [1 ,2]}"), None);
        check(b"null", Some("null"), None);
        check(b" [1,  2]\n", Some("[1,  2]"), None);
        check(b"\xff\x00", None, Some("/wA="));
        check(b"{} {}", None, Some("e30ge30="));
    }
}
