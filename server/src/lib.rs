//! The command `steadfast`: HTTP server, worker and command line, on any store.
//!
//! Everything here is a thin shell: what a task is and what may become of it is the core's, how commands are run is
//! the runtime's. This crate reads what people and programs send ([`request`], [`config`]), checks it at the
//! door, and shows what came of it ([`wire`]).

pub mod config;
pub mod request;
pub mod units;

pub mod failure;
pub mod wire;

pub mod api;
