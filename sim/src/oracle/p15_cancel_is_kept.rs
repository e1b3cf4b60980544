//! P15: after an acknowledged cancel the task is never claimed again, gets no slot that it waits for, and ends. And a cancel
//! that ends a task is acknowledged. The handler is told of it soon.

use std::collections::BTreeSet;

use super::{Facts, Found, Property};
use crate::history::{Awaited, Event};

pub(super) const PROPERTY: Property =
    Property { name: "P15", meaning: "an acknowledged cancel is kept", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    found.add_overdue(facts, Awaited::Word);
    let mut cancelled = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Cancelled { task, acknowledged: true } => {
                cancelled.insert(task);
            }
            Event::Overlooked { task } => {
                found.add(task, format!("a cancel of {task} was answered as too late, and it had ended the task, or nothing had"));
            }
            Event::Changed { before: Some(before), after }
                if before.slot_waiting
                    && !after.slot_waiting
                    && !after.state.is_terminal()
                    && cancelled.contains(&after.id) =>
            {
                found.add(&after.id, format!("{} got its slot after its cancel was acknowledged", after.id));
            }
            Event::Changed { before: Some(before), after }
                if after.fence > before.fence && cancelled.contains(&after.id) =>
            {
                found.add(&after.id, format!("{} was claimed after its cancel was acknowledged", after.id));
            }
            _ => {}
        }
    }
    for id in cancelled.into_iter().filter(|_| facts.at_rest) {
        if let Some(task) = facts.tasks.get(id).filter(|task| !task.state.is_terminal()) {
            found.add(id, format!("{id} is {} at rest, although its cancel was acknowledged", task.state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::{State, Task};

    #[test]
    fn a_handler_that_is_not_told_is_noticed() {
        overdue_is_noticed(&PROPERTY, Awaited::Word, Awaited::Entry);
    }

    #[test]
    fn a_cancel_that_is_not_told_what_it_did_is_noticed() {
        let late = event(1, Event::Cancelled { task: task().id, acknowledged: false });
        let overlooked = event(1, Event::Overlooked { task: task().id });
        tells_apart(&PROPERTY, std::slice::from_ref(&late), &[late.clone(), overlooked]);
    }

    #[test]
    fn a_claim_after_a_cancel_is_noticed() {
        let ended = Task { state: State::Succeeded, rev: 3, ..running() };
        let claim = changes(&[(0, task()), (2, running()), (3, ended)]);
        let cancel = event(1, Event::Cancelled { task: task().id, acknowledged: true });
        let bad = vec![claim[0].clone(), cancel, claim[1].clone(), claim[2].clone()];
        tells_apart(&PROPERTY, &claim, &bad);
    }

    #[test]
    fn a_cancelled_task_that_gets_its_slot_or_never_ends_is_noticed() {
        let waits = Task { state: State::Blocked, slot_waiting: true, ..task() };
        let cancelled = Task { state: State::Cancelled, ..task() };
        let cancel = event(1, Event::Cancelled { task: task().id, acknowledged: true });
        let with = |first: &Task, then: &[Task]| {
            let steps: Vec<_> = [first].into_iter().chain(then).cloned().map(|task| (2, task)).collect();
            let mut entries = changes(&steps);
            entries.insert(1, cancel.clone());
            entries
        };
        let good = with(&waits, std::slice::from_ref(&cancelled));
        tells_apart(&PROPERTY, &good, &with(&waits, &[task(), cancelled]));
        tells_apart(&PROPERTY, &good, &with(&task(), &[]));
    }
}
