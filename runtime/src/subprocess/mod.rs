//! Runs an attempt as a process of its own, and sees to it that no process outlives the attempt.
//!
//! ```text
//!  worker ── unix socket: start, payload, lease, terminate, kill ──▶ guard ── stdin ──▶ command
//!    ▲ ◀──── started, could not start, ended ──────────────────────────┘    its own group │
//!    └────────────────── stdout and stderr, as lines ────────────────────────────────────┘
//! ```
//!
//! A worker that dies by SIGKILL can't clean up, and one that is stopped doesn't know it. So between worker
//! and command stands the *guard*: a small process, this same executable started again, that kills the
//! command's process group when the worker is gone, when the lease has passed, and when the command itself
//! has ended and left children behind.
//!
//! What is promised, with the limits of it:
//! - The group ends with the attempt. A process that leaves the group (`setsid`, a shell's `set -m`) escapes;
//!   so does one that runs as a user whom the worker may not signal (`sudo`).
//! - The lease holds while the worker is stopped, and across a suspend of the machine (to the second).
//! - SIGKILL to worker *and* guard at once leaves the command running: nobody is left to end it. SIGKILL to
//!   the guard alone ends the command, by the worker's hand.
//!
//! This module knows processes, not tasks: it must not import the core, read a store or decide about
//! retries. [`Exit::verdict`] states the contract's meaning of an exit; the handler acts on it.

mod command;
mod process;

mod lines;

mod directive;
mod exit;

mod scratch;

mod guard;
mod wire;

mod clock;

pub(crate) use clock::now_ns;
pub use command::{Command, Environment, GuardExe, PAYLOAD_BYTES_MAX};
pub use directive::{Directive, Malformed, directive};
pub use exit::{Exit, Signal, Verdict};
pub use guard::{GUARD_ARGUMENT, guard_main, guard_main_if_asked};
pub use lines::{LINE_BYTES_MAX, Line, LineSink, LineSplitter, OUTPUT_DRAIN, Piece, Stream};
pub use process::{Control, Finished, Running, SpawnError, spawn};
pub use scratch::Output;
