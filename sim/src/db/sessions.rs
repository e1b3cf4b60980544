//! Sessions and their transactions: what may start, who waits for whom, and what an end or a failure takes back.
//!
//! The caller drives: [`Db::start`] answers or waits, [`Db::runnable`] tells which waiting sessions may go on, in
//! the order in which they came, and [`Db::resume`] lets one of them do so. Wrong calls (a second statement in a
//! busy session, a nested begin) are bugs of the caller and panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::ErrorClass;
use super::row::{Row, Table};
use super::running::{Journal, Place, Running, Stop};
use super::snapshot::{Snapshot, Xid};
use super::statement::Statement;
use super::store::{Store, Undo};

mod restart;
mod sqlite;
mod waiting;

/// Which database is imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// PostgreSQL: row locks, waiting, a failed statement fails its transaction.
    Postgres,
    /// SQLite in WAL mode with no busy timeout: one writer, nobody waits, a failed statement is taken back alone.
    Sqlite,
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// PostgreSQL: each statement has its own snapshot.
    ReadCommitted,
    /// PostgreSQL: the first statement takes the snapshot of all.
    RepeatableRead,
    /// SQLite: the first read takes the snapshot, the first write makes it a writer if it still can.
    Deferred,
    /// SQLite: a writer from the start.
    Immediate,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is durable.
    Committed,
    /// Nothing of it is left. A PostgreSQL COMMIT answers this, and no error, if a statement had failed.
    RolledBack,
    /// There was none to end. (PostgreSQL warns and answers the tag all the same; SQLite fails.)
    NoTransaction,
}

/// Names a session. Never used again after its session has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u32);

/// What a statement answers: the affected rows, or why it failed.
pub type Answer<R> = Result<Vec<R>, ErrorClass>;

/// How far a statement has come.
#[derive(Debug)]
#[must_use]
pub enum Progress<R> {
    /// It is finished.
    Done(Answer<R>),
    /// It waits; see [`Db::runnable`].
    Waiting,
}

/// A simulated database.
#[derive(Debug)]
pub struct Db<R: Row> {
    mode: Mode,
    store: Store<R>,
    sessions: BTreeMap<SessionId, Session<R>>,
    sessions_made: u32,
    /// The sessions whose statement is paused or waits, in the order in which they began to.
    queue: Vec<SessionId>,
    /// SQLite: the connection that may write.
    writer: Option<SessionId>,
    /// How many transactions have changed something.
    changes: u64,
}

#[derive(Debug)]
struct Session<R: Row> {
    transaction: Option<Transaction<R>>,
    statement: Option<InFlight<R>>,
    /// SQLite: what this connection reads, from its first read until the last reason to hold it is gone.
    pinned: Option<Pinned>,
    /// SQLite: unfinished selects, each of them such a reason.
    cursors: u32,
    /// The client is gone; the session ends with its statement.
    orphaned: bool,
}

#[derive(Debug)]
struct Transaction<R: Row> {
    /// `None`: a single statement that commits itself.
    begin: Option<Begin>,
    /// PostgreSQL at REPEATABLE READ: taken by the first statement.
    snapshot: Option<Arc<Snapshot>>,
    journal: Journal<R>,
    commands: u32,
    failed: bool,
    savepoints: Vec<(String, usize)>,
}

#[derive(Debug)]
struct InFlight<R: Row> {
    running: Running<R>,
    /// How long the undo log was when the statement began.
    undo_mark: usize,
    wait: Option<Wait<R>>,
}

#[derive(Debug)]
struct Wait<R: Row> {
    xids: Vec<Xid>,
    place: Option<Place<R>>,
}

#[derive(Clone, Debug)]
struct Pinned {
    snapshot: Arc<Snapshot>,
    /// How many transactions had changed something.
    changes: u64,
}

impl<R: Row> Db<R> {
    /// An empty database.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            store: Store::new(),
            sessions: BTreeMap::new(),
            sessions_made: 0,
            queue: Vec::new(),
            writer: None,
            changes: 0,
        }
    }

    /// Which database this imitates.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many transactions have changed something.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Puts committed rows in, before there is any session.
    ///
    /// # Panics
    /// If there are sessions, or two rows have the same key.
    pub fn load(&mut self, rows: impl IntoIterator<Item = R>) {
        assert!(self.sessions.is_empty(), "rows are loaded before there are sessions");
        let loader = self.connect();
        match self.start(loader, Statement::insert(rows)) {
            Progress::Done(answer) => answer.expect("loaded rows satisfy every constraint"),
            Progress::Waiting => unreachable!("there is nobody to wait for"),
        };
        self.kill(loader);
    }

    /// The newest committed rows of a table, in the order of their keys.
    pub fn committed(&self, table: Table) -> impl Iterator<Item = &R> {
        self.store.committed(table)
    }

    /// How many row versions are kept, those included that only an old snapshot can see.
    #[must_use]
    pub fn version_count(&self) -> usize {
        self.store.version_count()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Opens a session.
    pub fn connect(&mut self) -> SessionId {
        let id = SessionId(self.sessions_made);
        self.sessions_made += 1;
        let session =
            Session { transaction: None, statement: None, pinned: None, cursors: 0, orphaned: false };
        self.sessions.insert(id, session);
        id
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// SQLite, [`Begin::Immediate`]: another connection is writing, or an unfinished select of this one reads an
    /// old snapshot. There is no transaction then.
    ///
    /// # Panics
    /// If the session is in a transaction or busy, or this way to begin belongs to the other mode.
    pub fn begin(&mut self, id: SessionId, begin: Begin) -> Result<(), ErrorClass> {
        let belongs_to = match begin {
            Begin::ReadCommitted | Begin::RepeatableRead => Mode::Postgres,
            Begin::Deferred | Begin::Immediate => Mode::Sqlite,
        };
        assert_eq!(self.mode, belongs_to, "{begin:?} belongs to the other mode");
        assert!(self.idle(id).transaction.is_none(), "transactions don't nest: {id:?}");
        if begin == Begin::Immediate {
            self.open_file(id, true)?;
        }
        self.session_mut(id).transaction = Some(Transaction::new(Some(begin)));
        Ok(())
    }

    /// Starts a statement: in the session's transaction, or else as a transaction of its own (at READ COMMITTED).
    ///
    /// # Panics
    /// If the session is busy, or a locking select is used in SQLite mode.
    pub fn start(&mut self, id: SessionId, statement: Statement<R>) -> Progress<R> {
        match self.open(id, statement) {
            Ok(()) => self.run(id),
            Err(error) => Progress::Done(self.finish(id, Err(error))),
        }
    }

    /// Starts a statement and stops it between its snapshot and its first row: a real statement can be overtaken
    /// there. It is runnable at once.
    ///
    /// # Panics
    /// As [`Db::start`].
    pub fn start_paused(&mut self, id: SessionId, statement: Statement<R>) -> Progress<R> {
        match self.open(id, statement) {
            Ok(()) => {
                self.queue.push(id);
                Progress::Waiting
            }
            Err(error) => Progress::Done(self.finish(id, Err(error))),
        }
    }

    /// The sessions whose paused or waiting statement may go on, first come first. Whoever waits for a row behind
    /// another waiter isn't among them. One that goes on may find that it has to wait again.
    pub fn runnable(&self) -> impl Iterator<Item = SessionId> {
        (0..self.queue.len()).filter(|place| self.may_go_on(*place)).map(|place| self.queue[place])
    }

    /// Lets a runnable session go on.
    ///
    /// # Panics
    /// If it isn't runnable.
    pub fn resume(&mut self, id: SessionId) -> Progress<R> {
        let place = self.place(id).expect("only a session with an unfinished statement is resumed");
        assert!(self.may_go_on(place), "{id:?} still waits for {:?}", self.blockers(id));
        self.run(id)
    }

    /// Ends a session's paused or waiting statement with an error of the caller's choice, such as a lock timeout.
    /// To the transaction this is like any other failure.
    ///
    /// # Panics
    /// If the session has no unfinished statement.
    pub fn fail(&mut self, id: SessionId, error: ErrorClass) -> Answer<R> {
        assert!(self.place(id).is_some(), "only an unfinished statement can be failed: {id:?}");
        self.finish(id, Err(error))
    }

    /// Whether the session hasn't died yet. An orphan lives until its statement ends.
    #[must_use]
    pub fn is_alive(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Whether the session has a paused or waiting statement.
    #[must_use]
    pub fn is_busy(&self, id: SessionId) -> bool {
        self.session(id).statement.is_some()
    }

    /// Whether the session has begun a transaction and not ended it.
    #[must_use]
    pub fn in_transaction(&self, id: SessionId) -> bool {
        self.session(id).transaction.is_some()
    }

    /// The newest versions of the rows that the session's transaction has written so far and not deleted, in the
    /// order in which each was last written.
    pub fn written(&self, id: SessionId) -> Vec<&R> {
        let Some(transaction) = &self.session(id).transaction else { return Vec::new() };
        let mut keys = BTreeSet::new();
        let made = transaction.journal.undo.iter().rev().filter_map(|undo| match undo {
            Undo::Made(table, key) => Some((*table, key)),
            Undo::Ended(..) => None,
        });
        let mut rows: Vec<&R> = made
            .filter(|made| keys.insert(*made))
            .filter_map(|(table, key)| self.store.newest(table, key))
            .collect();
        rows.reverse();
        rows
    }

    /// The rows that the session's transaction has deleted so far and that were there before, by key.
    pub fn deleted(&self, id: SessionId) -> Vec<(Table, R::Key)> {
        let Some(transaction) = &self.session(id).transaction else { return Vec::new() };
        let ended = transaction.journal.undo.iter().filter_map(|undo| match undo {
            Undo::Ended(table, key) if self.store.newest(*table, key).is_none() => {
                Some((*table, key.clone()))
            }
            Undo::Ended(..) | Undo::Made(..) => None,
        });
        let keys: BTreeSet<(Table, R::Key)> = ended.collect();
        keys.into_iter().collect()
    }

    /// Commits the session's transaction.
    ///
    /// # Panics
    /// If the session is busy.
    pub fn commit(&mut self, id: SessionId) -> Ended {
        match &self.idle(id).transaction {
            None => Ended::NoTransaction,
            Some(transaction) if transaction.failed => self.rollback(id),
            Some(_) => {
                self.end_transaction(id, true);
                Ended::Committed
            }
        }
    }

    /// Rolls the session's transaction back.
    ///
    /// # Panics
    /// If the session is busy.
    pub fn rollback(&mut self, id: SessionId) -> Ended {
        if self.idle(id).transaction.is_none() {
            return Ended::NoTransaction;
        }
        self.end_transaction(id, false);
        Ended::RolledBack
    }

    /// The session dies and the database knows: its transaction is rolled back, its statement forgotten.
    pub fn kill(&mut self, id: SessionId) {
        let session = self.session_mut(id);
        session.statement = None;
        session.cursors = 0;
        self.queue.retain(|waiting| *waiting != id);
        if self.session(id).transaction.is_some() {
            self.end_transaction(id, false);
        }
        self.sessions.remove(&id);
    }

    /// The client dies, and the database notices only when it has something to say to it: an unfinished statement
    /// goes on, and commits if it is a transaction of its own (a ghost write). Then the session is gone. Without
    /// an unfinished statement this is [`Db::kill`].
    pub fn orphan(&mut self, id: SessionId) {
        if self.session(id).statement.is_some() {
            self.session_mut(id).orphaned = true;
        } else {
            self.kill(id);
        }
    }
}

/// One statement, from its snapshot to its answer.
impl<R: Row> Db<R> {
    fn open(&mut self, id: SessionId, statement: Statement<R>) -> Result<(), ErrorClass> {
        let transaction = self.idle_mut(id).transaction.get_or_insert_with(|| Transaction::new(None));
        if transaction.failed {
            return Err(ErrorClass::InFailedTransaction);
        }
        let snapshot = match self.mode {
            Mode::Postgres if statement.only_locks_table() => Arc::new(self.store.snapshot()),
            Mode::Postgres => self.postgres_snapshot(id),
            Mode::Sqlite => {
                assert!(!statement.starts_with_lock(), "SQLite has no row locks: {statement:?}");
                // The parts of a folded statement are subqueries and effects of one that writes.
                let writes = !statement.starts_as_read() || !statement.then.is_empty();
                self.open_file(id, writes)?;
                Arc::clone(&self.session(id).pinned.as_ref().expect("pinned by open_file").snapshot)
            }
        };
        let session = self.sessions.get_mut(&id).expect("looked at above");
        let transaction = session.transaction.as_mut().expect("opened above");
        transaction.commands += 1;
        let repeatable = transaction.begin == Some(Begin::RepeatableRead);
        let undo_mark = transaction.journal.undo.len();
        let mut running = Running::new(statement, snapshot, transaction.commands, repeatable);
        // Who is held at a gate has its tables. Who can't have them yet asks again when it runs.
        let _ = running.take_tables(&mut self.store, &mut transaction.journal);
        session.statement = Some(InFlight { running, undo_mark, wait: None });
        Ok(())
    }

    fn postgres_snapshot(&mut self, id: SessionId) -> Arc<Snapshot> {
        let now = || Arc::new(self.store.snapshot());
        let transaction = self.sessions.get_mut(&id).and_then(|session| session.transaction.as_mut());
        match transaction {
            Some(transaction) if transaction.begin == Some(Begin::RepeatableRead) => {
                Arc::clone(transaction.snapshot.get_or_insert_with(now))
            }
            _ => now(),
        }
    }

    fn run(&mut self, id: SessionId) -> Progress<R> {
        let session = self.sessions.get_mut(&id).expect("this session lives");
        let in_flight = session.statement.as_mut().expect("only an open statement runs");
        let transaction = session.transaction.as_mut().expect("a statement runs in a transaction");
        match in_flight.running.run(&mut self.store, &mut transaction.journal) {
            Ok(rows) => Progress::Done(self.finish(id, Ok(rows))),
            Err(Stop::Failed(error)) => Progress::Done(self.finish(id, Err(error))),
            Err(Stop::Waits { xids, place }) => {
                assert_eq!(self.mode, Mode::Postgres, "nobody waits in SQLite mode");
                self.wait_for(id, Wait { xids, place });
                if self.waits_for_itself(id) {
                    return Progress::Done(self.finish(id, Err(ErrorClass::Deadlock)));
                }
                Progress::Waiting
            }
        }
    }

    fn finish(&mut self, id: SessionId, answer: Answer<R>) -> Answer<R> {
        self.queue.retain(|waiting| *waiting != id);
        let mode = self.mode;
        let session = self.session_mut(id);
        let in_flight = session.statement.take();
        let orphaned = session.orphaned;
        let transaction = session.transaction.as_mut().expect("a statement ends in its transaction");
        let alone = transaction.begin.is_none();
        match (&answer, mode) {
            (Ok(_), _) if alone => self.end_transaction(id, true),
            (Err(_), _) if alone => self.end_transaction(id, false),
            (Ok(_), _) => {}
            (Err(_), Mode::Postgres) => {
                // Locks are freed at once, not only when the client ends the transaction.
                transaction.failed = true;
                self.undo_to(id, 0);
                self.end_xid(id);
            }
            (Err(_), Mode::Sqlite) => {
                if let Some(in_flight) = in_flight {
                    self.undo_to(id, in_flight.undo_mark);
                }
            }
        }
        if orphaned {
            self.kill(id);
        }
        answer
    }
}

/// Ends of transactions.
impl<R: Row> Db<R> {
    fn end_transaction(&mut self, id: SessionId, commit: bool) {
        if !commit {
            self.undo_to(id, 0);
        }
        self.end_xid(id);
        let session = self.session_mut(id);
        let transaction = session.transaction.take().expect("only an open transaction ends");
        let dirty = commit && transaction.journal.dirty;
        let held = session.cursors > 0;
        self.changes += u64::from(dirty);
        self.store.add_garbage(transaction.journal.undo);
        if self.mode == Mode::Sqlite {
            let wrote = self.writer.take_if(|writer| *writer == id).is_some();
            match (held, wrote) {
                (false, _) => self.session_mut(id).pinned = None,
                (true, true) => self.pin(id),
                (true, false) => {}
            }
        }
        let oldest = self.sessions.values().filter_map(Session::horizon).min();
        self.store.sweep(oldest);
    }

    fn undo_to(&mut self, id: SessionId, mark: usize) {
        let transaction = self.sessions.get_mut(&id).and_then(|session| session.transaction.as_mut());
        let journal = &mut transaction.expect("only an open transaction takes back").journal;
        for undo in journal.undo.drain(mark..).rev() {
            self.store.undo(undo);
        }
    }

    fn end_xid(&mut self, id: SessionId) {
        let transaction = self.session_mut(id).transaction.as_mut().expect("only an open transaction ends");
        let locked = std::mem::take(&mut transaction.journal.locked);
        if let Some(xid) = transaction.journal.xid.take() {
            self.store.end(xid, locked);
        }
    }
}

impl<R: Row> Db<R> {
    fn session(&self, id: SessionId) -> &Session<R> {
        self.sessions.get(&id).unwrap_or_else(|| panic!("{id:?} is dead"))
    }

    fn session_mut(&mut self, id: SessionId) -> &mut Session<R> {
        self.sessions.get_mut(&id).unwrap_or_else(|| panic!("{id:?} is dead"))
    }

    fn idle(&self, id: SessionId) -> &Session<R> {
        let session = self.session(id);
        assert!(session.statement.is_none() && !session.orphaned, "{id:?} is busy with a statement");
        session
    }

    fn idle_mut(&mut self, id: SessionId) -> &mut Session<R> {
        self.idle(id);
        self.session_mut(id)
    }
}

impl<R: Row> Session<R> {
    fn xid(&self) -> Option<Xid> {
        self.transaction.as_ref()?.journal.xid
    }

    /// Every transaction below this has ended for all that this session may still look at.
    fn horizon(&self) -> Option<Xid> {
        let of_transaction =
            self.transaction.as_ref().and_then(|transaction| transaction.snapshot.as_deref());
        let of_statement = self.statement.as_ref().map(|statement| &*statement.running.snapshot);
        let of_connection = self.pinned.as_ref().map(|pinned| &*pinned.snapshot);
        [of_transaction, of_statement, of_connection].into_iter().flatten().map(Snapshot::horizon).min()
    }
}

impl<R: Row> Transaction<R> {
    fn new(begin: Option<Begin>) -> Self {
        Self {
            begin,
            snapshot: None,
            journal: Journal::new(),
            commands: 0,
            failed: false,
            savepoints: Vec::new(),
        }
    }
}
