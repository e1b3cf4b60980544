//! What is shown of a task's history, of slots, queues, workers and the store as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use steadfast::core::diagnose::{Diagnosis, Passed, WORKER_SILENT};
use steadfast::core::storage::{QueueStats, Worker};
use steadfast::core::task::{Attempt, LogEntry};
use steadfast::{State, Task, Timestamp};

use super::TaskJson;
use crate::units::time_text;

/// An event: a revision of a task that was observed.
#[derive(Debug, Clone, Serialize)]
pub struct EventJson {
    /// `task_started`, `task_failed` and so on.
    pub event: &'static str,
    /// The same in words, with the reason where there is one.
    pub message: String,
    /// The task as of this revision, which is the event's id.
    #[serde(flatten)]
    pub task: TaskJson,
}

impl EventJson {
    /// What this revision of a task says. It depends on nothing else, so that whoever comes back is told the same.
    pub fn new(task: TaskJson) -> Self {
        let (event, message) = described(&task);
        Self { event, message, task }
    }
}

fn described(task: &TaskJson) -> (&'static str, String) {
    // What an earlier attempt said stands there until this one says something.
    let progress = task.progress.as_ref().filter(|_| task.reported_at >= task.claimed_at);
    let reason = || {
        let cause = task.cause.as_deref().unwrap_or("no cause");
        task.error.as_deref().map_or_else(|| cause.to_owned(), |error| format!("{cause}: {error}"))
    };
    let worker = task.worker.as_deref().unwrap_or("a worker");
    match (task.state.as_str(), &task.cause, &task.cancel, progress) {
        ("blocked", _, _, _) if task.slot_waiting => ("task_blocked", "waits for its slot".into()),
        ("blocked", _, _, _) => ("task_blocked", "waits for other tasks".into()),
        ("scheduled", Some(_), _, _) => {
            ("task_retrying", format!("again at {} after {}", task.due_at, reason()))
        }
        ("scheduled", None, _, _) => ("task_scheduled", format!("due at {}", task.due_at)),
        ("ready", Some(_), _, _) => ("task_requeued", format!("waits for a worker again after {}", reason())),
        ("ready", None, _, _) => ("task_queued", "waits for a worker".into()),
        ("running", _, Some(why), _) => ("task_cancel_requested", why.clone()),
        ("running", _, None, Some(progress)) => {
            ("task_progress", format!("{} % {}", progress.percent, progress.message).trim_end().into())
        }
        ("running", _, None, None) => {
            ("task_started", format!("attempt {} of {} on {worker}", task.attempt, task.attempts_max))
        }
        ("succeeded", _, _, _) => ("task_succeeded", "done".into()),
        ("failed", _, _, _) => ("task_failed", reason()),
        ("cancelled", _, _, _) => ("task_cancelled", task.cancel.clone().unwrap_or_else(reason)),
        (other, _, _, _) => ("task_changed", format!("is {other}")),
    }
}

/// The events of a task that aren't known yet.
#[derive(Debug, Serialize)]
pub struct EventsJson {
    /// In the order of their revisions.
    pub events: Vec<EventJson>,
}

/// A line of a task's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the core documents the fields")]
pub struct LogLineJson {
    pub fence: u64,
    pub number: u32,
    pub at: String,
    pub stream: String,
    pub text: String,
}

impl From<&LogEntry> for LogLineJson {
    fn from(entry: &LogEntry) -> Self {
        let LogEntry { fence, number, at, stream, text } = entry;
        Self {
            fence: *fence,
            number: *number,
            at: time_text(*at),
            stream: stream.to_string(),
            text: text.clone(),
        }
    }
}

/// Lines of a task's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogJson {
    /// In the order in which they were written.
    pub lines: Vec<LogLineJson>,
    /// Where the next lines begin, as `after`.
    pub next: String,
    /// Whether these are the last: the task has ended, and nothing follows them.
    pub complete: bool,
}

/// An attempt of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the core documents the fields")]
pub struct AttemptJson {
    pub fence: u64,
    pub attempt: u32,
    pub worker: Option<String>,
    pub claimed_at: Option<String>,
    pub entered_at: Option<String>,
    /// None while it runs.
    pub ended_at: Option<String>,
    pub cause: Option<String>,
    pub error: Option<String>,
}

impl From<&Attempt> for AttemptJson {
    fn from(attempt: &Attempt) -> Self {
        Self {
            fence: attempt.fence,
            attempt: attempt.attempt,
            worker: Some(attempt.worker.to_string()),
            claimed_at: Some(time_text(attempt.claimed_at)),
            entered_at: attempt.entered_at.map(time_text),
            ended_at: Some(time_text(attempt.ended_at)),
            cause: Some(attempt.cause.to_string()),
            error: attempt.error.clone(),
        }
    }
}

impl AttemptJson {
    /// The attempt whose facts are in the task itself: the last one, which runs or has ended the task.
    pub fn last(task: &Task) -> Self {
        let has_ended = task.state.is_terminal();
        Self {
            fence: task.fence,
            attempt: task.attempt,
            worker: task.worker.as_ref().map(ToString::to_string),
            claimed_at: task.claimed_at.map(time_text),
            entered_at: task.entered_at.map(time_text),
            ended_at: task.finished_at.map(time_text),
            cause: task.cause.filter(|_| has_ended).map(|cause| cause.to_string()),
            error: task.error.clone().filter(|_| has_ended),
        }
    }
}

/// The attempts of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptsJson {
    /// Oldest first.
    pub attempts: Vec<AttemptJson>,
}

/// Where a task is and why, and what happens next.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the core documents the fields")]
pub struct DiagnosisJson {
    pub id: String,
    pub state: String,
    pub store: String,
    pub as_of: String,
    pub finding: String,
    pub verdict: String,
    pub advice: Option<String>,
    pub hops: Vec<HopJson>,
    pub next: Vec<NextJson>,
    pub attempts: Vec<AttemptJson>,
    /// All of it as a page for people.
    pub page: String,
}

/// A stage of a task's life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HopJson {
    /// Which.
    pub stage: String,
    /// Whether the task has passed it; null where that isn't known.
    pub passed: Option<bool>,
    /// When, where that is recorded.
    pub at: Option<String>,
    /// How that is known, or why not.
    pub evidence: String,
}

/// Something that is to happen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NextJson {
    /// When; where it isn't said, once the condition in the words is met.
    pub at: Option<String>,
    /// What.
    pub what: String,
}

impl From<&Diagnosis> for DiagnosisJson {
    fn from(diagnosis: &Diagnosis) -> Self {
        let hop = |hop: &steadfast::core::diagnose::Hop| {
            let (passed, at, evidence) = match &hop.passed {
                Passed::Yes { at, evidence } => (Some(true), *at, evidence),
                Passed::No { because } => (Some(false), None, because),
                Passed::Unknown { because } => (None, None, because),
            };
            let (stage, at) = (hop.stage.as_str().into(), at.map(time_text));
            HopJson { stage, passed, at, evidence: evidence.clone() }
        };
        let next = |next: &steadfast::core::diagnose::Next| NextJson {
            at: next.at.map(time_text),
            what: next.what.clone(),
        };
        Self {
            id: diagnosis.task.to_string(),
            state: diagnosis.state.to_string(),
            store: diagnosis.store.to_string(),
            as_of: time_text(diagnosis.as_of),
            finding: diagnosis.finding.as_str().into(),
            verdict: diagnosis.verdict.clone(),
            advice: diagnosis.advice.clone(),
            hops: diagnosis.hops.iter().map(hop).collect(),
            next: diagnosis.next.iter().map(next).collect(),
            attempts: diagnosis.attempts.iter().map(Into::into).collect(),
            page: diagnosis.page(time_text),
        }
    }
}

/// The answer to a retry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetriedJson {
    /// Which task was to be retried.
    pub id: String,
    /// `now`: it was waiting for another attempt, and is due now. `new`: it had ended, and a new task with the same
    /// request is stored. `known`: it was retried before.
    pub retry: String,
    /// The task that runs now: the same, or the new one.
    pub task: String,
    /// Where that task is.
    pub state: String,
}

/// A slot, and who is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotJson {
    /// Its name.
    pub slot: String,
    /// The unfinished task that holds it.
    pub holder: Option<HolderJson>,
    /// Those that wait for it, in the order of arrival.
    pub waiting: Vec<String>,
}

/// The holder of a slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of a task")]
pub struct HolderJson {
    pub id: String,
    pub kind: String,
    pub state: String,
}

/// Slots that are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotsJson {
    /// In order of name.
    pub slots: Vec<SlotJson>,
}

/// A queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueJson {
    /// Its name.
    pub queue: String,
    /// How many of its tasks may run at once, on all workers together.
    pub concurrency: Option<u32>,
    /// Whether nothing is claimed from it.
    pub paused: bool,
    /// How many tasks are in each state.
    pub tasks: BTreeMap<String, u64>,
    /// How long the ready task that is due longest has been due, in seconds.
    pub oldest_ready_s: Option<f64>,
    /// Ready tasks that have been due for too long.
    pub stale: u64,
    /// Running tasks whose handler has given no sign for too long.
    pub stuck: u64,
}

impl From<&QueueStats> for QueueJson {
    fn from(stats: &QueueStats) -> Self {
        let count = |state: State| (state.to_string(), stats.tasks[usize::from(state.code())]);
        Self {
            queue: stats.queue.to_string(),
            concurrency: stats.concurrency,
            paused: stats.paused,
            tasks: State::ALL.into_iter().map(count).collect(),
            oldest_ready_s: stats.oldest_ready.map(|age| age.as_secs_f64()),
            stale: stats.stale,
            stuck: stats.stuck,
        }
    }
}

/// The queues.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuesJson {
    /// In order of name.
    pub queues: Vec<QueueJson>,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the core documents the fields")]
pub struct WorkerJson {
    pub id: String,
    pub queues: Vec<String>,
    pub kinds: Vec<String>,
    pub concurrency: u32,
    pub running: u32,
    pub gone: bool,
    /// Whether it was seen lately and isn't gone.
    pub alive: bool,
    pub started_at: String,
    pub seen_at: String,
}

impl WorkerJson {
    /// The worker as the store knew it at this time.
    pub fn new(worker: &Worker, as_of: Timestamp) -> Self {
        Self {
            id: worker.id.to_string(),
            queues: worker.queues.iter().map(ToString::to_string).collect(),
            kinds: worker.kinds.iter().map(ToString::to_string).collect(),
            concurrency: worker.concurrency,
            running: worker.running,
            gone: worker.gone,
            alive: !worker.gone && as_of.since(worker.seen_at) < WORKER_SILENT,
            started_at: time_text(worker.started_at),
            seen_at: time_text(worker.seen_at),
        }
    }
}

/// The workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkersJson {
    /// In order of id.
    pub workers: Vec<WorkerJson>,
}

/// The store as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatsJson {
    /// Which store.
    pub store: String,
    /// The store's clock.
    pub as_of: String,
    /// How many tasks are in each state.
    pub tasks: BTreeMap<String, u64>,
    /// Ready tasks that have been due for too long.
    pub stale: u64,
    /// Running tasks whose handler has given no sign for too long.
    pub stuck: u64,
    /// The queues.
    pub queues: Vec<QueueJson>,
    /// How many workers are alive.
    pub workers_alive: u64,
}

/// The answer to pruning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrunedJson {
    /// How many tasks were forgotten.
    pub pruned: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(changed: serde_json::Value, event: &str, message: &str) {
        let mut task = serde_json::json!({
            "id": "a", "kind": "scan", "queue": "default", "state": "running", "cause": null, "rev": 4, "attempt": 2,
            "attempts_max": 3, "rescues": 0, "rescues_max": 5, "slot": null, "key": null, "priority": 0,
            "payload": null, "output": null, "error": null, "progress": { "percent": 40, "message": "half of it" },
            "submitted_at": "2026-01-31T18:00:00.000000Z", "due_at": "2026-01-31T18:00:00.000000Z",
            "claimed_at": "2026-01-31T18:00:05.000000Z", "reported_at": "2026-01-31T18:00:06.000000Z",
            "entered_at": null, "finished_at": null, "lease_expires_at": null, "worker": "w", "cancel": null,
            "parents": [], "store": "s",
        });
        task.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        // As text: what is kept byte for byte can't come from a value.
        let event_json = EventJson::new(serde_json::from_str(&task.to_string()).unwrap());
        assert_eq!((event_json.event, &*event_json.message), (event, message), "{changed}");
    }

    #[test]
    fn an_event_is_named_by_the_task_as_it_is() {
        let json = |text: &str| serde_json::from_str(text).unwrap();
        check(json("{}"), "task_progress", "40 % half of it");
        let before = r#"{"reported_at":"2026-01-31T18:00:04.000000Z"}"#;
        check(json(before), "task_started", "attempt 2 of 3 on w");
        check(json(r#"{"cancel":"enough"}"#), "task_cancel_requested", "enough");
        let failed = r#"{"state":"scheduled","cause":"error","error":"no luck"}"#;
        check(json(failed), "task_retrying", "again at 2026-01-31T18:00:00.000000Z after error: no luck");
        check(
            json(r#"{"state":"ready","cause":"drained"}"#),
            "task_requeued",
            "waits for a worker again after drained",
        );
        check(json(r#"{"state":"failed","cause":"timeout"}"#), "task_failed", "timeout");
        check(json(r#"{"state":"cancelled","cause":"replaced"}"#), "task_cancelled", "replaced");
        check(json(r#"{"state":"succeeded","cause":"done"}"#), "task_succeeded", "done");
        check(json(r#"{"state":"blocked","slot_waiting":true}"#), "task_blocked", "waits for its slot");
    }
}
