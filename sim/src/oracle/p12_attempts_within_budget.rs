//! P12: attempts stay within their maximum and rescues within their budget, no attempt begins before the task is due, only
//! its worker ends a running task for its deadline, and once faults have stopped a task ends soon after its deadline, and
//! none is rescued from a worker that lives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Facts, Found, Property};
use crate::history::{Event, Word};
use steadfast_core::name::TaskId;
use steadfast_core::task::{Fence, Task};
use steadfast_core::{Cause, State, Timestamp};

/// How long after its deadline a task may wait: some sweeps by a slow clock.
const OVERDUE_MAX: Duration = Duration::from_secs(15);

pub(super) const PROPERTY: Property = Property {
    name: "P12",
    meaning: "attempts and rescues within budget, no retry before its backoff",
    check,
};

fn check(facts: &Facts<'_>, found: &mut Found) {
    check_deadlines(facts, found);
    check_graces(facts, found);
    check_rescues(facts, found);
    check_lengths(facts, found);
    let mut hastened = BTreeSet::new();
    let mut entered: BTreeMap<&TaskId, (Fence, Timestamp)> = BTreeMap::new();
    let mut spoke = BTreeSet::new();
    // The last words of handlers. A backoff counts from then on at the earliest, and not from the commit: between the
    // statement that reads the clock and the commit a transaction may stand still, and with SQLite its process.
    let mut said: BTreeMap<&TaskId, (Fence, Timestamp)> = BTreeMap::new();
    for entry in facts.entries {
        if let Event::Said { task, fence, .. } = &entry.event {
            spoke.insert((task, *fence));
        }
        let (before, after) = match &entry.event {
            // It is due from then on, whatever its row says.
            Event::Retrying { task } => {
                hastened.insert(task);
                continue;
            }
            Event::Entered { task, fence, .. } => {
                entered.insert(task, (*fence, entry.at));
                continue;
            }
            // It says itself when to try again.
            Event::Said { task, word: Word::NotDoneUntil, .. } => {
                entered.remove(task);
                said.remove(task);
                continue;
            }
            Event::Said { task, fence, .. } => {
                said.insert(task, (*fence, entry.at));
                continue;
            }
            // A time from before can't be compared with one from after.
            Event::Jumped { .. } => {
                said.clear();
                entered.clear();
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
        let of_attempt = |(fence, _): &&(Fence, Timestamp)| *fence == before.fence;
        let said = said.get(id).filter(of_attempt).map(|(_, at)| *at);
        let entered = entered.get(id).filter(of_attempt).map(|(_, at)| *at);
        // A handler may say itself that it is all over.
        let may_fail = spoke.contains(&(id, before.fence));
        check_budget(before, after, may_fail, found);
        check_backoff(before, after, said.or(entered), found);
    }
}

/// An attempt that went wrong is followed by another as long as there are any left.
fn check_budget(before: &Task, after: &Task, may_fail: bool, found: &mut Found) {
    let is_used_up = match after.cause {
        Some(Cause::Panic | Cause::Timeout) => may_fail || before.attempt >= before.attempts_max,
        Some(Cause::RescuesUsedUp) => before.rescues >= before.rescues_max,
        _ => true,
    };
    if before.state == State::Running && after.state == State::Failed && !is_used_up {
        let (id, why) = (&after.id, after.cause.map_or("nothing", Cause::as_str));
        found.add(id, format!("{id} has failed for {why}, and could have been tried again"));
    }
}

/// The next attempt comes after a backoff that doubles. It counts from the handler's last word; one that panics, or hears
/// nothing, says none.
fn check_backoff(before: &Task, after: &Task, since: Option<Timestamp>, found: &mut Found) {
    let went_wrong = matches!(after.cause, Some(Cause::Error | Cause::Panic | Cause::Timeout));
    let is_retried = before.state == State::Running && after.state.is_waiting() && went_wrong;
    let Some(since) = since.filter(|_| is_retried) else { return };
    let waits = after.due_at.since(since);
    let doublings = before.attempt.saturating_sub(1).min(20);
    let backoff = before.backoff.min.saturating_mul(1 << doublings).min(before.backoff.max);
    // The jitter may shorten it by a fifth.
    if waits < backoff.mul_f64(0.79) {
        let id = &after.id;
        found.add(
            id,
            format!("{id} is to be tried again {waits:?} after its handler's last word, before its backoff"),
        );
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

/// What runs has a grace from its deadline on, which only its worker knows.
fn check_graces(facts: &Facts<'_>, found: &mut Found) {
    let mut workers: BTreeSet<&str> = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Started { node } => {
                workers.insert(node);
            }
            // Where a worker isn't named like its process nothing is known.
            Event::CutShort { task, worker, by } if workers.contains(&**worker) => {
                found.add(
                    task,
                    format!("the attempt of {worker} at {task} was ended by {by} for its deadline"),
                );
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

/// What waits at its deadline, or waits again after it. (What runs is its worker's, which gives it a grace of its own.)
fn check_deadlines(facts: &Facts<'_>, found: &mut Found) {
    let is_heal = |event: &Event| matches!(event, Event::Healed);
    let Some(healed) = facts.entries.iter().find(|entry| is_heal(&entry.event)) else { return };
    let last = facts.entries.last().map_or(healed.at, |entry| entry.at);
    let mut waiting: BTreeMap<&TaskId, Timestamp> = BTreeMap::new();
    let late = |task: &Task, since: Timestamp, now: Timestamp| {
        let deadline = task.deadline_at?;
        (deadline.max(healed.at).max(since) + OVERDUE_MAX < now).then(|| now.since(deadline))
    };
    for (entry, _, after) in facts.changes() {
        let id = &after.id;
        if after.state.is_waiting() {
            waiting.entry(id).or_insert(entry.at);
            continue;
        }
        let Some(since) = waiting.remove(id).filter(|_| after.state.is_terminal()) else { continue };
        if let Some(late) = late(after, since, entry.at) {
            found.add(id, format!("{id} waited until {late:?} after its deadline, and ended"));
        }
    }
    for (id, task) in &facts.tasks {
        if let Some(late) = waiting.get(id).and_then(|since| late(task, *since, last)) {
            found.add(id, format!("{id} is still {}, {late:?} after its deadline", task.state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_task_that_waits_past_its_deadline_is_noticed() {
        let run = |since: i64, end: i64| {
            let mut due = task();
            due.deadline_at = Some(at(10));
            let mut ended = due.clone();
            ended.state = State::Failed;
            let healed = event(5, Event::Healed);
            [healed].into_iter().chain(changes(&[(since, due), (end, ended)])).collect::<Vec<_>>()
        };
        tells_apart(&PROPERTY, &run(0, 25), &run(0, 26));
        tells_apart(&PROPERTY, &run(40, 55), &run(40, 56));
        let mut unended = run(0, 26);
        unended.pop();
        unended.push(event(26, Event::Healed));
        tells_apart(&PROPERTY, &run(0, 25), &unended);
    }

    #[test]
    fn an_attempt_that_another_process_cuts_short_is_noticed() {
        let started = event(0, Event::Started { node: "w".into() });
        let cut = event(1, Event::CutShort { task: task().id, worker: "w".into(), by: "v".into() });
        tells_apart(&PROPERTY, std::slice::from_ref(&cut), &[started, cut.clone()]);
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
        // The second backoff is twice as long; that of a panic counts from when the handler was entered.
        let second = |cause, due| {
            let mut claimed = running();
            (claimed.attempt, claimed.backoff.min) = (2, Duration::from_secs(10));
            let entered =
                Event::Entered { node: "w".into(), task: task().id, payload_id: "t".into(), fence: 1 };
            let mut waits = claimed.clone();
            (waits.state, waits.cause, waits.due_at) = (State::Scheduled, Some(cause), at(due));
            let mut entries = changes(&[(0, claimed), (1, waits)]);
            entries.insert(1, event(1, entered));
            entries
        };
        for cause in [Cause::Error, Cause::Panic, Cause::Timeout] {
            tells_apart(&PROPERTY, &second(cause, 17), &second(cause, 16));
        }
        let given_up = |attempt, rescues, cause| {
            let mut claimed = running();
            (claimed.attempt, claimed.rescues) = (attempt, rescues);
            let mut failed = claimed.clone();
            (failed.state, failed.cause) = (State::Failed, Some(cause));
            changes(&[(0, claimed), (1, failed)])
        };
        for cause in [Cause::Panic, Cause::Timeout] {
            tells_apart(&PROPERTY, &given_up(3, 0, cause), &given_up(2, 0, cause));
        }
        let used_up = Cause::RescuesUsedUp;
        tells_apart(&PROPERTY, &given_up(1, 5, used_up), &given_up(1, 4, used_up));
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
