//! P1: an accepted task ends in bounded time once faults have stopped, and none waits for a turn that a deaf attempt
//! holds. The bound is computed by the run from what is left then. What waits longer does so rightfully: nobody can run
//! it, or it waits for one of those, and it has no deadline.

use super::{Facts, Found, Property};
use crate::history::{Awaited, Event, SubmitAnswer, parents};
use crate::scenario::progress::Rightful;

pub(super) const PROPERTY: Property = Property { name: "P1", meaning: "an accepted task ends", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    found.add_overdue(facts, Awaited::Turn);
    if !facts.at_rest {
        return;
    }
    if facts.tasks.values().all(|task| task.state.is_terminal()) {
        return;
    }
    let parents = parents(facts.entries);
    let rightful = Rightful { tasks: &facts.tasks, parents: &parents };
    let must_end =
        |task: &&&std::sync::Arc<steadfast_core::Task>| !task.state.is_terminal() && !rightful.may_wait(task);
    for id in &facts.accepted {
        if let Some(task) = facts.tasks.get(id).filter(must_end) {
            found.add(id, format!("{id} was accepted and is still {} at rest", task.state));
        }
    }
    // Whoever was dropped before the answer may have a task as well: it ends like any other.
    for entry in facts.entries {
        let Event::Submitted { task, answer: SubmitAnswer::Dropped | SubmitAnswer::Failed(_) } = &entry.event
        else {
            continue;
        };
        if let Some(stored) = facts.tasks.get(task).filter(must_end) {
            found.add(task, format!("{task} is stored and still {} at rest", stored.state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::State;

    #[test]
    fn a_turn_that_does_not_come_is_noticed() {
        overdue_is_noticed(&PROPERTY, Awaited::Turn, Awaited::Word);
    }

    #[test]
    fn a_task_that_waits_at_rest_is_noticed() {
        let id = task().id;
        let accepted = event(0, Event::Submitted { task: id.clone(), answer: SubmitAnswer::Accepted(id) });
        let mut ended = running();
        ended.state = State::Succeeded;
        let mut good = changes(&[(0, task()), (1, running()), (2, ended)]);
        let mut bad = changes(&[(0, task()), (1, running())]);
        good.push(accepted.clone());
        bad.push(accepted.clone());
        tells_apart(&PROPERTY, &good, &bad);
        // But not where nobody can run it.
        let kind = steadfast_core::Kind::trusted(crate::scenario::progress::NOBODYS);
        let mut waits = changes(&[(0, steadfast_core::Task { kind, ..task() })]);
        let mut must_end = changes(&[(0, task())]);
        waits.push(accepted.clone());
        must_end.push(accepted);
        tells_apart(&PROPERTY, &waits, &must_end);
    }
}
