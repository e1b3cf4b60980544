//! The HTTP API: routes, who may use them, and how problems are answered.
//!
//! Handlers here translate; what is true of a task is the engine's to say. Nothing that runs commands can be reached
//! from here but by the kinds of the operator's configuration.

mod answer;
mod door;
mod submit;
mod tasks;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Router, http};
use steadfast::{AnyStorage, Engine, Kind, StoreId, TokioClock};
use tokio::sync::watch;

use crate::config::Config;

pub(crate) use submit::refused;
pub(crate) use tasks::{cancel_answer, limit, no_task, state};

pub use submit::BULK_TASKS_MAX;
pub use tasks::{LIST_MAX, WAIT_MAX};

/// The largest body of a bulk submit, in bytes; a single task may be larger where payloads may.
const BULK_BYTES_MAX: usize = 16 << 20;
/// What a body may have beside the payload.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// What the API is given.
#[derive(Debug)]
pub struct Settings {
    /// The engine on the store.
    pub engine: Engine<AnyStorage, TokioClock>,
    /// The store's identity.
    pub store: StoreId,
    /// The operator's configuration: which kinds there are, and their defaults.
    pub config: Config,
    /// Whether a task whose kind nobody here knows is accepted.
    pub allow_unknown_kinds: bool,
    /// The tokens, one of which must be shown; none has to be where there are none.
    pub tokens: Vec<String>,
    /// Becomes true when the server is about to end: long polls are answered then.
    pub ending: watch::Receiver<bool>,
}

/// The API's state, shared by its handlers.
#[derive(Debug, Clone)]
struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    kinds: BTreeSet<Kind>,
}

/// The API as a service.
pub fn router(settings: Settings) -> Router {
    let body_max = BULK_BYTES_MAX.max(settings.config.server.payload_bytes_max + ENVELOPE_BYTES_MAX);
    let store = http::HeaderValue::from_str(settings.store.as_str()).expect("a store id has plain letters");
    let kinds = settings.config.kinds();
    let api = Api(Arc::new(Inner { settings, kinds }));
    Router::new()
        .route("/v1/tasks", post(submit::submit).get(tasks::list))
        .route("/v1/tasks/{id}", get(tasks::one))
        .route("/v1/tasks/{id}/cancel", post(tasks::cancel))
        .layer(from_fn_with_state(api.clone(), door::show_a_token))
        .route("/healthz", get(async || "ok\n"))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(DefaultBodyLimit::max(body_max))
        .layer(from_fn_with_state(api.clone(), door::keep_browsers_out))
        .layer(from_fn(move |request, next| answer::name_the_store(store.clone(), request, next)))
        .with_state(api)
}
