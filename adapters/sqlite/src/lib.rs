//! Steadfast's storage on SQLite: the embedded default.
//!
//! One file, one thread that writes, a few that read; several processes may share the file. Read the modules in the
//! order below: they are meant to be read as "how do I write a storage?". The contract is
//! [`steadfast_core::storage`]'s, the meaning of each step [`steadfast_core::step`]'s.

mod schema;

mod answer;
mod threads;
mod writer;

mod apply;
mod claim;
mod house;
mod insert;
mod release;
mod report;
mod shelf;
mod slot;
mod transition;

mod list;
mod reader;
mod row;
mod stats;

mod within;

mod clock;
mod error;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::time::ManualClock;
use steadfast_core::wake::{Hint, Hints, Wake};
use steadfast_core::{Batch, Error, ErrorKind, Outcome, Storage, StoreId};

use crate::answer::Limits;
use crate::clock::StoreClock;
use crate::reader::ReadCall;
use crate::schema::Opened;
use crate::threads::Threads;
use crate::writer::{WriteCall, has_new};

/// Connections that read, each with a thread of its own.
const READERS: usize = 2;

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
    /// The longest that a call may take, in all; 30 s. A caller is answered by then, whatever the disk does: with
    /// [`ErrorKind::Unavailable`] where nothing was stored, and [`ErrorKind::Unknown`] where that can't be known.
    pub time_limit: Duration,
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
        Self { path: Some(path.into()), ..Self::in_memory() }
    }

    /// A store in memory, shared by the clones of its handle.
    pub fn in_memory() -> Self {
        Self {
            path: None,
            synchronous: Synchronous::Full,
            bytes_max: None,
            time_limit: Duration::from_secs(30),
            clock: None,
        }
    }

    /// What error messages call the store.
    fn name(&self) -> String {
        match &self.path {
            Some(path) => format!("the store {}", path.display()),
            None => "a store in memory".into(),
        }
    }
}

/// Tasks in an SQLite file. Cloning is cheap; the last clone's drop waits for the call under way and closes the file.
#[derive(Clone)]
pub struct SqliteStorage(Arc<Handle>);

/// Fields are dropped in this order: the writer closes the file last, and takes the log beside it away.
struct Handle {
    /// A store in memory has one connection, and the writer reads.
    readers: Option<Threads<ReadCall>>,
    writer: Threads<WriteCall>,
    limits: Limits,
    common: Arc<Common>,
    options: Options,
}

/// What the threads of a store share.
struct Common {
    /// What error messages call the store.
    name: String,
    store: StoreId,
    clock: StoreClock,
    wake: Wake,
    /// Set once somebody listens: the writer then looks for other processes' commits.
    is_watched: AtomicBool,
}

impl SqliteStorage {
    /// Opens the store, and creates or migrates it first where necessary. Blocks while it does.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where the file can't be opened or written, [`ErrorKind::Broken`] where it is another
    /// program's or was made by a newer version of this one, [`ErrorKind::Conflict`] where another process holds it
    /// locked for too long. The message says what to do.
    pub fn open(options: Options) -> Result<Self, Error> {
        let clock = StoreClock::new(options.clock.clone());
        Self::open_by(options, clock)
    }

    fn open_by(options: Options, clock: StoreClock) -> Result<Self, Error> {
        let Opened { mut conn, store, data_version } = schema::open_writer(&options)?;
        // What fails now, on a full disk for example, is made up for by the writer within a second.
        let _ = clock.begin(&mut conn);
        let connections = match &options.path {
            Some(path) => {
                (0..READERS).map(|_| schema::open_reader(path, &options)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        let common = Arc::new(Common {
            name: options.name(),
            store,
            clock,
            wake: Wake::new(),
            is_watched: AtomicBool::new(false),
        });
        let readers = if connections.is_empty() {
            None
        } else {
            let common = common.clone();
            let run = move |conn: &_, calls: &_| reader::run(&common, conn, calls);
            Some(Threads::start("steadfast-read", connections, run)?)
        };
        let writer = {
            let common = common.clone();
            let run = move |conn: &_, calls: &_| writer::run(&common, conn, data_version, calls);
            Threads::start("steadfast-write", vec![conn], run)?
        };
        let limits = Limits::start(options.name(), options.time_limit)?;
        Ok(Self(Arc::new(Handle { readers, writer, limits, common, options })))
    }

    /// The store's identity, made when it was created.
    pub fn store(&self) -> &StoreId {
        &self.0.common.store
    }
}

impl Storage for SqliteStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let request = request.clone();
        self.0
            .writer
            .call(&self.0.limits, ErrorKind::Unknown, |answer| WriteCall::Claim(request, answer))
            .await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let batches = batches.to_vec();
        let has_new = has_new(&batches);
        let call = |answer| WriteCall::Apply(batches, answer);
        // An idle worker asks at once, and gets the task out of the very transaction that stores it. (The hint after the
        // commit comes all the same: this call may have to wait, or to be sent again.)
        let hint = || {
            if has_new {
                self.0.common.wake.notify(Hint::READY);
            }
        };
        self.0.writer.call_then(&self.0.limits, ErrorKind::Unknown, call, hint).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let query = query.clone();
        match &self.0.readers {
            Some(readers) => {
                readers.call(&self.0.limits, ErrorKind::Broken, |answer| ReadCall { query, answer }).await
            }
            None => {
                let call = |answer| WriteCall::Read(ReadCall { query, answer });
                self.0.writer.call(&self.0.limits, ErrorKind::Broken, call).await
            }
        }
    }

    fn hints(&self) -> Hints {
        // In memory there are no other processes to watch.
        if self.0.options.path.is_some() && !self.0.common.is_watched.swap(true, Ordering::Relaxed) {
            // Wakes a writer that sleeps. One that has much to do looks at the flag after each call.
            self.0.writer.tell(WriteCall::Watch);
        }
        self.0.common.wake.listen()
    }
}

impl fmt::Debug for SqliteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStorage")
            .field("store", self.store())
            .field("options", &self.0.options)
            .finish()
    }
}
