//! What must happen *sometimes*: a sweep in which no lease ever lapsed proves nothing about rescues, and fails.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::task::OnParentFailure;
use steadfast_core::{Cause, State, Task, TaskId};

use super::Facts;
use crate::history::{Entry, Event, SubmitAnswer, Word};
use crate::scenario::{handler, operator, workers};

const GIVEN_UP: &str = "a task was rescued whose handler had given its attempt up as lost";

/// All goals that a sweep of a thousand seeds must reach.
pub const GOALS: &[&str] = &[
    "a lease lapsed and the task was rescued",
    "rescues were used up",
    "a zombie spoke after its attempt was lost",
    "an attempt was retried",
    "a panic was recorded",
    "an attempt timed out",
    "a running task was asked to stop",
    "a running task was replaced",
    "a child waited for its parents and ran",
    "a failed parent failed its child",
    "the limit was reached",
    "a submit was answered with the task of its key",
    "a caller went away",
    "a drained attempt was given back",
    "a worker crashed while it ran a task",
    "a task waited for its slot and got it",
    "a task that waited for its slot ended",
    "a submit was answered with the holder of its slot",
    "a deadline ended a task that waited",
    "a deadline ended a running task",
    "a report was kept",
    "a report came too late",
    "a task got another name",
    "a queue was paused and resumed",
    "an ended task was forgotten",
    "a submit was refused for its slot",
    "an attempt was snoozed",
    GIVEN_UP,
    "an attempt said how far it was",
    "a task overtook one of lower priority",
    "a delayed task ran when it was due",
    "a task with a parent that had failed ran anyway",
    "a waiting task was cancelled",
    "a worker was drained and left nothing behind",
    workers::WAITS_RIGHTFULLY,
    handler::REMEMBERED,
    handler::NAMED,
    operator::RETRIED_DUE,
    operator::RETRIED_ANEW,
    operator::GOT,
    operator::LISTED,
    operator::WAITED_FOR_END,
    operator::WAITED_FOR_REVISION,
    operator::LIMITED_ANEW,
    operator::LOOKED_BEHIND,
    operator::COUNTED,
    operator::DIAGNOSED,
    operator::GONE_AWAY,
];

/// The goals that a history reaches.
pub fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let facts = Facts::new(entries, true);
    let mut reached = BTreeSet::new();
    let mut running = BTreeSet::new();
    let mut given_up = BTreeSet::new();
    let mut paused = false;
    let mut ready: BTreeMap<&TaskId, &Task> = BTreeMap::new();
    let mut runs_anyway: BTreeMap<&TaskId, Vec<&TaskId>> = BTreeMap::new();
    for entry in entries {
        match &entry.event {
            Event::Changed { before, after } => {
                let was_rescued = before.as_ref().is_some_and(|before| after.rescues > before.rescues);
                if was_rescued && given_up.contains(&(&after.id, after.fence)) {
                    reached.insert(GIVEN_UP);
                }
                reached.extend(of_change(before.as_deref(), after));
                if after.state == State::Ready {
                    ready.insert(&after.id, after);
                } else {
                    ready.remove(&after.id);
                }
                if before.as_ref().is_some_and(|before| after.fence > before.fence) {
                    let anyway = runs_anyway.get(&after.id).into_iter().flatten();
                    reached.extend(of_claim(&facts, after, ready.values().copied(), anyway.copied()));
                }
                if after.state == State::Running {
                    running.insert(&after.id);
                } else {
                    running.remove(&after.id);
                }
                // Somebody has entered it.
                if after.state == State::Running && after.queue.as_str() == "limited" {
                    let limited = |id: &&&TaskId| {
                        facts.tasks.get(**id).is_some_and(|task| task.queue.as_str() == "limited")
                    };
                    if running.iter().filter(limited).count() == 2 {
                        reached.insert("the limit was reached");
                    }
                }
            }
            Event::Said { task, fence, word } => {
                if *word == Word::Lost {
                    given_up.insert((task, *fence));
                }
                let newest = facts.tasks.get(task).map_or(0, |task| task.fence);
                if newest > *fence {
                    reached.insert("a zombie spoke after its attempt was lost");
                }
            }
            Event::Limited { concurrency, .. } => {
                if *concurrency == Some(0) {
                    paused = true;
                } else if paused {
                    reached.insert("a queue was paused and resumed");
                }
            }
            Event::Edge(edge) if edge.on_failure == OnParentFailure::Run => {
                runs_anyway.entry(&edge.child).or_default().push(&edge.parent);
            }
            Event::Met { faults } => reached.extend(faults),
            Event::Drained { attempts: 0, .. } => {
                reached.insert("a worker was drained and left nothing behind");
            }
            Event::Crashed { node } => {
                if running.iter().any(|id| is_held_by(&facts, id, node)) {
                    reached.insert("a worker crashed while it ran a task");
                }
            }
            other => reached.extend(of_event(&facts, other)),
        }
    }
    reached
}

fn is_held_by(facts: &Facts<'_>, id: &TaskId, node: &str) -> bool {
    let worker = facts.tasks.get(id).and_then(|task| task.worker.as_ref());
    worker.is_some_and(|worker| worker.as_str() == node)
}

/// The goals that a claim reaches, with these tasks ready, and these parents that needn't succeed.
fn of_claim<'a>(
    facts: &Facts<'_>,
    claimed: &Task,
    mut ready: impl Iterator<Item = &'a Task>,
    mut parents: impl Iterator<Item = &'a TaskId>,
) -> Vec<&'static str> {
    let mut reached = Vec::new();
    let overtaken = |other: &Task| {
        other.priority > claimed.priority
            && other.submitted_at < claimed.submitted_at
            && other.queue == claimed.queue
    };
    if ready.any(overtaken) {
        reached.push("a task overtook one of lower priority");
    }
    if parents.any(|parent| facts.tasks.get(parent).is_some_and(|parent| parent.state == State::Failed)) {
        reached.push("a task with a parent that had failed ran anyway");
    }
    reached
}

/// The goal that an event reaches by itself.
fn of_event(facts: &Facts<'_>, event: &Event) -> Option<&'static str> {
    match event {
        Event::Submitted { task, answer: SubmitAnswer::Accepted(told) } if task != told => {
            let has_key = facts.tasks.get(told).is_some_and(|task| task.key.is_some());
            Some(if has_key {
                "a submit was answered with the task of its key"
            } else {
                "a submit was answered with the holder of its slot"
            })
        }
        Event::Submitted { answer: SubmitAnswer::Refused(why), .. } if why.contains("SlotTaken") => {
            Some("a submit was refused for its slot")
        }
        Event::Submitted { answer: SubmitAnswer::Dropped, .. } => Some("a caller went away"),
        Event::Reported { kept: true, .. } => Some("a report was kept"),
        Event::Reported { kept: false, .. } => Some("a report came too late"),
        Event::Aliased { .. } => Some("a task got another name"),
        Event::Pruned { .. } => Some("an ended task was forgotten"),
        Event::Did { what } => Some(what),
        _ => None,
    }
}

/// The goals that one change of a task reaches.
fn of_change(before: Option<&Task>, after: &Task) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let was_running = before.is_some_and(|before| before.state == State::Running);
    if before.is_some_and(|before| before.slot_waiting) && !after.slot_waiting {
        reached.insert(if after.state.is_terminal() {
            "a task that waited for its slot ended"
        } else {
            "a task waited for its slot and got it"
        });
    }
    if after.cause == Some(Cause::Deadline) && after.state.is_terminal() {
        reached.insert(if was_running {
            "a deadline ended a running task"
        } else {
            "a deadline ended a task that waited"
        });
    }
    let was_waiting = before.is_some_and(|before| before.state.is_waiting());
    if was_waiting && after.state == State::Cancelled && after.cause == Some(Cause::Cancelled) {
        reached.insert("a waiting task was cancelled");
    }
    if before.is_some_and(|before| before.progress.is_none()) && after.progress.is_some() {
        reached.insert("an attempt said how far it was");
    }
    let was_delayed = before.is_some_and(|before| before.state == State::Scheduled && before.attempt == 0);
    if was_delayed && matches!(after.state, State::Ready | State::Running) {
        reached.insert("a delayed task ran when it was due");
    }
    let was_blocked = before.is_some_and(|before| before.state == State::Blocked);
    reached.extend(was_running.then_some(after.cause).flatten().and_then(|cause| of_end(cause, after.state)));
    if was_blocked && after.state == State::Ready {
        reached.insert("a child waited for its parents and ran");
    }
    if after.cause == Some(Cause::DependencyFailed) {
        reached.insert("a failed parent failed its child");
    }
    if was_running && after.state == State::Running && after.cancel.is_some() {
        reached.insert("a running task was asked to stop");
    }
    reached
}

/// What it says that a running task got this cause.
fn of_end(cause: Cause, to: State) -> Option<&'static str> {
    match cause {
        Cause::LeaseLapsed => Some("a lease lapsed and the task was rescued"),
        Cause::RescuesUsedUp => Some("rescues were used up"),
        Cause::Error if to.is_waiting() => Some("an attempt was retried"),
        Cause::Panic => Some("a panic was recorded"),
        Cause::Timeout => Some("an attempt timed out"),
        Cause::Replaced => Some("a running task was replaced"),
        Cause::Drained => Some("a drained attempt was given back"),
        Cause::Snoozed => Some("an attempt was snoozed"),
        Cause::Done
        | Cause::Error
        | Cause::ExitCode
        | Cause::Signal
        | Cause::NotStarted
        | Cause::DependencyFailed
        | Cause::Deadline
        | Cause::Cancelled
        | Cause::Unrecordable => None,
    }
}
