//! Diagnosis: where a task is, how it got there, why it isn't further, and what happens next and when.
//!
//! A pure function of what the store has ([`Facts`]); [`Engine::diagnose`](crate::Engine::diagnose) gathers that. The
//! answer is data for interfaces, and a page for people ([`Diagnosis::page`]). All times are the store's: nothing here
//! is judged by a worker's clock or by the asker's.

mod finding;
mod gather;
mod hops;
mod next;
mod page;

pub use finding::{Finding, LackingWorker, Standing};
pub use hops::{Hop, Passed, Stage};
pub use next::Next;

use std::time::Duration;

use crate::name::{StoreId, TaskId};
use crate::storage::{QueueStats, Worker};
use crate::task::{Attempt, Fence, Parent, State, Task};
use crate::time::Timestamp;

/// A handler that has given no sign for so long is stuck.
pub const STUCK: Duration = Duration::from_secs(600);
/// A task that has been ready for so long is stale: somebody should look why.
pub const STALE: Duration = Duration::from_secs(300);
/// A worker that wasn't seen for so long, several [beats](crate::supervisor::BEAT), counts as dead.
pub const WORKER_SILENT: Duration = Duration::from_secs(60);

/// What a diagnosis is made from: rows, and when they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which store answered.
    pub store: StoreId,
    /// The store's clock then.
    pub now: Timestamp,
    /// The task.
    pub task: Task,
    /// Its attempts that others followed, oldest first.
    pub attempts: Vec<Attempt>,
    /// Its parents; no state for one that was pruned.
    pub parents: Vec<(Parent, Option<State>)>,
    /// Who holds the slot that it waits for.
    pub holder: Option<Holder>,
    /// Its queue, if that has a task, a limit or a pause.
    pub queue: Option<QueueStats>,
    /// The workers of the store.
    pub workers: Vec<Worker>,
}

/// The task that holds a slot for which others wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub id: TaskId,
    /// Where it is.
    pub state: State,
    /// How many wait for the slot and came before the task that is diagnosed.
    pub ahead: u32,
}

/// Where a task is and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// Which task.
    pub task: TaskId,
    /// Where it is.
    pub state: State,
    /// Which store says so.
    pub store: StoreId,
    /// When, by that store's clock.
    pub as_of: Timestamp,
    /// The stages of its life, in order, each passed or not: [`Stage::ALL`]. Those from `claimed` on are about the
    /// attempt that runs or ran last; earlier ones are in `attempts`.
    pub hops: Vec<Hop>,
    /// Why it is where it is.
    pub finding: Finding,
    /// The finding as a sentence.
    pub verdict: String,
    /// What happens next, the soonest first; what has no time happens once the condition in its words is met.
    pub next: Vec<Next>,
    /// What somebody should do, where the task won't go on by itself.
    pub advice: Option<String>,
    /// The attempts that others followed, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Judges the facts.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    let finding = finding::find(facts);
    Diagnosis {
        task: facts.task.id.clone(),
        state: facts.task.state,
        store: facts.store.clone(),
        as_of: facts.now,
        hops: hops::hops(facts, &finding),
        verdict: finding.sentence(facts),
        next: next::next(facts, &finding),
        advice: finding.advice(facts),
        finding,
        attempts: facts.attempts.clone(),
    }
}

impl Facts {
    /// The task's present attempt, or that with which it ended: none where it waits, or ended while it waited.
    fn current(&self) -> Option<Fence> {
        let fence = self.task.fence;
        let is_over = self.task.state.is_waiting() || self.attempts.iter().any(|one| one.fence == fence);
        (fence > 0 && !is_over).then_some(fence)
    }

    /// Whether the task may be claimed: ready, or scheduled for a time that has come.
    fn is_claimable(&self) -> bool {
        match self.task.state {
            State::Ready => true,
            State::Scheduled => self.task.due_at <= self.now,
            State::Blocked | State::Running | State::Succeeded | State::Failed | State::Cancelled => false,
        }
    }

    /// When the present wait began, or could have ended: due, and no attempt under way. Not exact where it waited for
    /// parents or a slot: when those let it go isn't recorded.
    fn eligible_at(&self) -> Timestamp {
        let again = self.attempts.last().map_or(self.task.submitted_at, |last| last.ended_at);
        self.task.due_at.max(self.task.submitted_at).max(again)
    }

    /// The last sign of the current attempt's handler: entered, or reported.
    fn last_sign(&self) -> Option<Timestamp> {
        self.task.entered_at.max(self.reported_at())
    }

    /// The current attempt's last report.
    fn reported_at(&self) -> Option<Timestamp> {
        self.task.reported_at.filter(|at| self.task.claimed_at.is_none_or(|claimed| *at >= claimed))
    }

    fn ago(&self, at: Timestamp) -> String {
        page::ago(self.now, at)
    }
}

#[cfg(test)]
mod tests;
