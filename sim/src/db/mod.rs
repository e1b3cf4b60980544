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
//! Where several waiters may go on at once, PostgreSQL lets them race; here the caller chooses the order, and
//! whoever takes [`Db::runnable`] as it comes serves them in the order of their arrival. Where it differs: the
//! victim of a deadlock is always the last to wait (PostgreSQL's too, but for races, and where it rearranges who
//! waits for a whole table instead), rows without an order are met in the order of their keys, and there are neither
//! SERIALIZABLE nor savepoints in PostgreSQL mode.

mod row;
mod statement;
mod error;
mod sessions;
mod running;
mod store;
mod snapshot;
#[cfg(test)]
mod tests;

pub use error::ErrorClass;
pub use row::{Row, Table};
pub use sessions::{Answer, Begin, Db, Ended, Mode, Progress, SessionId};
pub use statement::{LockMode, Next, Rows, Select, Statement};
