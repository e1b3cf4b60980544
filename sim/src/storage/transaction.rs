//! One transaction on the simulated database, statement by statement, with a scheduling point before each and a bounded
//! wait for locks.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::{Error, ErrorKind, Timestamp};

use crate::choices::Stream;
use crate::db::{
    Begin, Db, Ended, ErrorClass, LockMode, Mode, Progress, Row, Rows, Select, SessionId, Statement,
};
use crate::faults::{Fault, Side, Spot};
use crate::history::Event;
use crate::scheduler::yield_now;
use crate::world::{Node, Server};

use super::flaws::Flaw;
use super::rows::{RowKey, StoreRow, table};

/// How long a statement waits for somebody else's lock before it gives up, as the adapters have it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(40);
/// In how many of ten thousand cases a commit is a rollback, for [`Flaw::CommitTagIgnored`].
const FAILED_COMMITS: u32 = 300;
/// A wait for SQLite's write lock that is worth a note.
const LONG_WAIT: Duration = Duration::from_millis(100);
/// How long a writer waits for SQLite's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// An open transaction. Dropping it rolls it back.
pub(super) struct Transaction {
    server: Arc<Server>,
    session: SessionId,
    actor: u64,
    over: bool,
    client: Node,
    /// Rises from one that begins to the next. Only for [`Flaw::IdCursorReader`].
    number: u64,
    /// How many others had written and committed when it began.
    began_after: u64,
}

impl Transaction {
    /// Begins a transaction that writes, or, in SQLite mode, waits for its turn to.
    pub(super) async fn begin(server: Arc<Server>, client: &Node) -> Result<Self, Error> {
        let session = server.db().connect();
        let number = if server.has(Flaw::IdCursorReader) { server.next_seq() } else { 0 };
        let (actor, client) = (client.number(), client.clone());
        let mut transaction = Self { server, session, client, actor, over: false, number, began_after: 0 };
        let begin = match transaction.server.db().mode() {
            Mode::Postgres if transaction.has(Flaw::RepeatableRead) => Begin::RepeatableRead,
            Mode::Postgres => Begin::ReadCommitted,
            Mode::Sqlite => Begin::Immediate,
        };
        let mut waiting = None;
        let since = transaction.now();
        loop {
            transaction.point("begin").await;
            let begun = transaction.server.db().begin(session, begin);
            match begun {
                Ok(()) => {
                    transaction.note_wait(since);
                    transaction.began_after = transaction.server.db().changes();
                    return Ok(transaction);
                }
                Err(ErrorClass::Busy) => {
                    let (turns, patience) = waiting.get_or_insert_with(|| {
                        (transaction.server.turns(), Box::pin(tokio::time::sleep(BUSY_TIMEOUT)))
                    });
                    let turn = std::pin::pin!(turns.wait());
                    if let Either::Right(_) = select(turn, patience.as_mut()).await {
                        break;
                    }
                }
                Err(error) => return Err(transaction.server.failed(error)),
            }
        }
        transaction.server.met(Fault::Busy);
        Err(Error::new(ErrorKind::Contended, "another process kept the file locked"))
    }

    /// Who claims counts its leases from when it asked.
    fn note_wait(&self, since: Timestamp) {
        let time = self.now().since(since);
        if time >= LONG_WAIT {
            self.server.history.record(self.now(), Event::Stalled { time });
        }
    }

    /// Runs a statement to its answer.
    pub(super) fn run(
        &self,
        statement: Statement<StoreRow>,
    ) -> impl Future<Output = Result<Vec<StoreRow>, Error>> + Send {
        self.run_made(|| statement)
    }

    /// Runs a statement that is made only when its turn has come.
    pub(super) async fn run_made(
        &self,
        make: impl FnOnce() -> Statement<StoreRow> + Send,
    ) -> Result<Vec<StoreRow>, Error> {
        self.point("statement").await;
        self.server.strike(Spot::Statement, self.actor, Side::Store).await?;
        let statement = make();
        let progress = {
            let mut db = self.server.db();
            if !db.is_alive(self.session) {
                return Err(gone());
            }
            db.start(self.session, statement)
        };
        let answer = match progress {
            Progress::Done(answer) => answer,
            Progress::Waiting => {
                self.server.strike(Spot::LockWait, self.actor, Side::Store).await?;
                self.wait().await?
            }
        };
        if answer.is_err() {
            // A failed statement has freed its locks.
            self.server.progress();
        }
        answer.map_err(|class| self.server.failed(class))
    }

    /// The error of a call that somebody has overtaken, and that is to be sent again. Where nobody can have, that would
    /// never end: it is noted, and P2 judges it.
    pub(super) fn overtaken(&self, why: impl Into<String>) -> Error {
        if self.server.db().changes() == self.began_after {
            self.server.history.record(self.now(), Event::Misled { node: self.client.name().to_owned() });
        }
        Error::new(ErrorKind::Conflict, why)
    }

    /// The next statement begins this part of the plan, for those who step it.
    pub(super) fn begin_part(&self, part: &'static str) {
        if let Some(gate) = &self.server.gate {
            gate.begin_part(self.actor, part);
        }
    }

    /// Selects, and locks the rows where the database has row locks: SQLite's only writer needs none.
    pub(super) async fn lock(
        &self,
        mode: LockMode,
        select: Select<StoreRow>,
    ) -> Result<Vec<StoreRow>, Error> {
        self.run(self.locking(mode, select).into()).await
    }

    /// Waits for the claims that are under way, and keeps others from beginning, where the database doesn't do so by
    /// itself: a queue that isn't limited or paused yet has no row that they could have locked.
    pub(super) async fn lock_queues(&self) -> Result<(), Error> {
        if self.server.db().mode() == Mode::Postgres && !self.has(Flaw::LimitWithoutClaims) {
            self.run(Statement::lock_table(table::QUEUE)).await?;
        }
        Ok(())
    }

    /// A select that locks, where the database has row locks.
    pub(super) fn locking(&self, mode: LockMode, select: Select<StoreRow>) -> Select<StoreRow> {
        match self.server.db().mode() {
            Mode::Postgres => select.lock(mode),
            Mode::Sqlite => select,
        }
    }

    /// A select that locks and skips what is locked, where the database has row locks.
    pub(super) fn skipping(&self, select: Select<StoreRow>) -> Select<StoreRow> {
        match self.server.db().mode() {
            Mode::Postgres => select.lock(LockMode::Update).skip_locked(),
            Mode::Sqlite => select,
        }
    }

    /// Inserts a row, or changes the one that has its key.
    pub(super) async fn upsert(
        &self,
        new: StoreRow,
        change: impl Fn(&StoreRow) -> StoreRow + Send + 'static,
    ) -> Result<(), Error> {
        let there = Rows::by_keys(new.table(), [new.key()]);
        if self.run(Statement::insert_or_nothing([new])).await?.is_empty() {
            self.run(Statement::update(there, change)).await?;
        }
        Ok(())
    }

    async fn wait(&self) -> Result<Result<Vec<StoreRow>, ErrorClass>, Error> {
        let mut turns = self.server.turns();
        let timeout = tokio::time::sleep(LOCK_TIMEOUT);
        let mut timeout = std::pin::pin!(timeout);
        loop {
            let progress = {
                let mut db = self.server.db();
                if !db.is_alive(self.session) {
                    return Err(gone());
                }
                let may = db.runnable().any(|session| session == self.session);
                may.then(|| db.resume(self.session))
            };
            match progress {
                Some(Progress::Done(answer)) => {
                    self.server.progress();
                    return Ok(answer);
                }
                // It stands elsewhere in the queues now: others may have become first.
                Some(Progress::Waiting) => self.server.progress(),
                None => {}
            }
            let turn = std::pin::pin!(turns.wait());
            if let Either::Right(_) = select(turn, timeout.as_mut()).await {
                let mut db = self.server.db();
                if !db.is_alive(self.session) {
                    return Err(gone());
                }
                return Ok(db.fail(self.session, ErrorClass::LockTimeout));
            }
        }
    }

    /// Commits. What was written becomes part of the history at this instant.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        self.point("commit").await;
        if self.server.gate.as_ref().is_some_and(|gate| gate.is_abandoned(self.actor)) {
            return Err(Error::new(ErrorKind::Unavailable, "abandoned at the gate"));
        }
        self.server.strike(Spot::Commit, self.actor, Side::Store).await?;
        if let Some(full) = self.disk_error() {
            return Err(self.server.failed(full));
        }
        self.over = true;
        let is_taken_back = self.has(Flaw::CommitTagIgnored)
            && self.server.is_faulty()
            && self.server.choices.odds(Stream::Faults, "commit fails", self.actor, FAILED_COMMITS);
        if is_taken_back {
            self.server.db().kill(self.session);
            self.server.progress();
            return Ok(());
        }
        let ended = {
            let mut db = self.server.db();
            if !db.is_alive(self.session) {
                return Err(gone());
            }
            let written: Vec<StoreRow> = db.written(self.session).into_iter().cloned().collect();
            let deleted: Vec<RowKey> = db.deleted(self.session).into_iter().map(|(_, key)| key).collect();
            let ended = db.commit(self.session);
            db.kill(self.session);
            drop(db);
            if ended == Ended::Committed {
                if self.has(Flaw::IdCursorReader) {
                    self.server.number_changes(&written, self.number);
                }
                self.server.committed(self.client.name(), &written, &deleted);
            }
            ended
        };
        self.server.progress();
        match ended {
            Ended::Committed => self.server.strike(Spot::Committed, self.actor, Side::Store).await,
            Ended::RolledBack | Ended::NoTransaction => Err(Error::new(
                ErrorKind::Broken,
                "COMMIT answered ROLLBACK: a failed statement was overlooked",
            )),
        }
    }

    /// Why the commit fails, if the disk is full and there is something to write.
    fn disk_error(&self) -> Option<ErrorClass> {
        if !self.server.is_disk_full() {
            return None;
        }
        let db = self.server.db();
        let wrote = db.is_alive(self.session)
            && !(db.written(self.session).is_empty() && db.deleted(self.session).is_empty());
        self.server.disk_error(wrote)
    }

    /// Which database this is.
    pub(super) fn mode(&self) -> Mode {
        self.server.db().mode()
    }

    /// The store's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.server.now()
    }

    /// The time by which leases are judged.
    pub(super) fn lapsed_by(&self) -> Timestamp {
        self.server.lapsed_by(&self.client)
    }

    /// A number that rises with every insert.
    pub(super) fn next_seq(&self) -> u64 {
        self.server.next_seq()
    }

    pub(super) fn has(&self, flaw: Flaw) -> bool {
        self.server.has(flaw)
    }

    async fn point(&self, site: &'static str) {
        if let Some(gate) = &self.server.gate {
            gate.pass(self.actor, site).await;
        }
        point(&self.server, site, self.actor).await;
    }
}

/// A place where others may come in between.
pub(crate) async fn point(server: &Server, site: &'static str, actor: u64) {
    match server.choices.depart(Stream::Storage, site, actor, server.latency_odds, 4) {
        0 => {}
        1 | 2 => yield_now().await,
        slow => tokio::time::sleep(Duration::from_millis(u64::from(slow))).await,
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.over {
            let db: &mut Db<StoreRow> = &mut self.server.db();
            if db.is_alive(self.session) {
                db.kill(self.session);
                if self.server.has(Flaw::ConnectionLeak) {
                    // What was rolled back is forgotten, but nobody closes the connection.
                    db.connect();
                }
            }
            self.server.progress();
        }
    }
}

/// The database crashed under an open transaction, and nothing of it is left.
fn gone() -> Error {
    Error::new(ErrorKind::Unknown, "the connection was lost: the database crashed")
}

/// Classes an error as the adapters do at their edge.
pub(crate) fn classed(error: ErrorClass) -> Error {
    let kind = match error {
        ErrorClass::SerializationFailure | ErrorClass::Deadlock | ErrorClass::BusySnapshot => {
            ErrorKind::Conflict
        }
        ErrorClass::LockTimeout | ErrorClass::Cancelled | ErrorClass::Busy => ErrorKind::Contended,
        ErrorClass::CheckViolation(_) => ErrorKind::Rejected,
        ErrorClass::DiskFull => ErrorKind::Unavailable,
        // Inserts say what to do about conflicts, and a failed transaction isn't gone on with.
        ErrorClass::InFailedTransaction | ErrorClass::UniqueViolation => ErrorKind::Broken,
    };
    Error::new(kind, error.to_string())
}
