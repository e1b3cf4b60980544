//! A running worker, and the adapter that gives each attempt of a handler a task of its own.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use steadfast_core::handler::Running;
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::{Cause, Context, Handler, Handlers, Verdict, WorkerId};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

use crate::lag::ExecutorLag;

/// How long a task rests that found the handlers' runtime shut down: long enough for another worker to take it.
const RUNTIME_GONE_SNOOZE: Duration = Duration::from_secs(1);

/// A running worker. Dropping this changes nothing: the worker goes on as long as its host.
#[derive(Debug)]
pub struct Worker {
    id: WorkerId,
    drain: DrainHandle,
    /// Gone when its end has been told.
    supervisor: Option<JoinHandle<()>>,
    lag: ExecutorLag,
}

/// The worker ended by a bug in Steadfast: its attempts were dropped and their leases lapse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the worker {worker} panicked: {message}. Its tasks are rescued when their leases lapse; start it again"
)]
pub struct WorkerPanicked {
    /// Which.
    pub worker: WorkerId,
    /// What it said.
    pub message: String,
}

impl Worker {
    pub(crate) fn new(
        id: WorkerId,
        drain: DrainHandle,
        supervisor: JoinHandle<()>,
        lag: ExecutorLag,
    ) -> Self {
        Self { id, drain, supervisor: Some(supervisor), lag }
    }

    /// How late the executor is on which the handlers run: measured every second, and warned about from
    /// [`LAG_WARNING`](crate::LAG_WARNING) on.
    pub fn executor_lag(&self) -> ExecutorLag {
        self.lag.clone()
    }

    /// Its identity: that of this start.
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// What asks it to drain, for those who don't wait.
    pub fn drain_handle(&self) -> DrainHandle {
        self.drain.clone()
    }

    /// Drains it: claims nothing more, tells every attempt to stop, gives back those that don't end within the grace.
    ///
    /// # Errors
    /// It had panicked.
    ///
    /// # Cancellation
    /// The draining goes on.
    pub async fn drain(mut self) -> Result<(), WorkerPanicked> {
        self.drain.drain();
        self.ended().await
    }

    /// Waits until it has ended: it was drained, or its host was closed.
    ///
    /// # Errors
    /// It panicked.
    ///
    /// # Cancellation
    /// Safe. A panic is told once.
    pub async fn ended(&mut self) -> Result<(), WorkerPanicked> {
        let Some(supervisor) = &mut self.supervisor else { return Ok(()) };
        let ended = supervisor.await;
        self.supervisor = None;
        match ended.map_err(JoinError::try_into_panic) {
            // Not a panic: the host was closed.
            Ok(()) | Err(Err(_)) => Ok(()),
            Err(Ok(panic)) => Err(WorkerPanicked { worker: self.id.clone(), message: panic_text(&*panic) }),
        }
    }
}

/// Wraps handlers so that each attempt is a task of its own on this runtime.
pub(crate) fn on_runtime(handlers: Handlers, runtime: &Handle) -> Handlers {
    handlers.map(|handler| OnRuntime { handler, runtime: runtime.clone() })
}

struct OnRuntime {
    handler: Arc<dyn Handler>,
    runtime: Handle,
}

impl Handler for OnRuntime {
    fn call(&self, context: Context) -> Running {
        let (handler, runtime) = (self.handler.clone(), self.runtime.clone());
        Box::pin(async move {
            // All of it in the task: a panic on the way in is caught as well, and the host's thread doesn't write the span.
            let attempt = OwnedTask(runtime.spawn(async move {
                let lease = context.lease();
                // What the handler logs carries them.
                let span =
                    tracing::info_span!("attempt", task = %lease.task, attempt = lease.attempt, fence = lease.fence);
                async move { handler.call(context).await }.instrument(span).await
            }));
            match attempt.await.map_err(JoinError::try_into_panic) {
                Ok(verdict) => verdict,
                Err(Ok(panic)) => {
                    Verdict::Retry { cause: Cause::Panic, error: panic_text(&*panic), after: None }
                }
                // The service shut its runtime down without draining the worker: the attempt is given back.
                Err(Err(_)) => Verdict::Snooze { after: RUNTIME_GONE_SNOOZE },
            }
        })
    }
}

/// A task that is aborted when it isn't wanted any more.
pub(crate) struct OwnedTask<T>(pub(crate) JoinHandle<T>);

impl<T> Future for OwnedTask<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for OwnedTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the panic's payload is no text".to_owned())
}
