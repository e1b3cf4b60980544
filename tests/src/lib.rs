//! Steadfast's conformance suite, certification and end-to-end tests.

pub mod conformance;
