//! P4: the fence strictly rises, and what is said under an old fence changes nothing: it never ends the task, none of its
//! reports is kept, and it prolongs no other worker's lease. Handlers of the simulation put their fence into all that they say.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Found, Property};
use crate::history::{Event, fence_in};
use steadfast_core::State;

pub(super) const PROPERTY: Property =
    Property { name: "P4", meaning: "a stale fence changes nothing", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    check_ends(facts, found);
    let mut tasks = BTreeMap::new();
    let mut workers = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Started { node } => {
                workers.insert(node);
            }
            // Where a worker isn't named like its process nothing is known.
            Event::Prolonged { task, worker, by } if workers.contains(worker) => {
                found.add(task, format!("the lease of {worker} on {task} was prolonged by {by}"));
            }
            Event::Changed { after, .. } => {
                tasks.insert(&after.id, after);
                let said = after.progress.as_ref().and_then(|progress| fence_in(progress.message.as_bytes()));
                if let Some(fence) = said.filter(|fence| *fence != after.fence) {
                    found.add(
                        &after.id,
                        format!(
                            "{} has the progress of fence {fence}, but its fence is {}",
                            after.id, after.fence
                        ),
                    );
                }
            }
            // Its own transaction holds the task's row, so this is the task at that very commit.
            Event::Kept { task, fence, .. } => {
                let runs = |task: &&std::sync::Arc<steadfast_core::Task>| {
                    task.state == State::Running && task.fence == *fence
                };
                if tasks.get(task).copied().filter(runs).is_none() {
                    found.add(task, format!("{task} keeps what was said under fence {fence}, which isn't the one it runs under"));
                }
            }
            _ => {}
        }
    }
}

fn check_ends(facts: &Facts<'_>, found: &mut Found) {
    for (_, before, after) in facts.changes() {
        let id = &after.id;
        if let Some(before) = before.filter(|before| before.fence > after.fence) {
            found.add(id, format!("the fence of {id} fell from {} to {}", before.fence, after.fence));
        }
        if after.state != State::Succeeded {
            continue;
        }
        let output = after.output.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        if let Some(fence) = output.strip_prefix("fence ").filter(|fence| *fence != after.fence.to_string()) {
            found.add(
                id,
                format!(
                    "{id} has the outcome of its attempt under fence {fence}, but its fence is {}",
                    after.fence
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::Task;
    use steadfast_core::task::Progress;

    #[test]
    fn a_report_of_a_stale_attempt_is_noticed() {
        let kept = |fence, number| event(1, Event::Kept { task: task().id, fence, number });
        let with = |task: Task, more| changes(&[(0, task)]).into_iter().chain(more).collect::<Vec<_>>();
        let good = with(running(), [kept(1, 1)]);
        tells_apart(&PROPERTY, &good, &with(running(), [kept(0, 1)]));
        tells_apart(&PROPERTY, &good, &with(running(), [kept(2, 0)]));
        tells_apart(&PROPERTY, &good, &with(task(), [kept(0, 1)]));
        let says = |text: &str| {
            let progress = Some(Progress { percent: 1, message: text.into() });
            changes(&[(0, Task { progress, ..running() })])
        };
        tells_apart(&PROPERTY, &says("fence 1"), &says("fence 0"));
    }

    #[test]
    fn a_lease_that_another_worker_prolongs_is_noticed() {
        let started = event(0, Event::Started { node: "w".into() });
        let by = "v".to_owned();
        let prolonged = event(1, Event::Prolonged { task: task().id, worker: "w".into(), by });
        tells_apart(&PROPERTY, std::slice::from_ref(&prolonged), &[started, prolonged.clone()]);
    }

    #[test]
    fn the_outcome_of_a_stale_attempt_is_noticed() {
        let ended = |fence, output: &str| {
            let mut task = running();
            task.state = State::Succeeded;
            task.fence = fence;
            task.output = Some(output.as_bytes().into());
            task
        };
        let good = changes(&[(0, running()), (1, ended(1, "fence 1"))]);
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (1, ended(2, "fence 1"))]));
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (1, ended(0, "fence 0"))]));
    }
}
