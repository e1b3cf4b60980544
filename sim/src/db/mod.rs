//! The simulated transactional database kernel: rows, snapshots, row locks, unique keys, transactions.
//!
//! Simulated storage and the sessions of users' handlers run on it, so a race that a real PostgreSQL or SQLite
//! allows is a race that the simulator can find. It is a plain state machine: a statement is started, and either
//! answers or waits; the caller decides when a waiting session that may go on does so. Two databases are
//! imitated: PostgreSQL at READ COMMITTED and REPEATABLE READ, and SQLite in WAL mode ([`Mode`]). The package
//! `steadfast-tests` plays the same programs on this kernel and on the real stores and compares each answer.
//!
//! It must not know about time, futures, tasks or faults, and must not make a choice of its own: whatever is open
//! in a real database (who runs next, when a connection is lost) is the caller's to choose.
//!
//! Where it may differ from PostgreSQL: it serves waiters for the same unique key in their order of arrival
//! (PostgreSQL lets them race), the victim of a deadlock is always the last to wait, rows without an order are
//! met in the order of their keys, and there are neither SERIALIZABLE nor savepoints in PostgreSQL mode.

mod error;
mod row;
mod running;
mod sessions;
mod snapshot;
mod statement;
mod store;
#[cfg(test)]
mod tests;

pub use error::ErrorClass;
pub use row::{Row, Table};
pub use sessions::{Answer, Begin, Db, Ended, Mode, Progress, SessionId};
pub use statement::{LockMode, Next, Rows, Select, Statement};
