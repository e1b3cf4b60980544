//! Steadfast for services: the tokio clock, the worker host and the subprocess handler.

#[cfg(unix)]
pub mod subprocess;
