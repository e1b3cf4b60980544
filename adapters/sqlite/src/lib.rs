//! Steadfast's storage on SQLite: the embedded default.
//!
//! One file, one thread that writes, a few that read; several processes may share the file. Read the modules in the
//! order below: they are meant to be read as "how do I write a storage?". The contract is
//! [`steadfast_core::storage`]'s, the meaning of each step [`steadfast_core::step`]'s.

mod schema;

mod writer;

mod apply;
mod claim;
mod insert;
mod release;
mod transition;

mod reader;
mod row;

mod clock;
mod error;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::time::ManualClock;
use steadfast_core::wake::{Hints, Wake};
use steadfast_core::{Batch, Error, ErrorKind, Outcome, Storage, StoreId};
use tokio::sync::oneshot;

use crate::clock::StoreClock;
use crate::reader::ReadCall;
use crate::writer::{Call, Writer};

/// Connections that read, each with a thread of its own.
const READERS: usize = 2;
/// Calls that wait for a thread; one more is refused. So many wait only while the disk is stuck.
const CALLS_MAX: usize = 4096;

/// Where the store is and how it is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file; created where there is none. `None`: in memory, gone with the last handle.
    pub path: Option<PathBuf>,
    /// How much an acknowledged write survives.
    pub synchronous: Synchronous,
    /// The largest size that the file may grow to; beyond it, writes fail with [`ErrorKind::Unavailable`]. It bounds
    /// this process only, and not the write-ahead log beside the file.
    pub bytes_max: Option<u64>,
    /// For tests: judges leases and due times in place of the host's clock.
    pub clock: Option<ManualClock>,
}

/// How much an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// A power failure. Each commit waits for the disk.
    #[default]
    Full,
    /// A crash of the process, but not of the host: the last commits may be missing then.
    Normal,
}

impl Options {
    /// A store in this file, with every default.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), synchronous: Synchronous::Full, bytes_max: None, clock: None }
    }

    /// A store in memory, shared by the clones of its handle.
    pub fn in_memory() -> Self {
        Self { path: None, synchronous: Synchronous::Full, bytes_max: None, clock: None }
    }

    /// What is being done, for error messages.
    fn doing(&self, verb: &str) -> String {
        match &self.path {
            Some(path) => format!("{verb} the store {}", path.display()),
            None => format!("{verb} a store in memory"),
        }
    }
}

/// Tasks in an SQLite file. Cloning is cheap; the last clone's drop waits for the call under way and closes the file.
#[derive(Clone)]
pub struct SqliteStorage(Arc<Shared>);

struct Shared {
    options: Options,
    store: StoreId,
    wake: Wake,
    /// Set once somebody listens: the writer then looks for other processes' commits.
    is_watched: Arc<AtomicBool>,
    calls: Calls,
    threads: Vec<JoinHandle<()>>,
}

/// The ways to the threads; dropping them ends the threads.
struct Calls {
    writer: SyncSender<Call>,
    /// A store in memory has one connection, and the writer reads.
    readers: Option<SyncSender<ReadCall>>,
}

impl SqliteStorage {
    /// Opens the store, and creates or migrates it first where necessary.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where the file can't be opened or written, [`ErrorKind::Broken`] where it is another
    /// program's or was made by a newer version of this one, [`ErrorKind::Conflict`] where another process holds it
    /// locked for too long. The message says what to do.
    pub fn open(options: Options) -> Result<Self, Error> {
        let (conn, store) = schema::open_writer(&options)?;
        let clock = Arc::new(StoreClock::new(options.clock.clone()));
        let wake = Wake::new();
        let is_watched = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();

        let readers = match &options.path {
            Some(path) => {
                let (sender, receiver) = mpsc::sync_channel(CALLS_MAX);
                let connections: Result<Vec<_>, Error> =
                    (0..READERS).map(|_| schema::open_reader(path, &options)).collect();
                for (conn, run) in connections?.into_iter().zip(reader::pool(receiver)) {
                    let (clock, store) = (clock.clone(), store.clone());
                    threads.push(spawn("steadfast-read", move || run(&conn, &clock, &store))?);
                }
                Some(sender)
            }
            None => None,
        };
        let (sender, receiver) = mpsc::sync_channel(CALLS_MAX);
        let writer =
            Writer { store: store.clone(), clock, wake: wake.clone(), is_watched: is_watched.clone() };
        threads.push(spawn("steadfast-write", move || writer.run(&conn, &receiver))?);

        let calls = Calls { writer: sender, readers };
        Ok(Self(Arc::new(Shared { options, store, wake, is_watched, calls, threads })))
    }

    /// The store's identity, made when it was created.
    pub fn store(&self) -> &StoreId {
        &self.0.store
    }

    /// Sends a call to a thread and waits for its answer. A call whose caller is gone before its turn isn't begun.
    async fn call<C, T>(
        &self,
        to: &SyncSender<C>,
        lost: ErrorKind,
        call: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> C,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        to.try_send(call(answer)).map_err(|error| match error {
            TrySendError::Full(_) => {
                let message = format!("{CALLS_MAX} calls wait for the store already; is its disk stuck?");
                Error::new(ErrorKind::Unavailable, message)
            }
            TrySendError::Disconnected(_) => {
                Error::new(ErrorKind::Broken, "the store's thread has ended: this is a bug")
            }
        })?;
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(lost, "the store's thread ended during the call: this is a bug"))
        })
    }
}

impl Storage for SqliteStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let request = request.clone();
        self.call(&self.0.calls.writer, ErrorKind::Unknown, |answer| Call::Claim(request, answer)).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let batches = batches.to_vec();
        self.call(&self.0.calls.writer, ErrorKind::Unknown, |answer| Call::Apply(batches, answer)).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let query = query.clone();
        let lost = ErrorKind::Broken;
        match &self.0.calls.readers {
            Some(readers) => self.call(readers, lost, |answer| ReadCall { query, answer }).await,
            None => {
                self.call(&self.0.calls.writer, lost, |answer| Call::Read(ReadCall { query, answer })).await
            }
        }
    }

    fn hints(&self) -> Hints {
        // In memory there are no other processes to watch.
        if self.0.options.path.is_some() && !self.0.is_watched.swap(true, Ordering::Relaxed) {
            // Wakes a writer that sleeps. Where the queue is full it is awake, and looks at the flag after each call.
            let _ = self.0.calls.writer.try_send(Call::Watch);
        }
        self.0.wake.listen()
    }
}

impl fmt::Debug for SqliteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStorage")
            .field("store", &self.0.store)
            .field("options", &self.0.options)
            .finish()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let (closed, _) = mpsc::sync_channel(0);
        self.calls = Calls { writer: closed, readers: None };
        for thread in self.threads.drain(..) {
            // Answering a call can drop the caller's task, and with it the last handle, on the thread that answers.
            if thread.thread().id() != thread::current().id() {
                // A thread that panicked has said so, and there is nothing left to do for it.
                let _ = thread.join();
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(|error| {
        Error::new(ErrorKind::Unavailable, format!("could not start a thread for the store: {error}"))
    })
}
