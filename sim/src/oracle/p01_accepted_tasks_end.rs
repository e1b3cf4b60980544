//! P1: an accepted task ends in bounded time once faults have stopped. The bound is the run's: it comes to rest, or is stuck.

use super::{Facts, Found, Property};
use crate::history::{Event, SubmitAnswer};

pub(super) const PROPERTY: Property = Property { name: "P1", meaning: "an accepted task ends", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    if !facts.at_rest {
        return;
    }
    for id in &facts.accepted {
        if let Some(task) = facts.tasks.get(id).filter(|task| !task.state.is_terminal()) {
            found.add(id, format!("{id} was accepted and is still {} at rest", task.state));
        }
    }
    // Whoever was dropped before the answer may have a task as well: it ends like any other.
    for entry in facts.entries {
        let Event::Submitted { task, answer: SubmitAnswer::Dropped | SubmitAnswer::Failed(_) } = &entry.event
        else {
            continue;
        };
        if let Some(stored) = facts.tasks.get(task).filter(|stored| !stored.state.is_terminal()) {
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
    fn a_task_that_waits_at_rest_is_noticed() {
        let id = task().id;
        let accepted = event(0, Event::Submitted { task: id.clone(), answer: SubmitAnswer::Accepted(id) });
        let mut ended = running();
        ended.state = State::Succeeded;
        let mut good = changes(&[(0, task()), (1, running()), (2, ended)]);
        let mut bad = changes(&[(0, task()), (1, running())]);
        good.push(accepted.clone());
        bad.push(accepted);
        tells_apart(&PROPERTY, &good, &bad);
    }
}
