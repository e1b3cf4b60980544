//! Steadfast for services: a durable task runtime on SQLite or PostgreSQL, in your own process.
//!
//! ```no_run
//! use steadfast::{Context, Handlers, Host, Kind, NewTask, Verdict};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::open(&"sqlite:tasks.db".parse()?).await?;
//! let greet = |task: Context| async move { Verdict::done([b"hello, ", task.payload()].concat()) };
//! let worker = host.work(Handlers::new().with(Kind::new("greet")?, greet), host.worker_config())?;
//!
//! let task = NewTask::new(steadfast::task_id(), Kind::new("greet")?, *b"world");
//! host.engine().submit(task).await?;
//! worker.drain().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Host`] is a process's seat at a store; a [`Worker`] runs tasks there. [`exec`] runs them as commands, under a
//! guard that lets no process outlive its attempt ([`subprocess`]). The model and the engine are `steadfast-core`'s,
//! re-exported here.

mod host;
mod worker;

mod store;

mod clock;
mod id;

#[cfg(unix)]
pub mod exec;
#[cfg(unix)]
pub mod subprocess;

pub use clock::TokioClock;
pub use host::{Host, OpenError};
pub use id::{task_id, worker_id};
pub use store::{AnyStorage, InvalidStoreUrl, StoreUrl};
pub use worker::{Worker, WorkerPanicked};

pub use steadfast_core as core;
pub use steadfast_core::{
    Cause, Clock, Context, Engine, Error, ErrorKind, Handler, Handlers, Key, Kind, NewTask, Payload, Queue,
    ReportError, Revision, Slot, State, Storage, StoreId, Task, TaskId, Timestamp, Verdict, WorkerConfig,
    WorkerId,
};
