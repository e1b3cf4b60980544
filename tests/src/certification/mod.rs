//! Certification of the simulated database: the same statement programs on the kernel and on a real store.
//!
//! A program is data: which session does what, step after step. After each step the two stages must agree about
//! every answer, every error class and the set of sessions that are blocked, and at the end about all rows. The
//! fixed programs are the known facts about databases, each of which documents itself; random programs look for
//! the unknown ones. Only the races that PostgreSQL itself leaves open may differ, and they are counted.

pub mod language;
pub mod stage;
pub mod corpus;
pub mod generator;
pub mod on_kernel;
pub mod on_postgres;
pub mod on_sqlite;
pub mod serial;
