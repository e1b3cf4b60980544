//! What keeps house: limits and pauses of queues, the signs of life of workers, and the forgetting of old tasks.

use std::rc::Rc;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, vtab};
use steadfast_core::step::{Beat, Prune, QueueLimit, QueuePause, Receipt};

use crate::apply::Done;
use crate::row::joined;
use crate::shelf::Taking;
use crate::writer::Tx;

pub(crate) struct House<'c> {
    limit: Statement<'c>,
    pause: Statement<'c>,
    tidy_queue: Statement<'c>,
    beat: Statement<'c>,
    old: Taking<'c>,
    /// In this order.
    forget: Vec<Statement<'c>>,
    forget_workers: Statement<'c>,
}

/// What is left to be known of forgotten tasks, and what isn't. Edges lead from parent to child: a child keeps the names
/// of its parents.
const FORGET: [&str; 11] = [
    "INSERT INTO forgotten_parent (child, id, on_failure)
     SELECT child, id, on_failure FROM edge JOIN request ON seq = parent
     WHERE parent IN (SELECT value FROM rarray(?1))",
    "DELETE FROM edge WHERE parent IN (SELECT value FROM rarray(?1))",
    "DELETE FROM edge WHERE child IN (SELECT value FROM rarray(?1))",
    "DELETE FROM forgotten_parent WHERE child IN (SELECT value FROM rarray(?1))",
    "DELETE FROM attempt WHERE task IN (SELECT value FROM rarray(?1))",
    "DELETE FROM report WHERE task IN (SELECT value FROM rarray(?1))",
    "DELETE FROM log_line WHERE task IN (SELECT value FROM rarray(?1))",
    "DELETE FROM checkpoint WHERE task IN (SELECT value FROM rarray(?1))",
    "DELETE FROM alias WHERE task IN (SELECT value FROM rarray(?1))",
    "DELETE FROM task WHERE seq IN (SELECT value FROM rarray(?1))",
    "DELETE FROM request WHERE seq IN (SELECT value FROM rarray(?1))",
];

impl<'c> House<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        vtab::array::load_module(conn)?;
        Ok(Self {
            limit: conn.prepare(
                "INSERT INTO queue (name, concurrency) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency",
            )?,
            pause: conn.prepare(
                "INSERT INTO queue (name, paused) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET paused = excluded.paused",
            )?,
            tidy_queue: conn
                .prepare("DELETE FROM queue WHERE name = ?1 AND concurrency IS NULL AND NOT paused")?,
            beat: conn.prepare(
                "INSERT INTO worker (id, queues, kinds, concurrency, running, gone, started_at, seen_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
                 ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, kinds = excluded.kinds,
                     concurrency = excluded.concurrency, running = excluded.running, gone = excluded.gone,
                     seen_at = excluded.seen_at",
            )?,
            old: Taking::new(conn)?,
            forget: FORGET.iter().map(|sql| conn.prepare(sql)).collect::<Result<_, _>>()?,
            forget_workers: conn.prepare(
                "DELETE FROM worker WHERE seen_at <= ?1 AND NOT EXISTS (
                     SELECT 1 FROM task INDEXED BY task_running WHERE state = 3 AND task.worker = worker.id)",
            )?,
        })
    }

    pub(crate) fn limit(&mut self, tx: &mut Tx, limit: &QueueLimit) -> rusqlite::Result<Done> {
        self.limit.execute((limit.queue.as_str(), limit.concurrency))?;
        self.tidy_queue.execute([limit.queue.as_str()])?;
        // Tasks that the old limit kept waiting may be claimed now.
        tx.hint.ready = true;
        Ok(Done::Applied(Receipt::Limited))
    }

    pub(crate) fn pause(&mut self, tx: &mut Tx, pause: &QueuePause) -> rusqlite::Result<Done> {
        self.pause.execute((pause.queue.as_str(), pause.paused))?;
        self.tidy_queue.execute([pause.queue.as_str()])?;
        tx.hint.ready |= !pause.paused;
        Ok(Done::Applied(Receipt::Paused))
    }

    pub(crate) fn beat(&mut self, tx: &Tx, beat: &Beat) -> rusqlite::Result<Done> {
        self.beat.execute((
            beat.worker.as_str(),
            joined(&beat.queues),
            joined(&beat.kinds),
            beat.concurrency,
            beat.running,
            beat.gone,
            tx.now.as_micros(),
        ))?;
        Ok(Done::Applied(Receipt::Seen))
    }

    pub(crate) fn prune(&mut self, tx: &Tx, prune: &Prune) -> rusqlite::Result<Done> {
        let old = self.old.take(tx.now, prune)?;
        let count = u32::try_from(old.len()).expect("at most as many as the limit");
        if count > 0 {
            let old: Rc<Vec<Value>> = Rc::new(old.into_iter().map(Value::Integer).collect());
            for statement in &mut self.forget {
                statement.execute([&old])?;
            }
        }
        self.forget_workers.execute([(tx.now - prune.otherwise).as_micros()])?;
        Ok(Done::Applied(Receipt::Pruned(count)))
    }
}
