//! The stages of a task's life, one after the other: which of them it has passed, when, and how that is known.

use crate::task::{Cause, State, Task};
use crate::time::Timestamp;

use super::{Facts, Finding};

/// A stage of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was taken on under its id.
    Accepted,
    /// The store has it.
    Stored,
    /// It may be claimed: due, with nothing left to wait for.
    Eligible,
    /// A worker leased it.
    Claimed,
    /// Its handler was called.
    Entered,
    /// Its handler said something.
    Progress,
    /// It has ended, and the store has its end.
    Settled,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 7] = [
        Stage::Accepted,
        Stage::Stored,
        Stage::Eligible,
        Stage::Claimed,
        Stage::Entered,
        Stage::Progress,
        Stage::Settled,
    ];

    /// The word that people and interfaces see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Accepted => "accepted",
            Stage::Stored => "stored",
            Stage::Eligible => "eligible",
            Stage::Claimed => "claimed",
            Stage::Entered => "handler entered",
            Stage::Progress => "last progress",
            Stage::Settled => "settled",
        }
    }
}

/// A stage, and whether the task has passed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Which.
    pub stage: Stage,
    /// Whether.
    pub passed: Passed,
}

/// Whether a task has passed a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// It has.
    Yes {
        /// When, where that is recorded.
        at: Option<Timestamp>,
        /// How that is known.
        evidence: String,
    },
    /// It hasn't.
    No {
        /// Why.
        because: String,
    },
    /// The store can't know.
    Unknown {
        /// Why.
        because: String,
    },
}

pub(super) fn hops(facts: &Facts, finding: &Finding) -> Vec<Hop> {
    let passed = |stage| match stage {
        Stage::Accepted => accepted(&facts.task),
        Stage::Stored => yes(
            facts.task.submitted_at,
            format!("store {} has it, at revision {}", facts.store, facts.task.rev),
        ),
        Stage::Eligible => eligible(facts),
        Stage::Claimed => claimed(facts, finding),
        Stage::Entered => entered(facts),
        Stage::Progress => progress(facts),
        Stage::Settled => settled(facts),
    };
    Stage::ALL.into_iter().map(|stage| Hop { stage, passed: passed(stage) }).collect()
}

fn yes(at: Timestamp, evidence: impl Into<String>) -> Passed {
    Passed::Yes { at: Some(at), evidence: evidence.into() }
}

fn no(because: impl Into<String>) -> Passed {
    Passed::No { because: because.into() }
}

fn unknown(because: impl Into<String>) -> Passed {
    Passed::Unknown { because: because.into() }
}

fn accepted(task: &Task) -> Passed {
    let mut evidence = format!("kind {}, queue {}", task.kind, task.queue);
    for (word, name) in [
        ("slot", task.slot.as_ref().map(AsRef::as_ref)),
        ("key", task.key.as_ref().map(AsRef::<str>::as_ref)),
    ] {
        if let Some(name) = name {
            evidence.push_str(&format!(", {word} {name}"));
        }
    }
    yes(task.submitted_at, evidence)
}

fn eligible(facts: &Facts) -> Passed {
    let task = &facts.task;
    let never_claimed = task.fence == 0;
    if task.slot_waiting {
        return no("it waits for its slot");
    }
    match task.state {
        State::Blocked => return no(unmet(facts)),
        State::Scheduled if !facts.is_claimable() => {
            return no(format!("it is due {}", super::page::within(facts.now, task.due_at)));
        }
        State::Failed if never_claimed && task.cause == Some(Cause::DependencyFailed) => {
            return no("a parent failed or was cancelled before");
        }
        State::Succeeded | State::Failed | State::Cancelled if facts.current().is_none() => {
            if task.parents_pending > 0 {
                return no(format!("it ended first: {}", unmet(facts)));
            }
            if task.finished_at.is_some_and(|at| at < task.due_at) {
                return no("it ended before it was due");
            }
        }
        State::Scheduled | State::Ready | State::Running => {}
        State::Succeeded | State::Failed | State::Cancelled => {}
    }
    if facts.parents.is_empty() && task.slot.is_none() {
        return yes(facts.eligible_at(), "due, with nothing to wait for");
    }
    // When the last parent or the slot let it go isn't recorded.
    let parents = facts.parents.len();
    let evidence = match (parents, &task.slot) {
        (0, Some(slot)) => format!("due; the slot {slot} was free for it"),
        (1, _) => "due; its parent has ended".into(),
        (_, _) => format!("due; its {parents} parents have ended"),
    };
    Passed::Yes { at: None, evidence }
}

fn unmet(facts: &Facts) -> String {
    match facts.task.parents_pending {
        0 => "nothing that is known holds it".into(),
        1 => "1 parent is unfinished".into(),
        pending => format!("{pending} parents are unfinished"),
    }
}

fn claimed(facts: &Facts, finding: &Finding) -> Passed {
    let task = &facts.task;
    let (true, Some(at), Some(worker)) = (facts.current().is_some(), task.claimed_at, &task.worker) else {
        return match (facts.attempts.last(), task.state.is_terminal()) {
            (Some(last), _) => no(format!(
                "nobody took it since the attempt under fence {} ended by {}",
                last.fence, last.cause
            )),
            (None, true) => no("it ended before"),
            (None, false) if facts.is_claimable() => no(unclaimed(finding)),
            (None, false) => no("it isn't eligible"),
        };
    };
    let evidence = format!(
        "by worker {worker}, under fence {}, as attempt {} of {}",
        task.fence,
        task.attempt.max(1),
        task.attempts_max
    );
    yes(at, evidence)
}

fn unclaimed(finding: &Finding) -> &'static str {
    match finding {
        Finding::QueuePaused(_) => "its queue is paused",
        Finding::QueueFull { .. } => "its queue is at its limit",
        Finding::NoWorker(_) => "no living worker can run it",
        Finding::WorkersBusy { .. } => "the workers that can run it are busy",
        Finding::NextUp { .. } => "no worker has looked since",
        Finding::Overlooked { .. } => "no worker took it, although one has room",
        Finding::WaitsForParents(_)
        | Finding::WaitsForSlot { .. }
        | Finding::BlockedByNothing
        | Finding::DueLater { .. } => "it isn't eligible",
        Finding::Runs(_)
        | Finding::Claimed(_)
        | Finding::Stuck(_)
        | Finding::Stopping { .. }
        | Finding::LeaseLapsed { .. }
        | Finding::Ended(_) => "the claim isn't recorded",
    }
}

fn unattempted(facts: &Facts) -> &'static str {
    match (facts.task.state.is_terminal(), facts.attempts.is_empty()) {
        (false, _) => "it isn't claimed",
        (true, true) => "it ended without being claimed",
        (true, false) => "it ended without being claimed again",
    }
}

fn entered(facts: &Facts) -> Passed {
    let task = &facts.task;
    if facts.current().is_none() {
        return no(unattempted(facts));
    }
    if let Some(at) = task.entered_at {
        return yes(at, "its worker said so");
    }
    if task.state.is_terminal() {
        return unknown("it ended before its worker said so");
    }
    if task.lease_expires_at.is_some_and(|at| at <= facts.now) {
        return unknown("its worker was lost before it said so");
    }
    unknown("its worker says so with the first renewal, about a second after the claim")
}

fn progress(facts: &Facts) -> Passed {
    let task = &facts.task;
    if facts.current().is_none() {
        return no(unattempted(facts));
    }
    let Some(at) = facts.reported_at() else {
        let because = if task.entered_at.is_some() {
            "its handler has reported nothing"
        } else {
            "its handler isn't known to have been entered"
        };
        return no(because);
    };
    let evidence = match &task.progress {
        Some(progress) if progress.message.is_empty() => format!("{} %", progress.percent),
        Some(progress) => format!("{} %: {}", progress.percent, progress.message),
        None => "a line of log, a checkpoint or an alias".into(),
    };
    yes(at, evidence)
}

fn settled(facts: &Facts) -> Passed {
    let task = &facts.task;
    match task.state {
        State::Succeeded | State::Failed | State::Cancelled => {
            let cause = task.cause.map_or("no cause is recorded", Cause::as_str);
            Passed::Yes { at: task.finished_at, evidence: format!("{}: {cause}", task.state) }
        }
        State::Running => no("the attempt hasn't ended"),
        State::Blocked | State::Scheduled | State::Ready => no("no attempt is under way"),
    }
}
