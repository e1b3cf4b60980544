//! Tasks that have ended, listed in the order of their ends until they are pruned.
//!
//! Each call that ends tasks adds one row for all of them. An index on `task` would do the same with less code; but it
//! is written for every task, and settling is the hottest write there is.

use std::rc::Rc;

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, vtab};
use steadfast_core::State;
use steadfast_core::step::Prune;
use steadfast_core::task::KEY_KEPT;
use steadfast_core::time::Timestamp;

use crate::writer::Tx;

/// How many shelves there are: for those that succeeded and the others, each once more for those whose key is kept.
const SHELVES: u8 = 4;
/// From a shelf to the one for those whose key is kept.
const KEPT: u8 = 2;

/// What a call has ended, by shelf.
#[derive(Debug, Default)]
pub(crate) struct Ends([Vec<i64>; KEPT as usize]);

/// Where [`Ends`] stood before a batch.
pub(crate) struct Before([usize; KEPT as usize]);

impl Ends {
    /// Notes the end of a task in this state.
    pub(crate) fn add(&mut self, seq: i64, state: State) {
        self.0[usize::from(state != State::Succeeded)].push(seq);
    }

    pub(crate) fn before(&self) -> Before {
        Before([self.0[0].len(), self.0[1].len()])
    }

    /// The batch since then is undone.
    pub(crate) fn undo(&mut self, Before(before): Before) {
        for (ends, before) in self.0.iter_mut().zip(before) {
            ends.truncate(before);
        }
    }
}

/// Adds what a call has ended.
pub(crate) struct PutBy<'c> {
    put: Statement<'c>,
}

impl<'c> PutBy<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        let put = conn.prepare("INSERT INTO ended (shelf, at, first, tasks) VALUES (?1, ?2, ?3, ?4)")?;
        Ok(Self { put })
    }

    /// Last of all in a call.
    pub(crate) fn put_by(&mut self, tx: &mut Tx) -> rusqlite::Result<()> {
        for (shelf, ends) in (0..).zip(std::mem::take(&mut tx.ends).0) {
            self.put(shelf, tx.now.as_micros(), &ends)?;
        }
        Ok(())
    }

    fn put(&mut self, shelf: u8, at: i64, tasks: &[i64]) -> rusqlite::Result<()> {
        // A task ends once: no two rows have the same first one.
        let Some(first) = tasks.first() else { return Ok(()) };
        self.put.execute((shelf, at, first, json(tasks)))?;
        Ok(())
    }
}

/// Takes out what may be pruned.
pub(crate) struct Taking<'c> {
    oldest: Statement<'c>,
    remove: Statement<'c>,
    keyed: Statement<'c>,
    put: PutBy<'c>,
}

struct Row {
    shelf: u8,
    at: i64,
    tasks: Vec<i64>,
}

impl<'c> Taking<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        vtab::array::load_module(conn)?;
        // The front of each shelf is as much as can be wanted: a row has at least one task.
        let front = |shelf: u8| {
            let cutoff = shelf + 1;
            format!(
                "SELECT * FROM (SELECT shelf, at, first, tasks FROM ended WHERE shelf = {shelf} AND at <= ?{cutoff}
                 ORDER BY at, first LIMIT ?5)"
            )
        };
        let fronts: Vec<String> = (0..SHELVES).map(front).collect();
        Ok(Self {
            oldest: conn.prepare(&format!(
                "SELECT shelf, at, tasks FROM ({}) ORDER BY at, first LIMIT ?5",
                fronts.join(" UNION ALL ")
            ))?,
            remove: conn.prepare("DELETE FROM ended WHERE shelf = ?1 AND at = ?2 AND first = ?3")?,
            keyed: conn.prepare(
                "SELECT seq FROM request WHERE seq IN (SELECT value FROM rarray(?1)) AND key IS NOT NULL",
            )?,
            put: PutBy::new(conn)?,
        })
    }

    /// The tasks that may be pruned, those that ended first. They are on no shelf any more.
    pub(crate) fn take(&mut self, now: Timestamp, prune: &Prune) -> rusqlite::Result<Vec<i64>> {
        let limit = usize::try_from(prune.limit).unwrap_or(usize::MAX);
        let mut taken = Vec::new();
        // A round that only finds keys moves them out of the way of the next.
        while taken.len() < limit {
            let rows = self.oldest(now, prune)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                if taken.len() == limit {
                    break;
                }
                self.take_from(now, row, limit, &mut taken)?;
            }
        }
        Ok(taken)
    }

    fn oldest(&mut self, now: Timestamp, prune: &Prune) -> rusqlite::Result<Vec<Row>> {
        let ago = |age| (now - age).as_micros();
        let (kept, also_kept) = (prune.succeeded.max(KEY_KEPT), prune.otherwise.max(KEY_KEPT));
        let params = (ago(prune.succeeded), ago(prune.otherwise), ago(kept), ago(also_kept), prune.limit);
        let row = |row: &rusqlite::Row<'_>| {
            let tasks = tasks(row.get_ref(2)?.as_str()?);
            Ok(Row { shelf: row.get(0)?, at: row.get(1)?, tasks })
        };
        self.oldest.query_map(params, row)?.collect()
    }

    /// Takes what may go of a row, and puts the rest back where it belongs.
    fn take_from(
        &mut self,
        now: Timestamp,
        row: Row,
        limit: usize,
        taken: &mut Vec<i64>,
    ) -> rusqlite::Result<()> {
        let Row { shelf, at, mut tasks } = row;
        let removed = self.remove.execute((shelf, at, tasks.first()))?;
        assert_eq!(removed, 1, "the write lock is held since it was read");
        if shelf < KEPT && at > (now - KEY_KEPT).as_micros() {
            let keyed = self.keyed(&tasks)?;
            tasks.retain(|task| !keyed.contains(task));
            self.put.put(shelf + KEPT, at, &keyed)?;
        }
        let rest = tasks.split_off(tasks.len().min(limit - taken.len()));
        self.put.put(shelf, at, &rest)?;
        taken.extend(tasks);
        Ok(())
    }

    /// Those that have a key.
    fn keyed(&mut self, tasks: &[i64]) -> rusqlite::Result<Vec<i64>> {
        let tasks: Rc<Vec<Value>> = Rc::new(tasks.iter().map(|task| Value::Integer(*task)).collect());
        self.keyed.query_map([tasks], |row| row.get(0))?.collect()
    }
}

fn json(tasks: &[i64]) -> String {
    format!("{tasks:?}")
}

/// What [`json`] made of them.
fn tasks(json: &str) -> Vec<i64> {
    let numbers = json.trim_start_matches('[').trim_end_matches(']').split(',');
    numbers.map(|number| number.trim().parse().expect("this program wrote it")).collect()
}
