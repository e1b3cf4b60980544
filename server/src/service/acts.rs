//! Retrying tasks, and freeing slots.

use std::collections::BTreeMap;

use steadfast::core::decide::RETRIES_MAX;
use steadfast::core::engine::{Accepted, Retried};
use steadfast::core::storage::TaskFilter;
use steadfast::{Clock, Slot, State, Storage, Task, TaskId};

use super::{Service, no_task, refused};
use crate::wire::{CancelledJson, HolderJson, Problem, RetriedJson, SlotJson, SlotsJson};

/// Pages of tasks that are looked through for slots, and how many tasks each has. They come with their payloads.
const PAGES_MAX: u32 = 1_000;
const PAGE_TASKS: u32 = 100;

impl<S: Storage, C: Clock> Service<S, C> {
    /// Tries a task again: at once where it waits for its time. One that has failed or was cancelled stays what it is; a
    /// new task with the same request takes its place.
    ///
    /// # Errors
    /// There is none, there is nothing to retry, or the store can't be reached.
    pub async fn retry(&self, id: &TaskId) -> Result<RetriedJson, Problem> {
        match self.engine.retry(id).await? {
            Retried::Due => Ok(retried(id, "now", id.as_str(), State::Ready)),
            Retried::Anew(Accepted { id: task, is_new, state, .. }) => {
                Ok(retried(id, if is_new { "new" } else { "known" }, task.as_str(), state))
            }
            Retried::Unfinished(state) => {
                let detail = format!("task {id} is {state}: there is nothing to retry yet");
                Err(Problem::new(409, "not_ended", "too early", detail).task(id))
            }
            Retried::Succeeded => {
                let detail = format!("task {id} has succeeded");
                Err(Problem::new(409, "had_succeeded", "nothing to retry", detail)
                    .task(id)
                    .help("submit it again, if it is to run once more"))
            }
            Retried::NotFound => Err(no_task(id)),
            Retried::TooOften => {
                let detail = format!("{RETRIES_MAX} tasks were made from task {id} by retrying it");
                Err(Problem::new(409, "retried_too_often", "enough retries", detail)
                    .task(id)
                    .help("submit it anew under another id"))
            }
            Retried::Refused(refusal) => Err(refused(id, &refusal)),
        }
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
        let holder = TaskId::trusted(holder.id);
        self.cancel(&holder, reason).await.map_err(|problem| {
            let help = format!(
                "see what became of task {holder} before you send this again: it frees the slot of whoever holds it then"
            );
            problem.task(&holder).help(help)
        })
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
                limit: PAGE_TASKS,
                ..TaskFilter::default()
            };
            let tasks = self.engine.tasks(filter).await?;
            for task in &tasks {
                add(&mut slots, task);
            }
            match tasks.last() {
                Some(last) if tasks.len() >= PAGE_TASKS as usize => before = Some(last.id.clone()),
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

fn retried(id: &TaskId, retry: &str, task: &str, state: State) -> RetriedJson {
    RetriedJson { id: id.to_string(), retry: retry.into(), task: task.into(), state: state.to_string() }
}
