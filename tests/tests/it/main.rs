//! Steadfast's tests that need more than one crate, in one binary.

mod certification;
mod conformance;
mod merging;
mod postgres_server;
mod settles;
mod steps;
mod wire;
