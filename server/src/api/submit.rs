//! `POST /v1/tasks`: one task, or an array of them that is answered item by item.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::value::RawValue;
use steadfast::{Clock, Key, Storage};

use super::parse::{Parameters, too_large, whole};
use super::{Api, answer};
use crate::request::{TaskRequest, unreadable};
use crate::service::{Submission, invalid, invalid_field};
use crate::wire::Problem;

/// The most tasks in one request.
pub const BULK_TASKS_MAX: usize = 10_000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) async fn submit<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let body = whole(body)?;
    let key = idempotency_key(headers.get_all(IDEMPOTENCY_KEY).iter())?;
    if body.trim_ascii_start().first() == Some(&b'[') {
        if key.is_some() {
            let detail = "the header Idempotency-Key can't stand for many tasks";
            return Err(invalid(detail).help("give each task of the array a `key` of its own"));
        }
        return many(&api, &body).await;
    }
    let submission = api.read(&body, key).await?;
    let submitted = api.0.settings.service.submit(submission).await?;
    let location = format!("/v1/tasks/{}", submitted.id);
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = answer::json(status, &submitted);
    let location = HeaderValue::from_str(&location).expect("an id has plain letters");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

async fn many<S: Storage, C: Clock>(api: &Api<S, C>, body: &[u8]) -> Result<Response, Problem> {
    let items = bulk(body)?;
    let mut submissions = Vec::with_capacity(items.len());
    for item in items {
        submissions.push(api.read(item.get().as_bytes(), None).await);
    }
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.submit_all(submissions).await))
}

/// Parts the body of many submits: each is read by itself.
///
/// # Errors
/// It is no JSON array, or has more than [`BULK_TASKS_MAX`] items.
pub fn bulk(body: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| invalid(unreadable(&error)))?;
    if items.len() > BULK_TASKS_MAX {
        let detail = format!("{} tasks are more than the {BULK_TASKS_MAX} of one request", items.len());
        return Err(too_large(detail).help("send them in several requests"));
    }
    Ok(items)
}

impl<S: Storage, C: Clock> Api<S, C> {
    /// Reads and checks one task at the door.
    async fn read(&self, json: &[u8], key: Option<Key>) -> Result<Submission, Problem> {
        let settings = &self.0.settings;
        let mut request = TaskRequest::from_json(json).map_err(invalid_field)?;
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
        if !settings.allow_unknown_kinds {
            self.0.kinds.check(&request.kind, &settings.service).await?;
        }
        Ok(Submission::new(request, &settings.config))
    }
}

/// Reads the headers `Idempotency-Key`, of which there is one at most.
///
/// # Errors
/// There are several, or it is no key.
pub fn idempotency_key<'a>(mut given: impl Iterator<Item = &'a HeaderValue>) -> Result<Option<Key>, Problem> {
    let Some(header) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(invalid("the header Idempotency-Key stands there twice").field("key"));
    }
    let text = header.to_str().map_err(|_| invalid("the header Idempotency-Key isn't plain text"))?;
    Key::new(text).map(Some).map_err(|error| invalid(error.to_string()).field("key"))
}
