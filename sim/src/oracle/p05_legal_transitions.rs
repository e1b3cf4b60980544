//! P5: every change is a legal one, a terminal state absorbs, and the revision counts the changes.

use super::{Facts, Found, Property};
use steadfast_core::decide::is_legal;
use steadfast_core::{Cause, State, Task};

pub(super) const PROPERTY: Property =
    Property { name: "P5", meaning: "legal transitions, terminal absorbs", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for (_, before, after) in facts.changes() {
        let id = &after.id;
        let Some(before) = before else {
            if !is_born(after.state, after.rev) {
                found.add(id, format!("{id} was stored {} with revision {}", after.state, after.rev));
            }
            continue;
        };
        if before.state.is_waiting() && after.state == State::Failed && !may_fail(before, after) {
            found.add(id, format!("{id} was {} and failed ({:?})", before.state, after.cause));
        }
        if after.slot_waiting && after.state != State::Blocked {
            found.add(id, format!("{id} is {} and waits for its slot", after.state));
        }
        let steps = after.rev.saturating_sub(before.rev);
        if before.state.is_terminal() && before != after {
            found.add(id, format!("{id} had {} and was changed", before.state));
        } else if steps == 0 && (before.state != after.state || before.fence != after.fence) {
            found.add(
                id,
                format!("{id} went from {} to {} without a new revision", before.state, after.state),
            );
        } else if steps > 0 && !is_reachable(before.state, after.state, steps) {
            found.add(id, format!("{id} went from {} to {} in {steps} steps", before.state, after.state));
        }
    }
}

/// Whether a task that nobody works on may fail like this: by its deadline, or, while it is blocked, by a parent. (A
/// transaction may claim and promote, but not do the whole work.)
fn may_fail(before: &Task, after: &Task) -> bool {
    match after.cause {
        Some(Cause::Deadline) => true,
        Some(Cause::DependencyFailed) => before.state == State::Blocked,
        _ => false,
    }
}

/// A task is stored with revision 0; the same transaction may have changed it since.
fn is_born(state: State, rev: u64) -> bool {
    let newborn = [State::Blocked, State::Scheduled, State::Ready, State::Failed];
    match rev {
        0 => newborn.contains(&state),
        changes => newborn.into_iter().any(|first| is_reachable(first, state, changes)),
    }
}

/// One transaction may make several changes of a task, for example promote and claim it.
fn is_reachable(from: State, to: State, steps: u64) -> bool {
    // While parents are pending a release only counts down.
    let one = |from: State, to: State| is_legal(from, to) || (from == State::Blocked && to == State::Blocked);
    if steps == 1 {
        return one(from, to);
    }
    State::ALL.into_iter().any(|between| one(from, between) && is_reachable(between, to, steps - 1))
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn an_illegal_change_is_noticed() {
        let in_state = |state, rev| {
            let mut task = running();
            task.state = state;
            task.rev = rev;
            task
        };
        let failed = |cause| Task { cause: Some(cause), state: State::Failed, ..task() };
        let failed = |cause| changes(&[(0, task()), (1, Task { rev: 2, ..failed(cause) })]);
        tells_apart(&PROPERTY, &failed(Cause::Deadline), &failed(Cause::DependencyFailed));
        tells_apart(&PROPERTY, &failed(Cause::Deadline), &failed(Cause::Error));
        let good = changes(&[(0, task()), (1, running()), (2, in_state(State::Succeeded, 3))]);
        let waits = Task { slot_waiting: true, ..running() };
        tells_apart(&PROPERTY, &good, &changes(&[(0, task()), (1, waits)]));
        for bad in [
            changes(&[(0, task()), (1, in_state(State::Succeeded, 2))]),
            changes(&[
                (0, task()),
                (1, running()),
                (2, in_state(State::Succeeded, 3)),
                (3, in_state(State::Ready, 4)),
            ]),
            changes(&[(0, task()), (1, running()), (2, in_state(State::Succeeded, 2))]),
            changes(&[(0, in_state(State::Succeeded, 0))]),
        ] {
            tells_apart(&PROPERTY, &good, &bad);
        }
    }
}
