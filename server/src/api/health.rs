//! `/readyz` and `/metrics`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use steadfast::{Clock, Storage};

use super::{Api, answer};
use crate::wire::Problem;

/// How long the store may take to answer.
const STORE_MAX: Duration = Duration::from_secs(5);

/// `GET /readyz`: whether tasks can be submitted here and, where a worker belongs to this server, are run.
///
/// The schema was checked when the store was opened; a newer program may have migrated it since, and then reading fails.
pub(super) async fn ready<S: Storage, C: Clock>(State(api): State<Api<S, C>>) -> Result<Response, Problem> {
    let settings = &api.0.settings;
    let unready = |why: String| Problem::new(503, "not_ready", "not ready", why).help("see the server's log");
    if *settings.ending.borrow() {
        return Err(unready("the server is about to end".into()));
    }
    if settings.worker_lives.as_ref().is_some_and(|lives| !*lives.borrow()) {
        return Err(unready("the worker has ended".into()));
    }
    match tokio::time::timeout(STORE_MAX, settings.service.known_workers()).await {
        Ok(Ok(_)) => {}
        // Why is in the log: whoever asks here needn't show a token.
        Ok(Err(_)) => return Err(unready("the store can't be reached".into())),
        Err(_) => return Err(unready(format!("the store hasn't answered for {STORE_MAX:?}"))),
    }
    let body = serde_json::json!({ "ready": true, "store": settings.service.store.as_str() });
    Ok(answer::json(StatusCode::OK, &body))
}

/// `GET /metrics`, for Prometheus.
pub(super) async fn metrics<S: Storage, C: Clock>(State(api): State<Api<S, C>>) -> Response {
    let settings = &api.0.settings;
    let (content_type, page) = settings.metrics.page(&settings.service).await;
    ([(CONTENT_TYPE, content_type)], page).into_response()
}
