//! Certification of the simulated stores: the same programs on them and on the real ones.
//!
//! A *statement program* is data: which session does what, step after step. After each step the kernel and the store must agree about
//! every answer, every error class and the set of sessions that are blocked, and at the end about all rows. The
//! fixed programs are the known facts about databases, each of which documents itself; random programs look for
//! the unknown ones. Only the races that PostgreSQL itself leaves open may differ, and they are counted.
//!
//! A *step program* is a list of storage calls, played on an adapter and on its double.
//!
//! The tests and `steadfast sim certify` use it; nothing that runs tasks does.

pub mod random;
pub mod language;
pub mod stage;
pub mod corpus;
pub mod generator;
pub mod on_kernel;
pub mod postgres_session;
pub mod on_postgres;
pub mod on_sqlite;
pub mod statements;
pub mod serial;
pub mod doubles;
pub mod interleaved;
