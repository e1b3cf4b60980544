//! Steadfast's conformance suite, certification and end-to-end tests.
//!
//! What several of them share stands here; the tests themselves stand in `tests/it`.

pub mod certification;
pub mod conformance;
pub mod postgres_server;
pub mod postgres_session;
pub mod random;
pub mod settles;
pub mod wire;
