//! Batches: which steps run in which order, and what is undone when one of them is refused.

use rusqlite::{Connection, Statement};
use steadfast_core::step::{Batch, Outcome, QueueLimit, Receipt, Refusal, Refused, Step};

use crate::insert::Inserts;
use crate::transition::Transitions;
use crate::writer::Tx;

/// What became of one step.
pub(crate) enum Done {
    Applied(Receipt),
    Already(Receipt),
    Refused(Refusal),
}

/// The statements of all steps.
pub(crate) struct Steps<'c> {
    savepoint: Statement<'c>,
    release: Statement<'c>,
    roll_back: Statement<'c>,
    transitions: Transitions<'c>,
    inserts: Inserts<'c>,
    limit: Statement<'c>,
    unlimit: Statement<'c>,
}

impl<'c> Steps<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            savepoint: conn.prepare("SAVEPOINT batch")?,
            release: conn.prepare("RELEASE batch")?,
            roll_back: conn.prepare("ROLLBACK TO batch")?,
            transitions: Transitions::new(conn)?,
            inserts: Inserts::new(conn)?,
            limit: conn.prepare(
                "INSERT INTO queue (name, concurrency) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency",
            )?,
            unlimit: conn.prepare("DELETE FROM queue WHERE name = ?1")?,
        })
    }

    /// Applies a batch, or nothing of it. An error leaves the transaction to be rolled back by the caller.
    pub(crate) fn apply(&mut self, tx: &mut Tx, batch: &Batch) -> rusqlite::Result<Outcome> {
        // A refused step has written nothing itself: there is something to undo only where another came before it.
        if batch.steps.len() < 2 {
            return self.steps(tx, batch);
        }
        self.savepoint.execute([])?;
        let outcome = self.steps(tx, batch)?;
        if let Outcome::Refused(_) = outcome {
            self.roll_back.execute([])?;
        }
        self.release.execute([])?;
        Ok(outcome)
    }

    fn steps(&mut self, tx: &mut Tx, batch: &Batch) -> rusqlite::Result<Outcome> {
        let is_insert = |number: &usize| matches!(batch.steps[*number], Step::Insert(_));
        let numbers = 0..batch.steps.len();
        // Inserts come last: they see what the transitions have freed.
        let order = numbers.clone().filter(|n| !is_insert(n)).chain(numbers.filter(is_insert));
        let mut receipts = Vec::with_capacity(batch.steps.len());
        let mut is_applied = false;
        for step in order {
            match self.step(tx, &batch.steps[step])? {
                Done::Applied(receipt) => {
                    is_applied = true;
                    receipts.push((step, receipt));
                }
                Done::Already(receipt) => receipts.push((step, receipt)),
                Done::Refused(why) => return Ok(Outcome::Refused(Refused { step, why })),
            }
        }
        receipts.sort_unstable_by_key(|(step, _)| *step);
        let receipts = receipts.into_iter().map(|(_, receipt)| receipt).collect();
        Ok(if is_applied { Outcome::Applied(receipts) } else { Outcome::Already(receipts) })
    }

    fn step(&mut self, tx: &mut Tx, step: &Step) -> rusqlite::Result<Done> {
        match step {
            Step::Insert(insert) => self.inserts.insert(tx, insert),
            Step::Transition(transition) => self.transitions.transition(tx, transition),
            Step::Renew(renewal) => self.transitions.renew(tx, renewal),
            Step::Limit(limit) => self.limit(tx, limit),
            Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => {
                Err(rusqlite::Error::InvalidQuery)
            }
        }
    }

    fn limit(&mut self, tx: &mut Tx, limit: &QueueLimit) -> rusqlite::Result<Done> {
        match limit.concurrency {
            Some(concurrency) => self.limit.execute((limit.queue.as_str(), concurrency))?,
            None => self.unlimit.execute([limit.queue.as_str()])?,
        };
        // Tasks that the old limit kept waiting may be claimed now.
        tx.hint.ready = true;
        Ok(Done::Applied(Receipt::Limited))
    }
}
