//! Slots: who has one, who waits for it, and who is next.

use std::sync::Arc;

use rusqlite::{Connection, Statement};
use steadfast_core::step::Head;
use steadfast_core::task::OnConflict;
use steadfast_core::{NewTask, State, TaskId};

use crate::row::{HEAD, first, head, state, text};
use crate::writer::Tx;

/// What a newcomer finds.
pub(crate) enum Place {
    /// No slot is asked for, or nobody has it.
    Free,
    /// Others come first, and the newcomer is willing to wait.
    Behind,
    /// This task is in the way.
    Taken(TaskId, Head),
}

/// A newcomer's side.
pub(crate) struct Slots<'c> {
    holder: Statement<'c>,
    is_waited_for: Statement<'c>,
    take: Statement<'c>,
    wait: Statement<'c>,
}

const TAKE: &str = "INSERT INTO slot (name, task) VALUES (?1, ?2)";

impl<'c> Slots<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            holder: conn.prepare(&format!(
                "SELECT id, {HEAD} FROM request JOIN task USING (seq)
                 WHERE seq = (SELECT task FROM slot WHERE name = ?1)"
            ))?,
            is_waited_for: conn.prepare("SELECT EXISTS (SELECT 1 FROM slot_waiter WHERE name = ?1)")?,
            take: conn.prepare(TAKE)?,
            wait: conn.prepare("INSERT INTO slot_waiter (name, task) VALUES (?1, ?2)")?,
        })
    }

    pub(crate) fn judge(&mut self, task: &NewTask) -> rusqlite::Result<Place> {
        let Some((slot, on_conflict)) = &task.slot else { return Ok(Place::Free) };
        let queues = *on_conflict == OnConflict::Queue;
        let holder = first(&mut self.holder, [slot.as_str()], |row| {
            Ok((TaskId::trusted(text(row, 0)?), head(row, 1)?))
        })?;
        Ok(match holder {
            Some(_) if queues => Place::Behind,
            Some((holder, head)) => Place::Taken(holder, head),
            // Its holder ended earlier in this call: it goes to who came first.
            None if queues && self.is_waited_for.query_one([slot.as_str()], |row| row.get(0))? => {
                Place::Behind
            }
            None => Place::Free,
        })
    }

    /// Notes the newcomer as the slot's holder, or behind those that wait.
    pub(crate) fn enter(&mut self, slot: &str, task: i64, waits: bool) -> rusqlite::Result<()> {
        let enter = if waits { &mut self.wait } else { &mut self.take };
        enter.execute((slot, task)).map(|_| ())
    }
}

/// The other side: slots that have come free.
pub(crate) struct HandOn<'c> {
    is_held: Statement<'c>,
    next: Statement<'c>,
    leave_line: Statement<'c>,
    take: Statement<'c>,
    go_on: Statement<'c>,
}

impl<'c> HandOn<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            is_held: conn.prepare("SELECT EXISTS (SELECT 1 FROM slot WHERE name = ?1)")?,
            next: conn.prepare("SELECT task FROM slot_waiter WHERE name = ?1 ORDER BY task LIMIT 1")?,
            leave_line: conn.prepare("DELETE FROM slot_waiter WHERE name = ?1 AND task = ?2")?,
            take: conn.prepare(TAKE)?,
            go_on: conn.prepare(
                "UPDATE task SET slot_waiting = 0, rev = rev + 1,
                     state = CASE WHEN parents_pending > 0 THEN 0 WHEN due_at > ?2 THEN 1 ELSE 2 END
                 WHERE seq = ?1
                 RETURNING state",
            )?,
        })
    }

    /// Gives each slot that has come free to the first of those that wait for it.
    pub(crate) fn hand_on(&mut self, tx: &mut Tx) -> rusqlite::Result<()> {
        // Those freed by a batch that was refused are held as before.
        for slot in std::mem::take(&mut tx.freed) {
            if !self.is_held.query_one([&*slot], |row| row.get::<_, bool>(0))? {
                self.hand(tx, &slot)?;
            }
        }
        Ok(())
    }

    fn hand(&mut self, tx: &mut Tx, slot: &Arc<str>) -> rusqlite::Result<()> {
        let Some(next) = first(&mut self.next, [&**slot], |row| row.get::<_, i64>(0))? else {
            return Ok(());
        };
        self.leave_line.execute((&**slot, next))?;
        self.take.execute((&**slot, next))?;
        let to = self.go_on.query_one((next, tx.now.as_micros()), |row| state(row, 0))?;
        tx.hint.ready |= to == State::Ready;
        Ok(())
    }
}
