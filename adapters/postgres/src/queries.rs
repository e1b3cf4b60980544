//! Reads: each is one statement, so one snapshot, and says whose store it asked and what its clock showed.

use std::time::Duration;

use steadfast_core::name::{Key, Kind, Queue, Slot, StoreId, TaskId, WorkerId};
use steadfast_core::step::Head;
use steadfast_core::storage::{
    Answer, Error, ErrorKind, Lapsed, Query, QueueStats, Stats, TaskFilter, View, Worker,
};
use steadfast_core::task::{
    Attempt, Backoff, Cause, Checkpoint, Fence, LogEntry, OnParentFailure, Parent, Progress, State, Stream,
    Task,
};
use steadfast_core::time::{Timestamp, micros};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};

use crate::columns::signed;
use crate::outcomes::field;

/// Before the answer's own columns come the store and its clock. The clock is the statement's: conditions on an index
/// need one that stands still.
const HEAD: &str = "SELECT meta.store, at.now, answer.* FROM meta CROSS JOIN (SELECT coalesce($1::bigint, \
    (date_part('epoch', statement_timestamp()) * 1000000)::bigint) AS now) AS at LEFT JOIN LATERAL";
const HEAD_COLUMNS: usize = 2;

/// A task that has ended waits for nothing, whatever it waited for when it ended.
const TASK_COLUMNS: &str = "id, kind, queue, state, cause, error, rev, attempt, attempts_max, rescues, rescues_max, \
    fence, slot, slot_waiting AND state = 0 AS slot_waiting, key, priority, payload, output, submitted_at, due_at, \
    deadline_at, claimed_at, entered_at, percent, message, reported_at, task.ended_at, lease_expires_at, worker, \
    timeout, backoff_min, backoff_max, cancel, parents_pending, digest, mark, seq";
/// The unfinished tasks with a slot: those who hold it and those who wait for it, each by its own index.
const IN_SLOTS: &str = "(SELECT * FROM task WHERE slot IS NOT NULL AND state < 4 AND NOT slot_waiting \
    UNION ALL SELECT * FROM task WHERE slot_waiting AND state = 0) AS task";

/// A statement that reads, with its values; the first is the clock set by hand.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) text: String,
    values: Vec<(Value<'a>, Type)>,
}

#[derive(Debug)]
enum Value<'a> {
    Clock(Option<i64>),
    Text(&'a str),
    Texts(Vec<&'a str>),
    Number(i64),
}

impl<'a> Reading<'a> {
    /// Puts a question into SQL.
    pub(crate) fn new(query: &'a Query, clock: Option<Timestamp>) -> Self {
        let clock = (Value::Clock(clock.map(Timestamp::as_micros)), Type::INT8);
        let mut reading = Self { text: String::new(), values: vec![clock] };
        let answer = match query {
            Query::Task(task) => {
                let id = reading.text(task.as_str());
                format!(
                    "(SELECT {TASK_COLUMNS} FROM task WHERE id = coalesce( \
                    (SELECT id FROM task WHERE id = {id}), (SELECT task FROM alias WHERE alias = {id}))) \
                    AS answer ON true"
                )
            }
            Query::Tasks(filter) => reading.tasks(filter),
            Query::Attempts(task) => {
                let id = reading.text(task.as_str());
                format!(
                    "(SELECT fence, attempt, worker, claimed_at, entered_at, ended_at, cause, error FROM attempt \
                    WHERE task = {id}) AS answer ON true ORDER BY answer.fence"
                )
            }
            Query::Parents(task) => {
                let id = reading.text(task.as_str());
                format!(
                    "(SELECT edge.parent, edge.run, p.state FROM edge \
                    LEFT JOIN task AS p ON p.id = edge.parent AND NOT edge.gone \
                    WHERE edge.child = {id}) AS answer ON true ORDER BY answer.parent"
                )
            }
            Query::Log { task, after, limit } => reading.log(task, *after, *limit),
            Query::Checkpoints(task) => {
                let id = reading.text(task.as_str());
                format!(
                    "(SELECT name, value FROM checkpoint WHERE task = {id}) AS answer ON true ORDER BY answer.name"
                )
            }
            Query::Overdue { limit } => {
                let limit = reading.number(i64::from(*limit));
                format!(
                    "(SELECT id, deadline_at FROM task \
                    WHERE state < 4 AND state <> 3 AND deadline_at IS NOT NULL AND deadline_at <= at.now \
                    ORDER BY deadline_at, id LIMIT {limit}) AS answer ON true \
                    ORDER BY answer.deadline_at, answer.id"
                )
            }
            Query::Stats { stale, stuck } => reading.stats(*stale, *stuck),
            Query::Workers => "(SELECT id, queues, kinds, concurrency, running, gone, started_at, seen_at \
                FROM worker) AS answer ON true ORDER BY answer.id"
                .to_owned(),
            Query::Heads(tasks) => {
                let ids = tasks.iter().map(TaskId::as_str).collect();
                let ids = reading.value(Value::Texts(ids), Type::TEXT_ARRAY);
                format!(
                    "(SELECT id, state, rev, fence, cancel IS NOT NULL FROM task WHERE id = ANY({ids})) AS answer \
                    ON true"
                )
            }
            Query::Lapsed { limit } => {
                let limit = reading.number(i64::from(*limit));
                format!(
                    "(SELECT id, fence, worker, entered_at IS NOT NULL, rescues, rescues_max, cancel, \
                    lease_expires_at FROM task WHERE state = 3 AND lease_expires_at <= at.now \
                    ORDER BY lease_expires_at, id LIMIT {limit}) AS answer ON true \
                    ORDER BY answer.lease_expires_at, answer.id"
                )
            }
        };
        reading.text = format!("{HEAD} {answer}");
        reading
    }

    /// By attempt and number.
    fn log(&mut self, task: &'a TaskId, after: (Fence, u32), limit: u32) -> String {
        let id = self.text(task.as_str());
        let (fence, number) = (self.number(signed(after.0)), self.number(i64::from(after.1)));
        let limit = self.number(i64::from(limit));
        format!(
            "(SELECT fence, number, at, stream, text FROM log \
            WHERE task = {id} AND (fence, number) > ({fence}, {number}) \
            ORDER BY fence, number LIMIT {limit}) AS answer ON true ORDER BY answer.fence, answer.number"
        )
    }

    /// Newest first. Only the filters asked for are in the text, so that the planner can choose an index by them.
    fn tasks(&mut self, filter: &'a TaskFilter) -> String {
        let TaskFilter { state, queue, slot, kind, unfinished, in_slot, before, limit } = filter;
        let unfinished = *unfinished || state.is_some_and(|state| !state.is_terminal());
        let table = if unfinished && (*in_slot || slot.is_some()) { IN_SLOTS } else { "task" };
        let mut conditions = String::from("true");
        if unfinished {
            conditions += " AND state < 4";
        }
        if *in_slot {
            conditions += " AND slot IS NOT NULL";
        }
        if let Some(before) = before {
            conditions +=
                &format!(" AND seq < (SELECT seq FROM task WHERE id = {})", self.text(before.as_str()));
        }
        if let Some(state) = state {
            // A literal, so that the partial index of the state can be used.
            conditions += &format!(" AND state = {}", state.code());
        }
        let texts = [
            ("queue", queue.as_ref().map(Queue::as_str)),
            ("slot", slot.as_ref().map(Slot::as_str)),
            ("kind", kind.as_ref().map(Kind::as_str)),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                conditions += &format!(" AND {column} = {}", self.text(text));
            }
        }
        let limit = self.number(i64::from(*limit));
        format!(
            "(SELECT {TASK_COLUMNS} FROM {table} WHERE {conditions} ORDER BY seq DESC LIMIT {limit}) AS answer ON true \
            ORDER BY answer.seq DESC"
        )
    }

    /// Counts all tasks, and adds what is known of queues that have none. A handler gives a sign when it is entered and
    /// with each report; until then its claim counts.
    fn stats(&mut self, stale: Duration, stuck: Duration) -> String {
        let (stale, stuck) = (self.number(micros(stale)), self.number(micros(stuck)));
        let counts: Vec<String> = State::ALL
            .iter()
            .map(|state| format!("count(*) FILTER (WHERE state = {0}) AS in_{0}", state.code()))
            .collect();
        let zeros: Vec<String> =
            State::ALL.iter().map(|state| format!("coalesce(t.in_{}, 0)", state.code())).collect();
        let (counts, zeros) = (counts.join(", "), zeros.join(", "));
        format!(
            "(SELECT coalesce(t.queue, q.name) AS queue, q.concurrency, coalesce(q.paused, false), \
            at.now - t.oldest, coalesce(t.stale, 0), coalesce(t.stuck, 0), {zeros} \
            FROM (SELECT queue, {counts}, min(due_at) FILTER (WHERE state = 2) AS oldest, \
                count(*) FILTER (WHERE state = 2 AND due_at < at.now - {stale}) AS stale, \
                count(*) FILTER (WHERE state = 3 \
                    AND greatest(claimed_at, entered_at, reported_at) < at.now - {stuck}) AS stuck \
                FROM task GROUP BY queue) AS t \
            FULL JOIN (SELECT name, concurrency, paused FROM queue WHERE concurrency IS NOT NULL OR paused) AS q \
                ON q.name = t.queue) AS answer ON true ORDER BY answer.queue"
        )
    }

    fn text(&mut self, text: &'a str) -> String {
        self.value(Value::Text(text), Type::TEXT)
    }

    fn number(&mut self, number: i64) -> String {
        self.value(Value::Number(number), Type::INT8)
    }

    fn value(&mut self, value: Value<'a>, kind: Type) -> String {
        self.values.push((value, kind));
        format!("${}", self.values.len())
    }

    /// The values and their types, as the driver takes them.
    pub(crate) fn values(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.values.iter().map(|(value, kind)| (value.as_sql(), kind.clone())).collect()
    }
}

impl Value<'_> {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Value::Clock(clock) => clock,
            Value::Text(text) => text,
            Value::Texts(texts) => texts,
            Value::Number(number) => number,
        }
    }
}

/// Reads the rows back. There is one at least, with nulls for the answer's columns where there is no answer.
pub(crate) fn view(query: &Query, rows: &[Row]) -> Result<View, Error> {
    let first = rows.first().ok_or_else(|| Error::new(ErrorKind::Broken, "the store has no identity"))?;
    let store = StoreId::trusted(field::<&str>(first, 0)?);
    let as_of = Timestamp::from_micros(field(first, 1)?);
    let found = field::<Option<Present>>(first, HEAD_COLUMNS)?.is_some();
    let rows = if found { rows } else { &[] };
    let answer = match query {
        Query::Task(_) => Answer::Task(rows.first().map(task).transpose()?.map(Box::new)),
        Query::Tasks(_) => Answer::Tasks(rows.iter().map(task).collect::<Result<_, _>>()?),
        Query::Attempts(_) => Answer::Attempts(rows.iter().map(attempt).collect::<Result<_, _>>()?),
        Query::Parents(_) => Answer::Parents(rows.iter().map(parent).collect::<Result<_, _>>()?),
        Query::Log { .. } => Answer::Log(rows.iter().map(entry).collect::<Result<_, _>>()?),
        Query::Checkpoints(_) => Answer::Checkpoints(rows.iter().map(checkpoint).collect::<Result<_, _>>()?),
        Query::Overdue { .. } => {
            let id = |row| Columns(row, HEAD_COLUMNS).text().map(TaskId::trusted);
            Answer::Overdue(rows.iter().map(id).collect::<Result<_, _>>()?)
        }
        Query::Stats { .. } => {
            Answer::Stats(Stats { queues: rows.iter().map(queue_stats).collect::<Result<_, _>>()? })
        }
        Query::Workers => Answer::Workers(rows.iter().map(worker).collect::<Result<_, _>>()?),
        Query::Heads(_) => Answer::Heads(rows.iter().map(head).collect::<Result<_, _>>()?),
        Query::Lapsed { .. } => {
            Answer::Lapsed(rows.iter().map(|row| lapsed(row, as_of)).collect::<Result<_, _>>()?)
        }
    };
    Ok(View { store, as_of, answer })
}

/// Any value that isn't null.
struct Present;

impl<'a> FromSql<'a> for Present {
    fn from_sql(_: &Type, _: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Present)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Reads columns from left to right.
struct Columns<'a>(&'a Row, usize);

impl<'a> Columns<'a> {
    fn next<T: FromSql<'a>>(&mut self) -> Result<T, Error> {
        let value = field(self.0, self.1);
        self.1 += 1;
        value
    }

    fn time(&mut self) -> Result<Timestamp, Error> {
        self.next().map(Timestamp::from_micros)
    }

    fn time_if_any(&mut self) -> Result<Option<Timestamp>, Error> {
        Ok(self.next::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    fn duration(&mut self) -> Result<Duration, Error> {
        self.next().map(duration)
    }

    fn count(&mut self) -> Result<u32, Error> {
        u32::try_from(self.next::<i32>()?).map_err(|_| garbled())
    }

    fn large_count(&mut self) -> Result<u32, Error> {
        u32::try_from(self.next::<i64>()?).map_err(|_| garbled())
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.next::<i64>().map(i64::cast_unsigned)
    }

    fn text(&mut self) -> Result<&'a str, Error> {
        self.next()
    }

    fn text_if_any(&mut self) -> Result<Option<&'a str>, Error> {
        self.next()
    }

    fn state(&mut self) -> Result<State, Error> {
        State::from_code(i64::from(self.next::<i16>()?)).ok_or_else(garbled)
    }

    /// Percent and message.
    fn progress(&mut self) -> Result<Option<Progress>, Error> {
        let (percent, message) = (self.next::<Option<i16>>()?, self.string_if_any()?);
        let progress = |percent: i16| {
            let percent = u8::try_from(percent).map_err(|_| garbled())?;
            Ok(Progress { percent, message: message.unwrap_or_default() })
        };
        percent.map(progress).transpose()
    }

    fn string_if_any(&mut self) -> Result<Option<String>, Error> {
        self.next()
    }
}

/// A duration that stands in whole microseconds.
pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn garbled() -> Error {
    Error::new(ErrorKind::Broken, "the store holds something that isn't ours")
}

fn cause(word: &str) -> Result<Cause, Error> {
    Cause::from_word(word).ok_or_else(garbled)
}

fn task(row: &Row) -> Result<Task, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(Task {
        id: TaskId::trusted(at.text()?),
        kind: Kind::trusted(at.text()?),
        queue: Queue::trusted(at.text()?),
        state: at.state()?,
        cause: at.text_if_any()?.map(cause).transpose()?,
        error: at.string_if_any()?,
        rev: at.number()?,
        attempt: at.count()?,
        attempts_max: at.large_count()?,
        rescues: at.count()?,
        rescues_max: at.large_count()?,
        fence: at.number()?,
        slot: at.text_if_any()?.map(Slot::trusted),
        slot_waiting: at.next()?,
        key: at.text_if_any()?.map(Key::trusted),
        priority: at.next()?,
        payload: at.next::<&[u8]>()?.into(),
        output: at.next::<Option<&[u8]>>()?.map(Into::into),
        submitted_at: at.time()?,
        due_at: at.time()?,
        deadline_at: at.time_if_any()?,
        claimed_at: at.time_if_any()?,
        entered_at: at.time_if_any()?,
        progress: at.progress()?,
        reported_at: at.time_if_any()?,
        finished_at: at.time_if_any()?,
        lease_expires_at: at.time_if_any()?,
        worker: at.text_if_any()?.map(WorkerId::trusted),
        timeout: at.duration()?,
        backoff: Backoff { min: at.duration()?, max: at.duration()? },
        cancel: at.string_if_any()?,
        parents_pending: at.count()?,
        digest: at.number()?,
        mark: at.number()?,
    })
}

fn head(row: &Row) -> Result<(TaskId, Head), Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    let id = TaskId::trusted(at.text()?);
    let state = at.state()?;
    Ok((id, Head { state, rev: at.number()?, fence: at.number()?, cancel_requested: at.next()? }))
}

fn attempt(row: &Row) -> Result<Attempt, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(Attempt {
        fence: at.number()?,
        attempt: at.count()?,
        worker: WorkerId::trusted(at.text()?),
        claimed_at: at.time()?,
        entered_at: at.time_if_any()?,
        ended_at: at.time()?,
        cause: cause(at.text()?)?,
        error: at.string_if_any()?,
    })
}

fn parent(row: &Row) -> Result<(Parent, Option<State>), Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    let id = TaskId::trusted(at.text()?);
    let on_failure = if at.next()? { OnParentFailure::Run } else { OnParentFailure::Fail };
    let state = at.next::<Option<i16>>()?;
    let state = state.map(|code| State::from_code(i64::from(code)).ok_or_else(garbled)).transpose()?;
    Ok((Parent { id, on_failure }, state))
}

fn entry(row: &Row) -> Result<LogEntry, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(LogEntry {
        fence: at.number()?,
        number: at.large_count()?,
        at: at.time()?,
        stream: Stream::from_word(at.text()?).ok_or_else(garbled)?,
        text: at.text()?.to_owned(),
    })
}

fn checkpoint(row: &Row) -> Result<Checkpoint, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(Checkpoint { name: at.text()?.to_owned(), value: at.next::<&[u8]>()?.into() })
}

fn queue_stats(row: &Row) -> Result<QueueStats, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    let mut stats = QueueStats {
        queue: Queue::trusted(at.text()?),
        concurrency: at.next::<Option<i64>>()?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        paused: at.next()?,
        oldest_ready: at.next::<Option<i64>>()?.map(duration),
        stale: at.number()?,
        stuck: at.number()?,
        tasks: [0; 7],
    };
    for count in &mut stats.tasks {
        *count = at.number()?;
    }
    Ok(stats)
}

fn worker(row: &Row) -> Result<Worker, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(Worker {
        id: WorkerId::trusted(at.text()?),
        queues: at.next::<Vec<&str>>()?.into_iter().map(Queue::trusted).collect(),
        kinds: at.next::<Vec<&str>>()?.into_iter().map(Kind::trusted).collect(),
        concurrency: at.large_count()?,
        running: at.large_count()?,
        gone: at.next()?,
        started_at: at.time()?,
        seen_at: at.time()?,
    })
}

fn lapsed(row: &Row, now: Timestamp) -> Result<Lapsed, Error> {
    let mut at = Columns(row, HEAD_COLUMNS);
    Ok(Lapsed {
        task: TaskId::trusted(at.text()?),
        fence: at.number()?,
        worker: WorkerId::trusted(at.text()?),
        entered: at.next()?,
        rescues: at.count()?,
        rescues_max: at.large_count()?,
        cancel: at.string_if_any()?,
        since: now.since(at.time()?),
    })
}
