//! Submitting inside a transaction of the caller's own: the task is there if, and only if, what else it did is.
//!
//! The caller's session has settings of its own, so the server's side is a function that brings those it needs, and is
//! called by its full name. It only inserts, or, at READ COMMITTED, replaces; at any other isolation level an insert is
//! right or fails: a conflict with what the transaction can't see is a failed serialization, and a lock on a row that has
//! changed since is one too.

use steadfast_core::decide;
use steadfast_core::engine::DECISION_ROUNDS_MAX;
use steadfast_core::step::{Batch, Outcome, Refusal, Refused, Step};
use steadfast_core::storage::{Error, ErrorKind};
use steadfast_core::task::{NewTask, OnConflict};
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use crate::columns::{Columns, Plan};
use crate::errors::{classify, given_up};
use crate::outcomes::{self, field};
use crate::{PostgresStorage, numbers};

/// The column in which `submit` says why it gave up.
const ERROR_COLUMN: usize = 10;

/// The statement that submits.
pub(crate) fn text(schema: &str, submit: &str) -> String {
    let numbers = numbers(1..=Columns::PARAMETERS.len() + 1);
    format!("SELECT 0 AS wave, answer.* FROM {schema}.{submit}({numbers}) AS answer")
}

impl PostgresStorage {
    /// Stores a task in a transaction of the caller's own on this store's database, and wakes workers when that commits.
    /// Nobody sees the task before, and it is gone with a rollback.
    ///
    /// The answer is an insert's: `Applied`, `Already` where its id or key is known with the same request, or `Refused`.
    /// After a refusal the transaction can go on. A held slot is dealt with as the request says, but for
    /// [`OnConflict::Join`]: the refusal names the holder, which is there to be joined.
    ///
    /// Until the transaction ends, it holds what the task depends on: its key and id; its slot, and who holds that, with
    /// [`OnConflict::Queue`] or [`OnConflict::Replace`]; and its parents. A worker can't renew or settle those
    /// meanwhile, so keep the transaction much shorter than a lease.
    ///
    /// # Errors
    /// [`ErrorKind::Contended`], [`ErrorKind::Rejected`], and [`ErrorKind::Conflict`] where it says so: nothing was
    /// stored, and the transaction can go on. Whatever the server itself refuses ends the transaction, as any failed
    /// statement does: above all a failed serialization at another isolation level than READ COMMITTED, after which
    /// the whole transaction is to be tried again; and [`ErrorKind::Broken`] where the transaction is one on another store.
    ///
    /// # Cancellation
    /// The task may be stored in the transaction, or not; roll it back.
    pub async fn submit_in(&self, transaction: &Transaction<'_>, task: NewTask) -> Result<Outcome, Error> {
        let replaces = matches!(task.slot, Some((_, OnConflict::Replace)));
        let newcomer = task.id.clone();
        let insert = Step::Insert(task.into());
        let mut holder = None;
        for _ in 0..DECISION_ROUNDS_MAX {
            let displace = holder.as_ref().map(|holder| Step::Transition(decide::replace(holder, &newcomer)));
            let steps: Vec<Step> = displace.into_iter().chain([insert.clone()]).collect();
            let outcome = self.visit(transaction, &[steps.into()]).await?;
            holder = match outcome {
                Outcome::Refused(refused) => match refused.why {
                    Refusal::SlotTaken(holder, _) if replaces => Some(holder),
                    // The holder ended on its own in between.
                    Refusal::Stale(_) | Refusal::NotFound if holder.is_some() && refused.step == 0 => None,
                    why => return Ok(Outcome::Refused(Refused { step: 0, why })),
                },
                Outcome::Applied(receipts) => return Ok(Outcome::Applied(last(receipts))),
                Outcome::Already(receipts) => return Ok(Outcome::Already(last(receipts))),
            };
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the slot changed hands too often while the task was submitted; nothing was stored, try again",
        ))
    }

    async fn visit(&self, transaction: &Transaction<'_>, batches: &[Batch]) -> Result<Outcome, Error> {
        let mut plan = Plan::new(batches, self.0.clock.as_ref())?;
        plan.waves.iter_mut().for_each(|wave| wave.visiting = true);
        let store = self.0.store.as_str();
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&store, Type::TEXT)];
        values.extend(plan.values());
        let rows = transaction.query_typed(&self.0.submit, &values).await;
        let rows = rows.map_err(|error| classify(error, false).0)?;
        if let Some(row) = rows.first()
            && let Some(code) = field::<Option<&str>>(row, ERROR_COLUMN)?
        {
            return Err(given_up(code));
        }
        let mut outcomes = outcomes::read(batches, &plan, &rows)?.outcomes;
        outcomes.pop().ok_or_else(|| Error::new(ErrorKind::Broken, "the store answered nothing"))
    }
}

/// The insert's receipt: beside it may be that of whom it replaced.
fn last<T>(mut receipts: Vec<T>) -> Vec<T> {
    receipts.drain(..receipts.len().saturating_sub(1));
    receipts
}
