//! Submitting inside a transaction of the caller's own: the task is stored if and only if the caller commits.
//!
//! The same statements as the writer's, on the caller's connection and in a savepoint. SQLite lets one connection write
//! at a time and refuses a write that was begun on an old snapshot, so every policy for slots is as safe here as there.

use rusqlite::{Connection, Statement, Transaction};
use steadfast_core::decide;
use steadfast_core::engine::{Accepted, Submitted, check};
use steadfast_core::step::{Insert, Receipt, Refusal, Transition};
use steadfast_core::task::{OnConflict, Payload};
use steadfast_core::{Error, ErrorKind, Kind, NewTask, State, TaskId};

use crate::apply::Done;
use crate::clock;
use crate::error::classed;
use crate::insert::Inserts;
use crate::row::{bytes, first, state, text, unsigned};
use crate::schema::VERSION;
use crate::shelf::PutBy;
use crate::slot::HandOn;
use crate::transition::Transitions;
use crate::writer::Tx;
use crate::{Common, SqliteStorage};

impl SqliteStorage {
    /// Stores a task inside the caller's own transaction on the same file: it exists when the caller commits, and
    /// never where the caller rolls back. Workers are hinted by the commit itself, in this process and in others,
    /// within their look at the file (a twentieth of a second).
    ///
    /// All policies for slots are honoured, also `replace`: whoever is replaced is told when the caller has committed.
    /// Where the task is refused or can't be stored, nothing of it is stored and the transaction stays usable; it is
    /// the caller's to commit all the same, or to roll back.
    ///
    /// The caller's transaction holds the file's only write lock, from its first write to its end: all other writers,
    /// this storage's among them, wait for it, and fail with [`ErrorKind::Conflict`] after two seconds. So keep it
    /// short. Begin it with [`TransactionBehavior::Immediate`](rusqlite::TransactionBehavior::Immediate): one that
    /// has read before it writes fails where another has written in between. How much its commit survives is said by
    /// the caller's connection (`PRAGMA synchronous`, which is `FULL` unless it was changed).
    ///
    /// # Errors
    /// [`ErrorKind::Broken`] where the transaction isn't on this store's file; [`ErrorKind::Conflict`] where another
    /// connection is writing, or has written since the transaction read first; else as for any write. An error of the
    /// disk, or a full one, may have rolled the whole transaction back: the message says so.
    pub fn submit_within(&self, transaction: &Transaction<'_>, task: NewTask) -> Result<Submitted, Error> {
        if let Err(invalid) = check(&task) {
            return Ok(Submitted::Invalid(invalid));
        }
        let common = &self.0.common;
        same_store(common, transaction)?;
        let doing = format!("submit a task to {}", common.name);
        let failed = |error: &rusqlite::Error| {
            if transaction.is_autocommit() {
                let why = classed(&doing, error);
                let message = format!("{why}; SQLite has rolled the whole transaction back: begin it again");
                return Error::new(why.kind(), message);
            }
            classed(&doing, error)
        };
        transaction.execute_batch("SAVEPOINT steadfast_submit").map_err(|error| failed(&error))?;
        let submitted = submit(common, transaction, task);
        let is_kept = matches!(&submitted, Ok(Submitted::Accepted(_)));
        if !is_kept && !transaction.is_autocommit() {
            transaction.execute_batch("ROLLBACK TO steadfast_submit").map_err(|error| failed(&error))?;
        }
        let submitted = submitted.map_err(|error| failed(&error))?;
        transaction.execute_batch("RELEASE steadfast_submit").map_err(|error| failed(&error))?;
        Ok(submitted)
    }
}

/// Refuses a transaction on another file: its commit would say nothing about this store.
fn same_store(common: &Common, conn: &Connection) -> Result<(), Error> {
    let broken = |why: String| {
        let message = format!(
            "could not submit a task to {}: {why}; open the caller's connection on the store's file",
            common.name
        );
        Err(Error::new(ErrorKind::Broken, message))
    };
    let found =
        conn.query_one("SELECT store, (SELECT user_version FROM pragma_user_version) FROM meta", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        });
    match found {
        Ok((store, VERSION)) if store == common.store.as_str() => Ok(()),
        Ok((store, VERSION)) => broken(format!("the transaction is on another store, {store}")),
        Ok((_, version)) => {
            broken(format!("its schema has version {version} by now, and this program knows {VERSION}"))
        }
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => {
            broken(format!("the transaction isn't on a store: {error}"))
        }
        Err(error) => Err(classed(format_args!("submit a task to {}", common.name), &error)),
    }
}

fn submit(common: &Common, conn: &Connection, task: NewTask) -> rusqlite::Result<Submitted> {
    let stored = conn.query_one(clock::READ, [], |row| common.clock.stored(row))?;
    let mut tx = Tx::at(common.clock.now(stored));
    let submitted = Submits::new(conn)?.submit(&mut tx, task)?;
    let writes = matches!(submitted, Submitted::Accepted(_));
    if writes {
        PutBy::new(conn)?.put_by(&mut tx)?;
    }
    common.clock.keep(conn, stored, tx.now, writes)?;
    Ok(submitted)
}

/// What a submit needs of the statements of steps.
struct Submits<'c> {
    transitions: Transitions<'c>,
    inserts: Inserts<'c>,
    hand_on: HandOn<'c>,
    asked_for: Statement<'c>,
}

impl<'c> Submits<'c> {
    fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            transitions: Transitions::new(conn)?,
            inserts: Inserts::new(conn)?,
            hand_on: HandOn::new(conn)?,
            asked_for: conn.prepare(
                "SELECT kind, payload, state, rev FROM request JOIN task USING (seq) WHERE id = ?1",
            )?,
        })
    }

    /// As [`Engine::submit`](steadfast_core::Engine::submit), but that nothing can come in between.
    fn submit(&mut self, tx: &mut Tx, task: NewTask) -> rusqlite::Result<Submitted> {
        let insert = Insert::from(task);
        let on_conflict = insert.task.slot.as_ref().map(|(_, on_conflict)| *on_conflict);
        let refusal = match self.inserts.insert(tx, &insert)? {
            Done::Applied(receipt) => return Ok(accepted(receipt, true, None)),
            Done::Already(receipt) => return Ok(accepted(receipt, false, None)),
            Done::Refused(refusal) => refusal,
        };
        match (refusal, on_conflict) {
            (Refusal::SlotTaken(holder, _), Some(OnConflict::Replace)) => self.replace(tx, &insert, holder),
            (Refusal::SlotTaken(holder, head), Some(OnConflict::Join)) => {
                let joined = self.join(&insert, &holder)?;
                Ok(joined.unwrap_or(Submitted::Refused(Refusal::SlotTaken(holder, head))))
            }
            (refusal, _) => Ok(Submitted::Refused(refusal)),
        }
    }

    fn replace(&mut self, tx: &mut Tx, insert: &Insert, holder: TaskId) -> rusqlite::Result<Submitted> {
        let replace: Transition = decide::replace(&holder, &insert.task.id);
        if let Done::Refused(refusal) = self.transitions.transition(tx, &replace)? {
            return Ok(Submitted::Refused(refusal));
        }
        match self.inserts.insert(tx, insert)? {
            Done::Applied(receipt) => {
                self.hand_on.hand_on(tx)?;
                Ok(accepted(receipt, true, Some(holder)))
            }
            Done::Already(receipt) => Ok(accepted(receipt, false, Some(holder))),
            Done::Refused(refusal) => Ok(Submitted::Refused(refusal)),
        }
    }

    /// The holder in place of a new task, where it is about the same.
    fn join(&mut self, insert: &Insert, holder: &TaskId) -> rusqlite::Result<Option<Submitted>> {
        type Asked = (Kind, Payload, State, u64);
        let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Asked> {
            Ok((Kind::trusted(text(row, 0)?), bytes(row, 1)?, state(row, 2)?, unsigned(row, 3)?))
        };
        let found = first(&mut self.asked_for, [holder.as_str()], read)?;
        let is_same =
            |(kind, payload, _, _): &Asked| *kind == insert.task.kind && *payload == insert.task.payload;
        Ok(found.filter(is_same).map(|(_, _, state, rev)| {
            let id = holder.clone();
            Submitted::Accepted(Accepted { id, state, rev, is_new: false, replaced: None, joined: true })
        }))
    }
}

fn accepted(receipt: Receipt, is_new: bool, replaced: Option<TaskId>) -> Submitted {
    Submitted::Accepted(Accepted::of_receipts(&[receipt], is_new, replaced))
}
