//! P13: a task has one id everywhere: the one that was answered is the one that is stored and that its handler is given;
//! another name stands for one task only, and no request is answered with the task of another one.

use std::collections::BTreeMap;

use steadfast_core::name::TaskId;

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P13", meaning: "one id everywhere", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut aliases = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Entered { task, payload_id, .. } => {
                let Some(stored) = facts.tasks.get(task) else {
                    found.add(task, format!("a handler was given {task}, which is not stored"));
                    continue;
                };
                // A retry runs what was asked for then.
                let first = task.as_str().split(".retry").next().unwrap_or_default();
                let asked = facts.tasks.get(&TaskId::trusted(first)).copied().unwrap_or(stored);
                let under_key = asked.key.as_ref().is_some_and(|key| *payload_id == format!("key {key}"));
                let in_slot = stored.slot.as_ref().is_some_and(|slot| *payload_id == format!("slot {slot}"));
                if payload_id != first && !under_key && !in_slot {
                    found.add(task, format!("the handler of {task} was given the payload of {payload_id}"));
                }
            }
            Event::Submitted { answer: SubmitAnswer::Accepted(told), .. }
                if !facts.tasks.contains_key(told) =>
            {
                found.add(told, format!("{told} was answered, and nothing is stored under it"));
            }
            Event::Submitted { task, answer: SubmitAnswer::Foreign(told) } => {
                found.add(
                    task,
                    format!("the submit of {task} was answered with {told}, which does other work"),
                );
            }
            Event::Aliased { alias, task } => match aliases.insert(alias, task) {
                Some(other) if other != task => {
                    found.add(task, format!("{alias} stands for {task} and for {other}"));
                }
                _ => {}
            },
            Event::Pruned { task } => aliases.retain(|_, named| **named != task.id),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::name::TaskId;

    #[test]
    fn a_retry_with_the_payload_of_another_is_noticed() {
        let history = |payload_id: &str| {
            let again = steadfast_core::Task { id: TaskId::trusted("t.retry"), ..running() };
            let payload_id = payload_id.to_owned();
            let entered = Event::Entered { node: "w".into(), task: again.id.clone(), payload_id, fence: 1 };
            let mut entries = changes(&[(0, again)]);
            entries.push(event(1, entered));
            entries
        };
        tells_apart(&PROPERTY, &history("t"), &history("u"));
    }

    #[test]
    fn an_alias_of_two_tasks_is_noticed() {
        let alias =
            |to: &str| event(1, Event::Aliased { alias: TaskId::trusted("a"), task: TaskId::trusted(to) });
        tells_apart(&PROPERTY, &[alias("t"), alias("t")], &[alias("t"), alias("u")]);
        let pruned = event(2, Event::Pruned { task: task().into() });
        tells_apart(&PROPERTY, &[alias("t"), pruned, alias("u")], &[alias("t"), alias("u")]);
    }

    #[test]
    fn a_foreign_id_is_noticed() {
        let entered = |payload_id: &str| {
            let mut entries = changes(&[(0, running())]);
            let entered =
                Event::Entered { node: "w".into(), task: task().id, payload_id: payload_id.into(), fence: 1 };
            entries.push(event(1, entered));
            entries
        };
        tells_apart(&PROPERTY, &entered("t"), &entered("u"));
        let told = event(1, Event::Submitted { task: task().id, answer: SubmitAnswer::Accepted(task().id) });
        tells_apart(&PROPERTY, &entered("t"), &[told]);
        let answered = |answer| {
            let mut entries = changes(&[(0, running())]);
            entries.push(event(1, Event::Submitted { task: TaskId::trusted("u"), answer }));
            entries
        };
        let (own, foreign) = (SubmitAnswer::Accepted(task().id), SubmitAnswer::Foreign(task().id));
        tells_apart(&PROPERTY, &answered(own), &answered(foreign));
    }
}
