//! Steadfast's tests that need more than one crate, in one binary.

// In a test an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod certification;
mod conformance;
mod incident_2;
mod simulation;
mod merging;
mod postgres_server;
mod replay;
mod settles;
mod tidy;
mod interleaved;
mod steps;
mod wire;
