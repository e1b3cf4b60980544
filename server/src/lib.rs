//! The command `steadfast`: HTTP server, worker and command line, on any store.
//!
//! Everything here is a thin shell: what a task is and what may become of it is the core's, how commands are run is
//! the runtime's. This crate reads what people and programs send ([`request`], [`config`], [`cli`]), checks it at the
//! door, and shows what came of it ([`wire`], [`show`]).

pub mod cli;
pub mod config;
pub mod request;
pub mod units;

pub mod failure;
pub mod show;
pub mod wire;

pub mod metrics;
pub mod service;
pub mod store;

pub mod api;
pub mod backend;
pub mod client;
pub mod commands;
mod patience;

pub mod bench;

use std::process::ExitCode;

/// Runs the command line that this process was started with.
pub fn main() -> ExitCode {
    commands::main()
}
