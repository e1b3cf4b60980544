//! The thread that writes. It owns the one connection that does, and serves calls in the order in which they came,
//! each in a transaction of its own: an error is the fate of one call, and nobody else's.
//!
//! One exception: claims that have come in behind a call with new tasks share its commit, and so its sync to the disk.
//! Each has a savepoint and a clock reading of its own; to everybody else it is as if they had been committed one right
//! after the other; only where the commit fails, or SQLite rolls back by itself, it fails for all. Together with an early hint (see `SqliteStorage::apply`) an idle worker holds a new task after one
//! commit in place of two. Behind other calls it would be a loss: whoever has settled many tasks goes on with them while
//! the next are claimed. (Calls that apply steps don't share commits at all: whoever wants that puts them into one call,
//! as the core's committer does, where the simulator explores it.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Statement};
use steadfast_core::storage::{ClaimRequest, Claimed};
use steadfast_core::task::Due;
use steadfast_core::wake::Hint;
use steadfast_core::{Batch, Error, Outcome, Step, Timestamp};

use crate::Common;
use crate::answer::Answer;
use crate::apply::Steps;
use crate::claim::Claims;
use crate::clock;
use crate::error::{classed, of_commit};
use crate::reader::{ReadCall, Reader};
use crate::shelf::Ends;
use crate::threads::Calls;

/// How often the writer looks for other processes' commits, while somebody listens.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How often it makes sure that the store's clock is kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// What a caller asks of the writer, and where the answer goes.
pub(crate) enum WriteCall {
    Claim(ClaimRequest, Answer<Claimed>),
    Apply(Vec<Batch>, Answer<Vec<Outcome>>),
    Read(ReadCall),
    /// Somebody listens for hints now.
    Watch,
}

/// One write transaction, as the steps in it see it.
pub(crate) struct Tx {
    /// The store's time, read when the transaction had the write lock.
    pub(crate) now: Timestamp,
    /// What the commit will be worth waking up for.
    pub(crate) hint: Hint,
    /// Whether an attempt has ended, which may let another begin that a queue's limit kept waiting.
    pub(crate) made_room: bool,
    /// Slots that may have lost their holder.
    pub(crate) freed: BTreeSet<Arc<str>>,
    /// Tasks that have ended.
    pub(crate) ends: Ends,
}

impl Tx {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { now, hint: Hint::default(), made_room: false, freed: BTreeSet::new(), ends: Ends::default() }
    }
}

/// Serves calls until every handle is gone.
///
/// Listeners are told of other processes' commits after the one with this `data_version`: the store's opening.
pub(crate) fn run(common: &Common, conn: &Connection, data_version: i64, calls: &Calls<WriteCall>) {
    let mut writer = match Writer::new(common, conn, data_version) {
        Ok(writer) => writer,
        Err(error) => {
            // The statements don't fit the schema that was checked a moment ago. Calls are answered all the same.
            let error = classed(format_args!("prepare statements for {}", common.name), &error);
            return calls.each(|call| call.fail(&error));
        }
    };
    let mut looked = Instant::now();
    let mut kept = Instant::now();
    let mut taken = None;
    loop {
        let is_watched = common.is_watched.load(Ordering::Relaxed);
        if is_watched && looked.elapsed() >= WATCH_EVERY {
            writer.look_for_others();
            looked = Instant::now();
        }
        if kept.elapsed() >= KEEP_EVERY {
            writer.keep_clock();
            kept = Instant::now();
        }
        let next = match taken.take() {
            Some(call) => Ok(call),
            None => calls.next(if is_watched { WATCH_EVERY } else { KEEP_EVERY }),
        };
        match next {
            Ok(call) => taken = writer.serve(call, calls),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl WriteCall {
    fn fail(self, error: &Error) {
        match self {
            WriteCall::Claim(_, answer) => answer.send(Err(error.clone())),
            WriteCall::Apply(_, answer) => answer.send(Err(error.clone())),
            WriteCall::Read(call) => call.answer.send(Err(error.clone())),
            WriteCall::Watch => {}
        }
    }
}

/// Whether the call inserts a task that has nothing to wait for but, perhaps, its slot.
pub(crate) fn has_new(batches: &[Batch]) -> bool {
    let is_new = |step: &Step| matches!(step, Step::Insert(insert) if insert.task.due == Due::Now && insert.task.parents.is_empty());
    batches.iter().flat_map(|batch| &batch.steps).any(is_new)
}

/// A claim that shares another call's commit, and what it got.
type Joined = (Answer<Claimed>, Result<Claimed, Error>);

/// The connection with every statement prepared.
struct Writer<'c> {
    common: &'c Common,
    conn: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    savepoint: Statement<'c>,
    release: Statement<'c>,
    undo: Statement<'c>,
    clock: Statement<'c>,
    has_limits: Statement<'c>,
    data_version: Statement<'c>,
    data_version_seen: i64,
    claims: Claims<'c>,
    steps: Steps<'c>,
    reader: Reader<'c>,
}

impl<'c> Writer<'c> {
    fn new(common: &'c Common, conn: &'c Connection, data_version_seen: i64) -> rusqlite::Result<Self> {
        Ok(Self {
            common,
            conn,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            savepoint: conn.prepare("SAVEPOINT claim")?,
            release: conn.prepare("RELEASE claim")?,
            undo: conn.prepare("ROLLBACK TO claim")?,
            clock: conn.prepare(clock::READ)?,
            has_limits: conn.prepare("SELECT EXISTS (SELECT 1 FROM queue WHERE concurrency IS NOT NULL)")?,
            data_version: conn.prepare("PRAGMA data_version")?,
            data_version_seen,
            claims: Claims::new(conn)?,
            steps: Steps::new(conn)?,
            reader: Reader::new(common, conn)?,
        })
    }

    /// Serves a call, and maybe claims behind it; returns the call that it took and didn't serve.
    fn serve(&mut self, call: WriteCall, calls: &Calls<WriteCall>) -> Option<WriteCall> {
        match call {
            WriteCall::Claim(_, answer) if !answer.begin(self.conn) => {}
            WriteCall::Apply(_, answer) if !answer.begin(self.conn) => {}
            WriteCall::Claim(request, answer) => {
                let claimed = self.transact("claim from", |writer| {
                    writer.work(|writer, tx| writer.claims.claim(tx, &request))
                });
                answer.send(claimed);
            }
            WriteCall::Apply(batches, answer) => {
                let (mut joined, mut taken) = (Vec::new(), None);
                let outcomes = self.transact("apply steps to", |writer| {
                    let (outcomes, mut hint) =
                        writer.work(|writer, tx| writer.steps.apply_all(tx, &batches))?;
                    if has_new(&batches) {
                        taken = writer.serve_claims(calls, &mut joined, &mut hint)?;
                    }
                    Ok((outcomes, hint))
                });
                for (answer, claimed) in joined {
                    let whole = outcomes.as_ref().map(|_| ()).map_err(Error::clone);
                    answer.send(claimed.and_then(|claimed| whole.map(|()| claimed)));
                }
                answer.send(outcomes);
                return taken;
            }
            WriteCall::Read(call) => self.reader.serve(call),
            WriteCall::Watch => {}
        }
        None
    }

    /// Serves the claims that wait already, inside the transaction of the call before them; returns the call that it took
    /// and that is no claim. An error is the transaction's, and everybody's in it.
    fn serve_claims(
        &mut self,
        calls: &Calls<WriteCall>,
        joined: &mut Vec<Joined>,
        hint: &mut Hint,
    ) -> rusqlite::Result<Option<WriteCall>> {
        while let Some(call) = calls.now() {
            let WriteCall::Claim(request, answer) = call else { return Ok(Some(call)) };
            if !answer.begin(self.conn) {
                continue;
            }
            match self.claim_within(&request, hint) {
                Ok(claimed) => joined.push((answer, claimed)),
                Err(error) => {
                    joined.push((answer, Err(self.claim_failed(&error))));
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// A claim inside the transaction of the call before it, or nothing of it. The outer error is the transaction's.
    fn claim_within(
        &mut self,
        request: &ClaimRequest,
        hint: &mut Hint,
    ) -> rusqlite::Result<Result<Claimed, Error>> {
        self.savepoint.execute([])?;
        match self.work(|writer, tx| writer.claims.claim(tx, request)) {
            Ok((claimed, of_claim)) => {
                self.release.execute([])?;
                hint.ready |= of_claim.ready;
                hint.changed |= of_claim.changed;
                Ok(Ok(claimed))
            }
            // SQLite has rolled everything back: what followed would be committed by itself.
            Err(error) if self.conn.is_autocommit() => Err(error),
            Err(error) => {
                self.undo.execute([])?;
                self.release.execute([])?;
                Ok(Err(self.claim_failed(&error)))
            }
        }
    }

    fn claim_failed(&self, error: &rusqlite::Error) -> Error {
        classed(format_args!("claim from {}", self.common.name), error)
    }

    /// Runs one write transaction, and wakes whom it concerns.
    fn transact<T>(
        &mut self,
        verb: &str,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<(T, Hint)>,
    ) -> Result<T, Error> {
        let name = &self.common.name;
        // IMMEDIATE takes the write lock before anything is read, so that nothing is decided on an old snapshot.
        self.begin.execute([]).map_err(|error| classed(format_args!("{verb} {name}"), &error))?;
        let (value, hint) = work(self).map_err(|error| {
            self.roll_back();
            classed(format_args!("{verb} {name}"), &error)
        })?;
        self.commit.execute([]).map_err(|error| {
            self.roll_back();
            of_commit(format_args!("{verb} {name}"), &error)
        })?;
        if hint != Hint::default() {
            self.common.wake.notify(hint);
        }
        Ok(value)
    }

    /// One call's part of a transaction.
    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Tx) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<(T, Hint)> {
        let clock = &self.common.clock;
        let stored = self.clock.query_one([], |row| clock.stored(row))?;
        let mut tx = Tx::at(clock.now(stored));
        let changes = self.conn.total_changes();
        let value = work(self, &mut tx)?;
        let writes = self.conn.total_changes() != changes;
        clock.keep(self.conn, stored, tx.now, writes)?;
        if tx.made_room && !tx.hint.ready {
            tx.hint.ready = self.has_limits.query_one([], |row| row.get(0))?;
        }
        Ok((value, tx.hint))
    }

    /// Tells the store's clock that the host's was set, where nothing else is written.
    fn keep_clock(&mut self) {
        if self.common.clock.must_be_kept() {
            // What fails now is made up for by the next call, or a second later.
            let _ = self.transact("keep the clock of", |writer| writer.work(|_, _| Ok(())));
        }
    }

    /// After FULL, IOERR, NOMEM and INTERRUPT, SQLite may have rolled back by itself. Then a ROLLBACK would be an error,
    /// and, much worse, a further statement would be committed alone: so the first error ends the work.
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
            self.common.wake.notify(Hint::BOTH);
        }
    }
}
