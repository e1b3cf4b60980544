//! Slots, queues, workers, figures of the whole store, and forgetting what ended long ago.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use steadfast::{Clock, Queue, Slot, Storage};

use super::parse::{Parameters, Segment, body, json, whole};
use super::tasks::{Nothing, reason};
use super::{Api, answer};
use crate::service::invalid;
use crate::units;
use crate::wire::Problem;

/// `GET /v1/slots`.
pub(super) async fn slots<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.slots().await?))
}

/// `GET /v1/slots/{slot}`.
pub(super) async fn slot<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    slot: Segment,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let slot: Slot = slot.name("slot")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.slot(&slot).await?))
}

/// `DELETE /v1/slots/{slot}`: cancels its holder.
pub(super) async fn free_slot<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    slot: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let reason = reason(&whole(sent)?)?;
    let slot: Slot = slot.name("slot")?;
    let cancelled = api.0.settings.service.free_slot(&slot, &reason).await?;
    Ok(answer::json(StatusCode::OK, &cancelled))
}

/// `GET /v1/queues`.
pub(super) async fn queues<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.queues().await?))
}

/// `POST /v1/queues/{queue}/pause`.
pub(super) async fn pause<S: Storage, C: Clock>(
    api: State<Api<S, C>>,
    queue: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    set_paused(api, queue, parameters, sent, true).await
}

/// `POST /v1/queues/{queue}/resume`.
pub(super) async fn resume<S: Storage, C: Clock>(
    api: State<Api<S, C>>,
    queue: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    set_paused(api, queue, parameters, sent, false).await
}

async fn set_paused<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    queue: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
    paused: bool,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let Nothing {} = body(sent)?;
    let queue: Queue = queue.name("queue")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.pause(queue, paused).await?))
}

/// The body of new limits. That none is wanted must be said by a null.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    concurrency: Option<Value>,
    #[serde(default, rename = "rate")]
    rate: Option<Value>,
}

/// `PUT /v1/queues/{queue}/limits`, with `{"concurrency": N}`, or null for no limit.
pub(super) async fn limits<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    queue: Segment,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let queue: Queue = queue.name("queue")?;
    let concurrency = concurrency(&whole(sent)?)?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.limit(queue, concurrency).await?))
}

/// Reads the body of new limits: how many tasks may run at once, if not all.
///
/// # Errors
/// It isn't a JSON object that says so, or says more.
pub fn concurrency(body: &[u8]) -> Result<Option<u32>, Problem> {
    let bad = |why: String| invalid(why).field("concurrency");
    let Limits { concurrency, rate } = json(body)?;
    if rate.is_some() {
        return Err(invalid("isn't there yet: use concurrency, which limits how many tasks run at once")
            .field("rate"));
    }
    match concurrency {
        // Serde doesn't tell a null from nothing.
        None if body.windows(13).any(|part| part == b"\"concurrency\"") => Ok(None),
        None => Err(bad("is missing: how many tasks may run at once? null is no limit".into())),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            let number = number.ok_or_else(|| {
                bad(format!("must be a whole number from 0, or null for none, not {value}"))
            })?;
            Ok(Some(number))
        }
    }
}

/// `GET /v1/workers`.
pub(super) async fn workers<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.workers().await?))
}

/// `GET /v1/stats`.
pub(super) async fn stats<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.stats().await?))
}

/// The body of pruning.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Older {
    older: Option<String>,
}

/// `POST /v1/prune`, with `{"older": "7d"}`.
pub(super) async fn prune<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    parameters: Parameters,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.none_left("")?;
    let Older { older } = super::parse::body(sent)?;
    let older = older.ok_or_else(|| invalid("is missing: say how long ago, such as 7d").field("older"))?;
    let older = units::duration(&older).map_err(|why| invalid(why).field("older"))?;
    Ok(answer::json(StatusCode::OK, &api.0.settings.service.prune(older).await?))
}
