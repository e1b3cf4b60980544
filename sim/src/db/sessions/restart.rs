//! What a crash of the whole database leaves: committed rows, and no session.

use super::super::row::{Row, Table};
use super::super::store::Store;
use super::{Db, Progress, SessionId, Statement};

impl<R: Row> Db<R> {
    /// Whether no session is in a transaction.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.sessions.values().all(|session| session.transaction.is_none())
    }

    /// The database crashes and comes back: every session dies with what it hasn't committed.
    pub fn kill_all(&mut self) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in all {
            self.kill(id);
        }
    }

    /// The database crashes and comes back with these rows: what was committed since and not on the disk yet is gone,
    /// as without synchronous commits.
    ///
    /// # Panics
    /// If two of the rows have the same key.
    pub fn crash_back_to(&mut self, rows: impl IntoIterator<Item = R>) {
        self.kill_all();
        self.store = Store::new();
        let loader = self.connect();
        match self.start(loader, Statement::insert(rows)) {
            Progress::Done(answer) => answer.expect("what was committed once satisfies every constraint"),
            Progress::Waiting => unreachable!("there is nobody to wait for"),
        };
        self.kill(loader);
    }

    /// The newest committed rows of these tables: what is on the disk once it is synced.
    pub fn synced(&self, tables: impl IntoIterator<Item = Table>) -> Vec<R> {
        tables.into_iter().flat_map(|table| self.committed(table)).cloned().collect()
    }
}
