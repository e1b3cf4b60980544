//! Steadfast's conformance suite, certification and end-to-end tests.
//!
//! What several of them share stands here; the tests themselves stand in `tests/it`.

pub use steadfast_certify as certification;
pub use steadfast_certify::{postgres_session, random};

pub mod conformance;
pub mod postgres_server;
pub mod settles;
pub mod wire;
