//! Batches: which steps run in which order, and what is undone when one of them is refused.

use rusqlite::{Connection, Statement};
use steadfast_core::step::{Batch, Outcome, Receipt, Refusal, Refused, Step};

use crate::house::House;
use crate::insert::Inserts;
use crate::report::Reports;
use crate::shelf::PutBy;
use crate::slot::HandOn;
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
    reports: Reports<'c>,
    house: House<'c>,
    hand_on: HandOn<'c>,
    put_by: PutBy<'c>,
}

impl<'c> Steps<'c> {
    pub(crate) fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            savepoint: conn.prepare("SAVEPOINT batch")?,
            release: conn.prepare("RELEASE batch")?,
            roll_back: conn.prepare("ROLLBACK TO batch")?,
            transitions: Transitions::new(conn)?,
            inserts: Inserts::new(conn)?,
            reports: Reports::new(conn)?,
            house: House::new(conn)?,
            hand_on: HandOn::new(conn)?,
            put_by: PutBy::new(conn)?,
        })
    }

    /// Applies the batches of a call. An error leaves the transaction to be rolled back by the caller.
    pub(crate) fn apply_all(&mut self, tx: &mut Tx, batches: &[Batch]) -> rusqlite::Result<Vec<Outcome>> {
        let outcomes = batches.iter().map(|batch| self.apply(tx, batch)).collect::<Result<_, _>>()?;
        // Last of all: a newcomer that replaced the holder was quicker.
        self.hand_on.hand_on(tx)?;
        self.put_by.put_by(tx)?;
        Ok(outcomes)
    }

    /// Applies a batch, or nothing of it.
    fn apply(&mut self, tx: &mut Tx, batch: &Batch) -> rusqlite::Result<Outcome> {
        // A refused step has written nothing itself: there is something to undo only where another came before it.
        if batch.steps.len() < 2 {
            return self.steps(tx, batch);
        }
        self.savepoint.execute([])?;
        let before = tx.ends.before();
        let outcome = self.steps(tx, batch)?;
        if let Outcome::Refused(_) = outcome {
            self.roll_back.execute([])?;
            tx.ends.undo(before);
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
            Step::Report(report) => self.reports.report(tx, report),
            Step::Limit(limit) => self.house.limit(tx, limit),
            Step::Pause(pause) => self.house.pause(tx, pause),
            Step::Beat(beat) => self.house.beat(tx, beat),
            Step::Prune(prune) => self.house.prune(tx, prune),
        }
    }
}
