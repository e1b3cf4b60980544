//! Steadfast's tests that need more than one crate, in one binary.

mod certification;
mod postgres_server;
