//! P16: no decision by worker clocks: a lease is granted and taken by the store's clock, although workers' clocks run fast or slow.

use super::{Facts, Found, Property};
use steadfast_core::{Cause, State};

pub(super) const PROPERTY: Property =
    Property { name: "P16", meaning: "no decisions by worker clocks", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for (entry, before, after) in facts.changes() {
        let Some(before) = before else { continue };
        let id = &after.id;
        let claimed = after.fence > before.fence;
        if claimed && after.claimed_at.is_none_or(|at| at > entry.at) {
            found.add(id, format!("{id} was claimed at another time than the store's"));
        }
        let taken = matches!(after.cause, Some(Cause::LeaseLapsed | Cause::RescuesUsedUp));
        let lapsed = before.lease_expires_at.is_none_or(|expires| expires <= entry.at);
        let overdue = after.deadline_at.is_some_and(|deadline| deadline <= entry.at);
        if after.cause == Some(Cause::Deadline) && after.state.is_terminal() && !overdue {
            found
                .add(id, format!("{id} was ended by its deadline before it had passed by the store's clock"));
        }
        if before.state == State::Running && after.state != State::Running && taken && !lapsed {
            found.add(
                id,
                format!("{id} was taken from its worker before the lease lapsed by the store's clock"),
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
    fn a_deadline_that_comes_early_is_noticed() {
        let due = Task { deadline_at: Some(at(10)), ..running() };
        let ended = Task { state: State::Failed, cause: Some(Cause::Deadline), ..due.clone() };
        let good = changes(&[(0, due.clone()), (10, ended.clone())]);
        tells_apart(&PROPERTY, &good, &changes(&[(0, due), (9, ended)]));
        let none = Task { deadline_at: None, ..running() };
        let ended = Task { state: State::Failed, cause: Some(Cause::Deadline), ..none.clone() };
        tells_apart(&PROPERTY, &good, &changes(&[(0, none), (9, ended)]));
    }

    #[test]
    fn a_lease_that_is_taken_early_is_noticed() {
        let mut taken = running();
        taken.state = State::Failed;
        taken.cause = Some(Cause::RescuesUsedUp);
        let good = changes(&[(0, task()), (0, running()), (30, taken.clone())]);
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (29, taken)]));
    }
}
