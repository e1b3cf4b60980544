//! The HTTP API: routes, who may use them, and how problems are answered.
//!
//! Handlers here translate; what is true of a task is the engine's to say. Nothing that runs commands can be reached
//! from here but by the kinds of the operator's configuration.

mod answer;
mod connections;
mod door;
mod events;
mod health;
mod houses;
mod kinds;
mod parse;
mod submit;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post, put};
use axum::serve::Listener;
use axum::{Router, http};
use steadfast::{Clock, Storage, TokioClock};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::store::Observed;
use kinds::Kinds;

// What this API reads, without a server around it.
pub use connections::IDLE_MAX;
pub use events::last_event_id;
pub use houses::concurrency;
pub use parse::{limit, state};
pub use submit::{BULK_TASKS_MAX, bulk, idempotency_key};
pub use tasks::{WAIT_MAX, place, reason};

/// The largest body of a bulk submit, in bytes; a single task may be larger where payloads may.
pub const BULK_BYTES_MAX: usize = 16 << 20;
/// How long requests under way may take when the server is about to end.
pub const LAST_ANSWERS_MAX: Duration = Duration::from_secs(2);
/// What a body may have beside the payload.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// What the API is given.
#[derive(Debug)]
pub struct Settings<S = Observed, C = TokioClock> {
    /// The store, and what can be asked of it.
    pub service: Service<S, C>,
    /// The operator's configuration: which kinds there are, and their defaults.
    pub config: Config,
    /// Whether a task whose kind nobody here knows is accepted.
    pub allow_unknown_kinds: bool,
    /// The tokens, one of which must be shown; none has to be where there are none.
    pub tokens: Vec<String>,
    /// Becomes true when the server is about to end: long polls are answered then.
    pub ending: watch::Receiver<bool>,
    /// Becomes false when the worker that belongs to this server has ended; none where there is no such worker.
    pub worker_lives: Option<watch::Receiver<bool>>,
    /// What was measured in this process.
    pub metrics: Arc<Metrics>,
    /// How many connections there may be at once.
    pub connections_max: usize,
}

/// The API's state, shared by its handlers.
#[derive(Debug, Clone)]
struct Api<S, C>(Arc<Inner<S, C>>);

#[derive(Debug)]
struct Inner<S, C> {
    settings: Settings<S, C>,
    kinds: Kinds,
}

impl<S, C> Api<S, C> {
    /// Waits until the server is about to end. Cancellation safe.
    async fn ending(&self) {
        // An error says that whoever would tell is gone, which is the end, too.
        let _ = self.0.settings.ending.clone().wait_for(|ending| *ending).await;
    }
}

/// Serves the API on a listener until `settings.ending` is true, then answers what is under way. That may last for ever
/// where a client doesn't read: wait for at most [`LAST_ANSWERS_MAX`].
///
/// # Cancellation
/// Nothing new is accepted then; open connections go on as tasks of their own.
pub async fn serve<L, S, C>(listener: L, settings: Settings<S, C>)
where
    L: Listener,
    S: Storage,
    C: Clock,
{
    let mut ending = settings.ending.clone();
    let ended = async move {
        // An error says that whoever would tell is gone, which is the end, too.
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let connections_max = settings.connections_max;
    connections::accept(listener, router(settings), connections_max, ended).await;
}

/// The API as a service.
pub fn router<S: Storage, C: Clock>(settings: Settings<S, C>) -> Router {
    let body_max = BULK_BYTES_MAX.max(settings.config.server.payload_bytes_max + ENVELOPE_BYTES_MAX);
    let store =
        http::HeaderValue::from_str(settings.service.store.as_str()).expect("a store id has plain letters");
    let kinds = Kinds::new(settings.config.kinds());
    let api = Api(Arc::new(Inner { settings, kinds }));
    Router::new()
        .route("/v1/tasks", post(submit::submit::<S, C>).get(tasks::list::<S, C>))
        .route("/v1/tasks/{id}", get(tasks::one::<S, C>))
        .route("/v1/tasks/{id}/events", get(events::events::<S, C>))
        .route("/v1/tasks/{id}/diagnosis", get(tasks::diagnosis::<S, C>))
        .route("/v1/tasks/{id}/log", get(tasks::log::<S, C>))
        .route("/v1/tasks/{id}/attempts", get(tasks::attempts::<S, C>))
        .route("/v1/tasks/{id}/cancel", post(tasks::cancel::<S, C>))
        .route("/v1/tasks/{id}/retry", post(tasks::retry::<S, C>))
        .route("/v1/slots", get(houses::slots::<S, C>))
        .route("/v1/slots/{slot}", get(houses::slot::<S, C>).delete(houses::free_slot::<S, C>))
        .route("/v1/queues", get(houses::queues::<S, C>))
        .route("/v1/queues/{queue}/pause", post(houses::pause::<S, C>))
        .route("/v1/queues/{queue}/resume", post(houses::resume::<S, C>))
        .route("/v1/queues/{queue}/limits", put(houses::limits::<S, C>))
        .route("/v1/workers", get(houses::workers::<S, C>))
        .route("/v1/stats", get(houses::stats::<S, C>))
        .route("/v1/prune", post(houses::prune::<S, C>))
        .route("/metrics", get(health::metrics::<S, C>))
        .layer(from_fn_with_state(api.clone(), door::show_a_token::<S, C>))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(health::ready::<S, C>))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(DefaultBodyLimit::max(body_max))
        .layer(from_fn(connections::hurry_bodies))
        .layer(from_fn_with_state(body_max, door::keep_large_bodies_out))
        .layer(from_fn_with_state(api.clone(), door::keep_browsers_out::<S, C>))
        .layer(from_fn(move |request, next| answer::name_the_store(store.clone(), request, next)))
        .with_state(api)
}
