//! `GET /v1/tasks`, `GET /v1/tasks/{id}`, `POST /v1/tasks/{id}/cancel`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use steadfast::core::engine::Cancelled;
use steadfast::core::storage::TaskFilter;
use steadfast::{Kind, Queue, Revision, Slot, State as TaskState, TaskId};

use super::{Api, answer};
use crate::units;
use crate::wire::{CancelledJson, Problem, TaskJson, TasksJson};

/// The longest time that a request waits; a longer one is cut to this.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// The most tasks of one listing.
pub const LIST_MAX: u32 = 1_000;
/// How many tasks a listing has where nothing is said.
const LIST: u32 = 100;

type Parameters = Result<Query<BTreeMap<String, String>>, QueryRejection>;

/// `GET /v1/tasks/{id}?wait=30s&after=REV`: the task at once, or, with `wait`, when it has ended or its revision is
/// later than `after`; at the latest when the wait is over.
pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = task_id(&id)?;
    let mut parameters = Parsed::read(parameters)?;
    let wait = parameters
        .take("wait", |text| units::duration(&text))?
        .map_or(Duration::ZERO, |wait| wait.min(WAIT_MAX));
    let after = parameters.take("after", |text| text.parse::<Revision>())?;
    parameters.none_left("wait, after")?;

    let settings = &api.0.settings;
    let mut ending = settings.ending.clone();
    let task = tokio::select! {
        task = settings.engine.wait(&id, after, wait) => task?,
        () = async { let _ = ending.wait_for(|ending| *ending).await; } => settings.engine.task(&id).await?,
    };
    let Some(task) = task else { return Err(no_task(&id)) };
    let etag = HeaderValue::from_str(&format!("\"{}\"", task.rev)).expect("digits and quotes are plain");
    let known = headers.get(IF_NONE_MATCH) == Some(&etag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        answer::json(StatusCode::OK, &TaskJson::new(&task, &settings.store))
    };
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}

/// `GET /v1/tasks?state=…&queue=…&slot=…&kind=…&limit=…`, newest first.
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Result<Response, Problem> {
    let mut parameters = Parsed::read(parameters)?;
    let filter = TaskFilter {
        state: parameters.take("state", |text| state(&text))?,
        queue: parameters.take("queue", Queue::new)?,
        slot: parameters.take("slot", Slot::new)?,
        kind: parameters.take("kind", Kind::new)?,
        limit: parameters.take("limit", |text| limit(&text))?.unwrap_or(LIST),
        ..TaskFilter::default()
    };
    parameters.none_left("state, queue, slot, kind, limit")?;
    let settings = &api.0.settings;
    let tasks = settings.engine.tasks(filter).await?;
    let tasks = tasks.iter().map(|task| TaskJson::new(task, &settings.store)).collect();
    Ok(answer::json(StatusCode::OK, &TasksJson { tasks }))
}

/// The body of a cancel; it may be empty.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    reason: Option<String>,
}

/// `POST /v1/tasks/{id}/cancel`, with `{"reason": "…"}` or without a body.
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let id = task_id(&id)?;
    let body = body.map_err(|rejection| invalid(rejection.body_text()))?;
    let reason = if body.trim_ascii().is_empty() {
        None
    } else {
        let body: CancelBody =
            serde_json::from_slice(&body).map_err(|error| invalid(format!("the body: {error}")))?;
        body.reason
    };
    let reason = reason.unwrap_or_else(|| "cancelled over HTTP".into());
    let cancelled = api.0.settings.engine.cancel(&id, &reason).await?;
    cancel_answer(&id, cancelled).map(|answer| answer::json(StatusCode::OK, &answer))
}

/// What a cancel is answered with.
///
/// # Errors
/// There is no such task, or it had ended in another way.
pub(crate) fn cancel_answer(id: &TaskId, cancelled: Cancelled) -> Result<CancelledJson, Problem> {
    let answer = |cancel: &str| Ok(CancelledJson { id: id.to_string(), cancel: cancel.into() });
    match cancelled {
        Cancelled::Ended => answer("ended"),
        Cancelled::Requested => answer("requested"),
        Cancelled::HadEnded(TaskState::Cancelled) => answer("had_ended"),
        Cancelled::HadEnded(state) => {
            let detail = format!("task {id} had ended: it is {state}");
            Err(Problem::new(409, "had_ended", "too late", detail).task(id))
        }
        Cancelled::NotFound => Err(no_task(id)),
    }
}

/// No task has this id.
pub(crate) fn no_task(id: &TaskId) -> Problem {
    Problem::new(404, "no_such_task", "no such task", format!("no task {id} in this store"))
        .task(id)
        .help("check the id, and that the task was submitted to this very store: `steadfast list` shows what is there")
}

/// Reads a state's word.
///
/// # Errors
/// It is none; the text names them.
pub(crate) fn state(text: &str) -> Result<TaskState, String> {
    TaskState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let words: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
        format!("{text:?} is no state; there are {}", words.join(", "))
    })
}

/// Reads how many tasks a listing may have.
///
/// # Errors
/// It isn't a number from 1 to [`LIST_MAX`].
pub(crate) fn limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit @ 1..=LIST_MAX) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {LIST_MAX}, not {text:?}")),
    }
}

fn task_id(text: &str) -> Result<TaskId, Problem> {
    TaskId::new(text).map_err(|error| invalid(error.to_string()).field("id"))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(400, "invalid", "invalid request", detail)
}

/// The parameters of a query that haven't been read yet.
struct Parsed(BTreeMap<String, String>);

impl Parsed {
    fn read(parameters: Parameters) -> Result<Self, Problem> {
        parameters.map(|Query(parameters)| Self(parameters)).map_err(|error| invalid(error.body_text()))
    }

    fn take<T, E: fmt::Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let value = self.0.remove(name).map(read);
        value.transpose().map_err(|error| invalid(error.to_string()).field(name))
    }

    fn none_left(self, known: &str) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            Some(name) => Err(invalid(format!("is no parameter here; there are {known}")).field(name)),
            None => Ok(()),
        }
    }
}
