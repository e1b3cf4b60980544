//! P3: a task has at most one valid lease: it is claimed only when nobody runs it, and taken from a worker only when its
//! lease has lapsed. No handler is entered under a lease that has lapsed, nor told that a fresh one is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Facts, Found, Property};
use crate::history::Event;
use steadfast_core::name::TaskId;
use steadfast_core::task::Fence;
use steadfast_core::{State, Task, Timestamp};

pub(super) const PROPERTY: Property = Property { name: "P3", meaning: "at most one valid lease", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    check_handlers(facts, found);
    for (entry, before, after) in facts.changes() {
        let Some(before) = before else { continue };
        let id = &after.id;
        if before.state == State::Running && after.fence > before.fence {
            found.add(
                id,
                format!("{id} was claimed under fence {} while it ran under {}", after.fence, before.fence),
            );
        }
        let valid_until = before.lease_expires_at.filter(|expires| *expires > entry.at);
        if let (true, Some(valid_until)) = (after.rescues > before.rescues, valid_until) {
            let left = valid_until.since(entry.at);
            found.add(
                id,
                format!(
                    "{id} was rescued although its lease under fence {} lasts another {left:?}",
                    before.fence
                ),
            );
        }
    }
}

/// What handlers see of their leases. A worker's clock may be slower or faster than the store's, so there is a margin.
fn check_handlers(facts: &Facts<'_>, found: &mut Found) {
    let mut claims: BTreeMap<(&TaskId, Fence), (Timestamp, Duration)> = BTreeMap::new();
    let mut tasks: BTreeMap<&TaskId, &Arc<Task>> = BTreeMap::new();
    let mut thawed: BTreeMap<&str, Timestamp> = BTreeMap::new();
    let mut stalled = None;
    for entry in facts.entries {
        match &entry.event {
            Event::Changed { before, after } => {
                let fence = before.as_ref().map_or(0, |before| before.fence);
                if let Some(until) = after.lease_expires_at.filter(|_| after.fence > fence) {
                    // The commit may have come long after.
                    let claimed = after.claimed_at.unwrap_or(entry.at);
                    claims.insert((&after.id, after.fence), (claimed, until.since(claimed)));
                }
                tasks.insert(&after.id, after);
            }
            // Whose clock has jumped takes that for time that has passed.
            Event::Thawed { node } | Event::Jumped { node, .. } => {
                thawed.insert(node, entry.at);
                if node == "store" {
                    claims.clear();
                }
            }
            Event::Stalled { .. } => stalled = Some(entry.at),
            Event::Entered { task, fence, .. } => {
                let Some((claimed, lease)) = claims.get(&(task, *fence)) else { continue };
                let late = entry.at.since(*claimed);
                if late > *lease + *lease / 10 {
                    found.add(task, format!("{task} was entered {late:?} after its claim for {lease:?}"));
                }
            }
            Event::Told { task, fence, lost: true } => {
                let runs = |task: &&&Arc<Task>| task.state == State::Running && task.fence == *fence;
                let Some(running) = tasks.get(task).filter(runs) else { continue };
                let Some((claimed, lease)) = claims.get(&(task, *fence)) else { continue };
                // Who has stood still counts from when it asked, which may be long ago.
                let worker = running.worker.as_ref().map_or("", |worker| worker.as_str());
                let thawed = thawed.get(worker).copied();
                let stood_still = thawed.max(stalled).is_some_and(|at| at + *lease > *claimed);
                let old = entry.at.since(*claimed);
                if !stood_still && old < *lease / 2 {
                    found.add(
                        task,
                        format!(
                            "{task} was told that its lease of {lease:?} is lost, {old:?} after its claim"
                        ),
                    );
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_handler_that_is_entered_too_late_is_noticed() {
        let entered = |seconds| {
            let entered =
                Event::Entered { node: "w".into(), task: task().id, payload_id: "t".into(), fence: 1 };
            let mut entries = changes(&[(0, task()), (0, running())]);
            entries.push(event(seconds, entered));
            entries
        };
        tells_apart(&PROPERTY, &entered(33), &entered(34));
    }

    #[test]
    fn a_handler_that_is_told_of_a_loss_that_is_none_is_noticed() {
        let told = |seconds, lost, thawed: bool| {
            let mut entries = changes(&[(0, task()), (0, running())]);
            if thawed {
                entries.push(event(0, Event::Thawed { node: "w".into() }));
            }
            entries.push(event(seconds, Event::Told { task: task().id, fence: 1, lost }));
            entries
        };
        tells_apart(&PROPERTY, &told(15, true, false), &told(14, true, false));
        tells_apart(&PROPERTY, &told(14, false, false), &told(14, true, false));
        tells_apart(&PROPERTY, &told(14, true, true), &told(14, true, false));
        let mut taken = told(14, true, false);
        taken.splice(2..2, changes(&[(13, task())]));
        tells_apart(&PROPERTY, &taken, &told(14, true, false));
    }

    #[test]
    fn a_claim_of_a_running_task_is_noticed() {
        let mut again = running();
        again.fence = 2;
        tells_apart(
            &PROPERTY,
            &changes(&[(0, task()), (0, running())]),
            &changes(&[(0, running()), (1, again)]),
        );
    }

    #[test]
    fn a_rescue_of_a_live_lease_is_noticed() {
        let mut rescued = task();
        rescued.rescues = 1;
        let good = changes(&[(0, running()), (30, rescued.clone())]);
        let bad = changes(&[(0, running()), (29, rescued)]);
        tells_apart(&PROPERTY, &good, &bad);
    }
}
