//! New tasks: the row, its edges, and what stands in the way of it.

use std::collections::BTreeMap;

use rusqlite::{Connection, Statement, params};
use steadfast_core::decide::{EdgeOutcome, edge};
use steadfast_core::step::{Head, Insert, Receipt, Refusal};
use steadfast_core::task::{Due, OnParentFailure};
use steadfast_core::time::micros;
use steadfast_core::{Cause, Key, NewTask, State, TaskId};

use crate::apply::Done;
use crate::release::blame;
use crate::row::{FOUND, Found, first, found, state, text};
use crate::writer::Tx;

/// Up to this length a payload stands in the task's row, which is written three times in a task's life; a longer one
/// stands in a row of its own, which is written once.
const INLINE_BYTES_MAX: usize = 1024;

pub(crate) struct Inserts<'c> {
    conn: &'c Connection,
    insert: Statement<'c>,
    insert_payload: Statement<'c>,
    insert_edge: Statement<'c>,
    parent: Statement<'c>,
    by_id: Statement<'c>,
    by_key: Statement<'c>,
    by_slot: Statement<'c>,
}

impl<'c> Inserts<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            // The unique indexes find the id, the key and the slot taken; which of them it was is asked afterwards.
            insert: conn.prepare(
                "INSERT INTO task (id, kind, queue, slot, key, priority, payload, digest, attempts_max, rescues_max,
                     timeout, backoff_min, backoff_max, submitted_at, due_at, state, parents_pending,
                     cause, error, finished_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
                 ON CONFLICT DO NOTHING",
            )?,
            insert_payload: conn.prepare("INSERT INTO long_payload (task, payload) VALUES (?1, ?2)")?,
            insert_edge: conn.prepare("INSERT INTO edge (parent, child, on_failure) VALUES (?1, ?2, ?3)")?,
            parent: conn.prepare("SELECT seq, state FROM task WHERE id = ?1")?,
            by_id: conn.prepare(&format!("SELECT {FOUND}, id FROM task WHERE id = ?1"))?,
            by_key: conn.prepare(&format!("SELECT {FOUND}, id FROM task WHERE key = ?1"))?,
            by_slot: conn
                .prepare(&format!("SELECT {FOUND}, id FROM task WHERE slot = ?1 AND slot IS NOT NULL AND state < 4"))?,
        })
    }

    pub(crate) fn insert(&mut self, tx: &mut Tx, insert: &Insert) -> rusqlite::Result<Done> {
        let task = &insert.task;
        let parents = match self.parents(task)? {
            Ok(parents) => parents,
            Err(missing) => {
                let known = self.known(insert)?;
                return Ok(known.unwrap_or(Done::Refused(Refusal::ParentMissing(missing))));
            }
        };
        let start = Start::of(tx, task, &parents);
        // A task that fails at once wouldn't take the slot, so that the index doesn't refuse it: the guard does.
        if start.state == State::Failed && task.slot.is_some() {
            let in_the_way = match self.known(insert)? {
                Some(known) => Some(known),
                None => self.slot_taken(task)?,
            };
            if let Some(done) = in_the_way {
                return Ok(done);
            }
        }
        if !self.row(tx, insert, &start)? {
            let in_the_way = match self.known(insert)? {
                Some(known) => Some(known),
                None => self.slot_taken(task)?,
            };
            return Ok(in_the_way.expect("a row was refused by one of the three unique indexes"));
        }
        if !parents.is_empty() || task.payload.len() > INLINE_BYTES_MAX {
            let seq = self.conn.last_insert_rowid();
            for (parent, known) in &parents {
                self.insert_edge.execute((parent, seq, known.on_failure.as_str()))?;
            }
            if task.payload.len() > INLINE_BYTES_MAX {
                self.insert_payload.execute((seq, &*task.payload))?;
            }
        }
        tx.hint.changed = true;
        tx.hint.ready |= start.state == State::Ready;
        let head = Head { state: start.state, rev: 0, fence: 0, cancel_requested: false };
        Ok(Done::Applied(Receipt::Inserted(task.id.clone(), head)))
    }

    /// The parents by number, each once; or the first that doesn't exist.
    fn parents<'t>(
        &mut self,
        task: &'t NewTask,
    ) -> rusqlite::Result<Result<BTreeMap<i64, KnownParent<'t>>, TaskId>> {
        let mut parents = BTreeMap::new();
        for parent in &task.parents {
            let known =
                first(&mut self.parent, [parent.id.as_str()], |row| Ok((row.get(0)?, state(row, 1)?)))?;
            let Some((seq, state)) = known else { return Ok(Err(parent.id.clone())) };
            let known = KnownParent { id: &parent.id, state, on_failure: parent.on_failure };
            // Of two edges to one parent the stricter counts.
            parents
                .entry(seq)
                .and_modify(|other: &mut KnownParent<'_>| {
                    other.on_failure = other.on_failure.min(known.on_failure);
                })
                .or_insert(known);
        }
        Ok(Ok(parents))
    }

    /// Writes the row, if nothing stands in its way.
    fn row(&mut self, tx: &Tx, insert: &Insert, start: &Start) -> rusqlite::Result<bool> {
        let task = &insert.task;
        let inserted = self.insert.execute(params![
            task.id.as_str(),
            task.kind.as_str(),
            task.queue.as_str(),
            task.slot.as_ref().map(|(slot, _)| slot.as_str()),
            task.key.as_ref().map(Key::as_str),
            task.priority,
            (task.payload.len() <= INLINE_BYTES_MAX).then_some(&*task.payload),
            insert.digest.cast_signed(),
            task.attempts_max,
            task.rescues_max,
            micros(task.timeout),
            micros(task.backoff.min),
            micros(task.backoff.max),
            tx.now.as_micros(),
            start.due_at,
            start.state.code(),
            start.parents_pending,
            start.blame.as_ref().map(|_| Cause::DependencyFailed.as_str()),
            start.blame.as_deref(),
            start.state.is_terminal().then_some(tx.now.as_micros()),
        ])?;
        Ok(inserted == 1)
    }

    /// The answer where the id or the key is known.
    fn known(&mut self, insert: &Insert) -> rusqlite::Result<Option<Done>> {
        let task = &insert.task;
        if let Some((id, known)) = first(&mut self.by_id, [task.id.as_str()], holder)? {
            return Ok(Some(if known.digest == insert.digest {
                Done::Already(Receipt::Inserted(id, known.head))
            } else {
                Done::Refused(Refusal::IdTaken(known.head))
            }));
        }
        let Some(key) = &task.key else { return Ok(None) };
        Ok(first(&mut self.by_key, [key.as_str()], holder)?.map(|(id, known)| {
            if known.digest == insert.digest {
                Done::Already(Receipt::Inserted(id, known.head))
            } else {
                Done::Refused(Refusal::KeyTaken(id, known.head))
            }
        }))
    }

    fn slot_taken(&mut self, task: &NewTask) -> rusqlite::Result<Option<Done>> {
        let Some((slot, _)) = &task.slot else { return Ok(None) };
        let holder = first(&mut self.by_slot, [slot.as_str()], holder)?;
        Ok(holder.map(|(id, holder)| Done::Refused(Refusal::SlotTaken(id, holder.head))))
    }
}

struct KnownParent<'t> {
    id: &'t TaskId,
    state: State,
    on_failure: OnParentFailure,
}

/// In which state a task begins.
struct Start {
    state: State,
    due_at: i64,
    parents_pending: u32,
    /// What is said where a parent has failed already.
    blame: Option<String>,
}

impl Start {
    fn of(tx: &Tx, task: &NewTask, parents: &BTreeMap<i64, KnownParent<'_>>) -> Start {
        let due_at = match task.due {
            Due::Now => tx.now,
            Due::After(delay) => tx.now + delay,
            Due::At(at) => at,
        };
        let mut parents_pending = 0;
        let mut culprit = None;
        for parent in parents.values() {
            match edge(parent.state, parent.on_failure) {
                None => parents_pending += 1,
                Some(EdgeOutcome::Satisfied) => {}
                Some(EdgeOutcome::Fails) => culprit = culprit.or(Some(parent)),
            }
        }
        let state = if culprit.is_some() {
            State::Failed
        } else if parents_pending > 0 {
            State::Blocked
        } else if due_at > tx.now {
            State::Scheduled
        } else {
            State::Ready
        };
        let blame = culprit.map(|parent| blame(parent.id, parent.state));
        Start { state, due_at: due_at.as_micros(), parents_pending, blame }
    }
}

fn holder(row: &rusqlite::Row<'_>) -> rusqlite::Result<(TaskId, Found)> {
    Ok((TaskId::trusted(text(row, 8)?), found(row)?))
}
