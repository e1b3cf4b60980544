//! P20: accepted = waiting + running + ended: what was accepted is stored, and what is stored was submitted.

use std::collections::BTreeSet;

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property =
    Property { name: "P20", meaning: "nothing is lost and nothing comes from nowhere", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
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
        if !submitted.contains(id) {
            found.add(id, format!("{id} is stored and was never submitted"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use crate::history::SubmitAnswer;

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
}
