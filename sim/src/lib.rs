//! Steadfast's deterministic simulator: the engine that ships, on a simulated transactional database, under crashes,
//! freezes, lost answers and dropped futures, all drawn from one seed.
//!
//! Read the modules in this order. Nothing here reads a real clock, a random source or hash-map order, so a seed
//! is a run: see [`Choices`](choices::Choices).

pub mod choices;
pub mod db;
pub mod history;
pub mod oracle;
pub mod scenario;
pub mod scheduler;
pub mod specimens;
pub mod storage;
pub mod sweep;
pub mod world;
