//! Connections: how many there are at once, and how long one may be without a request, or without the rest of it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::Listener;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a connection may be idle, and how long the head of a request may take. Longer than clients keep a connection
/// that they don't need (reqwest: 90 s), so that none is closed while a request is on its way.
pub const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long the body of a request may stand still.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is said at most that there are too many.
const WARNED_EVERY: Duration = Duration::from_secs(60);

/// Accepts connections until `ended`, at most `max` at once, and then answers the requests that are under way. Whoever
/// comes while there are so many waits in the listener's queue until another one goes.
pub(super) async fn accept<L: Listener>(
    mut listener: L,
    router: Router,
    max: usize,
    ended: impl Future<Output = ()>,
) {
    let mut places = Places::new(max);
    let open = GracefulShutdown::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    let mut ended = pin!(ended);
    loop {
        let next = async {
            let place = places.free().await;
            let (stream, _) = listener.accept().await;
            (place, stream)
        };
        // In this order: chance would decide where both are ready, and no seed replays that.
        let (place, stream) = tokio::select! {
            biased;
            () = &mut ended => break,
            next = next => next,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// Gives a request up whose body stands still.
pub(super) async fn hurry_bodies(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(head, body)).await;
    }
    let chunks = unfold(Some(body.into_data_stream()), async |body| {
        let mut body = body?;
        match tokio::time::timeout(BODY_PAUSE_MAX, body.next()).await {
            Ok(chunk) => chunk.map(|chunk| (chunk, Some(body))),
            Err(_) => {
                let why = format!("nothing of the body has come for {BODY_PAUSE_MAX:?}");
                Some((Err(axum::Error::new(std::io::Error::other(why))), None))
            }
        }
    });
    next.run(Request::from_parts(head, Body::from_stream(chunks))).await
}

/// Places for connections.
struct Places {
    max: usize,
    free: Arc<Semaphore>,
    warned: Option<Instant>,
}

impl Places {
    fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self { max, free: Arc::new(Semaphore::new(max)), warned: None }
    }

    async fn free(&mut self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return place;
        }
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNED_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                max = self.max,
                "as many connections are open as may be; others wait. Half of the descriptors are for them: see `ulimit -n`"
            );
        }
        self.free.clone().acquire_owned().await.expect("it is never closed")
    }
}
