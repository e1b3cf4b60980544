//! The runtime's integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod host;
mod job;

#[cfg(unix)]
mod exec;
#[cfg(unix)]
mod subprocess;
#[cfg(target_os = "linux")]
mod subprocess_ends;
