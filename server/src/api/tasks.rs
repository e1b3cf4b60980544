//! `/v1/tasks` but for submitting: one task, many, their logs and attempts, cancelling and retrying.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use steadfast::core::storage::TaskFilter;
use steadfast::core::task::Fence;
use steadfast::{Clock, Kind, Queue, Revision, Slot, Storage, TaskId};

use super::parse::{Parameters, Segment, body, json, limit, state, whole};
use super::{Api, answer};
use crate::service::LOG_LINES_MAX;
use crate::units;
use crate::wire::Problem;

/// The longest time that a request waits; a longer one is cut to this.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many tasks a listing has where nothing is said.
const LIST: u32 = 100;

/// `GET /v1/tasks/{id}?wait=30s&after=REV`: the task at once, or, with `wait`, when it has ended or its revision is
/// later than `after`; at the latest when the wait is over.
pub(super) async fn one<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = id.id()?;
    let wait = wait(&mut parameters)?;
    let after = parameters.take("after", |text| text.parse::<Revision>())?;
    parameters.none_left("wait, after")?;
    let service = &api.0.settings.service;
    // In this order: chance would decide where both are ready, and no seed replays that.
    let task = tokio::select! {
        biased;
        task = service.task(&id, after, wait) => task?,
        () = api.ending() => service.task(&id, None, Duration::ZERO).await?,
    };
    let etag = HeaderValue::from_str(&format!("\"{}\"", task.rev)).expect("digits and quotes are plain");
    let known = headers.get(IF_NONE_MATCH) == Some(&etag);
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { answer::json(StatusCode::OK, &task) };
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}

fn wait(parameters: &mut Parameters) -> Result<Duration, Problem> {
    let wait = parameters.take("wait", |text| units::duration(&text))?;
    Ok(wait.map_or(Duration::ZERO, |wait| wait.min(WAIT_MAX)))
}

/// `GET /v1/tasks?state=…&queue=…&slot=…&kind=…&limit=…&cursor=…`, newest first.
pub(super) async fn list<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let filter = TaskFilter {
        state: parameters.take("state", |text| state(&text))?,
        queue: parameters.take("queue", Queue::new)?,
        slot: parameters.take("slot", Slot::new)?,
        kind: parameters.take("kind", Kind::new)?,
        before: parameters.take("cursor", TaskId::new)?,
        limit: parameters.take("limit", |text| limit(&text))?.unwrap_or(LIST),
        ..TaskFilter::default()
    };
    parameters.none_left("state, queue, slot, kind, limit, cursor")?;
    let tasks = api.0.settings.service.list(filter).await?;
    Ok(answer::json(StatusCode::OK, &tasks))
}

/// `GET /v1/tasks/{id}/log?after=FENCE.NUMBER&limit=…&wait=…`: the lines after that place.
pub(super) async fn log<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let id = id.id()?;
    let wait = wait(&mut parameters)?;
    let after = parameters.take("after", |text| place(&text))?.unwrap_or_default();
    let lines_max = parameters.take("limit", |text| limit(&text))?.unwrap_or(LOG_LINES_MAX);
    parameters.none_left("wait, after, limit")?;
    let service = &api.0.settings.service;
    let log = tokio::select! {
        biased;
        log = service.log(&id, after, lines_max, wait) => log?,
        () = api.ending() => service.log(&id, after, lines_max, Duration::ZERO).await?,
    };
    Ok(answer::json(StatusCode::OK, &log))
}

/// Reads a place in a log: fence and number, parted by a dot.
///
/// # Errors
/// It is none.
pub fn place(text: &str) -> Result<(Fence, u32), String> {
    let read = |text: &str| {
        let (fence, number) = text.split_once('.')?;
        Some((fence.parse().ok()?, number.parse().ok()?))
    };
    read(text).ok_or_else(|| format!("{text:?} is no place in a log: give the `next` of an earlier answer"))
}

/// `GET /v1/tasks/{id}/attempts`, oldest first.
pub(super) async fn attempts<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let attempts = api.0.settings.service.attempts(&id.id()?).await?;
    Ok(answer::json(StatusCode::OK, &attempts))
}

/// `GET /v1/tasks/{id}/diagnosis`.
pub(super) async fn diagnosis<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let diagnosis = api.0.settings.service.diagnosis(&id.id()?).await?;
    Ok(answer::json(StatusCode::OK, &diagnosis))
}

/// The body of a cancel; it may be empty.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

/// Reads the body of a cancel: why.
///
/// # Errors
/// It isn't a JSON object with a `reason`, or nothing else.
pub fn reason(body: &[u8]) -> Result<String, Problem> {
    let Why { reason } = json(body)?;
    Ok(reason.unwrap_or_else(|| "cancelled over HTTP".into()))
}

/// `POST /v1/tasks/{id}/cancel`, with `{"reason": "…"}` or without a body.
pub(super) async fn cancel<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let reason = reason(&whole(sent)?)?;
    let cancelled = api.0.settings.service.cancel(&id.id()?, &reason).await?;
    Ok(answer::json(StatusCode::OK, &cancelled))
}

/// Nothing to be said in a body.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `POST /v1/tasks/{id}/retry`: 201 with a new task, 200 where it is the same or was retried before.
pub(super) async fn retry<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let Nothing {} = body(sent)?;
    let retried = api.0.settings.service.retry(&id.id()?).await?;
    let status = if retried.retry == "new" { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::json(status, &retried))
}
