//! Reads: each in a snapshot of its own, which ends with it.

use std::fmt::Write as _;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, params_from_iter};
use steadfast_core::storage::{Answer, Lapsed, Query, TaskFilter, View};
use steadfast_core::{Error, StoreId, Task, TaskId, Timestamp, WorkerId};
use tokio::sync::oneshot;

use crate::READERS;
use crate::clock::StoreClock;
use crate::error::classed;
use crate::row::{ATTEMPT, TASK, attempt, first, task, text, time, unsigned};

/// A question, and where the answer goes.
pub(crate) struct ReadCall {
    pub(crate) query: Query,
    pub(crate) answer: oneshot::Sender<Result<View, Error>>,
}

/// The bodies of the threads that read: they take turns at waiting for the next call.
pub(crate) fn pool(
    calls: Receiver<ReadCall>,
) -> impl Iterator<Item = impl FnOnce(&Connection, &StoreClock, &StoreId)> {
    let calls = Arc::new(Mutex::new(calls));
    std::iter::repeat_n(calls, READERS).map(|calls| {
        move |conn: &Connection, clock: &StoreClock, store: &StoreId| {
            let mut reader = Reader::new(conn, clock, store);
            loop {
                // Nothing under this lock can panic half-way.
                let call = calls.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(call) = call else { return };
                match &mut reader {
                    Ok(reader) => reader.serve(call),
                    Err(error) => {
                        let error = classed("prepare the store's statements", error);
                        let _ = call.answer.send(Err(error));
                    }
                }
            }
        }
    })
}

/// A connection that reads, with its statements prepared.
pub(crate) struct Reader<'c> {
    conn: &'c Connection,
    clock: &'c StoreClock,
    store: &'c StoreId,
    begin: Statement<'c>,
    end: Statement<'c>,
    mark: Statement<'c>,
    task: Statement<'c>,
    attempts: Statement<'c>,
    lapsed: Statement<'c>,
}

impl<'c> Reader<'c> {
    pub(crate) fn new(
        conn: &'c Connection,
        clock: &'c StoreClock,
        store: &'c StoreId,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            clock,
            store,
            begin: conn.prepare("BEGIN")?,
            end: conn.prepare("COMMIT")?,
            mark: conn.prepare("SELECT clock FROM meta WHERE one = 1")?,
            task: conn.prepare(&format!("SELECT {TASK} FROM task WHERE id = ?1"))?,
            attempts: conn.prepare(&format!(
                "SELECT {ATTEMPT} FROM attempt WHERE task = (SELECT seq FROM task WHERE id = ?1) ORDER BY fence"
            ))?,
            lapsed: conn.prepare(
                "SELECT id, fence, worker, entered_at IS NOT NULL, rescues, rescues_max, cancel, lease_expires_at
                 FROM task INDEXED BY task_running WHERE state = 3 AND lease_expires_at <= ?1
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
            classed("read", &error)
        });
        let _ = call.answer.send(view);
    }

    fn read(&mut self, query: &Query) -> rusqlite::Result<View> {
        self.begin.execute([])?;
        // The first statement takes the snapshot. The clock is read after it, so that nothing in it is in the future.
        let mark = Timestamp::from_micros(self.mark.query_one([], |row| row.get(0))?);
        let as_of = self.clock.now(mark);
        let answer = match query {
            Query::Task(id) => Answer::Task(first(&mut self.task, [id.as_str()], task)?.map(Box::new)),
            Query::Tasks(filter) => Answer::Tasks(tasks(self.conn, filter)?),
            Query::Attempts(id) => Answer::Attempts(
                self.attempts.query_and_then([id.as_str()], attempt)?.collect::<Result<_, _>>()?,
            ),
            Query::Lapsed { limit } => Answer::Lapsed(
                self.lapsed
                    .query_and_then((as_of.as_micros(), limit), |row| lapsed(row, as_of))?
                    .collect::<Result<_, _>>()?,
            ),
        };
        self.end.execute([])?;
        Ok(View { store: self.store.clone(), as_of, answer })
    }
}

fn tasks(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<Vec<Task>> {
    let mut sql = format!("SELECT {TASK} FROM task WHERE true");
    let mut values: Vec<Value> = Vec::new();
    if let Some(state) = filter.state {
        // The number itself and no parameter, so that the index of that state can serve.
        write!(sql, " AND state = {}", state.code()).expect("a string takes any text");
    }
    let texts = [
        ("queue", filter.queue.as_ref().map(AsRef::<str>::as_ref)),
        ("slot", filter.slot.as_ref().map(AsRef::as_ref)),
        ("kind", filter.kind.as_ref().map(AsRef::as_ref)),
    ];
    for (column, text) in texts {
        if let Some(text) = text {
            write!(sql, " AND {column} = ?").expect("a string takes any text");
            values.push(Value::Text(text.into()));
        }
    }
    sql.push_str(" ORDER BY seq DESC LIMIT ?");
    values.push(Value::Integer(filter.limit.into()));
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
