//! Reads: each in a snapshot of its own, which ends with it.

use rusqlite::{Connection, Statement};
use steadfast_core::step::Head;
use steadfast_core::storage::{self, Query, View};
use steadfast_core::task::{Checkpoint, Fence, Parent};
use steadfast_core::{State, TaskId, Timestamp};

use crate::Common;
use crate::answer::Answer;
use crate::clock;
use crate::error::classed;
use crate::list::tasks;
use crate::row::{
    ATTEMPT, HEAD, LAPSED, LOG_ENTRY, TASK, TASK_FROM, WORKER, attempt, bytes, first, head, lapsed,
    log_entry, on_failure, optional, state, task, text, worker,
};
use crate::stats::stats;
use crate::threads::Calls;

/// A question, and where the answer goes.
pub(crate) struct ReadCall {
    pub(crate) query: Query,
    pub(crate) answer: Answer<View>,
}

/// Serves calls until every handle is gone.
pub(crate) fn run(common: &Common, conn: &Connection, calls: &Calls<ReadCall>) {
    let mut reader = Reader::new(common, conn);
    calls.each(|call| match &mut reader {
        Ok(reader) => reader.serve(call),
        Err(error) => {
            let error = classed(format_args!("prepare statements for {}", common.name), error);
            call.answer.send(Err(error));
        }
    });
}

/// A connection that reads, with its statements prepared.
pub(crate) struct Reader<'c> {
    common: &'c Common,
    conn: &'c Connection,
    begin: Statement<'c>,
    end: Statement<'c>,
    clock: Statement<'c>,
    task: Statement<'c>,
    head: Statement<'c>,
    attempts: Statement<'c>,
    lapsed: Statement<'c>,
    parents: Statement<'c>,
    log: Statement<'c>,
    checkpoints: Statement<'c>,
    overdue: Statement<'c>,
    workers: Statement<'c>,
}

impl<'c> Reader<'c> {
    pub(crate) fn new(common: &'c Common, conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            common,
            conn,
            begin: conn.prepare("BEGIN")?,
            end: conn.prepare("COMMIT")?,
            clock: conn.prepare(clock::READ)?,
            task: conn.prepare(&format!(
                "SELECT {TASK} FROM {TASK_FROM} WHERE seq = coalesce(
                     (SELECT seq FROM request WHERE id = ?1), (SELECT alias.task FROM alias WHERE name = ?1))"
            ))?,
            head: conn.prepare(&format!("SELECT {HEAD} FROM request JOIN task USING (seq) WHERE id = ?1"))?,
            attempts: conn.prepare(&format!(
                "SELECT {ATTEMPT} FROM attempt WHERE task = (SELECT seq FROM request WHERE id = ?1) ORDER BY fence"
            ))?,
            lapsed: conn.prepare(&format!(
                "SELECT {LAPSED}
                 FROM task INDEXED BY task_running JOIN request USING (seq)
                 WHERE state = 3 AND lease_expires_at <= ?1
                 ORDER BY lease_expires_at, seq LIMIT ?2"
            ))?,
            parents: conn.prepare(
                "SELECT id, on_failure, state FROM edge JOIN request ON request.seq = parent JOIN task USING (seq)
                 WHERE child = (SELECT seq FROM request WHERE id = ?1)
                 UNION ALL
                 SELECT id, on_failure, NULL FROM forgotten_parent
                 WHERE child = (SELECT seq FROM request WHERE id = ?1)
                 ORDER BY id",
            )?,
            log: conn.prepare(&format!(
                "SELECT {LOG_ENTRY} FROM log_line
                 WHERE task = (SELECT seq FROM request WHERE id = ?1) AND (fence, number) > (?2, ?3)
                 ORDER BY fence, number LIMIT ?4"
            ))?,
            checkpoints: conn.prepare(
                "SELECT name, value FROM checkpoint WHERE task = (SELECT seq FROM request WHERE id = ?1)
                 ORDER BY name",
            )?,
            overdue: conn.prepare(
                "SELECT id FROM deadline CROSS JOIN task ON task.seq = deadline.task CROSS JOIN request USING (seq)
                 WHERE at <= ?1 AND task.state <> 3 ORDER BY at, deadline.task LIMIT ?2",
            )?,
            workers: conn.prepare(&format!("SELECT {WORKER} FROM worker ORDER BY id"))?,
        })
    }

    /// Answers one call, unless its caller is gone.
    pub(crate) fn serve(&mut self, call: ReadCall) {
        if !call.answer.begin(self.conn) {
            return;
        }
        let view = self.read(&call.query).map_err(|error| {
            if !self.conn.is_autocommit() {
                // A snapshot that stayed open would be what every later call reads.
                let _ = self.conn.execute_batch("ROLLBACK");
            }
            classed(format_args!("read {}", self.common.name), &error)
        });
        call.answer.send(view);
    }

    fn read(&mut self, query: &Query) -> rusqlite::Result<View> {
        self.begin.execute([])?;
        // The first statement takes the snapshot. The clock is read after it, so that nothing in it is in the future.
        let clock = &self.common.clock;
        let as_of = clock.now(self.clock.query_one([], |row| clock.stored(row))?);
        let answer = self.answer(query, as_of)?;
        self.end.execute([])?;
        Ok(View { store: self.common.store.clone(), as_of, answer })
    }
}

impl Reader<'_> {
    fn answer(&mut self, query: &Query, as_of: Timestamp) -> rusqlite::Result<storage::Answer> {
        let now = as_of.as_micros();
        Ok(match query {
            Query::Task(id) => {
                storage::Answer::Task(first(&mut self.task, [id.as_str()], task)?.map(Box::new))
            }
            Query::Tasks(filter) => storage::Answer::Tasks(tasks(self.conn, filter)?),
            Query::Attempts(id) => storage::Answer::Attempts(
                self.attempts.query_and_then([id.as_str()], attempt)?.collect::<Result<_, _>>()?,
            ),
            Query::Parents(id) => storage::Answer::Parents(
                self.parents.query_and_then([id.as_str()], parent)?.collect::<Result<_, _>>()?,
            ),
            Query::Log { task, after, limit } => storage::Answer::Log(self.log(task, *after, *limit)?),
            Query::Checkpoints(id) => storage::Answer::Checkpoints(
                self.checkpoints
                    .query_and_then([id.as_str()], |row| {
                        Ok(Checkpoint { name: row.get(0)?, value: bytes(row, 1)? })
                    })?
                    .collect::<rusqlite::Result<_>>()?,
            ),
            Query::Heads(ids) => storage::Answer::Heads(self.heads(ids)?),
            Query::Lapsed { limit } => storage::Answer::Lapsed(
                self.lapsed
                    .query_and_then((now, limit), |row| lapsed(row, as_of))?
                    .collect::<Result<_, _>>()?,
            ),
            Query::Overdue { limit } => storage::Answer::Overdue(
                self.overdue
                    .query_and_then((now, limit), |row| text(row, 0).map(TaskId::trusted))?
                    .collect::<rusqlite::Result<_>>()?,
            ),
            Query::Stats { stale, stuck } => storage::Answer::Stats(stats(self.conn, as_of, *stale, *stuck)?),
            Query::Workers => {
                storage::Answer::Workers(self.workers.query_and_then([], worker)?.collect::<Result<_, _>>()?)
            }
        })
    }

    fn log(
        &mut self,
        task: &TaskId,
        (fence, number): (Fence, u32),
        limit: u32,
    ) -> rusqlite::Result<Vec<steadfast_core::task::LogEntry>> {
        let params = (task.as_str(), fence.cast_signed(), number, limit);
        self.log.query_and_then(params, log_entry)?.collect()
    }

    fn heads(&mut self, ids: &[TaskId]) -> rusqlite::Result<Vec<(TaskId, Head)>> {
        let mut heads = Vec::with_capacity(ids.len());
        for id in ids {
            let head = first(&mut self.head, [id.as_str()], |row| head(row, 0))?;
            heads.extend(head.map(|head| (id.clone(), head)));
        }
        Ok(heads)
    }
}

fn parent(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Parent, Option<State>)> {
    let parent = Parent { id: TaskId::trusted(text(row, 0)?), on_failure: on_failure(row, 1)? };
    Ok((parent, optional(row, 2, state)?))
}
