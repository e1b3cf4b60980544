//! P21: a worker that was drained leaves nothing behind, and what it gave back can be claimed at once. What it leaves is
//! judged only where faults had stopped, and all calls from before were over, when it claimed: what it was claimed without
//! being told, or couldn't settle because the store was out of reach, lapses; and so does what a handler gave up as lost.
//! From the moment when it is told to drain it enters no handler.

use std::collections::BTreeMap;

use steadfast_core::name::TaskId;
use steadfast_core::{Cause, State, Task, Timestamp};

use super::{Facts, Found, Property};
use crate::history::{Event, Word};

pub(super) const PROPERTY: Property =
    Property { name: "P21", meaning: "a drained worker leaves nothing behind", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut calm = false;
    // And whether it was calm when they were claimed.
    let mut claimed: BTreeMap<&TaskId, (&Task, bool)> = BTreeMap::new();
    let mut draining: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Calm => calm = true,
            Event::Changed { before, after } => {
                let was_running = before.as_ref().is_some_and(|before| before.state == State::Running);
                let is_given_back = was_running && after.cause == Some(Cause::Drained);
                if is_given_back && after.state != State::Running {
                    check_given_back(after, entry.at, found);
                }
                if after.state != State::Running {
                    claimed.remove(&after.id);
                } else if before.as_ref().is_none_or(|before| after.fence > before.fence) {
                    claimed.insert(&after.id, (after, calm));
                }
            }
            Event::Said { task, word: Word::Lost, .. } => {
                claimed.remove(task);
            }
            Event::Draining { node } => {
                draining.insert(node, entry.at);
            }
            // What was claimed before is given back as it is.
            Event::Entered { node, task, .. }
                if draining.get(node.as_str()).is_some_and(|since| *since < entry.at) =>
            {
                found.add(task, format!("{task} was entered by {node}, which had been told to drain"));
            }
            Event::Drained { node, .. } => {
                let is_left = |(task, was_calm): &&(&Task, bool)| {
                    let is_its = task.worker.as_ref().is_some_and(|worker| worker.as_str() == node);
                    is_its && *was_calm
                };
                for (task, _) in claimed.values().filter(is_left) {
                    let id = &task.id;
                    found.add(
                        id,
                        format!("{node} was drained, and {id} still runs under it, fence {}", task.fence),
                    );
                }
            }
            _ => {}
        }
    }
}

fn check_given_back(task: &Task, now: Timestamp, found: &mut Found) {
    if task.state != State::Ready || task.due_at > now {
        found.add(
            &task.id,
            format!(
                "{} was given back by a worker that drains, and is {}: nobody can claim it",
                task.id, task.state
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_handler_that_a_draining_worker_enters_is_noticed() {
        let run = |at: i64, node: &str| {
            let (node, payload_id) = (node.to_owned(), "t".to_owned());
            let draining = event(5, Event::Draining { node: "w".into() });
            let entered = event(at, Event::Entered { node, task: task().id, payload_id, fence: 1 });
            if at < 5 { [entered, draining] } else { [draining, entered] }
        };
        tells_apart(&PROPERTY, &run(4, "w"), &run(6, "w"));
        tells_apart(&PROPERTY, &run(5, "w"), &run(6, "w"));
        tells_apart(&PROPERTY, &run(6, "v"), &run(6, "w"));
    }

    #[test]
    fn a_task_that_a_drained_worker_keeps_is_noticed() {
        let drained = |node: &str| event(100, Event::Drained { node: node.into(), attempts: 0 });
        let run = |claim: i64, given_back: Option<Task>, node| {
            let mut entries = vec![event(60, Event::Calm)];
            let steps = [Some((0, task())), Some((claim, running())), given_back.map(|task| (99, task))];
            entries.extend(changes(&steps.into_iter().flatten().collect::<Vec<_>>()));
            entries.sort_by_key(|entry| entry.at);
            entries.push(drained(node));
            entries
        };
        let ready = Task { rev: 3, cause: Some(Cause::Drained), fence: 1, ..task() };
        let bad = run(60, None, "w");
        tells_apart(&PROPERTY, &run(60, Some(ready.clone()), "w"), &bad);
        tells_apart(&PROPERTY, &run(60, None, "v"), &bad);
        tells_apart(&PROPERTY, &run(59, None, "w"), &bad);
        let later = Task { due_at: at(200), ..ready.clone() };
        tells_apart(&PROPERTY, &run(60, Some(ready.clone()), "w"), &run(60, Some(later), "w"));
        let scheduled = Task { state: State::Scheduled, ..ready.clone() };
        tells_apart(&PROPERTY, &run(60, Some(ready), "w"), &run(60, Some(scheduled), "w"));
    }
}
