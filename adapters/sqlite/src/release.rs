//! What the end of a task means for its children: one less to wait for, or the end of them too.

use std::sync::Arc;

use rusqlite::{Connection, Statement};
use steadfast_core::decide::{EdgeOutcome, edge};
use steadfast_core::task::OnParentFailure;
use steadfast_core::{Cause, State, TaskId};

use crate::row::{first, on_failure, optional, state, text};
use crate::writer::Tx;

/// A task that has just ended.
pub(crate) struct Ended {
    pub(crate) seq: i64,
    pub(crate) id: TaskId,
    /// In which state.
    pub(crate) state: State,
}

pub(crate) struct Releases<'c> {
    children: Statement<'c>,
    satisfy: Statement<'c>,
    fail: Statement<'c>,
    leave_slot: Statement<'c>,
    leave_line: Statement<'c>,
    drop_deadline: Statement<'c>,
}

impl<'c> Releases<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            children: conn.prepare("SELECT child, on_failure FROM edge WHERE parent = ?1")?,
            satisfy: conn.prepare(
                "UPDATE task SET parents_pending = parents_pending - 1, rev = rev + 1,
                     state = CASE WHEN parents_pending > 1 OR slot_waiting THEN 0 WHEN due_at > ?2 THEN 1 ELSE 2 END
                 WHERE seq = ?1 AND state = 0
                 RETURNING state",
            )?,
            fail: conn.prepare(
                "UPDATE task SET state = 5, rev = rev + 1, cause = ?2, error = ?3, finished_at = ?4, slot_waiting = 0
                 WHERE seq = ?1 AND state = 0
                 RETURNING slot, (SELECT id FROM request WHERE request.seq = task.seq), deadline_at,
                     EXISTS (SELECT 1 FROM slot_waiter WHERE name = slot AND slot_waiter.task = task.seq)",
            )?,
            leave_slot: conn.prepare("DELETE FROM slot WHERE name = ?1 AND task = ?2")?,
            leave_line: conn.prepare("DELETE FROM slot_waiter WHERE name = ?1 AND task = ?2")?,
            drop_deadline: conn.prepare("DELETE FROM deadline WHERE at = ?1 AND task = ?2")?,
        })
    }

    /// Releases the task's children, and the children of those that fail by it. Ends, because edges only lead from
    /// older tasks to newer ones.
    pub(crate) fn release(&mut self, tx: &mut Tx, ended: Ended) -> rusqlite::Result<()> {
        let mut todo = vec![ended];
        while let Some(parent) = todo.pop() {
            for (child, on_failure) in self.children(parent.seq)? {
                match edge(parent.state, on_failure).expect("the parent has ended") {
                    EdgeOutcome::Satisfied => {
                        let to = first(&mut self.satisfy, (child, tx.now.as_micros()), |row| state(row, 0))?;
                        tx.hint.ready |= to == Some(State::Ready);
                    }
                    EdgeOutcome::Fails => {
                        let error = blame(&parent.id, parent.state);
                        let cause = Cause::DependencyFailed.as_str();
                        let params = (child, cause, error, tx.now.as_micros());
                        let failed = first(&mut self.fail, params, |row| {
                            let id = TaskId::trusted(text(row, 1)?);
                            Ok((optional(row, 0, text)?, id, row.get::<_, Option<i64>>(2)?, row.get(3)?))
                        })?;
                        // A child that isn't blocked has ended before, for some other reason.
                        let Some((slot, id, deadline_at, is_waiting)) = failed else { continue };
                        tx.ends.add(child, State::Failed);
                        if let Some(slot) = slot {
                            self.leave_slot(tx, &slot, child, is_waiting)?;
                        }
                        if let Some(at) = deadline_at {
                            self.drop_deadline(at, child)?;
                        }
                        todo.push(Ended { seq: child, id, state: State::Failed });
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes room for the next holder, or leaves the line of those who wait for the slot.
    pub(crate) fn leave_slot(
        &mut self,
        tx: &mut Tx,
        slot: &Arc<str>,
        task: i64,
        is_waiting: bool,
    ) -> rusqlite::Result<()> {
        let leave = if is_waiting { &mut self.leave_line } else { &mut self.leave_slot };
        let left = leave.execute((&**slot, task))?;
        assert_eq!(left, 1, "an unfinished task holds its slot or waits for it");
        if !is_waiting {
            tx.freed.insert(slot.clone());
        }
        Ok(())
    }

    /// A task that has ended is never overdue.
    pub(crate) fn drop_deadline(&mut self, at: i64, task: i64) -> rusqlite::Result<()> {
        let dropped = self.drop_deadline.execute((at, task))?;
        assert_eq!(dropped, 1, "an unfinished task's deadline has a row");
        Ok(())
    }

    fn children(&mut self, parent: i64) -> rusqlite::Result<Vec<(i64, OnParentFailure)>> {
        self.children.query_and_then([parent], |row| Ok((row.get(0)?, on_failure(row, 1)?)))?.collect()
    }
}

/// The error text of a task that fails because this parent ended like that.
pub(crate) fn blame(parent: &TaskId, state: State) -> String {
    match state {
        State::Cancelled => format!("parent {parent} was cancelled"),
        _ => format!("parent {parent} failed"),
    }
}
