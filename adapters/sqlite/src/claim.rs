//! Claims: scheduled tasks whose time has come become ready, and ready ones are leased.

use std::rc::Rc;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, vtab};
use steadfast_core::storage::{ClaimRequest, Claimed, Lease};
use steadfast_core::task::Backoff;
use steadfast_core::{Kind, Queue, Slot, TaskId, Timestamp};

use crate::row::{bytes, duration, first, optional, text, time, unsigned};
use crate::writer::Tx;

/// How many scheduled tasks one claim makes ready at most, so that a flood of them can't hold the writer for long.
const PROMOTED_MAX: u32 = 1_000;

pub(crate) struct Claims<'c> {
    promote: Statement<'c>,
    limit: Statement<'c>,
    running: Statement<'c>,
    ready: Statement<'c>,
    lease: Statement<'c>,
    next_due: Statement<'c>,
}

impl<'c> Claims<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        vtab::array::load_module(conn)?;
        Ok(Self {
            promote: conn.prepare(
                "UPDATE task SET state = 2, rev = rev + 1 WHERE seq IN (
                     SELECT seq FROM task INDEXED BY task_scheduled
                     WHERE state = 1 AND queue = ?1 AND due_at <= ?2 ORDER BY due_at LIMIT ?3)",
            )?,
            limit: conn.prepare("SELECT iif(paused, 0, concurrency) FROM queue WHERE name = ?1")?,
            running: conn.prepare(
                "SELECT count(*) FROM task INDEXED BY task_running WHERE state = 3 AND queue = ?1",
            )?,
            ready: conn.prepare(
                "SELECT seq, id, fence, kind, slot, payload, attempt, attempts_max, timeout, backoff_min,
                     backoff_max, deadline_at
                 FROM task INDEXED BY task_ready CROSS JOIN request USING (seq)
                 WHERE state = 2 AND queue = ?1 AND kind IN (SELECT value FROM json_each(?2))
                 ORDER BY priority, seq LIMIT ?3",
            )?,
            // All in one statement: it costs half of one for each.
            lease: conn.prepare(
                "UPDATE task SET state = 3, rev = rev + 1, fence = fence + 1, attempt = attempt + 1,
                     claimed_at = ?2, entered_at = NULL, worker = ?3, lease_expires_at = ?4
                 WHERE seq IN (SELECT value FROM rarray(?1))",
            )?,
            next_due: conn.prepare(
                "SELECT min(due_at) FROM task INDEXED BY task_scheduled WHERE state = 1 AND queue = ?1",
            )?,
        })
    }

    pub(crate) fn claim(&mut self, tx: &mut Tx, request: &ClaimRequest) -> rusqlite::Result<Claimed> {
        let now = tx.now.as_micros();
        let kinds = json(&request.kinds);
        let mut promotable = PROMOTED_MAX;
        let mut tasks = Vec::new();
        for queue in &request.queues {
            if tasks.len() >= usize::try_from(request.limit).unwrap_or(usize::MAX) {
                break;
            }
            // Looked at first: an update opens every index, and mostly nothing is due.
            if self.due_at(queue)?.is_some_and(|due_at| due_at <= tx.now) {
                let promoted = self.promote.execute((queue.as_str(), now, promotable))?;
                promotable -= u32::try_from(promoted).expect("promoted at most PROMOTED_MAX");
                // Other workers may want what this one leaves.
                tx.hint.ready |= promoted > 0;
            }
            let room = request.limit - u32::try_from(tasks.len()).expect("claimed at most the limit");
            let room = self.room(queue, room)?;
            if room > 0 {
                tasks.extend(self.lease(tx, request, queue, &kinds, room)?);
            }
        }
        let is_full = tasks.len() >= usize::try_from(request.limit).unwrap_or(usize::MAX);
        let next_due = if is_full { None } else { self.next_due(tx.now, &request.queues)? };
        Ok(Claimed { tasks, next_due })
    }

    /// How many of `wanted` the queue's limit allows; none while it is paused.
    fn room(&mut self, queue: &Queue, wanted: u32) -> rusqlite::Result<u32> {
        let limit = first(&mut self.limit, [queue.as_str()], |row| row.get::<_, Option<u32>>(0))?;
        let Some(limit) = limit.flatten() else { return Ok(wanted) };
        // Counted anew each time, under the write lock: no counter that could leak.
        let running: u32 = self.running.query_one([queue.as_str()], |row| row.get(0))?;
        Ok(wanted.min(limit.saturating_sub(running)))
    }

    /// Leases up to `room` tasks of a queue.
    fn lease(
        &mut self,
        tx: &Tx,
        request: &ClaimRequest,
        queue: &Queue,
        kinds: &str,
        room: u32,
    ) -> rusqlite::Result<Vec<Lease>> {
        let mut tasks = Vec::new();
        let mut seqs = Vec::new();
        let mut rows = self.ready.query((queue.as_str(), kinds, room))?;
        while let Some(row) = rows.next()? {
            seqs.push(Value::Integer(row.get(0)?));
            tasks.push(Lease {
                task: TaskId::trusted(text(row, 1)?),
                fence: unsigned(row, 2)? + 1,
                kind: kind(request, row)?,
                queue: queue.clone(),
                slot: optional(row, 4, text)?.map(Slot::trusted),
                payload: bytes(row, 5)?,
                attempt: row.get::<_, u32>(6)? + 1,
                attempts_max: row.get(7)?,
                timeout: duration(row, 8)?,
                backoff: Backoff { min: duration(row, 9)?, max: duration(row, 10)? },
                deadline: optional(row, 11, time)?.map(|at| at.since(tx.now)),
            });
        }
        // The search ends before the update, which changes the index that it walks.
        drop(rows);
        if !tasks.is_empty() {
            let expires_at = (tx.now + request.lease).as_micros();
            let params = (Rc::new(seqs), tx.now.as_micros(), request.worker.as_str(), expires_at);
            let leased = self.lease.execute(params)?;
            assert_eq!(leased, tasks.len(), "the write lock is held since the tasks were found");
        }
        Ok(tasks)
    }

    fn next_due(&mut self, now: Timestamp, queues: &[Queue]) -> rusqlite::Result<Option<Duration>> {
        let mut next: Option<Duration> = None;
        for queue in queues {
            let wait = self.due_at(queue)?.map(|due_at| due_at.since(now));
            next = match (next, wait) {
                (Some(next), Some(wait)) => Some(next.min(wait)),
                (next, wait) => next.or(wait),
            };
        }
        Ok(next)
    }

    /// When the next scheduled task of a queue is due.
    fn due_at(&mut self, queue: &Queue) -> rusqlite::Result<Option<Timestamp>> {
        self.next_due.query_one([queue.as_str()], |row| optional(row, 0, time))
    }
}

/// The kind in the row: one of the request's, whose text is shared.
fn kind(request: &ClaimRequest, row: &rusqlite::Row<'_>) -> rusqlite::Result<Kind> {
    let text = row.get_ref(3)?.as_str()?;
    Ok(request
        .kinds
        .iter()
        .find(|kind| kind.as_str() == text)
        .cloned()
        .unwrap_or_else(|| Kind::trusted(text)))
}

/// A JSON list of the kinds, whose characters need no escaping.
fn json(kinds: &[Kind]) -> String {
    let mut json = String::from("[");
    for (number, kind) in kinds.iter().enumerate() {
        json.push_str(if number == 0 { "\"" } else { ",\"" });
        json.push_str(kind.as_str());
        json.push('"');
    }
    json.push(']');
    json
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;
    use steadfast_core::WorkerId;

    use super::*;
    use crate::{Options, schema};

    #[test]
    fn statements_are_prepared_once() {
        let opened = schema::open_writer(&Options::in_memory()).expect("it opens");
        let mut claims = Claims::new(&opened.conn).expect("prepared");
        for time in 1..4 {
            let request = ClaimRequest {
                worker: WorkerId::trusted("w1"),
                queues: vec![Queue::default_queue()],
                kinds: vec![Kind::trusted("scan")],
                limit: time,
                lease: Duration::from_secs(30),
            };
            let mut tx = Tx::at(Timestamp::from_micros(1_000_000 * i64::from(time)));
            claims.claim(&mut tx, &request).expect("claimed");
        }
        let Claims { promote, limit, running, ready, lease, next_due } = &claims;
        for statement in [promote, limit, running, ready, lease, next_due] {
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{statement:?}");
        }
    }
}
