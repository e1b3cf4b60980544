//! What `apply` answers, back into one outcome for each batch.

use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Head, Outcome, Receipt, Refusal, Refused, Step};
use steadfast_core::storage::{Error, ErrorKind};
use steadfast_core::task::State;
use steadfast_core::wake::Hint;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::columns::{Columns, Plan};
use crate::statements as s;
use crate::waves::Twins;

/// What became of one step.
#[derive(Debug, Clone)]
enum Found {
    Applied(Receipt),
    Already(Receipt),
    Refused(Refusal),
}

/// What became of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    /// One outcome for each batch.
    pub(crate) outcomes: Vec<Outcome>,
    /// What is worth telling others.
    pub(crate) hint: Hint,
}

/// Stands where a row says which wave it is from, for what is kept after all of them.
pub(crate) const KEPT: i32 = -1;

/// Reads the rows of a call: for each wave, and for what is kept, a few rows of parallel arrays, and one with hints.
pub(crate) fn read(batches: &[Batch], plan: &Plan<'_>, rows: &[Row]) -> Result<Answer, Error> {
    let waves = &plan.waves;
    let steps: Vec<&Step> = batches.iter().flat_map(|batch| &batch.steps).collect();
    let mut found: Vec<Option<Found>> =
        steps.iter().map(|step| unconditional(step).map(Found::Applied)).collect();
    let mut ready = false;
    let mut answered = 0;
    for row in rows {
        let wave: i32 = field(row, 0)?;
        let columns = match usize::try_from(wave) {
            Ok(wave) => Some(waves.get(wave).ok_or_else(garbled)?),
            Err(_) if wave == KEPT => None,
            Err(_) => return Err(garbled()),
        };
        if let Some(hints) = field::<Option<i16>>(row, 9)? {
            ready |= hints & 1 != 0;
            answered += 1;
        } else {
            read_section(row, columns, &steps, &mut found)?;
        }
    }
    if answered != waves.len() + usize::from(plan.keeping.is_some()) {
        return Err(garbled());
    }
    for (step, earlier) in &plan.twins.same {
        // It stands already, beside the one that stored it.
        found[*step] = match &found[*earlier] {
            Some(Found::Applied(receipt)) => Some(Found::Already(receipt.clone())),
            other => other.clone(),
        };
    }
    let outcomes = fold(batches, &plan.twins, found)?;
    let changed = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied(_)));
    Ok(Answer { outcomes, hint: Hint { ready, changed } })
}

/// The receipt of a step that has no guard.
fn unconditional(step: &Step) -> Option<Receipt> {
    match step {
        Step::Limit(_) => Some(Receipt::Limited),
        Step::Pause(_) => Some(Receipt::Paused),
        Step::Beat(_) => Some(Receipt::Seen),
        Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Report(_) | Step::Prune(_) => None,
    }
}

/// A column's value.
pub(crate) fn field<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    row.try_get(at).map_err(|error| {
        Error::new(ErrorKind::Broken, "the store answered something that isn't ours").with_source(error)
    })
}

fn garbled() -> Error {
    Error::new(ErrorKind::Broken, "the store answered for other steps than were sent")
}

/// The parallel arrays of one row; an array that is null is a column of nulls.
struct Section<'a> {
    what: Option<Vec<i16>>,
    task: Option<Vec<Option<&'a str>>>,
    state: Option<Vec<Option<i16>>>,
    rev: Option<Vec<Option<i64>>>,
    fence: Option<Vec<Option<i64>>>,
    cancelling: Option<Vec<Option<bool>>>,
    cancel: Option<Vec<Option<&'a str>>>,
}

fn at<T: Copy>(column: Option<&Vec<Option<T>>>, index: usize) -> Option<T> {
    column.and_then(|column| column.get(index).copied().flatten())
}

impl Section<'_> {
    fn head(&self, index: usize) -> Result<Head, Error> {
        let state = at(self.state.as_ref(), index).ok_or_else(garbled)?;
        Ok(Head {
            state: State::from_code(i64::from(state)).ok_or_else(garbled)?,
            rev: at(self.rev.as_ref(), index).ok_or_else(garbled)?.cast_unsigned(),
            fence: at(self.fence.as_ref(), index).unwrap_or(0).cast_unsigned(),
            cancel_requested: at(self.cancelling.as_ref(), index).unwrap_or(false),
        })
    }

    fn task(&self, index: usize) -> Result<TaskId, Error> {
        at(self.task.as_ref(), index).map(TaskId::trusted).ok_or_else(garbled)
    }

    fn receipt(&self, index: usize, step: &Step) -> Result<Receipt, Error> {
        Ok(match step {
            Step::Insert(_) => Receipt::Inserted(self.task(index)?, self.head(index)?),
            Step::Transition(_) => Receipt::Moved(self.head(index)?),
            Step::Renew(_) => {
                let cancel = at(self.cancel.as_ref(), index).map(str::to_owned);
                Receipt::Renewed { cancel }
            }
            Step::Report(_) => Receipt::Reported,
            Step::Prune(_) => {
                let count = at(self.rev.as_ref(), index).and_then(|count| u32::try_from(count).ok());
                Receipt::Pruned(count.ok_or_else(garbled)?)
            }
            Step::Limit(_) | Step::Pause(_) | Step::Beat(_) => return Err(garbled()),
        })
    }

    /// `None` where the row only says that nothing speaks against the step.
    fn found(&self, index: usize, step: &Step) -> Result<Option<Found>, Error> {
        let Some(what) = &self.what else {
            return Ok(Some(Found::Applied(self.receipt(index, step)?)));
        };
        let refusal = match *what.get(index).ok_or_else(garbled)? {
            s::ALREADY => return Ok(Some(Found::Already(self.receipt(index, step)?))),
            s::FREE => return Ok(None),
            s::NOT_FOUND => Refusal::NotFound,
            s::STALE => Refusal::Stale(self.head(index)?),
            s::ID_TAKEN => Refusal::IdTaken(self.head(index)?),
            s::KEY_TAKEN => Refusal::KeyTaken(self.task(index)?, self.head(index)?),
            s::SLOT_TAKEN => Refusal::SlotTaken(self.task(index)?, self.head(index)?),
            s::PARENT_MISSING => Refusal::ParentMissing(self.task(index)?),
            s::ALIAS_TAKEN => Refusal::AliasTaken(self.task(index)?),
            _ => return Err(garbled()),
        };
        Ok(Some(Found::Refused(refusal)))
    }
}

fn read_section(
    row: &Row,
    columns: Option<&Columns<'_>>,
    steps: &[&Step],
    found: &mut [Option<Found>],
) -> Result<(), Error> {
    let section = Section {
        what: field(row, 1)?,
        task: field(row, 3)?,
        state: field(row, 4)?,
        rev: field(row, 5)?,
        fence: field(row, 6)?,
        cancelling: field(row, 7)?,
        cancel: field(row, 8)?,
    };
    let numbers = match (field::<Option<Vec<i32>>>(row, 2)?, &section.task) {
        (Some(numbers), _) => numbers,
        (None, Some(tasks)) => inserted(tasks, columns.ok_or_else(garbled)?)?,
        (None, None) => return Ok(()),
    };
    for (index, number) in numbers.into_iter().enumerate() {
        let number = usize::try_from(number).map_err(|_| garbled())?;
        let step = steps.get(number).ok_or_else(garbled)?;
        if let Some(one) = section.found(index, step)? {
            found[number] = Some(one);
        }
    }
    Ok(())
}

/// Which steps stored these tasks. They come in the order of the steps, some left out.
fn inserted(tasks: &[Option<&str>], columns: &Columns<'_>) -> Result<Vec<i32>, Error> {
    let mut asked = columns.i_task.iter().zip(&columns.i_step);
    let step = |task: &Option<&str>| asked.find(|(id, _)| Some(**id) == *task).map(|(_, step)| *step);
    tasks.iter().map(step).collect::<Option<_>>().ok_or_else(garbled)
}

/// Puts the steps of each batch together.
fn fold(batches: &[Batch], twins: &Twins, found: Vec<Option<Found>>) -> Result<Vec<Outcome>, Error> {
    let mut found = found.into_iter();
    let mut outcomes = Vec::with_capacity(batches.len());
    for (number, batch) in batches.iter().enumerate() {
        let steps: Vec<Option<Found>> = found.by_ref().take(batch.steps.len()).collect();
        outcomes.push(match twins.refused.get(&number) {
            Some(refused) => Outcome::Refused(refused.clone()),
            None => fold_batch(batch, steps)?,
        });
    }
    Ok(outcomes)
}

fn fold_batch(batch: &Batch, steps: Vec<Option<Found>>) -> Result<Outcome, Error> {
    // Transitions and renewals are judged before inserts, whatever order they stand in.
    let order = |number: &usize| (matches!(batch.steps[*number], Step::Insert(_)), *number);
    let refused = (0..steps.len()).filter(|number| matches!(steps[*number], Some(Found::Refused(_))));
    if let Some(step) = refused.min_by_key(order)
        && let Some(Found::Refused(why)) = &steps[step]
    {
        return Ok(Outcome::Refused(Refused { step, why: why.clone() }));
    }
    let mut receipts = Vec::with_capacity(steps.len());
    let mut all_already = true;
    for step in steps {
        match step.ok_or_else(garbled)? {
            Found::Applied(receipt) => {
                all_already = false;
                receipts.push(receipt);
            }
            Found::Already(receipt) => receipts.push(receipt),
            Found::Refused(_) => return Err(garbled()),
        }
    }
    Ok(if all_already { Outcome::Already(receipts) } else { Outcome::Applied(receipts) })
}
