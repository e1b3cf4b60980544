//! Rows as the core's types. A value that doesn't fit is an error of the whole call: the row isn't one of ours.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::{FromSqlError, ValueRef};
use steadfast_core::step::Head;
use steadfast_core::storage::{Lapsed, Worker};
use steadfast_core::task::{
    Attempt, Backoff, Cause, LogEntry, OnParentFailure, Payload, Progress, State, Stream, Task,
};
use steadfast_core::{Key, Kind, Queue, Slot, TaskId, Timestamp, WorkerId};

/// A task as the guards of steps need to know it.
pub(crate) struct Found {
    pub(crate) seq: i64,
    pub(crate) head: Head,
    pub(crate) mark: u64,
    pub(crate) lease_expires_at: Option<i64>,
    pub(crate) deadline_at: Option<i64>,
    pub(crate) slot: Option<Arc<str>>,
    pub(crate) slot_waiting: bool,
    pub(crate) has_children: bool,
}

/// The columns that [`found`] reads.
pub(crate) const FOUND: &str = "
    task.seq, state, rev, fence, cancel IS NOT NULL, mark, lease_expires_at, deadline_at, slot, slot_waiting,
    EXISTS (SELECT 1 FROM edge WHERE parent = task.seq)";

pub(crate) fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok(Found {
        seq: row.get(0)?,
        head: head(row, 1)?,
        mark: unsigned(row, 5)?,
        lease_expires_at: row.get(6)?,
        deadline_at: row.get(7)?,
        slot: optional(row, 8, text)?,
        slot_waiting: row.get(9)?,
        has_children: row.get(10)?,
    })
}

/// The columns that [`head`] reads, from the one given on.
pub(crate) const HEAD: &str = "state, rev, fence, cancel IS NOT NULL";

pub(crate) fn head(row: &Row<'_>, column: usize) -> rusqlite::Result<Head> {
    Ok(Head {
        state: state(row, column)?,
        rev: unsigned(row, column + 1)?,
        fence: unsigned(row, column + 2)?,
        cancel_requested: row.get(column + 3)?,
    })
}

/// The columns that [`task`] reads, of the tables that [`TASK_FROM`] joins.
pub(crate) const TASK: &str = "
    id, kind, queue, state, cause, error, rev, attempt, attempts_max, rescues, rescues_max, task.fence, slot, key,
    priority, payload, output, submitted_at, due_at, claimed_at, entered_at, finished_at, lease_expires_at, worker,
    timeout, backoff_min, backoff_max, cancel, parents_pending, digest, mark, slot_waiting, deadline_at,
    reported_at, percent, message";

/// Tasks with what the handler of their last attempt last said.
pub(crate) const TASK_FROM: &str = "
    task JOIN request USING (seq) LEFT JOIN report ON report.task = task.seq AND report.fence = task.fence";

pub(crate) fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    Ok(Task {
        id: TaskId::trusted(text(row, 0)?),
        kind: Kind::trusted(text(row, 1)?),
        queue: Queue::trusted(text(row, 2)?),
        state: state(row, 3)?,
        cause: optional(row, 4, cause)?,
        error: row.get(5)?,
        rev: unsigned(row, 6)?,
        attempt: row.get(7)?,
        attempts_max: row.get(8)?,
        rescues: row.get(9)?,
        rescues_max: row.get(10)?,
        fence: unsigned(row, 11)?,
        slot: optional(row, 12, text)?.map(Slot::trusted),
        slot_waiting: row.get(31)?,
        key: optional(row, 13, text)?.map(Key::trusted),
        priority: row.get(14)?,
        payload: bytes(row, 15)?,
        output: optional(row, 16, bytes)?,
        submitted_at: time(row, 17)?,
        due_at: time(row, 18)?,
        deadline_at: optional(row, 32, time)?,
        claimed_at: optional(row, 19, time)?,
        entered_at: optional(row, 20, time)?,
        progress: progress(row)?,
        reported_at: optional(row, 33, time)?,
        finished_at: optional(row, 21, time)?,
        lease_expires_at: optional(row, 22, time)?,
        worker: optional(row, 23, text)?.map(WorkerId::trusted),
        timeout: duration(row, 24)?,
        backoff: Backoff { min: duration(row, 25)?, max: duration(row, 26)? },
        cancel: row.get(27)?,
        parents_pending: row.get(28)?,
        digest: unsigned(row, 29)?,
        mark: unsigned(row, 30)?,
    })
}

fn progress(row: &Row<'_>) -> rusqlite::Result<Option<Progress>> {
    let Some(percent) = row.get(34)? else { return Ok(None) };
    Ok(Some(Progress { percent, message: row.get(35)? }))
}

/// The columns that [`attempt`] reads.
pub(crate) const ATTEMPT: &str = "fence, attempt, worker, claimed_at, entered_at, ended_at, cause, error";

pub(crate) fn attempt(row: &Row<'_>) -> rusqlite::Result<Attempt> {
    Ok(Attempt {
        fence: unsigned(row, 0)?,
        attempt: row.get(1)?,
        worker: WorkerId::trusted(text(row, 2)?),
        claimed_at: time(row, 3)?,
        entered_at: optional(row, 4, time)?,
        ended_at: time(row, 5)?,
        cause: cause(row, 6)?,
        error: row.get(7)?,
    })
}

/// The columns that [`log_entry`] reads.
pub(crate) const LOG_ENTRY: &str = "fence, number, at, stream, text";

pub(crate) fn log_entry(row: &Row<'_>) -> rusqlite::Result<LogEntry> {
    Ok(LogEntry {
        fence: unsigned(row, 0)?,
        number: row.get(1)?,
        at: time(row, 2)?,
        stream: word(row, 3, Stream::from_word)?,
        text: row.get(4)?,
    })
}

/// The columns that [`lapsed`] reads.
pub(crate) const LAPSED: &str =
    "id, fence, worker, entered_at IS NOT NULL, rescues, rescues_max, cancel, lease_expires_at";

pub(crate) fn lapsed(row: &Row<'_>, as_of: Timestamp) -> rusqlite::Result<Lapsed> {
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

/// The columns that [`worker`] reads.
pub(crate) const WORKER: &str = "id, queues, kinds, concurrency, running, gone, started_at, seen_at";

pub(crate) fn worker(row: &Row<'_>) -> rusqlite::Result<Worker> {
    Ok(Worker {
        id: WorkerId::trusted(text(row, 0)?),
        queues: names(row, 1, Queue::trusted)?,
        kinds: names(row, 2, Kind::trusted)?,
        concurrency: row.get(3)?,
        running: row.get(4)?,
        gone: row.get(5)?,
        started_at: time(row, 6)?,
        seen_at: time(row, 7)?,
    })
}

/// Names that are kept in one text, parted by blanks.
pub(crate) fn joined<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn names<T>(row: &Row<'_>, column: usize, read: impl Fn(Arc<str>) -> T) -> rusqlite::Result<Vec<T>> {
    let text = row.get_ref(column)?.as_str().map_err(|error| misfit(row, column, error))?;
    Ok(text.split_ascii_whitespace().map(|name| read(name.into())).collect())
}

/// What the statement's only row is read as, or `None` where it has none.
pub(crate) fn first<T, P: rusqlite::Params>(
    statement: &mut rusqlite::Statement<'_>,
    params: P,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// A column that may be NULL.
pub(crate) fn optional<T>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&Row<'_>, usize) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => read(row, column).map(Some),
    }
}

pub(crate) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<str>> {
    let text = row.get_ref(column)?.as_str().map_err(|error| misfit(row, column, error))?;
    Ok(text.into())
}

pub(crate) fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Payload> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|error| misfit(row, column, error))?;
    Ok(bytes.into())
}

pub(crate) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<State> {
    let code = row.get(column)?;
    State::from_code(code).ok_or_else(|| misfit(row, column, FromSqlError::OutOfRange(code)))
}

pub(crate) fn on_failure(row: &Row<'_>, column: usize) -> rusqlite::Result<OnParentFailure> {
    word(row, column, OnParentFailure::from_word)
}

pub(crate) fn duration(row: &Row<'_>, column: usize) -> rusqlite::Result<Duration> {
    unsigned(row, column).map(Duration::from_micros)
}

pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_micros)
}

/// Counters and hashes use all 64 bits; SQLite's integers have a sign.
pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}

fn cause(row: &Row<'_>, column: usize) -> rusqlite::Result<Cause> {
    word(row, column, Cause::from_word)
}

fn word<T>(row: &Row<'_>, column: usize, read: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|error| misfit(row, column, error))?;
    read(text)
        .ok_or_else(|| misfit(row, column, FromSqlError::Other(format!("unknown word {text:?}").into())))
}

fn misfit(row: &Row<'_>, column: usize, error: FromSqlError) -> rusqlite::Error {
    let kind = row.get_ref(column).map_or(rusqlite::types::Type::Null, |value| value.data_type());
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}
