//! New tasks: the row, its edges, and what stands in the way of it.

use std::collections::BTreeMap;

use rusqlite::{Connection, Statement};
use steadfast_core::decide::{EdgeOutcome, edge};
use steadfast_core::step::{Head, Insert, Receipt, Refusal};
use steadfast_core::task::{Due, OnParentFailure};
use steadfast_core::time::micros;
use steadfast_core::{Cause, Key, NewTask, State, TaskId};

use crate::apply::Done;
use crate::release::blame;
use crate::row::{HEAD, first, head, state, text, unsigned};
use crate::slot::{Place, Slots};
use crate::writer::Tx;

pub(crate) struct Inserts<'c> {
    conn: &'c Connection,
    request: Statement<'c>,
    task: Statement<'c>,
    edge: Statement<'c>,
    deadline: Statement<'c>,
    slots: Slots<'c>,
    parent: Statement<'c>,
    by_id: Statement<'c>,
    by_key: Statement<'c>,
}

impl<'c> Inserts<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            // The unique indexes find the id or the key taken; which of them it was is asked afterwards.
            request: conn.prepare(
                "INSERT INTO request (id, kind, key, attempts_max, rescues_max, timeout, backoff_min, backoff_max,
                     digest, submitted_at, payload)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT DO NOTHING",
            )?,
            task: conn.prepare(
                "INSERT INTO task (seq, queue, priority, slot, due_at, state, parents_pending, cause, error, finished_at,
                     deadline_at, slot_waiting)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?,
            edge: conn.prepare("INSERT INTO edge (parent, child, on_failure) VALUES (?1, ?2, ?3)")?,
            deadline: conn.prepare("INSERT INTO deadline (at, task) VALUES (?1, ?2)")?,
            slots: Slots::new(conn)?,
            parent: conn
                .prepare("SELECT seq, state FROM task WHERE seq = (SELECT seq FROM request WHERE id = ?1)")?,
            by_id: conn.prepare(&format!(
                "SELECT id, digest, {HEAD} FROM request JOIN task USING (seq) WHERE id = ?1"
            ))?,
            by_key: conn.prepare(&format!(
                "SELECT id, digest, {HEAD} FROM request JOIN task USING (seq) WHERE key = ?1"
            ))?,
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
        let waits = match self.slots.judge(task)? {
            Place::Free => false,
            Place::Behind => true,
            Place::Taken(holder, head) => {
                let known = self.known(insert)?;
                return Ok(known.unwrap_or(Done::Refused(Refusal::SlotTaken(holder, head))));
            }
        };
        let Some(seq) = self.request(tx, insert)? else {
            return Ok(self.known(insert)?.expect("the row was refused by the index of ids or that of keys"));
        };
        let start = Start::of(tx, task, &parents, waits);
        self.task(tx, task, seq, &start)?;
        for parent in &parents {
            self.edge.execute((parent.seq, seq, parent.on_failure.as_str()))?;
        }
        if start.state.is_terminal() {
            tx.ends.add(seq, start.state);
        } else {
            if let Some((slot, _)) = &task.slot {
                self.slots.enter(slot.as_str(), seq, start.slot_waiting)?;
            }
            if let Some(at) = start.deadline_at {
                self.deadline.execute((at, seq))?;
            }
        }
        // Nobody can be waiting for a new task to change, but for one that ends as it begins.
        tx.hint.changed |= start.state.is_terminal();
        tx.hint.ready |= start.state == State::Ready;
        let head = Head { state: start.state, rev: 0, fence: 0, cancel_requested: false };
        Ok(Done::Applied(Receipt::Inserted(task.id.clone(), head)))
    }

    /// The parents in the order in which they are named, each once; or the first that doesn't exist.
    fn parents<'t>(&mut self, task: &'t NewTask) -> rusqlite::Result<Result<Vec<KnownParent<'t>>, TaskId>> {
        let mut parents: Vec<KnownParent<'t>> = Vec::with_capacity(task.parents.len());
        let mut places = BTreeMap::new();
        for parent in &task.parents {
            let known =
                first(&mut self.parent, [parent.id.as_str()], |row| Ok((row.get(0)?, state(row, 1)?)))?;
            let Some((seq, state)) = known else { return Ok(Err(parent.id.clone())) };
            let place = *places.entry(seq).or_insert(parents.len());
            match parents.get_mut(place) {
                // Of two edges to one parent the stricter counts.
                Some(other) => other.on_failure = other.on_failure.min(parent.on_failure),
                None => {
                    parents.push(KnownParent { seq, id: &parent.id, state, on_failure: parent.on_failure });
                }
            }
        }
        Ok(Ok(parents))
    }

    /// Writes what was asked for and answers its number, unless the id or the key is known.
    fn request(&mut self, tx: &Tx, insert: &Insert) -> rusqlite::Result<Option<i64>> {
        let task = &insert.task;
        let inserted = self.request.execute((
            task.id.as_str(),
            task.kind.as_str(),
            task.key.as_ref().map(Key::as_str),
            task.attempts_max,
            task.rescues_max,
            micros(task.timeout),
            micros(task.backoff.min),
            micros(task.backoff.max),
            insert.digest.cast_signed(),
            tx.now.as_micros(),
            &*task.payload,
        ))?;
        Ok((inserted == 1).then(|| self.conn.last_insert_rowid()))
    }

    fn task(&mut self, tx: &Tx, task: &NewTask, seq: i64, start: &Start) -> rusqlite::Result<()> {
        self.task.execute((
            seq,
            task.queue.as_str(),
            task.priority,
            task.slot.as_ref().map(|(slot, _)| slot.as_str()),
            start.due_at,
            start.state.code(),
            start.parents_pending,
            start.blame.as_ref().map(|_| Cause::DependencyFailed.as_str()),
            start.blame.as_deref(),
            start.state.is_terminal().then_some(tx.now.as_micros()),
            start.deadline_at,
            start.slot_waiting,
        ))?;
        Ok(())
    }

    /// The answer where the id or the key is known.
    fn known(&mut self, insert: &Insert) -> rusqlite::Result<Option<Done>> {
        let task = &insert.task;
        if let Some((id, digest, head)) = first(&mut self.by_id, [task.id.as_str()], known)? {
            return Ok(Some(if digest == insert.digest {
                Done::Already(Receipt::Inserted(id, head))
            } else {
                Done::Refused(Refusal::IdTaken(head))
            }));
        }
        let Some(key) = &task.key else { return Ok(None) };
        Ok(first(&mut self.by_key, [key.as_str()], known)?.map(|(id, digest, head)| {
            if digest == insert.digest {
                Done::Already(Receipt::Inserted(id, head))
            } else {
                Done::Refused(Refusal::KeyTaken(id, head))
            }
        }))
    }
}

struct KnownParent<'t> {
    seq: i64,
    id: &'t TaskId,
    state: State,
    on_failure: OnParentFailure,
}

/// In which state a task begins.
struct Start {
    state: State,
    due_at: i64,
    deadline_at: Option<i64>,
    parents_pending: u32,
    /// Whether it waits for its slot.
    slot_waiting: bool,
    /// What is said where a parent has failed already.
    blame: Option<String>,
}

impl Start {
    fn of(tx: &Tx, task: &NewTask, parents: &[KnownParent<'_>], waits: bool) -> Start {
        let at = |due| match due {
            Due::Now => tx.now,
            Due::After(delay) => tx.now + delay,
            Due::At(at) => at,
        };
        let due_at = at(task.due);
        let mut parents_pending = 0;
        let mut culprit = None;
        for parent in parents {
            match edge(parent.state, parent.on_failure) {
                None => parents_pending += 1,
                Some(EdgeOutcome::Satisfied) => {}
                Some(EdgeOutcome::Fails) => culprit = culprit.or(Some(parent)),
            }
        }
        let state = if culprit.is_some() {
            State::Failed
        } else if parents_pending > 0 || waits {
            State::Blocked
        } else if due_at > tx.now {
            State::Scheduled
        } else {
            State::Ready
        };
        let blame = culprit.map(|parent| blame(parent.id, parent.state));
        Start {
            state,
            due_at: due_at.as_micros(),
            deadline_at: task.deadline.map(|deadline| at(deadline).as_micros()),
            parents_pending,
            slot_waiting: waits && !state.is_terminal(),
            blame,
        }
    }
}

/// A task in a newcomer's way, its digest and its head.
fn known(row: &rusqlite::Row<'_>) -> rusqlite::Result<(TaskId, u64, Head)> {
    Ok((TaskId::trusted(text(row, 0)?), unsigned(row, 1)?, head(row, 2)?))
}
