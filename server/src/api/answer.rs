//! Answers: JSON as it is, problems as `application/problem+json`, and the store's name on each.

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use steadfast::{Error, ErrorKind};

use crate::wire::Problem;

/// Which store answered.
const STORE_HEADER: HeaderName = HeaderName::from_static("x-steadfast-store");
/// After how many seconds a client should try again while the store is away.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An answer with this status and body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("our own types are JSON");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("our own types are JSON");
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        tracing::warn!(?error, "the store failed");
        match error.kind() {
            ErrorKind::Conflict | ErrorKind::Contended => {
                Problem::new(503, "contended", "the store is contended", text)
                    .help("nothing was changed: send the same request again")
            }
            ErrorKind::Unavailable => Problem::new(503, "unavailable", "the store can't be reached", text)
                .help("nothing was changed: send the same request again later"),
            ErrorKind::Unknown => Problem::new(503, "unknown_outcome", "the outcome is unknown", text)
                .help("the change was made or not: send the same request again, with the same id or key"),
            ErrorKind::Rejected => Problem::new(400, "rejected", "the store can't hold this", text),
            ErrorKind::Broken => Problem::new(500, "broken", "the store is broken", text)
                .help("see the server's log; this is a bug or a damaged store"),
        }
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let path = uri.path();
    Problem::new(404, "no_such_path", "no such path", format!("there is nothing at {path}"))
        .help("the API is at /v1/tasks, the health check at /healthz, the metrics at /metrics")
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} isn't possible at {}", uri.path());
    Problem::new(405, "no_such_method", "no such method", detail)
}

pub(super) async fn name_the_store(store: HeaderValue, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(STORE_HEADER, store);
    response
}
