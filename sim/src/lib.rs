//! Steadfast's deterministic simulator: scheduler, simulated database and storage, faults, oracle.

pub mod db;
