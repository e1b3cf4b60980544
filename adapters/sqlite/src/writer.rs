//! The thread that writes. It owns the one connection that does, and serves calls in the order in which they came,
//! each in a transaction of its own: an error is the fate of one call, and nobody else's.
//!
//! (Several calls could share a commit. That they don't is deliberate: whoever wants many writes in one commit puts
//! them into one call, as the core's committer does, where the simulator explores it.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Statement};
use steadfast_core::storage::{ClaimRequest, Claimed};
use steadfast_core::wake::{Hint, Wake};
use steadfast_core::{Batch, Error, Outcome, StoreId, Timestamp};
use tokio::sync::oneshot;

use crate::apply::Steps;
use crate::claim::Claims;
use crate::clock::StoreClock;
use crate::error::{classed, of_commit};
use crate::reader::{ReadCall, Reader};

/// How often the writer looks for other processes' commits, while somebody listens.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// What a caller asks of the writer, and where the answer goes.
pub(crate) enum Call {
    Claim(ClaimRequest, oneshot::Sender<Result<Claimed, Error>>),
    Apply(Vec<Batch>, oneshot::Sender<Result<Vec<Outcome>, Error>>),
    Read(ReadCall),
    /// Somebody listens for hints now.
    Watch,
}

/// What the writer's thread is given.
pub(crate) struct Writer {
    pub(crate) store: StoreId,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) wake: Wake,
    pub(crate) is_watched: Arc<AtomicBool>,
}

/// One write transaction, as the steps in it see it.
pub(crate) struct Tx {
    /// The store's time, read when the transaction had the write lock.
    pub(crate) now: Timestamp,
    /// What the commit will be worth waking up for.
    pub(crate) hint: Hint,
}

impl Writer {
    /// Serves calls until every handle is gone.
    pub(crate) fn run(self, conn: &Connection, calls: &Receiver<Call>) {
        let mut session = match Session::new(&self, conn) {
            Ok(session) => session,
            Err(error) => {
                // The statements don't fit the schema that was just checked. Calls are answered all the same.
                let error = classed("prepare the store's statements", &error);
                while let Ok(call) = calls.recv() {
                    call.fail(&error);
                }
                return;
            }
        };
        let mut looked = Instant::now();
        loop {
            let is_watched = self.is_watched.load(Ordering::Relaxed);
            if is_watched && looked.elapsed() >= WATCH_EVERY {
                session.look_for_others();
                looked = Instant::now();
            }
            let call = if is_watched {
                match calls.recv_timeout(WATCH_EVERY) {
                    Ok(call) => call,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match calls.recv() {
                    Ok(call) => call,
                    Err(_) => return,
                }
            };
            session.serve(call);
        }
    }
}

impl Call {
    fn fail(self, error: &Error) {
        // A caller that is gone doesn't mind.
        match self {
            Call::Claim(_, answer) => drop(answer.send(Err(error.clone()))),
            Call::Apply(_, answer) => drop(answer.send(Err(error.clone()))),
            Call::Read(call) => drop(call.answer.send(Err(error.clone()))),
            Call::Watch => {}
        }
    }
}

/// The connection with every statement prepared.
struct Session<'c> {
    writer: &'c Writer,
    conn: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    mark: Statement<'c>,
    set_mark: Statement<'c>,
    data_version: Statement<'c>,
    data_version_seen: i64,
    claims: Claims<'c>,
    steps: Steps<'c>,
    reader: Reader<'c>,
}

impl<'c> Session<'c> {
    fn new(writer: &'c Writer, conn: &'c Connection) -> rusqlite::Result<Self> {
        let mut data_version = conn.prepare("PRAGMA data_version")?;
        Ok(Self {
            writer,
            conn,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            mark: conn.prepare("SELECT clock FROM meta WHERE one = 1")?,
            set_mark: conn.prepare("UPDATE meta SET clock = max(clock, ?1) WHERE one = 1")?,
            data_version_seen: data_version.query_one([], |row| row.get(0))?,
            data_version,
            claims: Claims::new(conn)?,
            steps: Steps::new(conn)?,
            reader: Reader::new(conn, &writer.clock, &writer.store)?,
        })
    }

    fn serve(&mut self, call: Call) {
        match call {
            Call::Claim(_, answer) if answer.is_closed() => {}
            Call::Apply(_, answer) if answer.is_closed() => {}
            Call::Claim(request, answer) => {
                let claimed = self.transact("claim", |s, tx| s.claims.claim(tx, &request));
                let _ = answer.send(claimed);
            }
            Call::Apply(batches, answer) => {
                let outcomes = self.transact("apply", |s, tx| {
                    batches.iter().map(|batch| s.steps.apply(tx, batch)).collect()
                });
                let _ = answer.send(outcomes);
            }
            Call::Read(call) => self.reader.serve(call),
            Call::Watch => {}
        }
    }

    /// Runs one write transaction, and wakes whom it concerns.
    fn transact<T>(
        &mut self,
        doing: &str,
        work: impl FnOnce(&mut Self, &mut Tx) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        // IMMEDIATE takes the write lock before anything is read, so that no decision is made on an old snapshot.
        self.begin.execute([]).map_err(|error| classed(doing, &error))?;
        match self.inside(work) {
            Ok((value, hint)) => match self.commit.execute([]) {
                Ok(_) => {
                    if hint != Hint::default() {
                        self.writer.wake.notify(hint);
                    }
                    Ok(value)
                }
                Err(error) => {
                    self.roll_back();
                    Err(of_commit(doing, &error))
                }
            },
            Err(error) => {
                self.roll_back();
                Err(classed(doing, &error))
            }
        }
    }

    fn inside<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Tx) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<(T, Hint)> {
        let mark = Timestamp::from_micros(self.mark.query_one([], |row| row.get(0))?);
        let mut tx = Tx { now: self.writer.clock.now(mark), hint: Hint::default() };
        let changes = self.conn.total_changes();
        let value = work(self, &mut tx)?;
        if self.conn.total_changes() != changes && self.writer.clock.is_mark_due(tx.now, mark) {
            self.set_mark.execute([tx.now.as_micros()])?;
        }
        Ok((value, tx.hint))
    }

    /// After FULL, IOERR, NOMEM and INTERRUPT, SQLite may have rolled back by itself: then a ROLLBACK would be an error,
    /// and, much worse, a further statement would be committed alone. So the first error ends the call's work.
    fn roll_back(&self) {
        if !self.conn.is_autocommit() {
            // Where even this fails, the next BEGIN finds the transaction open and fails too: nothing is committed.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }

    /// Wakes everybody if another connection has committed since the last look. The version is this connection's own
    /// view, and its own commits don't move it.
    fn look_for_others(&mut self) {
        // Hints may be lost: a look that fails is made up for by the next.
        if let Ok(version) = self.data_version.query_one([], |row| row.get(0))
            && version != self.data_version_seen
        {
            self.data_version_seen = version;
            self.writer.wake.notify(Hint::BOTH);
        }
    }
}
