//! P20: accepted = waiting + running + ended: what was accepted is stored, and what is stored was submitted. Only what
//! ended long ago is forgotten, and stays so. A report that was acknowledged is kept.

use std::collections::BTreeSet;

use super::{Facts, Found, Property};
use crate::history::Event;
use crate::scenario::RETENTION;

pub(super) const PROPERTY: Property =
    Property { name: "P20", meaning: "nothing is lost and nothing comes from nowhere", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    check_forgotten(facts, found);
    for id in &facts.accepted {
        if !facts.tasks.contains_key(id) {
            found.add(id, format!("{id} was accepted and isn't stored"));
        }
    }
    let submitted: BTreeSet<_> = facts
        .entries
        .iter()
        .filter_map(|entry| if let Event::Submitting { task } = &entry.event { Some(task) } else { None })
        .collect();
    for id in facts.tasks.keys() {
        let is_retry = || {
            let first = id.as_str().split(".retry").next().map(str::to_owned);
            first.is_some_and(|first| first != id.as_str() && retried(facts).contains(first.as_str()))
        };
        if !submitted.contains(id) && !is_retry() {
            found.add(id, format!("{id} is stored and was never submitted"));
        }
    }
}

/// The tasks that somebody asked to try again.
fn retried<'a>(facts: &Facts<'a>) -> BTreeSet<&'a str> {
    let retrying =
        |event: &'a Event| if let Event::Retrying { task } = event { Some(task.as_str()) } else { None };
    facts.entries.iter().filter_map(|entry| retrying(&entry.event)).collect()
}

fn check_forgotten(facts: &Facts<'_>, found: &mut Found) {
    let mut forgotten = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Pruned { task } => {
                let id = &task.id;
                forgotten.insert(id);
                let is_over = task.finished_at.is_some_and(|ended| ended + RETENTION <= entry.at);
                if !task.state.is_terminal() || !is_over || task.key.is_some() {
                    found.add(id, format!("{id} was forgotten too early: it is {}", task.state));
                }
            }
            // The n-th retry of a task may be made again once it is forgotten: its id says whose it is.
            Event::Changed { after, .. }
                if forgotten.contains(&after.id) && !after.id.as_str().contains(".retry") =>
            {
                found.add(&after.id, format!("{} was forgotten and is back", after.id));
            }
            Event::Kept { task, fence, number } => {
                kept.insert((task, fence, number));
            }
            Event::Reported { task, fence, number, kept: true } if !kept.contains(&(task, fence, number)) => {
                found.add(
                    task,
                    format!("line {number} of {task} under fence {fence} was acknowledged and isn't kept"),
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use crate::history::SubmitAnswer;
    use steadfast_core::{State, Task};

    #[test]
    fn whoever_is_forgotten_too_early_or_comes_back_is_noticed() {
        let submitting = event(0, Event::Submitting { task: task().id });
        let old = i64::try_from(RETENTION.as_secs()).expect("short");
        let ended = Task { state: State::Cancelled, finished_at: Some(at(0)), ..task() };
        let forget = |seconds, task: &Task, more: &[Task]| {
            let steps: Vec<_> = [task].into_iter().chain(more).map(|task| (0, task.clone())).collect();
            let mut entries = changes(&steps);
            entries.insert(0, submitting.clone());
            entries.insert(2, event(seconds, Event::Pruned { task: task.clone().into() }));
            entries
        };
        let good = forget(old, &ended, &[]);
        tells_apart(&PROPERTY, &good, &forget(old - 1, &ended, &[]));
        tells_apart(&PROPERTY, &good, &forget(old, &running(), &[]));
        let keyed = Task { key: Some(steadfast_core::Key::trusted("k")), ..ended.clone() };
        tells_apart(&PROPERTY, &good, &forget(old, &keyed, &[]));
        tells_apart(&PROPERTY, &good, &forget(old, &ended, &[task()]));
    }

    #[test]
    fn an_acknowledged_report_that_is_not_kept_is_noticed() {
        let kept = event(0, Event::Kept { task: task().id, fence: 1, number: 1 });
        let heard = |kept| event(1, Event::Reported { task: task().id, fence: 1, number: 1, kept });
        tells_apart(&PROPERTY, &[kept, heard(true)], &[heard(true)]);
        tells_apart(&PROPERTY, &[heard(false)], &[heard(true)]);
    }

    #[test]
    fn a_lost_and_a_foreign_task_are_noticed() {
        let submitting = event(0, Event::Submitting { task: task().id });
        let accepted =
            event(1, Event::Submitted { task: task().id, answer: SubmitAnswer::Accepted(task().id) });
        let good: Vec<_> =
            [submitting.clone(), accepted.clone()].into_iter().chain(changes(&[(1, task())])).collect();
        tells_apart(&PROPERTY, &good, &[submitting, accepted]);
        tells_apart(&PROPERTY, &good, &changes(&[(1, task())]));
    }

    #[test]
    fn a_task_that_nobody_asked_to_try_again_is_noticed() {
        let submitting = event(0, Event::Submitting { task: task().id });
        let again = Task { id: steadfast_core::TaskId::trusted("t.retry2"), ..task() };
        let retrying = event(1, Event::Retrying { task: task().id });
        let bad: Vec<_> =
            [submitting].into_iter().chain(changes(&[(0, task())])).chain(changes(&[(2, again)])).collect();
        let mut good = bad.clone();
        good.insert(2, retrying);
        tells_apart(&PROPERTY, &good, &bad);
    }

    #[test]
    fn a_task_that_a_crash_has_lost_is_noticed() {
        let submitting = event(0, Event::Submitting { task: task().id });
        let accepted =
            event(1, Event::Submitted { task: task().id, answer: SubmitAnswer::Accepted(task().id) });
        let good: Vec<_> = [submitting, accepted].into_iter().chain(changes(&[(1, task())])).collect();
        let mut bad = good.clone();
        bad.push(event(2, Event::Lost { task: task().into() }));
        tells_apart(&PROPERTY, &good, &bad);
    }
}
