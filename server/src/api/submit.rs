//! `POST /v1/tasks`: one task, or an array of them that is answered item by item.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use steadfast::core::engine::Submitted;
use steadfast::core::step::Refusal;
use steadfast::{Key, NewTask, TaskId};

use super::{Api, answer};
use crate::request::{FieldError, TaskRequest};
use crate::wire::{Problem, SubmittedJson};

/// The most tasks in one request.
pub const BULK_TASKS_MAX: usize = 10_000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) async fn submit(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large("the body is larger than this server accepts"),
        status => Problem::new(status.as_u16(), "unreadable", "unreadable request", rejection.body_text()),
    })?;
    let key = headers.get(IDEMPOTENCY_KEY).map(key).transpose()?;
    if body.trim_ascii_start().first() == Some(&b'[') {
        if key.is_some() {
            let detail = "the header Idempotency-Key can't stand for many tasks";
            return Err(invalid(detail).help("give each task of the array a `key` of its own"));
        }
        return many(&api, &body).await;
    }
    let (status, submitted) = api.submit(api.read(&body, key)?).await?;
    let location = format!("/v1/tasks/{}", submitted.id);
    let mut response = answer::json(status, &submitted);
    let location = HeaderValue::from_str(&location).expect("an id has plain letters");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// The answer for one item of an array: what the item alone would have been answered.
#[derive(Serialize)]
struct Item {
    status: u16,
    #[serde(flatten)]
    answer: ItemAnswer,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ItemAnswer {
    Submitted(SubmittedJson),
    Problem { problem: Problem },
}

/// Submits the tasks of an array in its order: one may name an earlier one in `after`.
async fn many(api: &Api, body: &[u8]) -> Result<Response, Problem> {
    let items: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body: {error}")))?;
    if items.len() > BULK_TASKS_MAX {
        let detail = format!("{} tasks are more than the {BULK_TASKS_MAX} of one request", items.len());
        return Err(too_large(detail).help("send them in several requests"));
    }
    let mut answers = Vec::with_capacity(items.len());
    let mut together: Vec<Result<NewTask, Problem>> = Vec::new();
    for item in items {
        let read = api.read(item.get().as_bytes(), None);
        let waits_for =
            |task: &NewTask, earlier: &TaskId| task.parents.iter().any(|parent| parent.id == *earlier);
        let earlier = || together.iter().flatten().map(|task| &task.id);
        if read.as_ref().is_ok_and(|task| !task.parents.is_empty() && earlier().any(|id| waits_for(task, id)))
        {
            answers.extend(api.submit_all(std::mem::take(&mut together)).await);
        }
        together.push(read);
    }
    answers.extend(api.submit_all(together).await);
    Ok(answer::json(StatusCode::OK, &answers))
}

impl Api {
    /// Reads and checks one task at the door.
    fn read(&self, json: &[u8], key: Option<Key>) -> Result<NewTask, Problem> {
        let settings = &self.0.settings;
        let mut request = TaskRequest::from_json(json).map_err(|FieldError { field, why }| {
            let problem = invalid(why);
            if let Some(field) = field { problem.field(field) } else { problem }
        })?;
        match (&request.key, key) {
            (Some(_), Some(_)) => {
                return Err(
                    invalid("stands beside the header Idempotency-Key: give one of the two").field("key")
                );
            }
            (None, key @ Some(_)) => request.key = key,
            (_, None) => {}
        }
        let payload_max = settings.config.server.payload_bytes_max;
        if request.payload.len() > payload_max {
            let detail = format!("has {} bytes; at most {payload_max} are accepted", request.payload.len());
            return Err(too_large(detail).field("payload"));
        }
        if !settings.allow_unknown_kinds && !self.0.kinds.contains(&request.kind) {
            return Err(self.unknown_kind(&request));
        }
        let defaults = settings.config.defaults(&request.kind);
        Ok(request.into_task(&defaults))
    }

    fn unknown_kind(&self, request: &TaskRequest) -> Problem {
        let kind = &request.kind;
        let known: Vec<&str> = self.0.kinds.iter().map(steadfast::Kind::as_str).collect();
        let known =
            if known.is_empty() { "none is".into() } else { format!("these are: {}", known.join(", ")) };
        let detail = format!("no handler for kind {kind:?} is configured here; {known}");
        Problem::new(422, "unknown_kind", "unknown kind", detail).field("kind").help(format!(
            "add [handlers.{kind}] to steadfast.toml and start the server again; or, where workers elsewhere have the handler, start it with --allow-unknown-kinds"
        ))
    }

    async fn submit_all(&self, tasks: Vec<Result<NewTask, Problem>>) -> Vec<Item> {
        join_all(tasks.into_iter().map(async |task| {
            let submitted = match task {
                Ok(task) => self.submit(task).await,
                Err(problem) => Err(problem),
            };
            match submitted {
                Ok((status, submitted)) => {
                    Item { status: status.as_u16(), answer: ItemAnswer::Submitted(submitted) }
                }
                Err(problem) => Item { status: problem.status, answer: ItemAnswer::Problem { problem } },
            }
        }))
        .await
    }

    async fn submit(&self, task: NewTask) -> Result<(StatusCode, SubmittedJson), Problem> {
        let settings = &self.0.settings;
        let id = task.id.clone();
        // Where the outcome is unknown, the same id again tells.
        let submitted = settings.engine.submit(task).await.map_err(|error| Problem::from(error).task(&id))?;
        match submitted {
            Submitted::Accepted(accepted) => {
                let status = if accepted.is_new { StatusCode::CREATED } else { StatusCode::OK };
                Ok((status, SubmittedJson::new(&accepted, &settings.store)))
            }
            Submitted::Refused(refusal) => Err(refused(&id, &refusal)),
            Submitted::Invalid(wrong) => Err(invalid(wrong.why).field(wrong.field)),
        }
    }
}

/// Why the store refused a submit.
pub(crate) fn refused(id: &TaskId, refusal: &Refusal) -> Problem {
    let taken = |word, title, detail: String| Problem::new(409, word, title, detail);
    match refusal {
        Refusal::IdTaken(head) => {
            let detail =
                format!("the id {id} belongs to a task made from another request; it is {}", head.state);
            taken("id_taken", "id taken", detail).task(id).help("choose another id, or leave it out")
        }
        Refusal::KeyTaken(holder, head) => {
            let detail =
                format!("the key belongs to task {holder}, made from another request; it is {}", head.state);
            taken("key_taken", "key taken", detail)
                .task(holder)
                .help("one key stands for one request: use another key for another one")
        }
        Refusal::SlotTaken(holder, head) => {
            let detail = format!("the slot is held by task {holder}, which is {}", head.state);
            taken("slot_taken", "slot taken", detail)
                .task(holder)
                .help("wait for it, cancel it, or submit with on_conflict = replace")
        }
        Refusal::ParentMissing(parent) => {
            invalid(format!("there is no task {parent} to wait for")).field("after").task(parent)
        }
        Refusal::NotFound | Refusal::Stale(_) | Refusal::AliasTaken(_) => {
            taken("contended", "contended", "the slot changed hands too often".into())
                .help("nothing was stored: send the same request again")
        }
    }
}

fn key(header: &HeaderValue) -> Result<Key, Problem> {
    let text = header.to_str().map_err(|_| invalid("the header Idempotency-Key isn't plain text"))?;
    Key::new(text).map_err(|error| invalid(error.to_string()).field("key"))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(400, "invalid", "invalid request", detail)
}

fn too_large(detail: impl Into<String>) -> Problem {
    Problem::new(413, "too_large", "too large", detail)
        .help("keep large data elsewhere and submit a reference to it; or raise server.payload_bytes_max")
}
