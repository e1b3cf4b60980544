//! What only SQLite has: one writer, a snapshot per connection, unfinished selects that hold it, savepoints.
//!
//! Nobody waits here: a statement that can't have what it needs fails at once.

use std::sync::Arc;

use super::super::error::ErrorClass;
use super::super::row::Row;
use super::super::statement::{Select, Statement};
use super::{Db, Mode, Pinned, Progress, SessionId, Transaction};

impl<R: Row> Db<R> {
    /// SQLite: sets a savepoint.
    ///
    /// # Panics
    /// If the session is busy or in no transaction, or the mode is another. So do its two siblings.
    pub fn savepoint(&mut self, id: SessionId, name: &str) {
        let transaction = self.sqlite_transaction(id);
        transaction.savepoints.push((name.to_owned(), transaction.journal.undo.len()));
    }

    /// SQLite: takes back what was done since the latest savepoint of this name, which stays. Returns false if
    /// there is none.
    pub fn rollback_to(&mut self, id: SessionId, name: &str) -> bool {
        let transaction = self.sqlite_transaction(id);
        let Some(index) = transaction.savepoints.iter().rposition(|(held, _)| held == name) else {
            return false;
        };
        transaction.savepoints.truncate(index + 1);
        let mark = transaction.savepoints[index].1;
        self.undo_to(id, mark);
        true
    }

    /// SQLite: forgets the latest savepoint of this name and those after it. Returns false if there is none.
    pub fn release(&mut self, id: SessionId, name: &str) -> bool {
        let transaction = self.sqlite_transaction(id);
        let index = transaction.savepoints.iter().rposition(|(held, _)| held == name);
        transaction.savepoints.truncate(index.unwrap_or(transaction.savepoints.len()));
        index.is_some()
    }

    /// SQLite: steps a select without finishing it: the whole connection goes on to read this snapshot until
    /// [`Db::close_cursors`].
    ///
    /// # Panics
    /// If the session is busy, or the mode is another.
    pub fn open_cursor(&mut self, id: SessionId, select: Select<R>) -> Vec<R> {
        assert_eq!(self.mode, Mode::Sqlite, "only SQLite has cursors that pin a connection");
        self.session_mut(id).cursors += 1;
        match self.start(id, Statement::select(select)) {
            Progress::Done(answer) => answer.expect("a plain select doesn't fail"),
            Progress::Waiting => unreachable!("nobody waits in SQLite mode"),
        }
    }

    /// SQLite: resets all unfinished selects of the connection.
    pub fn close_cursors(&mut self, id: SessionId) {
        let session = self.session_mut(id);
        session.cursors = 0;
        if session.transaction.is_none() {
            session.pinned = None;
        }
    }

    /// SQLite: makes this connection a reader, or the writer.
    pub(super) fn open_file(&mut self, id: SessionId, writes: bool) -> Result<(), ErrorClass> {
        let pinned = self.session(id).pinned.as_ref();
        if writes && self.writer != Some(id) {
            if self.writer.is_some() {
                return Err(ErrorClass::Busy);
            }
            if pinned.is_some_and(|pinned| pinned.changes != self.changes) {
                return Err(ErrorClass::BusySnapshot);
            }
        }
        if pinned.is_none() {
            self.pin(id);
        }
        if writes {
            self.writer = Some(id);
        }
        Ok(())
    }

    pub(super) fn pin(&mut self, id: SessionId) {
        let snapshot = Arc::new(self.store.snapshot());
        let changes = self.changes;
        self.session_mut(id).pinned = Some(Pinned { snapshot, changes });
    }

    fn sqlite_transaction(&mut self, id: SessionId) -> &mut Transaction<R> {
        assert_eq!(self.mode, Mode::Sqlite, "savepoints are only imitated in SQLite mode");
        self.idle_mut(id).transaction.as_mut().expect("a savepoint lives in a transaction")
    }
}
