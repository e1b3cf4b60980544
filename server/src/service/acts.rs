//! Retrying tasks, and freeing slots.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::core::step::{Change, Guard, Outcome, Receipt, States, Step, Transition};
use steadfast::core::storage::TaskFilter;
use steadfast::core::task::{Due, OnConflict};
use steadfast::{Key, NewTask, Slot, State, Storage, Task, TaskId};

use super::looks::LIST_MAX;
use super::{Service, Submission, no_task};
use crate::wire::{CancelledJson, HolderJson, Problem, RetriedJson, SlotJson, SlotsJson};

/// Pages of tasks that are looked through for slots.
const PAGES_MAX: u32 = 100;

impl Service {
    /// Runs a task again: at once where it waits for another attempt. One that has failed or was cancelled stays what
    /// it is; a new task with the same request takes its place, once for each task, however often it is asked for.
    ///
    /// # Errors
    /// There is none, there is nothing to retry, or the store can't be reached.
    pub async fn retry(&self, id: &TaskId) -> Result<RetriedJson, Problem> {
        let Some(task) = self.engine.task(id).await? else { return Err(no_task(id)) };
        match task.state {
            State::Scheduled if task.fence > 0 => self.retry_now(&task).await,
            State::Failed | State::Cancelled => self.retry_anew(&task).await,
            State::Blocked | State::Scheduled | State::Ready | State::Running => {
                let detail = format!("task {id} is {}: there is nothing to retry yet", task.state);
                Err(Problem::new(409, "not_ended", "too early", detail).task(id))
            }
            State::Succeeded => {
                let detail = format!("task {id} has succeeded");
                Err(Problem::new(409, "had_succeeded", "nothing to retry", detail)
                    .task(id)
                    .help("submit it again, if it is to run once more"))
            }
        }
    }

    async fn retry_now(&self, task: &Task) -> Result<RetriedJson, Problem> {
        let guard = Guard {
            from: States::of(&[State::Scheduled]),
            fence: Some(task.fence),
            unless_cancel_requested: false,
            lease_lapsed: false,
            overdue: false,
        };
        let step = Step::Transition(Transition::new(task.id.clone(), guard, Change::to(State::Ready)));
        let outcomes = self.engine.storage().apply(&[step.into()]).await?;
        let changed = || {
            let detail = format!("task {} has changed meanwhile", task.id);
            Problem::new(409, "contended", "contended", detail)
                .task(&task.id)
                .help("look at it, and try again")
        };
        match outcomes.first() {
            Some(Outcome::Applied(receipts) | Outcome::Already(receipts)) => {
                let Some(Receipt::Moved(head)) = receipts.first() else { return Err(changed()) };
                Ok(retried(&task.id, "now", task.id.as_str(), head.state.as_str()))
            }
            Some(Outcome::Refused(_)) | None => Err(changed()),
        }
    }

    async fn retry_anew(&self, task: &Task) -> Result<RetriedJson, Problem> {
        let mut again = NewTask::new(steadfast::task_id(), task.kind.clone(), task.payload.clone());
        again.queue = task.queue.clone();
        again.slot = task.slot.clone().map(|slot| (slot, OnConflict::Reject));
        // Asked for twice it runs once. An id too long to be part of a key goes without.
        again.key = Key::new(format!("retry:{}", task.id)).ok();
        again.priority = task.priority;
        again.due = Due::Now;
        again.deadline =
            task.deadline_at.map(|at| Due::After(at.since(task.submitted_at).max(Duration::from_millis(1))));
        again.attempts_max = task.attempts_max;
        again.rescues_max = task.rescues_max;
        again.timeout = task.timeout;
        again.backoff = task.backoff;
        // It doesn't wait for what the first one waited for: whoever retries it wants it to run.
        let submitted = self.submit(Submission { task: again, id_is_given: false }).await?;
        let word = if submitted.new { "new" } else { "known" };
        Ok(retried(&task.id, word, &submitted.id, &submitted.state))
    }

    /// The slots that are held or waited for.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn slots(&self) -> Result<SlotsJson, Problem> {
        let slots = self.slots_of(None).await?;
        Ok(SlotsJson { slots })
    }

    /// One slot.
    ///
    /// # Errors
    /// Nobody is in it, or the store can't be reached.
    pub async fn slot(&self, slot: &Slot) -> Result<SlotJson, Problem> {
        self.slots_of(Some(slot.clone())).await?.pop().ok_or_else(|| free(slot))
    }

    /// Cancels the holder of a slot; the next of those that wait takes it.
    ///
    /// # Errors
    /// Nobody holds it, or the store can't be reached.
    pub async fn free_slot(&self, slot: &Slot, reason: &str) -> Result<CancelledJson, Problem> {
        let Some(holder) = self.slot(slot).await?.holder else { return Err(free(slot)) };
        self.cancel(&TaskId::trusted(holder.id), reason).await
    }

    async fn slots_of(&self, slot: Option<Slot>) -> Result<Vec<SlotJson>, Problem> {
        let mut slots: BTreeMap<String, SlotJson> = BTreeMap::new();
        let mut before = None;
        for _ in 0..PAGES_MAX {
            let filter = TaskFilter {
                slot: slot.clone(),
                unfinished: true,
                in_slot: true,
                before: before.take(),
                limit: LIST_MAX,
                ..TaskFilter::default()
            };
            let tasks = self.engine.tasks(filter).await?;
            for task in &tasks {
                add(&mut slots, task);
            }
            match tasks.last() {
                Some(last) if tasks.len() >= LIST_MAX as usize => before = Some(last.id.clone()),
                _ => break,
            }
        }
        let mut slots: Vec<SlotJson> = slots.into_values().collect();
        for slot in &mut slots {
            // They came newest first.
            slot.waiting.reverse();
        }
        Ok(slots)
    }
}

fn add(slots: &mut BTreeMap<String, SlotJson>, task: &Task) {
    let Some(name) = &task.slot else { return };
    let slot = slots.entry(name.to_string()).or_insert_with(|| SlotJson {
        slot: name.to_string(),
        holder: None,
        waiting: Vec::new(),
    });
    if task.slot_waiting {
        slot.waiting.push(task.id.to_string());
    } else {
        slot.holder = Some(HolderJson {
            id: task.id.to_string(),
            kind: task.kind.to_string(),
            state: task.state.to_string(),
        });
    }
}

fn free(slot: &Slot) -> Problem {
    Problem::new(404, "slot_free", "nobody is in it", format!("no unfinished task is in the slot {slot:?}"))
}

fn retried(id: &TaskId, retry: &str, task: &str, state: &str) -> RetriedJson {
    RetriedJson { id: id.to_string(), retry: retry.into(), task: task.into(), state: state.into() }
}
