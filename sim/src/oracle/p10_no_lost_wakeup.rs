//! P10: at rest no child is blocked although all its parents have ended. (Whether it waits for its slot in vain as well is
//! P11's business.)

use std::collections::BTreeMap;

use steadfast_core::name::TaskId;
use steadfast_core::{State, Task};

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property { name: "P10", meaning: "no lost wake-up", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    if !facts.at_rest {
        return;
    }
    let mut parents: BTreeMap<&TaskId, Vec<&TaskId>> = BTreeMap::new();
    for entry in facts.entries {
        if let Event::Edge(edge) = &entry.event {
            parents.entry(&edge.child).or_default().push(&edge.parent);
        }
    }
    for (id, task) in facts.tasks.iter().filter(|(_, task)| is_blocked(task)) {
        let is_unfinished = |parent: &TaskId| facts.tasks.get(parent).is_some_and(|p| !p.state.is_terminal());
        if !parents.get(*id).into_iter().flatten().any(|parent| is_unfinished(parent)) {
            let counted = task.parents_pending;
            found.add(
                id,
                format!("{id} is blocked for ever: all its parents have ended, but it waits for {counted}"),
            );
        }
    }
}

fn is_blocked(task: &Task) -> bool {
    task.state == State::Blocked && !task.slot_waiting
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use crate::storage::rows::EdgeRow;
    use steadfast_core::task::OnParentFailure;

    #[test]
    fn a_child_that_nobody_released_is_noticed() {
        let history = |parent_state| {
            let mut parent = running();
            parent.state = parent_state;
            let mut child = task();
            child.id = TaskId::trusted("c");
            child.state = State::Blocked;
            child.parents_pending = 1;
            let edge = EdgeRow {
                parent: parent.id.clone(),
                child: child.id.clone(),
                on_failure: OnParentFailure::Fail,
                gone: false,
            };
            let mut entries = changes(&[(0, parent)]);
            entries.extend(changes(&[(0, child)]));
            entries.push(event(0, Event::Edge(edge)));
            entries
        };
        tells_apart(&PROPERTY, &history(State::Running), &history(State::Succeeded));
        let mut waits = history(State::Succeeded);
        let slotted = Task { id: TaskId::trusted("c"), state: State::Blocked, slot_waiting: true, ..task() };
        waits.extend(changes(&[(1, slotted)]));
        tells_apart(&PROPERTY, &waits, &history(State::Succeeded));
    }
}
