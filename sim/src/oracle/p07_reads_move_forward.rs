//! P7: a reader never sees a task's revision fall, and is never shown less than was committed when it asked.

use std::collections::BTreeMap;

use steadfast_core::Timestamp;
use steadfast_core::name::TaskId;
use steadfast_core::task::Revision;

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property { name: "P7", meaning: "reads move forward", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut committed: BTreeMap<&TaskId, Vec<(Timestamp, Revision)>> = BTreeMap::new();
    let mut shown: BTreeMap<(&str, &TaskId), Revision> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Changed { after, .. } => {
                committed.entry(&after.id).or_default().push((entry.at, after.rev));
            }
            // Whoever is forgotten may be made anew, by a retry.
            Event::Pruned { task } => {
                committed.remove(&task.id);
                shown.retain(|(_, shown), _| **shown != task.id);
            }
            Event::Looked { reader, task, rev, state, asked_at } => {
                let before = shown.insert((reader, task), *rev).unwrap_or(0);
                if *rev < before {
                    found.add(task, format!("{reader} saw {task} at revision {before}, then at {rev}"));
                }
                // What was committed at the very instant at which it asked may have come after.
                let known = committed.get(task).into_iter().flatten();
                let newest = known.filter(|(at, _)| at < asked_at).map(|(_, rev)| *rev).max();
                if let Some(newest) = newest.filter(|newest| rev < newest) {
                    found.add(
                        task,
                        format!("{reader} was shown {task} {state} at revision {rev}, but revision {newest} had been committed before it asked"),
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

    use steadfast_core::State;

    #[test]
    fn an_old_and_a_falling_revision_are_noticed() {
        let looked = |seconds, rev| {
            let (task, state) = (task().id, State::Running);
            event(seconds, Event::Looked { reader: "api".into(), task, rev, state, asked_at: at(seconds) })
        };
        let history = |looks: &[(i64, Revision)]| {
            let mut entries = changes(&[(0, task()), (1, running())]);
            entries.extend(looks.iter().map(|(seconds, rev)| looked(*seconds, *rev)));
            entries
        };
        // At second 1 both are right, but not the older one after the newer.
        let good = history(&[(1, 1), (1, 2), (2, 2)]);
        tells_apart(&PROPERTY, &good, &history(&[(2, 1)]));
        tells_apart(&PROPERTY, &good, &history(&[(1, 2), (1, 1)]));
    }

    #[test]
    fn a_retry_that_is_made_anew_begins_anew() {
        let (task, state) = (task(), State::Ready);
        let looked = |rev| {
            let (task, asked_at) = (task.id.clone(), at(5));
            event(5, Event::Looked { reader: "api".into(), task, rev, state, asked_at })
        };
        let gone = event(5, Event::Pruned { task: task.clone().into() });
        let bad = vec![looked(7), looked(1)];
        tells_apart(&PROPERTY, &[bad[0].clone(), gone, bad[1].clone()], &bad);
    }
}
