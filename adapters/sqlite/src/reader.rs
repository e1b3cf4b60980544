//! Reads: each in a snapshot of its own, which ends with it.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, params_from_iter};
use steadfast_core::step::Head;
use steadfast_core::storage::{self, Lapsed, Query, TaskFilter, View};
use steadfast_core::{Kind, Queue, Slot, State, Task, TaskId, Timestamp, WorkerId};

use crate::Common;
use crate::error::classed;
use crate::row::{ATTEMPT, HEAD, TASK, attempt, first, head, task, text, time, unsigned};
use crate::threads::{Answer, Calls};

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
            // A caller that is gone doesn't mind.
            let _ = call.answer.send(Err(error));
        }
    });
}

/// A connection that reads, with its statements prepared.
pub(crate) struct Reader<'c> {
    common: &'c Common,
    conn: &'c Connection,
    begin: Statement<'c>,
    end: Statement<'c>,
    mark: Statement<'c>,
    task: Statement<'c>,
    head: Statement<'c>,
    attempts: Statement<'c>,
    lapsed: Statement<'c>,
}

impl<'c> Reader<'c> {
    pub(crate) fn new(common: &'c Common, conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            common,
            conn,
            begin: conn.prepare("BEGIN")?,
            end: conn.prepare("COMMIT")?,
            mark: conn.prepare("SELECT clock FROM meta WHERE one = 1")?,
            task: conn.prepare(&format!("SELECT {TASK} FROM request JOIN task USING (seq) WHERE id = ?1"))?,
            head: conn.prepare(&format!("SELECT {HEAD} FROM request JOIN task USING (seq) WHERE id = ?1"))?,
            attempts: conn.prepare(&format!(
                "SELECT {ATTEMPT} FROM attempt WHERE task = (SELECT seq FROM request WHERE id = ?1) ORDER BY fence"
            ))?,
            lapsed: conn.prepare(
                "SELECT id, fence, worker, entered_at IS NOT NULL, rescues, rescues_max, cancel, lease_expires_at
                 FROM task INDEXED BY task_running JOIN request USING (seq)
                 WHERE state = 3 AND lease_expires_at <= ?1
                 ORDER BY lease_expires_at, seq LIMIT ?2",
            )?,
        })
    }

    /// Answers one call, unless its caller is gone.
    pub(crate) fn serve(&mut self, call: ReadCall) {
        if call.answer.is_closed() {
            return;
        }
        let view = self.read(&call.query).map_err(|error| {
            if !self.conn.is_autocommit() {
                // A snapshot that stayed open would be what every later call reads.
                let _ = self.conn.execute_batch("ROLLBACK");
            }
            classed(format_args!("read {}", self.common.name), &error)
        });
        let _ = call.answer.send(view);
    }

    fn read(&mut self, query: &Query) -> rusqlite::Result<View> {
        self.begin.execute([])?;
        // The first statement takes the snapshot. The clock is read after it, so that nothing in it is in the future.
        let mark = Timestamp::from_micros(self.mark.query_one([], |row| row.get(0))?);
        let as_of = self.common.clock.now(mark);
        let answer = match query {
            Query::Task(id) => {
                storage::Answer::Task(first(&mut self.task, [id.as_str()], task)?.map(Box::new))
            }
            Query::Tasks(filter) => storage::Answer::Tasks(tasks(self.conn, filter)?),
            Query::Attempts(id) => storage::Answer::Attempts(
                self.attempts.query_and_then([id.as_str()], attempt)?.collect::<Result<_, _>>()?,
            ),
            Query::Parents(_) => storage::Answer::Parents(Vec::new()),
            Query::Log { .. } => storage::Answer::Log(Vec::new()),
            Query::Checkpoints(_) => storage::Answer::Checkpoints(Vec::new()),
            Query::Overdue { .. } => storage::Answer::Overdue(Vec::new()),
            Query::Stats { .. } => storage::Answer::Stats(Default::default()),
            Query::Workers => storage::Answer::Workers(Vec::new()),
            Query::Heads(ids) => storage::Answer::Heads(self.heads(ids)?),
            Query::Lapsed { limit } => storage::Answer::Lapsed(
                self.lapsed
                    .query_and_then((as_of.as_micros(), limit), |row| lapsed(row, as_of))?
                    .collect::<Result<_, _>>()?,
            ),
        };
        self.end.execute([])?;
        Ok(View { store: self.common.store.clone(), as_of, answer })
    }
}

impl Reader<'_> {
    fn heads(&mut self, ids: &[TaskId]) -> rusqlite::Result<Vec<(TaskId, Head)>> {
        let mut heads = Vec::with_capacity(ids.len());
        for id in ids {
            let head = first(&mut self.head, [id.as_str()], |row| head(row, 0))?;
            heads.extend(head.map(|head| (id.clone(), head)));
        }
        Ok(heads)
    }
}

fn tasks(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<Vec<Task>> {
    // Waiting and running tasks are found in their state's index, however many have ended. All others are looked for
    // from the newest on, until there are enough. Found first and read afterwards, so that sorting moves numbers only.
    let index = match filter.state {
        Some(State::Scheduled) => "INDEXED BY task_scheduled",
        Some(State::Ready) => "INDEXED BY task_ready",
        Some(State::Running) => "INDEXED BY task_running",
        Some(State::Blocked | State::Succeeded | State::Failed | State::Cancelled) | None => "",
    };
    let join = if filter.kind.is_some() { "CROSS JOIN request USING (seq)" } else { "" };
    let mut found = format!("SELECT seq FROM task {index} {join} WHERE true");
    let mut values: Vec<Value> = Vec::new();
    if let Some(state) = filter.state {
        // The number itself and no parameter: that is how SQLite knows that the index serves.
        write!(found, " AND state = {}", state.code()).expect("a string takes any text");
    }
    let texts = [
        ("queue", filter.queue.as_ref().map(Queue::as_str)),
        ("slot", filter.slot.as_ref().map(Slot::as_str)),
        ("kind", filter.kind.as_ref().map(Kind::as_str)),
    ];
    for (column, text) in texts {
        if let Some(text) = text {
            write!(found, " AND {column} = ?").expect("a string takes any text");
            values.push(Value::Text(text.into()));
        }
    }
    found.push_str(" ORDER BY seq DESC LIMIT ?");
    values.push(Value::Integer(filter.limit.into()));
    let sql =
        format!("SELECT {TASK} FROM task JOIN request USING (seq) WHERE seq IN ({found}) ORDER BY seq DESC");
    conn.prepare_cached(&sql)?.query_and_then(params_from_iter(values), task)?.collect()
}

fn lapsed(row: &rusqlite::Row<'_>, as_of: Timestamp) -> rusqlite::Result<Lapsed> {
    Ok(Lapsed {
        task: TaskId::trusted(text(row, 0)?),
        fence: unsigned(row, 1)?,
        worker: WorkerId::trusted(text(row, 2)?),
        entered: row.get(3)?,
        rescues: row.get(4)?,
        rescues_max: row.get(5)?,
        cancel: row.get(6)?,
        since: as_of.since(time(row, 7)?),
    })
}
