//! The host: a process's seat at a store. It owns the thread on which everything runs that must not wait for handlers:
//! commits, claims, renewals, settling and sweeping.
//!
//! Why a thread of its own: a handler that computes for a minute without an await holds up its executor for that
//! minute. If renewals ran there, the lease would lapse while the handler works, and another worker would run the task
//! a second time.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use steadfast_core::engine::{Accepted, InvalidTask, Submitted};
use steadfast_core::supervisor::{InvalidConfig, Supervisor, WorkerConfig};
use steadfast_core::{Engine, Error, Handlers, NewTask, Refusal, Storage, sweeper};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::clock::TokioClock;
use crate::id::worker_id;
use crate::lag::ExecutorLag;
use crate::store::{AnyStorage, StoreUrl};
use crate::worker::{OwnedTask, Worker, on_runtime};

/// A process's seat at a store. Clones are one host.
///
/// When the last clone is dropped the host's thread ends, as after a crash: leases lapse, commits under way are
/// committed or not. Drain the workers and [`close`](Self::close) it for a clean end.
#[derive(Debug, Clone)]
pub struct Host<S: Storage = AnyStorage> {
    engine: Engine<S, TokioClock>,
    seat: Arc<Seat>,
}

#[derive(Debug)]
struct Seat {
    runtime: Handle,
    /// Whether a sweeper runs.
    sweeps: Mutex<bool>,
    /// Until the host is closed. Dropping it ends the thread.
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Why a host couldn't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store's own reason.
    #[error(transparent)]
    Store(#[from] Error),
    /// The system gives no thread, or no event queue for it.
    #[error("the thread that commits and renews can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a task wasn't accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The request makes no sense.
    #[error("the task makes no sense: {0}")]
    Invalid(#[from] InvalidTask),
    /// The store refused it: an id, key or slot that is taken, or a parent that doesn't exist.
    #[error("the task was refused: {0:?}")]
    Refused(Refusal),
    /// The store failed. Where its outcome is unknown, the same task submitted again tells.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Host<AnyStorage> {
    /// Opens a store, and creates or migrates it first where necessary.
    ///
    /// # Errors
    /// The store can't be reached or isn't one of ours; or the system gives no thread.
    pub async fn open(url: &StoreUrl) -> Result<Self, OpenError> {
        let url = url.clone();
        Self::start(async move || AnyStorage::open(&url).await).await
    }
}

impl<S: Storage> Host<S> {
    /// A host on the storage that `open` opens. It is called on the host's thread, so that the connections, too, are
    /// served there.
    ///
    /// # Errors
    /// That of `open`; or the system gives no thread.
    pub async fn start<O>(open: O) -> Result<Self, OpenError>
    where
        O: AsyncFnOnce() -> Result<S, Error> + Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (opened, when_opened) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (ended, when_ended) = oneshot::channel();
        thread::Builder::new().name("steadfast".into()).spawn(move || {
            runtime.block_on(serve(open, opened, stopped));
            // Drops what still runs before the end is told.
            drop(runtime);
            let _ = ended.send(());
        })?;
        let engine = when_opened.await.map_err(|_| std::io::Error::other("it panicked while opening"))??;
        let thread = Mutex::new(Some(Thread { stop, ended: when_ended }));
        let seat = Seat { runtime: handle, sweeps: Mutex::new(false), thread };
        Ok(Self { engine, seat: Arc::new(seat) })
    }

    /// The engine: submits, cancels, reads, waits. Usable from any thread and runtime while the host lives.
    pub fn engine(&self) -> &Engine<S, TokioClock> {
        &self.engine
    }

    /// Stores a task, as [`Engine::submit`] does, for those to whom anything but a stored task is an error.
    ///
    /// # Errors
    /// It makes no sense, was refused, or couldn't be stored.
    ///
    /// # Cancellation
    /// A dropped future leaves the task stored or not: the same submit again tells.
    pub async fn submit(&self, task: NewTask) -> Result<Accepted, SubmitError> {
        match self.engine.submit(task).await? {
            Submitted::Accepted(accepted) => Ok(accepted),
            Submitted::Refused(refusal) => Err(SubmitError::Refused(refusal)),
            Submitted::Invalid(invalid) => Err(SubmitError::Invalid(invalid)),
        }
    }

    /// The default configuration of a new worker on this machine, from the queue `default`.
    pub fn worker_config(&self) -> WorkerConfig {
        WorkerConfig::new(worker_id())
    }

    /// Starts a worker, and a sweeper if none runs here. The worker lives on the host's thread; each attempt of a
    /// handler is a task of its own on the runtime from which this is called. A panic there fails the attempt. What a
    /// handler logs by `tracing` is in the span `attempt`, with the task's id, the number of the attempt and the fence;
    /// what it spawns is in it only if it takes the span along (`.in_current_span()`).
    ///
    /// # Errors
    /// The configuration makes no sense.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn work(&self, handlers: Handlers, config: WorkerConfig) -> Result<Worker, InvalidConfig> {
        let (id, lease) = (config.id.clone(), config.lease);
        let executor = Handle::current();
        let handlers = on_runtime(handlers, &executor);
        let (supervisor, drain) = Supervisor::new(self.engine.clone(), handlers, config)?;
        self.sweep(sweeper::SWEEP.min(lease));
        let lag = ExecutorLag::new();
        let probe = OwnedTask(executor.spawn(lag.clone().probe()));
        let watch = lag.clone().watch(id.clone());
        let supervisor = self.seat.runtime.spawn(async move {
            let _until_the_worker_ends = probe;
            tokio::select! {
                () = supervisor.run() => {}
                () = watch => {}
            }
        });
        Ok(Worker::new(id, drain, supervisor, lag))
    }

    /// Reclaims lapsed leases now and every `every` from now on. Does nothing if that is done here already.
    pub fn sweep(&self, every: Duration) {
        let before = {
            let mut sweeps = self.seat.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *sweeps, true)
        };
        if !before {
            self.seat.runtime.spawn(sweep_for_ever(self.engine.clone(), every));
        }
    }

    /// Ends the host's thread and waits until it has ended. Workers that weren't drained are dropped as after a crash.
    /// Other clones of the host and its engine can't commit any more: their calls fail as unknown.
    ///
    /// # Cancellation
    /// The end goes on without anybody waiting for it.
    pub async fn close(self) {
        let thread = self.seat.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Where it was closed before there is nothing to wait for.
        if let Some(Thread { stop, ended }) = thread {
            drop(stop);
            let _ = ended.await;
        }
    }
}

/// A sweeper, and another one after it: it ends only by a panic, which is a bug. Without one no lost task would be rescued
/// and no deadline kept, and nobody would notice.
async fn sweep_for_ever<S: Storage>(engine: Engine<S, TokioClock>, every: Duration) {
    loop {
        let ended = tokio::spawn(sweeper::run(engine.clone(), every)).await;
        tracing::error!(?ended, "the sweeper panicked, which is a bug in Steadfast; it begins anew");
        tokio::time::sleep(every).await;
    }
}

/// The host's thread: opens the store, then runs what is spawned until nobody needs it any more.
async fn serve<S: Storage>(
    open: impl AsyncFnOnce() -> Result<S, Error>,
    opened: oneshot::Sender<Result<Engine<S, TokioClock>, Error>>,
    stopped: oneshot::Receiver<()>,
) {
    let storage = match open().await {
        Ok(storage) => storage,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let (engine, commits) = Engine::new(storage, TokioClock);
    let commits = tokio::spawn(commits);
    if opened.send(Ok(engine)).is_ok() {
        tokio::select! {
            // Nothing is ever sent: the sender is dropped with the last host.
            _ = stopped => {}
            // The engine lives as long as the host does, so this is a bug. Better a crash, after which leases lapse,
            // than a worker that renews them and can settle nothing.
            ended = commits => tracing::error!(?ended, "the committer ended; this host ends as after a crash"),
        }
    }
}
