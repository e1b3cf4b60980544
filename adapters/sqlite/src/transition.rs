//! Transitions and renewals: the task is looked up, the guard is judged, and only then anything is written.
//!
//! Looking first is safe because the transaction holds the write lock already, and it costs no more than a guarded
//! UPDATE that answers with RETURNING.

use rusqlite::{Connection, Statement};
use steadfast_core::step::{Change, Guard, Head, Receipt, Refusal, Renewal, States, Transition};
use steadfast_core::{Cause, State};

use crate::apply::Done;
use crate::release::{Ended, Releases};
use crate::row::{FOUND, Found, first, found};
use crate::writer::Tx;

pub(crate) struct Transitions<'c> {
    find: Statement<'c>,
    change: Statement<'c>,
    /// The same for [`is_plain_end`], the common case: it writes less.
    end: Statement<'c>,
    keep_attempt: Statement<'c>,
    attempt_mark: Statement<'c>,
    renew: Statement<'c>,
    releases: Releases<'c>,
}

impl<'c> Transitions<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            find: conn.prepare(&format!(
                "SELECT {FOUND} FROM request CROSS JOIN task USING (seq) WHERE id = ?1"
            ))?,
            change: conn.prepare(
                "UPDATE task SET state = ?2, rev = rev + 1, mark = ?3,
                     cause = coalesce(?4, cause), error = iif(?4 IS NULL, error, ?5), output = coalesce(?6, output),
                     entered_at = coalesce(entered_at, ?7), finished_at = ?8, cancel = coalesce(?9, cancel),
                     due_at = iif(?2 = 2, min(due_at, ?10), coalesce(?10, due_at)), attempt = attempt - ?11, rescues = rescues + ?12,
                     slot_waiting = iif(?8 IS NULL, slot_waiting, 0),
                     lease_expires_at = iif(?2 = 3, lease_expires_at, NULL)
                 WHERE seq = ?1",
            )?,
            end: conn.prepare(
                "UPDATE task SET state = ?2, rev = rev + 1, mark = ?3,
                     cause = ?4, error = ?5, output = coalesce(?6, output),
                     entered_at = coalesce(entered_at, ?7), finished_at = ?8, lease_expires_at = NULL,
                     slot_waiting = 0
                 WHERE seq = ?1",
            )?,
            keep_attempt: conn.prepare(
                "INSERT INTO attempt (task, fence, attempt, worker, claimed_at, entered_at, ended_at, cause, error, mark)
                 SELECT seq, fence, attempt + ?2, worker, claimed_at, entered_at, ?3, cause, error, mark
                 FROM task WHERE seq = ?1",
            )?,
            attempt_mark: conn.prepare("SELECT mark FROM attempt WHERE task = ?1 AND fence = ?2")?,
            renew: conn.prepare(
                "UPDATE task SET lease_expires_at = ?3, entered_at = coalesce(entered_at, ?4)
                 WHERE seq = (SELECT seq FROM request WHERE id = ?1) AND state = 3 AND fence = ?2
                 RETURNING cancel",
            )?,
            releases: Releases::new(conn)?,
        })
    }

    pub(crate) fn transition(&mut self, tx: &mut Tx, transition: &Transition) -> rusqlite::Result<Done> {
        let Some(found) = first(&mut self.find, [transition.task.as_str()], found)? else {
            return Ok(Done::Refused(Refusal::NotFound));
        };
        if self.is_repeated(transition, &found)? {
            return Ok(Done::Already(Receipt::Moved(found.head)));
        }
        if !holds(&transition.guard, &found, tx) {
            return Ok(Done::Refused(Refusal::Stale(found.head)));
        }
        let head = self.change(tx, transition, &found)?;
        let was_running = found.head.state == State::Running;
        if was_running && head.state.is_waiting() {
            let given_back = i64::from(transition.change.give_back_attempt);
            self.keep_attempt.execute((found.seq, given_back, tx.now.as_micros()))?;
        }
        if head.state.is_terminal() {
            tx.ends.add(found.seq, head.state);
            if let Some(slot) = &found.slot {
                self.releases.leave_slot(tx, slot, found.seq, found.slot_waiting)?;
            }
            if let Some(at) = found.deadline_at {
                self.releases.drop_deadline(at, found.seq)?;
            }
            if found.has_children {
                let ended = Ended { seq: found.seq, id: transition.task.clone(), state: head.state };
                self.releases.release(tx, ended)?;
            }
        }
        tx.hint.changed = true;
        tx.hint.ready |= head.state == State::Ready;
        tx.made_room |= was_running && head.state != State::Running;
        Ok(Done::Applied(Receipt::Moved(head)))
    }

    /// Whether this very transition was applied before: it is the task's last one, or the one that ended its attempt.
    fn is_repeated(&mut self, transition: &Transition, found: &Found) -> rusqlite::Result<bool> {
        if found.mark == transition.mark {
            return Ok(true);
        }
        // The attempt has a row of its own only if another one could follow it.
        let Some(fence) = transition.guard.fence else { return Ok(false) };
        if found.head.fence == fence && found.head.state == State::Running {
            return Ok(false);
        }
        let mark = first(&mut self.attempt_mark, (found.seq, fence.cast_signed()), |row| row.get(0))?;
        Ok(mark.map(i64::cast_unsigned) == Some(transition.mark))
    }

    fn change(&mut self, tx: &Tx, transition: &Transition, found: &Found) -> rusqlite::Result<Head> {
        let change = &transition.change;
        let mark = transition.mark.cast_signed();
        let cause = change.cause.map(Cause::as_str);
        let entered_at = change.entered.map(|ago| (tx.now - ago).as_micros());
        let changed = if is_plain_end(change) {
            self.end.execute((
                found.seq,
                change.to.code(),
                mark,
                cause,
                change.error.as_deref(),
                change.output.as_deref(),
                entered_at,
                tx.now.as_micros(),
            ))?
        } else {
            self.change.execute((
                found.seq,
                change.to.code(),
                mark,
                cause,
                change.error.as_deref(),
                change.output.as_deref(),
                entered_at,
                change.to.is_terminal().then_some(tx.now.as_micros()),
                change.request_cancel.as_deref(),
                match change.to {
                    State::Scheduled | State::Ready => Some((tx.now + change.delay).as_micros()),
                    State::Blocked | State::Running | State::Succeeded | State::Failed | State::Cancelled => {
                        None
                    }
                },
                change.give_back_attempt,
                change.rescue,
            ))?
        };
        assert_eq!(changed, 1, "the write lock is held since the task was found");
        Ok(Head {
            state: change.to,
            rev: found.head.rev + 1,
            fence: found.head.fence,
            cancel_requested: found.head.cancel_requested || change.request_cancel.is_some(),
        })
    }

    pub(crate) fn renew(&mut self, tx: &Tx, renewal: &Renewal) -> rusqlite::Result<Done> {
        let expires_at = (tx.now + renewal.lease).as_micros();
        let entered_at = renewal.entered.map(|ago| (tx.now - ago).as_micros());
        let params = (renewal.task.as_str(), renewal.fence.cast_signed(), expires_at, entered_at);
        if let Some(cancel) = first(&mut self.renew, params, |row| row.get(0))? {
            return Ok(Done::Applied(Receipt::Renewed { cancel }));
        }
        Ok(Done::Refused(match first(&mut self.find, [renewal.task.as_str()], found)? {
            Some(found) => Refusal::Stale(found.head),
            None => Refusal::NotFound,
        }))
    }
}

fn is_plain_end(change: &Change) -> bool {
    change.to.is_terminal()
        && change.cause.is_some()
        && change.request_cancel.is_none()
        && !change.give_back_attempt
        && !change.rescue
}

fn holds(guard: &Guard, found: &Found, tx: &Tx) -> bool {
    let head = &found.head;
    guard.from.contains(head.state)
        // Whatever a guard says, an end is final.
        && States::UNFINISHED.contains(head.state)
        && guard.fence.is_none_or(|fence| head.fence == fence)
        && !(guard.unless_cancel_requested && head.cancel_requested)
        && (!guard.lease_lapsed || found.lease_expires_at.is_some_and(|at| at <= tx.now.as_micros()))
        && (!guard.overdue || found.deadline_at.is_some_and(|at| at <= tx.now.as_micros()))
}
