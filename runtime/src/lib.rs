//! Steadfast for services: a durable task runtime on SQLite or PostgreSQL, in your own process.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//! use steadfast::{Handlers, Host, Job, Jobs};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Greet {
//!     name: String,
//! }
//!
//! impl Job for Greet {
//!     const KIND: &'static str = "greet";
//!     type Output = String;
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::open(&"sqlite:tasks.db".parse()?).await?;
//! let handlers = Handlers::new().with_job(|job: Greet, _| async move { Ok(format!("hello, {}", job.name)) });
//! let worker = host.work(handlers, host.worker_config())?;
//!
//! host.submit(Greet { name: "world".into() }.task()?).await?;
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

mod job;
mod lag;

mod store;

mod clock;
mod id;

#[cfg(unix)]
pub mod exec;
#[cfg(unix)]
pub mod subprocess;

pub use clock::TokioClock;
pub use host::{Host, OpenError, SubmitError};
pub use id::{task_id, worker_id};
pub use job::{Failure, Job, Jobs, TypedSteps};
pub use lag::{ExecutorLag, LAG_WARNING};
pub use store::{AnyStorage, InvalidStoreUrl, StoreUrl};
pub use worker::{Worker, WorkerPanicked};

pub use steadfast_core as core;
pub use steadfast_core::{
    Cause, Clock, Context, Engine, Error, ErrorKind, Handler, Handlers, Key, Kind, NewTask, Payload, Queue,
    ReportError, Revision, Slot, State, Storage, StoreId, Task, TaskId, Timestamp, Verdict, WorkerConfig,
    WorkerId,
};
