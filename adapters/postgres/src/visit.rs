//! Submitting inside a transaction of the caller's own: the task is there if, and only if, what else it did is.
//!
//! The caller's session has settings of its own, so the server's side is a function that brings those it needs, and is
//! called by its full name. It only inserts, or, at READ COMMITTED, replaces; at any other isolation level an insert is
//! right or fails: a conflict with what the transaction can't see is a failed serialization, and a lock on a row that has
//! changed since is one too.

use steadfast_core::decide;
use steadfast_core::engine::{Accepted, DECISION_ROUNDS_MAX, Submitted, check};
use steadfast_core::name::{Kind, TaskId};
use steadfast_core::step::{Batch, Outcome, Receipt, Refusal, Step};
use steadfast_core::storage::{Error, ErrorKind};
use steadfast_core::task::{NewTask, OnConflict};
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use crate::columns::{Columns, Plan};
use crate::errors::{given_up, over};
use crate::outcomes::{self, field};
use crate::{PostgresStorage, numbers};

/// The column in which `submit` says why it gave up.
const ERROR_COLUMN: usize = 10;

/// The statement that submits.
pub(crate) fn text(schema: &str, submit: &str) -> String {
    let numbers = numbers(1..=Columns::PARAMETERS.len() + 1);
    format!("SELECT 0 AS wave, answer.* FROM {schema}.{submit}({numbers}) AS answer")
}

/// The statement that says whether a task is of this kind and has this payload.
pub(crate) fn is_about_text(schema: &str) -> String {
    format!("SELECT EXISTS (SELECT 1 FROM {schema}.task WHERE id = $1 AND kind = $2 AND payload = $3)")
}

impl PostgresStorage {
    /// Stores a task in a transaction of the caller's own on this store's database, and wakes workers when that commits.
    /// Nobody sees the task before, and it is gone with a rollback.
    ///
    /// After a refusal the transaction can go on. A held slot is dealt with as the request says.
    ///
    /// Until the transaction ends, it holds what the task depends on: its key and id; its slot, and who holds that, with
    /// [`OnConflict::Queue`] or [`OnConflict::Replace`]; and its parents. A worker can't renew or settle those
    /// meanwhile, so keep the transaction much shorter than a lease.
    ///
    /// # Errors
    /// [`ErrorKind::Contended`] (also where the transaction's `statement_timeout` was over first), [`ErrorKind::Rejected`],
    /// and [`ErrorKind::Conflict`] where it says so: nothing was stored, and the transaction can go on. Every other
    /// ends the transaction, as any failed statement does: above all [`ErrorKind::Conflict`] for a failed serialization
    /// at another isolation level than READ COMMITTED, after which the whole transaction is to be tried again; and
    /// [`ErrorKind::Broken`] where the transaction is one on another store.
    ///
    /// # Cancellation
    /// The task may be stored in the transaction, or not; roll it back.
    pub async fn submit_within(
        &self,
        transaction: &Transaction<'_>,
        task: NewTask,
    ) -> Result<Submitted, Error> {
        if let Err(invalid) = check(&task) {
            return Ok(Submitted::Invalid(invalid));
        }
        let on_conflict = task.slot.as_ref().map(|(_, on_conflict)| *on_conflict);
        let (newcomer, kind, payload) = (task.id.clone(), task.kind.clone(), task.payload.clone());
        let insert = Step::Insert(task.into());
        let mut holder = None;
        for _ in 0..DECISION_ROUNDS_MAX {
            let displace = holder.as_ref().map(|holder| Step::Transition(decide::replace(holder, &newcomer)));
            let steps: Vec<Step> = displace.into_iter().chain([insert.clone()]).collect();
            let accepted = |receipts: Vec<Receipt>, is_new| {
                Submitted::Accepted(Accepted::of_receipts(&receipts, is_new, holder.clone()))
            };
            let refused = match self.visit(transaction, &[steps.into()]).await? {
                Outcome::Applied(receipts) => return Ok(accepted(receipts, true)),
                Outcome::Already(receipts) => return Ok(accepted(receipts, false)),
                Outcome::Refused(refused) => refused,
            };
            holder = match (refused.why, on_conflict) {
                (Refusal::SlotTaken(holder, _), Some(OnConflict::Replace)) => Some(holder),
                (Refusal::SlotTaken(holder, head), Some(OnConflict::Join)) => {
                    if self.is_about(transaction, &holder, &kind, &payload).await? {
                        let (id, state, rev) = (holder, head.state, head.rev);
                        let joined = Accepted { id, state, rev, is_new: false, replaced: None, joined: true };
                        return Ok(Submitted::Accepted(joined));
                    }
                    return Ok(Submitted::Refused(Refusal::SlotTaken(holder, head)));
                }
                // The holder ended on its own in between.
                (Refusal::Stale(_) | Refusal::NotFound, _) if holder.is_some() && refused.step == 0 => None,
                (why, _) => return Ok(Submitted::Refused(why)),
            };
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the slot changed hands too often while the task was submitted; nothing was stored, try again",
        ))
    }

    /// Whether the holder of a slot is about the same as a newcomer that would join it.
    async fn is_about(
        &self,
        transaction: &Transaction<'_>,
        holder: &TaskId,
        kind: &Kind,
        payload: &[u8],
    ) -> Result<bool, Error> {
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&holder.as_str(), Type::TEXT), (&kind.as_str(), Type::TEXT), (&payload, Type::BYTEA)];
        let rows = transaction.query_typed(&self.0.is_about, &values).await.map_err(over)?;
        rows.first().map_or(Ok(false), |row| field(row, 0))
    }

    async fn visit(&self, transaction: &Transaction<'_>, batches: &[Batch]) -> Result<Outcome, Error> {
        let mut plan = Plan::new(batches, self.0.clock.as_ref())?;
        plan.waves.iter_mut().for_each(|wave| wave.visiting = true);
        let store = self.0.store.as_str();
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&store, Type::TEXT)];
        values.extend(plan.values());
        let rows = transaction.query_typed(&self.0.submit, &values).await;
        let rows = rows.map_err(over)?;
        if let Some(row) = rows.first()
            && let Some(code) = field::<Option<&str>>(row, ERROR_COLUMN)?
        {
            return Err(given_up(code));
        }
        let mut outcomes = outcomes::read(batches, &plan, &rows)?.outcomes;
        outcomes.pop().ok_or_else(|| Error::new(ErrorKind::Broken, "the store answered nothing"))
    }
}
