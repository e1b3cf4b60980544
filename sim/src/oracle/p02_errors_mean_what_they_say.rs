//! P2: a submit that was answered with a definite error left no row; an unknown outcome left none or one for its key; and
//! whoever is told to send a call again because another came in between has not been alone: it would be told so for ever.

use std::collections::BTreeMap;

use steadfast_core::ErrorKind;
use steadfast_core::name::Key;

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P2", meaning: "errors mean what they say", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for entry in facts.entries {
        if let Event::Misled { node } = &entry.event {
            found.add_in_general(format!(
                "{node} was told of a conflict, and nobody else had written anything"
            ));
        }
        let Event::Submitted { task, answer } = &entry.event else { continue };
        let definite = match answer {
            SubmitAnswer::Refused(why) => why.clone(),
            SubmitAnswer::Failed(
                kind @ (ErrorKind::Conflict
                | ErrorKind::Contended
                | ErrorKind::Rejected
                | ErrorKind::Unavailable
                | ErrorKind::Broken),
            ) => format!("{kind:?}"),
            SubmitAnswer::Accepted(_)
            | SubmitAnswer::Foreign(_)
            | SubmitAnswer::Failed(ErrorKind::Unknown)
            | SubmitAnswer::Dropped => {
                continue;
            }
        };
        if facts.tasks.contains_key(task) {
            found.add(task, format!("the submit of {task} was answered {definite:?}, and {task} is stored"));
        }
    }
    let mut keys: BTreeMap<&Key, u32> = BTreeMap::new();
    for (id, task) in &facts.tasks {
        if let Some(key) = &task.key {
            let holders = keys.entry(key).or_default();
            *holders += 1;
            if *holders > 1 {
                found.add(id, format!("{id} is a second task of the key {key}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_row_after_a_definite_error_is_noticed() {
        let stored = changes(&[(0, task())]);
        let answered =
            |kind| event(1, Event::Submitted { task: task().id, answer: SubmitAnswer::Failed(kind) });
        let good: Vec<_> = stored.iter().cloned().chain([answered(ErrorKind::Unknown)]).collect();
        let bad: Vec<_> = stored.iter().cloned().chain([answered(ErrorKind::Conflict)]).collect();
        tells_apart(&PROPERTY, &good, &bad);
    }

    #[test]
    fn a_conflict_with_nobody_is_noticed() {
        let good = changes(&[(0, task())]);
        let misled = event(1, Event::Misled { node: "w0".into() });
        let bad: Vec<_> = good.iter().cloned().chain([misled]).collect();
        tells_apart(&PROPERTY, &good, &bad);
    }

    #[test]
    fn a_second_task_of_a_key_is_noticed() {
        let mut first = task();
        first.key = Some(Key::trusted("k"));
        let mut second = first.clone();
        second.id = steadfast_core::TaskId::trusted("u");
        let both: Vec<_> =
            changes(&[(0, first.clone())]).into_iter().chain(changes(&[(0, second)])).collect();
        tells_apart(&PROPERTY, &changes(&[(0, first)]), &both);
    }
}
