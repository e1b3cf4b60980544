//! What can be asked of a store, by the HTTP API and by the command line alike: so both give the same answers, and
//! say the same of what goes wrong.

mod acts;
mod houses;
mod looks;

use std::collections::BTreeSet;

use futures_util::future::join_all;
use steadfast::core::engine::{Cancelled, Engine, Submitted};
use steadfast::core::step::Refusal;
use steadfast::core::storage::Answer;
use steadfast::{Clock, NewTask, Slot, State, Storage, StoreId, TaskId, TokioClock};

use crate::config::Config;
use crate::request::{FieldError, TaskRequest};
use crate::store::Observed;
use crate::wire::{CancelledJson, ItemAnswer, ItemJson, Problem, SubmittedJson};

pub use houses::name_in_figures;
pub use looks::{LIST_MAX, LOG_LINES_MAX};

/// A store, and what can be asked of it: any storage on any clock, for the simulated twins are served as well.
#[derive(Debug, Clone)]
pub struct Service<S = Observed, C = TokioClock> {
    /// The engine on it.
    pub engine: Engine<S, C>,
    /// Its identity.
    pub store: StoreId,
}

/// A task as it is to be stored, and whether the caller named its id.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The task.
    pub task: NewTask,
    /// Whether the id is the caller's, and not one that was made here.
    pub id_is_given: bool,
}

impl Submission {
    /// The task that is asked for, with what the configuration says of its kind.
    pub fn new(request: TaskRequest, config: &Config) -> Self {
        let defaults = config.defaults(&request.kind);
        Self { id_is_given: request.id.is_some(), task: request.into_task(&defaults) }
    }
}

impl<S: Storage, C: Clock> Service<S, C> {
    /// Stores a task. Where the outcome is unknown, the problem names the id: the same again tells.
    ///
    /// # Errors
    /// It was refused, makes no sense, or the store can't be reached.
    pub async fn submit(&self, submission: Submission) -> Result<SubmittedJson, Problem> {
        let Submission { task, id_is_given } = submission;
        let id = task.id.clone();
        let submitted = self.engine.submit(task).await.map_err(|error| Problem::from(error).task(&id))?;
        match submitted {
            Submitted::Accepted(accepted) if accepted.joined && id_is_given => {
                let detail = format!(
                    "the slot is held by task {}, which is {}; a task with an id of its own can't join it",
                    accepted.id, accepted.state
                );
                Err(Problem::new(409, "slot_taken", "slot taken", detail)
                    .task(&accepted.id)
                    .help("leave the id out to be answered with the holder"))
            }
            Submitted::Accepted(accepted) => Ok(SubmittedJson::new(&accepted, &self.store)),
            Submitted::Refused(refusal) => Err(refused(&id, &refusal)),
            Submitted::Invalid(wrong) => Err(invalid(wrong.why).field(wrong.field)),
        }
    }

    /// Stores many tasks in their order, as far as it matters: one may name an earlier one in `after`. Each is
    /// answered as it alone would have been.
    pub async fn submit_all(&self, submissions: Vec<Result<Submission, Problem>>) -> Vec<ItemJson> {
        let mut answers = Vec::with_capacity(submissions.len());
        let mut together = Together::default();
        for submission in submissions {
            if submission.as_ref().is_ok_and(|submission| together.must_precede(submission)) {
                answers.extend(self.submit_together(std::mem::take(&mut together).submissions).await);
            }
            together.push(submission);
        }
        answers.extend(self.submit_together(together.submissions).await);
        answers
    }

    async fn submit_together(&self, submissions: Vec<Result<Submission, Problem>>) -> Vec<ItemJson> {
        join_all(submissions.into_iter().map(async |submission| {
            let submitted = match submission {
                Ok(submission) => self.submit(submission).await,
                Err(problem) => Err(problem),
            };
            item(submitted)
        }))
        .await
    }

    /// Cancels a task: at once where it waits; where it runs, its worker is told.
    ///
    /// # Errors
    /// There is none, it had ended in another way, or the store can't be reached.
    pub async fn cancel(&self, id: &TaskId, reason: &str) -> Result<CancelledJson, Problem> {
        let answer = |cancel: &str| Ok(CancelledJson { id: id.to_string(), cancel: cancel.into() });
        match self.engine.cancel(id, reason).await? {
            Cancelled::Ended => answer("ended"),
            Cancelled::Requested => answer("requested"),
            Cancelled::HadEnded(State::Cancelled) => answer("had_ended"),
            Cancelled::HadEnded(state) => {
                let detail = format!("task {id} had ended: it is {state}");
                Err(Problem::new(409, "had_ended", "too late", detail).task(id))
            }
            Cancelled::NotFound => Err(no_task(id)),
        }
    }
}

/// Tasks whose order among each other doesn't matter, and by what it would matter to those that follow.
#[derive(Debug, Default)]
struct Together {
    submissions: Vec<Result<Submission, Problem>>,
    ids: BTreeSet<TaskId>,
    slots: BTreeSet<Slot>,
}

impl Together {
    fn push(&mut self, submission: Result<Submission, Problem>) {
        if let Ok(Submission { task, .. }) = &submission {
            self.ids.insert(task.id.clone());
            self.slots.extend(task.slot.as_ref().map(|(slot, _)| slot.clone()));
        }
        self.submissions.push(submission);
    }

    /// Whether a task waits for one of these, or may be refused because of one: then their order matters.
    fn must_precede(&self, Submission { task, .. }: &Submission) -> bool {
        task.parents.iter().any(|parent| self.ids.contains(&parent.id))
            || task.slot.as_ref().is_some_and(|(slot, _)| self.slots.contains(slot))
    }
}

fn item(submitted: Result<SubmittedJson, Problem>) -> ItemJson {
    match submitted {
        Ok(submitted) => {
            let status = if submitted.new { 201 } else { 200 };
            ItemJson { status, answer: ItemAnswer::Submitted(submitted) }
        }
        Err(problem) => ItemJson { status: problem.status, answer: ItemAnswer::Problem { problem } },
    }
}

/// Why the store refused a submit.
pub fn refused(id: &TaskId, refusal: &Refusal) -> Problem {
    let taken = |word, title, detail: String| Problem::new(409, word, title, detail);
    match refusal {
        Refusal::IdTaken(head) => {
            let detail =
                format!("the id {id} belongs to a task made from another request; it is {}", head.state);
            taken("id_taken", "id taken", detail).task(id).help("choose another id, or leave it out")
        }
        Refusal::KeyTaken(holder, head) => {
            let detail =
                format!("the key belongs to task {holder}, made from another request; it is {}", head.state);
            taken("key_taken", "key taken", detail)
                .task(holder)
                .help("one key stands for one request: use another key for another one")
        }
        Refusal::SlotTaken(holder, head) => {
            let detail = format!("the slot is held by task {holder}, which is {}", head.state);
            taken("slot_taken", "slot taken", detail).task(holder).help(
                "wait for it, cancel it, or submit with on_conflict = queue or replace; join wants the same kind and payload",
            )
        }
        Refusal::ParentMissing(parent) => {
            invalid(format!("there is no task {parent} to wait for")).field("after").task(parent)
        }
        Refusal::NotFound | Refusal::Stale(_) | Refusal::AliasTaken(_) => {
            taken("contended", "contended", "the slot changed hands too often".into())
                .help("nothing was stored: send the same request again")
        }
    }
}

/// No task has this id.
pub fn no_task(id: &TaskId) -> Problem {
    Problem::new(404, "no_such_task", "no such task", format!("no task {id} in this store"))
        .task(id)
        .help("check the id, and that the task was submitted to this very store: `steadfast list` shows what is there")
}

/// The request makes no sense.
pub fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(400, "invalid", "invalid request", detail)
}

/// A field of the request makes no sense.
pub fn invalid_field(error: FieldError) -> Problem {
    let problem = invalid(error.why);
    match error.field {
        Some(field) => problem.field(field),
        None => problem,
    }
}

/// The storage answered another question: a bug.
fn mismatch(answer: &Answer) -> Problem {
    let shown: String = format!("{answer:?}").chars().take(40).collect();
    Problem::new(500, "broken", "the store is broken", format!("it answered another question: {shown}"))
        .help("this is a bug: please report it")
}
