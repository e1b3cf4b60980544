//! P13: a task has one id everywhere: the one that was answered is the one that is stored and that its handler is given;
//! another name stands for one task only, no request is answered with the task of another one, and what is retried is what
//! was asked for.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::Task;
use steadfast_core::name::TaskId;

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P13", meaning: "one id everywhere", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut aliases = BTreeMap::new();
    let mut retried = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Entered { task, payload_id, .. } => {
                let Some(stored) = facts.tasks.get(task) else {
                    found.add(task, format!("a handler was given {task}, which is not stored"));
                    continue;
                };
                // A retry runs what was asked for then.
                let first = family(task);
                let asked = facts.tasks.get(&first).copied().unwrap_or(stored);
                let under_key = asked.key.as_ref().is_some_and(|key| *payload_id == format!("key {key}"));
                let in_slot = stored.slot.as_ref().is_some_and(|slot| *payload_id == format!("slot {slot}"));
                if payload_id != first.as_str() && !under_key && !in_slot {
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
            Event::Retrying { task } => {
                retried.insert(family(task));
            }
            Event::Changed { before: None, after } if after.id != family(&after.id) => {
                let asked = facts.tasks.get(&family(&after.id)).filter(|asked| retried.contains(&asked.id));
                if let Some(what) = asked.and_then(|asked| differs(asked, after)) {
                    found.add(
                        &after.id,
                        format!("{} has another {what} than what it is a retry of", after.id),
                    );
                }
            }
            Event::Pruned { task } => aliases.retain(|_, named| **named != task.id),
            _ => {}
        }
    }
}

/// The task that this one, made by retrying, goes back to.
fn family(id: &TaskId) -> TaskId {
    TaskId::trusted(id.as_str().split(".retry").next().unwrap_or_default())
}

/// What wasn't asked for so.
fn differs(asked: &Task, retry: &Task) -> Option<&'static str> {
    let left = |task: &Task| task.deadline_at.map(|deadline| deadline.since(task.submitted_at));
    let differences = [
        ("kind", asked.kind != retry.kind),
        ("payload", asked.payload != retry.payload),
        ("queue", asked.queue != retry.queue),
        ("slot", asked.slot != retry.slot),
        ("priority", asked.priority != retry.priority),
        ("number of attempts", asked.attempts_max != retry.attempts_max),
        ("number of rescues", asked.rescues_max != retry.rescues_max),
        ("timeout", asked.timeout != retry.timeout),
        ("backoff", asked.backoff != retry.backoff),
        ("deadline", left(asked) != left(retry)),
    ];
    differences.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
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

    #[test]
    fn a_retry_of_something_else_is_noticed() {
        let history = |edit: fn(&mut Task)| {
            let mut ended = running();
            ended.state = steadfast_core::State::Failed;
            let mut retry = task();
            retry.id = TaskId::trusted("t.retry");
            edit(&mut retry);
            let mut entries = changes(&[(0, running()), (1, ended)]);
            entries.push(event(2, Event::Retrying { task: task().id }));
            entries.extend(changes(&[(3, retry)]));
            entries
        };
        let edits: [fn(&mut Task); 5] = [
            |task| task.rescues_max = 4,
            |task| task.queue = steadfast_core::name::Queue::trusted("other"),
            |task| task.timeout *= 2,
            |task| task.backoff.min *= 2,
            |task| task.deadline_at = Some(at(9)),
        ];
        for edit in edits {
            tells_apart(&PROPERTY, &history(|_| {}), &history(edit));
        }
    }
}
