//! P8: what a client was told is stored is there when somebody asks for it afterwards.

use std::collections::BTreeMap;

use steadfast_core::Timestamp;
use steadfast_core::name::TaskId;

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P8", meaning: "read your writes", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut accepted: BTreeMap<&TaskId, Timestamp> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Submitted { answer: SubmitAnswer::Accepted(id), .. } => {
                accepted.entry(id).or_insert(entry.at);
            }
            Event::Pruned { task } => {
                accepted.remove(&task.id);
            }
            // Who asked before it was accepted may be answered later.
            Event::Missed { reader, task, asked_at }
                if accepted.get(task).is_some_and(|at| at <= asked_at) =>
            {
                let why = "and was told that there is no such task";
                found.add(task, format!("{task} had been accepted when {reader} asked for it, {why}"));
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
    fn an_accepted_task_that_is_not_shown_is_noticed() {
        let id = || task().id;
        let accepted = || event(1, Event::Submitted { task: id(), answer: SubmitAnswer::Accepted(id()) });
        let missed =
            |asked: i64| event(2, Event::Missed { reader: "api".into(), task: id(), asked_at: at(asked) });
        let bad = [accepted(), missed(2)];
        tells_apart(&PROPERTY, &[missed(2), accepted()], &bad);
        tells_apart(&PROPERTY, &[accepted(), missed(0)], &bad);
        tells_apart(
            &PROPERTY,
            &[accepted(), event(2, Event::Pruned { task: task().into() }), missed(2)],
            &bad,
        );
    }
}
