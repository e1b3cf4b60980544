//! P19: whoever follows a task is told of its revisions in their order, each at most once and as it was committed; and at
//! rest of its end. (Revisions that come faster than they are read may be folded together.)

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::Revision;

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property {
    name: "P19",
    meaning: "a follower is told of each event once, in order, and of the end",
    check,
};

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut committed: BTreeMap<(&TaskId, Revision), State> = BTreeMap::new();
    let mut told: BTreeMap<(&str, &TaskId), Revision> = BTreeMap::new();
    let mut follows: BTreeSet<(&str, &TaskId)> = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Changed { after, .. } => {
                committed.insert((&after.id, after.rev), after.state);
            }
            Event::Follows { reader, task } => {
                follows.insert((reader, task));
            }
            // Whether that is right is P8's business.
            Event::Missed { reader, task, .. } => {
                follows.remove(&(reader.as_str(), task));
            }
            Event::Followed { reader, task, rev, state } => {
                if committed.get(&(task, *rev)) != Some(state) {
                    found.add(
                        task,
                        format!(
                            "{reader} was told of {task} {state} at revision {rev}, which was never committed"
                        ),
                    );
                }
                match told.insert((reader, task), *rev) {
                    Some(before) if before >= *rev => {
                        found.add(
                            task,
                            format!("{reader} was told of revision {rev} of {task} after revision {before}"),
                        );
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    for (reader, task) in follows.into_iter().filter(|_| facts.at_rest) {
        let Some(ended) = facts.tasks.get(task).filter(|task| task.state.is_terminal()) else { continue };
        let last = told.get(&(reader, task)).copied();
        if last != Some(ended.rev) {
            let heard = last.map_or_else(|| "nothing".to_owned(), |rev| format!("revision {rev}"));
            found.add(
                task,
                format!(
                    "{reader} follows {task} and was told of {heard} last, but it {} at revision {}",
                    ended.state, ended.rev
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

    #[test]
    fn a_follower_that_is_told_too_little_too_often_or_something_else_is_noticed() {
        let told =
            |rev, state| event(3, Event::Followed { reader: "api".into(), task: task().id, rev, state });
        let ended = Task { state: State::Succeeded, rev: 3, ..running() };
        let history = |told: &[(Revision, State)],
                       with: &dyn Fn(Revision, State) -> crate::history::Entry| {
            let mut entries = changes(&[(0, task()), (1, running()), (2, ended.clone())]);
            entries.push(event(2, Event::Follows { reader: "api".into(), task: task().id }));
            entries.extend(told.iter().map(|(rev, state)| with(*rev, *state)));
            entries
        };
        let history = |seen: &[(Revision, State)]| history(seen, &told);
        // Revision 2 is folded into the end.
        let good = history(&[(1, State::Ready), (3, State::Succeeded)]);
        for bad in [
            history(&[(1, State::Ready)]),
            history(&[]),
            history(&[(3, State::Succeeded), (3, State::Succeeded)]),
            history(&[(2, State::Running), (1, State::Ready), (3, State::Succeeded)]),
            history(&[(1, State::Running), (3, State::Succeeded)]),
            history(&[(3, State::Succeeded), (4, State::Failed)]),
        ] {
            tells_apart(&PROPERTY, &good, &bad);
        }
        let mut missed = history(&[]);
        missed.push(event(3, Event::Missed { reader: "api".into(), task: task().id, asked_at: at(3) }));
        tells_apart(&PROPERTY, &missed, &history(&[]));
    }
}
