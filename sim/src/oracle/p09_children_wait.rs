//! P9: no child is entered before each of its parents has ended as its edge demands. What an edge demands is said here once
//! more: by the engine's own judgement its mistakes would be right.

use std::collections::BTreeMap;

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::OnParentFailure;

use super::{Facts, Found, Property};
use crate::history::Event;
use crate::storage::rows::EdgeRow;

pub(super) const PROPERTY: Property =
    Property { name: "P9", meaning: "no child enters before its parents", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut edges: BTreeMap<&TaskId, Vec<&EdgeRow>> = BTreeMap::new();
    let mut states: BTreeMap<&TaskId, State> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Edge(edge) => edges.entry(&edge.child).or_default().push(edge),
            Event::Changed { after, .. } => {
                states.insert(&after.id, after.state);
            }
            Event::Entered { task, .. } => {
                for of_child in edges.get(task).into_iter().flatten() {
                    let parent = states.get(&of_child.parent).copied();
                    if !parent.is_some_and(|state| lets_run(state, of_child.on_failure)) {
                        let parent_is = parent.map_or("unknown", State::as_str);
                        found.add(
                            task,
                            format!(
                                "{task} was entered while its parent {} was {parent_is}",
                                of_child.parent
                            ),
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

fn lets_run(parent: State, on_failure: OnParentFailure) -> bool {
    match on_failure {
        OnParentFailure::Fail => parent == State::Succeeded,
        OnParentFailure::Run => parent.is_terminal(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_child_that_enters_early_is_noticed() {
        let history = |parent_state| {
            let mut parent = running();
            parent.state = parent_state;
            let child = TaskId::trusted("c");
            let mut entries = changes(&[(0, parent)]);
            entries.push(event(
                0,
                Event::Edge(EdgeRow {
                    parent: task().id,
                    child: child.clone(),
                    on_failure: OnParentFailure::Fail,
                    gone: false,
                }),
            ));
            let entered = Event::Entered { node: "w".into(), task: child, payload_id: "c".into(), fence: 1 };
            entries.push(event(1, entered));
            entries
        };
        for early in [State::Running, State::Failed, State::Cancelled] {
            tells_apart(&PROPERTY, &history(State::Succeeded), &history(early));
        }
    }
}
