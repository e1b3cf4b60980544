//! The core of Steadfast: what a task is, which changes are legal, and the loops that carry them out.
//!
//! Read the modules in the order below. The first half is plain data and pure functions; the second half is
//! the thin asynchronous part, generic over [`Clock`] and [`Storage`], which holds exactly the awaits.
//!
//! This crate does no I/O, starts no thread or task, reads no clock and draws no randomness, so that the very
//! code that ships is the code that the simulator runs.

pub mod decide;
pub mod diagnose;
pub mod name;
pub mod step;
pub mod storage;
pub mod task;
pub mod time;

pub mod committer;
pub mod engine;
pub mod handler;
pub mod registry;
pub mod report;
pub mod supervisor;
pub mod sweeper;
pub mod wake;

#[cfg(test)]
mod fake;
mod sync;

pub use engine::Engine;
pub use handler::{Context, Handler, Handlers, Verdict};
pub use name::{Key, Kind, Queue, Slot, StoreId, TaskId, WorkerId};
pub use report::ReportError;
pub use step::{Batch, Outcome, Refusal, Step};
pub use storage::{Error, ErrorKind, Storage};
pub use supervisor::{Supervisor, WorkerConfig};
pub use task::{Cause, Fence, NewTask, Payload, Revision, State, Task};
pub use time::{Clock, Moment, Timestamp};
