//! P12: attempts stay within their maximum and rescues within their budget, no attempt begins before the task is due, and
//! once faults have stopped a task ends soon after its deadline, and none is rescued from a worker that lives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Found, Property};
use crate::history::{Event, Word};
use steadfast_core::name::TaskId;
use steadfast_core::task::Fence;
use steadfast_core::{Cause, State, Timestamp};

/// How long after its deadline a task may go on: some sweeps by a slow clock.
const OVERDUE_MAX: Duration = Duration::from_secs(15);

pub(super) const PROPERTY: Property = Property {
    name: "P12",
    meaning: "attempts and rescues within budget, no retry before its backoff",
    check,
};

fn check(facts: &Facts<'_>, found: &mut Found) {
    check_deadlines(facts, found);
    check_rescues(facts, found);
    check_lengths(facts, found);
    let mut hastened = BTreeSet::new();
    // The last words of handlers. A backoff counts from then on at the earliest, and not from the commit: between the
    // statement that reads the clock and the commit a transaction may stand still, and with SQLite its process.
    let mut said: BTreeMap<&TaskId, (Fence, Timestamp)> = BTreeMap::new();
    for entry in facts.entries {
        let (before, after) = match &entry.event {
            // It is due from then on, whatever its row says.
            Event::Retrying { task } => {
                hastened.insert(task);
                continue;
            }
            Event::Said { task, fence, .. } => {
                said.insert(task, (*fence, entry.at));
                continue;
            }
            // A time from before can't be compared with one from after.
            Event::Jumped { .. } => {
                said.clear();
                continue;
            }
            Event::Changed { before, after } => (before.as_ref(), after),
            _ => continue,
        };
        let id = &after.id;
        if after.attempt > after.attempts_max {
            found.add(id, format!("{id} is at attempt {} of {}", after.attempt, after.attempts_max));
        }
        if after.rescues > after.rescues_max {
            found.add(id, format!("{id} was rescued {} times of {}", after.rescues, after.rescues_max));
        }
        let Some(before) = before else { continue };
        // Else its budget would never be used up.
        let was_taken = before.state == State::Running && after.state == State::Ready;
        if was_taken && after.cause == Some(Cause::LeaseLapsed) && after.rescues != before.rescues + 1 {
            let (is, was) = (after.rescues, before.rescues);
            found.add(id, format!("{id} was rescued, and {is} rescues are counted after {was}"));
        }
        // From then on it may be claimed, even if the store's clock is set back.
        let may_run = |state| matches!(state, State::Ready | State::Running);
        let let_go = may_run(after.state) && !may_run(before.state);
        if let_go && after.due_at > entry.at && !hastened.contains(id) {
            let early = after.due_at.since(entry.at);
            found.add(id, format!("{id} is {} {early:?} before it was due", after.state));
        }
        let retried =
            before.state == State::Running && after.state.is_waiting() && after.cause == Some(Cause::Error);
        let last_word = said.get(id).filter(|(fence, _)| retried && *fence == before.fence);
        let Some(waits) = last_word.map(|(_, at)| after.due_at.since(*at)) else { continue };
        // The jitter may shorten the first step of the backoff by a fifth.
        if after.state == State::Ready || waits < before.backoff.min.mul_f64(0.79) {
            found.add(
                id,
                format!(
                    "{id} is to be tried again {waits:?} after its handler's last word, before its backoff"
                ),
            );
        }
    }
}

/// Rescues are for what a dead or stopped worker has lost. One that neither crashed nor stood still, nor was drained, keeps
/// its leases as long as nothing goes wrong, whatever its handlers do; but for those that a handler gives up as lost.
fn check_rescues(facts: &Facts<'_>, found: &mut Found) {
    let mut calm = false;
    let mut stopped: BTreeSet<&str> = BTreeSet::new();
    let mut claimed: BTreeMap<&TaskId, (Fence, bool)> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Calm => calm = true,
            Event::Crashed { node } | Event::Froze { node } | Event::Drained { node, .. } => {
                stopped.insert(node);
            }
            Event::Changed { before: Some(before), after } if after.fence > before.fence => {
                claimed.insert(&after.id, (after.fence, calm));
            }
            // Who has the row locked lets nobody renew the lease.
            Event::Said { task, word: Word::Lost, .. } | Event::Held { task } => {
                claimed.remove(task);
            }
            Event::Changed { before: Some(before), after } if after.rescues > before.rescues => {
                let worker = before.worker.as_ref().map_or("", |worker| worker.as_str());
                let claim = claimed.get(&after.id).filter(|(fence, _)| *fence == before.fence);
                let was_calm = claim.is_some_and(|(_, was_calm)| *was_calm);
                if was_calm && !stopped.contains(worker) {
                    found.add(&after.id, format!("{} was rescued from {worker}, which lives", after.id));
                }
            }
            _ => {}
        }
    }
}

/// An attempt is over when its timeout and its grace have passed, whatever its handler does: unless its worker stood still.
fn check_lengths(facts: &Facts<'_>, found: &mut Found) {
    let mut entered: BTreeMap<(&TaskId, Fence), &str> = BTreeMap::new();
    let mut frozen: BTreeSet<&str> = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            // A node that freezes within a poll goes on to the end of that poll.
            Event::Entered { node, task, fence, .. } if !frozen.contains(&**node) => {
                entered.insert((task, *fence), node);
            }
            Event::Froze { node } => {
                entered.retain(|_, of| *of != node);
                frozen.insert(node);
            }
            Event::Thawed { node } => {
                frozen.remove(&**node);
            }
            Event::Outlived { task, fence, .. } if entered.contains_key(&(task, *fence)) => {
                found.add(
                    task,
                    format!(
                        "the attempt of {task} under fence {fence} has outlived its timeout and its grace"
                    ),
                );
            }
            _ => {}
        }
    }
}

fn check_deadlines(facts: &Facts<'_>, found: &mut Found) {
    let is_heal = |event: &Event| matches!(event, Event::Healed);
    let Some(healed) = facts.entries.iter().find(|entry| is_heal(&entry.event)) else { return };
    let last = facts.entries.last().map_or(healed.at, |entry| entry.at);
    let mut ended = BTreeSet::new();
    for (entry, _, after) in facts.changes().filter(|(_, _, after)| after.state.is_terminal()) {
        ended.insert(&after.id);
        if let Some(deadline) = after.deadline_at.filter(|at| (*at).max(healed.at) + OVERDUE_MAX < entry.at) {
            let late = entry.at.since(deadline);
            found.add(&after.id, format!("{} ended {late:?} after its deadline", after.id));
        }
    }
    for (id, task) in facts.tasks.iter().filter(|(id, _)| !ended.contains(**id)) {
        if let Some(deadline) = task.deadline_at.filter(|at| (*at).max(healed.at) + OVERDUE_MAX < last) {
            let late = last.since(deadline);
            found.add(id, format!("{id} is still {}, {late:?} after its deadline", task.state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;
    use steadfast_core::Task;

    #[test]
    fn a_task_that_outlives_its_deadline_is_noticed() {
        let run = |end: i64| {
            let mut due = running();
            due.deadline_at = Some(at(10));
            let mut ended = due.clone();
            ended.state = State::Failed;
            let healed = event(5, Event::Healed);
            [healed].into_iter().chain(changes(&[(0, due), (end, ended)])).collect::<Vec<_>>()
        };
        tells_apart(&PROPERTY, &run(25), &run(26));
        let mut unended = run(26);
        unended.pop();
        unended.push(event(26, Event::Healed));
        tells_apart(&PROPERTY, &run(25), &unended);
    }

    #[test]
    fn a_rescue_from_a_worker_that_lives_is_noticed() {
        let run = |claim: i64, trouble: Option<Event>| {
            let mut rescued = task();
            (rescued.rescues, rescued.fence) = (1, 1);
            let mut entries = vec![event(60, Event::Calm)];
            entries.extend(changes(&[(claim, task()), (claim, running()), (claim + 30, rescued)]));
            entries.extend(trouble.map(|trouble| event(claim + 1, trouble)));
            entries.sort_by_key(|entry| entry.at);
            entries
        };
        let bad = run(60, None);
        tells_apart(&PROPERTY, &run(60, Some(Event::Crashed { node: "w".into() })), &bad);
        tells_apart(&PROPERTY, &run(60, Some(Event::Froze { node: "w".into() })), &bad);
        tells_apart(&PROPERTY, &run(60, Some(Event::Drained { node: "w".into(), attempts: 0 })), &bad);
        let lost = Event::Said { task: task().id, fence: 1, word: Word::Lost };
        tells_apart(&PROPERTY, &run(60, Some(lost)), &bad);
        tells_apart(&PROPERTY, &run(60, Some(Event::Held { task: task().id })), &bad);
        tells_apart(&PROPERTY, &run(59, None), &bad);
    }

    #[test]
    fn an_attempt_that_outlives_its_grace_is_noticed() {
        let run = |before: Option<Event>, after: Option<Event>| {
            let payload_id = "t".to_owned();
            let entered = Event::Entered { node: "w".into(), task: task().id, payload_id, fence: 1 };
            let outlived = Event::Outlived { node: "w".into(), task: task().id, fence: 1 };
            let events = [before, Some(entered), after, Some(outlived)];
            events.into_iter().flatten().map(|one| event(1, one)).collect::<Vec<_>>()
        };
        let froze = Event::Froze { node: "w".into() };
        tells_apart(&PROPERTY, &run(None, Some(froze.clone())), &run(None, None));
        tells_apart(&PROPERTY, &run(Some(froze), None), &run(Some(Event::Thawed { node: "w".into() }), None));
    }

    #[test]
    fn each_budget_is_kept() {
        let good = changes(&[(0, task()), (1, running())]);
        let mut too_often = running();
        too_often.attempt = 4;
        let mut too_many = running();
        too_many.rescues = 6;
        let mut early = task();
        early.due_at = at(5);
        let later = Task { state: State::Scheduled, ..early.clone() };
        let mut too_soon = running();
        too_soon.state = State::Scheduled;
        too_soon.cause = Some(Cause::Error);
        too_soon.due_at = at(1);
        let last_word = Event::Said { task: task().id, fence: running().fence, word: Word::NotDone };
        let mut retried_too_soon = changes(&[(0, running()), (1, too_soon)]);
        retried_too_soon.insert(1, event(1, last_word));
        let mut rescued = task();
        (rescued.fence, rescued.cause) = (1, Some(Cause::LeaseLapsed));
        for bad in [
            changes(&[(0, running()), (1, rescued)]),
            changes(&[(0, task()), (1, too_often)]),
            changes(&[(0, task()), (1, too_many)]),
            changes(&[(0, later.clone()), (1, early.clone())]),
            retried_too_soon,
        ] {
            tells_apart(&PROPERTY, &good, &bad);
        }
        // Unless somebody asked for it.
        let mut asked = changes(&[(0, later.clone()), (1, early.clone())]);
        asked.insert(1, event(1, Event::Retrying { task: task().id }));
        tells_apart(&PROPERTY, &asked, &changes(&[(0, later), (1, early)]));
    }
}
