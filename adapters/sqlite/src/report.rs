//! What handlers say while they run. It is kept apart from the task's own row, which only progress touches.

use rusqlite::{Connection, Statement};
use steadfast_core::step::{Head, Receipt, Refusal, Report};
use steadfast_core::{State, TaskId};

use crate::apply::Done;
use crate::row::{HEAD, first, head, text};
use crate::writer::Tx;

pub(crate) struct Reports<'c> {
    find: Statement<'c>,
    is_id: Statement<'c>,
    alias_of: Statement<'c>,
    sign: Statement<'c>,
    raise: Statement<'c>,
    line: Statement<'c>,
    checkpoint: Statement<'c>,
    alias: Statement<'c>,
}

impl<'c> Reports<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            find: conn.prepare(&format!(
                "SELECT seq, {HEAD} FROM request CROSS JOIN task USING (seq) WHERE id = ?1"
            ))?,
            is_id: conn.prepare("SELECT EXISTS (SELECT 1 FROM request WHERE id = ?1)")?,
            alias_of: conn.prepare(
                "SELECT task, (SELECT id FROM request WHERE seq = alias.task) FROM alias WHERE name = ?1",
            )?,
            // Without progress, the attempt's last one stays; another attempt's does not.
            sign: conn.prepare(
                "INSERT INTO report (task, fence, reported_at, percent, message) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (task) DO UPDATE SET fence = ?2, reported_at = ?3,
                     percent = iif(?4 IS NULL AND fence = ?2, percent, ?4),
                     message = iif(?4 IS NULL AND fence = ?2, message, ?5)",
            )?,
            raise: conn.prepare("UPDATE task SET rev = rev + 1 WHERE seq = ?1")?,
            line: conn.prepare(
                "INSERT INTO log_line (task, fence, number, at, stream, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO NOTHING",
            )?,
            checkpoint: conn.prepare(
                "INSERT INTO checkpoint (task, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = excluded.value",
            )?,
            alias: conn.prepare("INSERT INTO alias (name, task) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?,
        })
    }

    pub(crate) fn report(&mut self, tx: &mut Tx, report: &Report) -> rusqlite::Result<Done> {
        let found = first(&mut self.find, [report.task.as_str()], |row| Ok((row.get(0)?, head(row, 1)?)))?;
        let Some((seq, head)): Option<(i64, Head)> = found else {
            return Ok(Done::Refused(Refusal::NotFound));
        };
        if head.state != State::Running || head.fence != report.fence {
            return Ok(Done::Refused(Refusal::Stale(head)));
        }
        if let Some(alias) = other_name(report)
            && let Some(owner) = self.other_owner(alias, seq)?
        {
            return Ok(Done::Refused(Refusal::AliasTaken(owner)));
        }
        self.keep(tx, report, seq)?;
        // The rest is of no interest to those who wait for a task to change.
        tx.hint.changed |= report.progress.is_some();
        Ok(Done::Applied(Receipt::Reported))
    }

    /// Whose name it is already, if it isn't this task's alias.
    fn other_owner(&mut self, alias: &TaskId, seq: i64) -> rusqlite::Result<Option<TaskId>> {
        if self.is_id.query_one([alias.as_str()], |row| row.get(0))? {
            return Ok(Some(alias.clone()));
        }
        let owner = first(&mut self.alias_of, [alias.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, TaskId::trusted(text(row, 1)?)))
        })?;
        Ok(owner.filter(|(task, _)| *task != seq).map(|(_, id)| id))
    }

    fn keep(&mut self, tx: &Tx, report: &Report, seq: i64) -> rusqlite::Result<()> {
        let fence = report.fence.cast_signed();
        let percent = report.progress.as_ref().map(|progress| progress.percent);
        let message = report.progress.as_ref().map(|progress| progress.message.as_str());
        self.sign.execute((seq, fence, tx.now.as_micros(), percent, message))?;
        if report.progress.is_some() {
            self.raise.execute([seq])?;
        }
        for line in &report.lines {
            let at = (tx.now - line.ago).as_micros();
            self.line.execute((seq, fence, line.number, at, line.stream.as_str(), &*line.text))?;
        }
        for checkpoint in &report.checkpoints {
            self.checkpoint.execute((seq, &*checkpoint.name, &*checkpoint.value))?;
        }
        if let Some(alias) = other_name(report) {
            self.alias.execute((alias.as_str(), seq))?;
        }
        Ok(())
    }
}

/// The alias that a report brings. A task's own id is no other name for it.
fn other_name(report: &Report) -> Option<&TaskId> {
    report.alias.as_ref().filter(|alias| **alias != report.task)
}
