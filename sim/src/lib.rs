//! Steadfast's deterministic simulator: the engine that ships, on a simulated transactional database, under crashes,
//! freezes, lost answers and dropped futures, all drawn from one seed.
//!
//! Read the modules in this order. Nothing here reads a real clock, a random source or hash-map order, so a seed
//! is a run: see [`Choices`](choices::Choices).

pub mod cancel;
pub mod capsule;
pub mod choices;
pub mod db;
pub mod detection;
pub mod determinism;
pub mod faults;
pub mod history;
pub mod oracle;
pub mod page;
pub(crate) mod panics;
pub mod scenario;
pub mod scheduler;
pub mod session;
pub mod shrink;
pub mod specimens;
pub mod storage;
pub mod strategy;
pub mod sweep;
pub mod world;

pub mod embed;

pub use embed::{Check, Failed, Task, TestWorld, check, note, script, sleep};
