//! Gathers what a diagnosis is made from: reads only.

use crate::engine::Engine;
use crate::name::{Slot, TaskId};
use crate::storage::{Answer, Error, Query, Storage, TaskFilter, View};
use crate::task::State;
use crate::time::Clock;

use super::{Diagnosis, Facts, Holder, STALE, STUCK};

/// How often the facts are read again because the task changed meanwhile.
const ROUNDS_MAX: u32 = 4;
/// Tasks of a slot read in one go, when looking for its holder: they come with their payloads.
const SLOT_PAGE: u32 = 32;
/// Such pages at most; behind so many the numbers are too small.
const SLOT_PAGES_MAX: u32 = 320;

impl<S: Storage, C: Clock> Engine<S, C> {
    /// Says where a task is and why, and what happens next; `None` where there is no such task: it was never
    /// acknowledged by this store, or was pruned. The id may be an alias.
    ///
    /// The facts come from several reads. They are read again while the task changes between them, a few times; after
    /// that the last ones count, of which the task itself is the newest.
    ///
    /// # Errors
    /// As the storage says.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn diagnose(&self, id: &TaskId) -> Result<Option<Diagnosis>, Error> {
        let Some(mut facts) = self.bare_facts(id).await? else { return Ok(None) };
        for _ in 0..ROUNDS_MAX {
            self.surround(&mut facts).await?;
            let Some(again) = self.bare_facts(&facts.task.id).await? else { return Ok(None) };
            let is_steady = (again.task.rev, again.task.fence) == (facts.task.rev, facts.task.fence);
            (facts.store, facts.now, facts.task) = (again.store, again.now, again.task);
            if is_steady {
                break;
            }
        }
        Ok(Some(super::diagnose(&facts)))
    }

    /// The task alone.
    async fn bare_facts(&self, id: &TaskId) -> Result<Option<Facts>, Error> {
        let View { store, as_of, answer } = self.read(&Query::Task(id.clone())).await?;
        let task = match answer {
            Answer::Task(Some(task)) => *task,
            Answer::Task(None) => return Ok(None),
            other => return Err(crate::engine::read::mismatch(&other)),
        };
        Ok(Some(Facts {
            store,
            now: as_of,
            task,
            attempts: Vec::new(),
            parents: Vec::new(),
            holder: None,
            queue: None,
            workers: Vec::new(),
        }))
    }

    /// What is around the task, as far as it matters in its state.
    async fn surround(&self, facts: &mut Facts) -> Result<(), Error> {
        let task = &facts.task;
        // A history row exists only where another attempt could follow.
        if task.fence > 0 {
            facts.attempts = self.attempts(&task.id).await?;
        }
        facts.parents = self.parents(&task.id).await?;
        facts.holder = match &task.slot {
            Some(slot) if task.slot_waiting && task.state == State::Blocked => {
                self.holder(slot, &task.id).await?
            }
            Some(_) | None => None,
        };
        if matches!(task.state, State::Ready | State::Scheduled) {
            let stats = self.stats(STALE, STUCK).await?;
            facts.queue = stats.queues.into_iter().find(|queue| queue.queue == task.queue);
            facts.workers = self.workers().await?;
        }
        Ok(())
    }

    /// Who holds the slot, and how many wait for it before this task. A replacing newcomer may hold it, so the holder
    /// isn't always older than those who wait.
    async fn holder(&self, slot: &Slot, waiter: &TaskId) -> Result<Option<Holder>, Error> {
        let (mut holder, mut ahead, mut passed_waiter) = (None, 0, false);
        let mut before: Option<TaskId> = None;
        for _ in 0..SLOT_PAGES_MAX {
            let filter = TaskFilter {
                slot: Some(slot.clone()),
                unfinished: true,
                before: before.take(),
                limit: SLOT_PAGE,
                ..TaskFilter::default()
            };
            // Newest first.
            let page = self.tasks(filter).await?;
            for task in &page {
                if !task.slot_waiting {
                    holder = Some((task.id.clone(), task.state));
                } else if task.id == *waiter {
                    passed_waiter = true;
                } else if passed_waiter {
                    ahead += 1;
                }
            }
            match page.last() {
                Some(oldest) if page.len() as u64 >= u64::from(SLOT_PAGE) => before = Some(oldest.id.clone()),
                Some(_) | None => break,
            }
        }
        Ok(holder.map(|(id, state)| Holder { id, state, ahead }))
    }
}
