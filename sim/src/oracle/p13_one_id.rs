//! P13: a task has one id everywhere: the one that was answered is the one that is stored and that its handler is given.

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P13", meaning: "one id everywhere", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for entry in facts.entries {
        match &entry.event {
            Event::Entered { task, payload_id, .. } => {
                let Some(stored) = facts.tasks.get(task) else {
                    found.add(task, format!("a handler was given {task}, which is not stored"));
                    continue;
                };
                let under_key = stored.key.as_ref().is_some_and(|key| *payload_id == format!("key {key}"));
                if payload_id != task.as_str() && !under_key {
                    found.add(task, format!("the handler of {task} was given the payload of {payload_id}"));
                }
            }
            Event::Submitted { answer: SubmitAnswer::Accepted(told), .. }
                if !facts.tasks.contains_key(told) =>
            {
                found.add(told, format!("{told} was answered, and nothing is stored under it"));
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
    }
}
