//! How the queues are doing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use steadfast_core::storage::{QueueStats, Stats};
use steadfast_core::{Queue, Timestamp};

use crate::row::{optional, state, text, time, unsigned};

/// By name.
type Queues = BTreeMap<Arc<str>, QueueStats>;

pub(crate) fn stats(
    conn: &Connection,
    as_of: Timestamp,
    stale: Duration,
    stuck: Duration,
) -> rusqlite::Result<Stats> {
    let mut queues = Queues::new();
    settings(conn, &mut queues)?;
    counts(conn, as_of, stale, &mut queues)?;
    stuck_ones(conn, as_of, stuck, &mut queues)?;
    Ok(Stats { queues: queues.into_values().collect() })
}

fn of(queues: &mut Queues, name: Arc<str>) -> &mut QueueStats {
    queues.entry(name.clone()).or_insert_with(|| QueueStats {
        queue: Queue::trusted(name),
        concurrency: None,
        paused: false,
        tasks: [0; 7],
        oldest_ready: None,
        stale: 0,
        stuck: 0,
    })
}

fn settings(conn: &Connection, queues: &mut Queues) -> rusqlite::Result<()> {
    let mut select = conn.prepare_cached("SELECT name, concurrency, paused FROM queue")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let queue = of(queues, text(row, 0)?);
        (queue.concurrency, queue.paused) = (row.get(1)?, row.get(2)?);
    }
    Ok(())
}

fn counts(conn: &Connection, as_of: Timestamp, stale: Duration, queues: &mut Queues) -> rusqlite::Result<()> {
    let mut select = conn.prepare_cached(
        "SELECT queue, state, count(*), min(due_at) FILTER (WHERE state = 2),
             count(*) FILTER (WHERE state = 2 AND due_at < ?1)
         FROM task GROUP BY queue, state",
    )?;
    let mut rows = select.query([(as_of - stale).as_micros()])?;
    while let Some(row) = rows.next()? {
        let queue = of(queues, text(row, 0)?);
        queue.tasks[usize::from(state(row, 1)?.code())] = unsigned(row, 2)?;
        if let Some(due_at) = optional(row, 3, time)? {
            queue.oldest_ready = Some(as_of.since(due_at));
        }
        queue.stale += unsigned(row, 4)?;
    }
    Ok(())
}

fn stuck_ones(
    conn: &Connection,
    as_of: Timestamp,
    stuck: Duration,
    queues: &mut Queues,
) -> rusqlite::Result<()> {
    let mut select = conn.prepare_cached(
        "SELECT queue, count(*) FROM task INDEXED BY task_running
             LEFT JOIN report ON report.task = task.seq AND report.fence = task.fence
         WHERE state = 3 AND max(claimed_at, coalesce(entered_at, 0), coalesce(reported_at, 0)) < ?1
         GROUP BY queue",
    )?;
    let mut rows = select.query([(as_of - stuck).as_micros()])?;
    while let Some(row) = rows.next()? {
        of(queues, text(row, 0)?).stuck = unsigned(row, 1)?;
    }
    Ok(())
}
