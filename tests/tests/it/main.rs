//! Steadfast's tests that need more than one crate, in one binary.

mod certification;
mod conformance;
mod interleaved;
mod merging;
mod postgres_server;
mod settles;
mod statements;
mod steps;
mod wire;
