//! The `steadfast` binary: HTTP server, worker and command line.

pub mod bench;
