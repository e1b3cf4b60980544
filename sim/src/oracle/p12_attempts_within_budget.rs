//! P12: attempts stay within their maximum and rescues within their budget, and no attempt begins before the task is due.

use super::{Facts, Found, Property};
use steadfast_core::{Cause, State};

pub(super) const PROPERTY: Property = Property {
    name: "P12",
    meaning: "attempts and rescues within budget, no retry before its backoff",
    check,
};

fn check(facts: &Facts<'_>, found: &mut Found) {
    for (entry, before, after) in facts.changes() {
        let id = &after.id;
        if after.attempt > after.attempts_max {
            found.add(id, format!("{id} is at attempt {} of {}", after.attempt, after.attempts_max));
        }
        if after.rescues > after.rescues_max {
            found.add(id, format!("{id} was rescued {} times of {}", after.rescues, after.rescues_max));
        }
        let Some(before) = before else { continue };
        if after.fence > before.fence && after.due_at > entry.at {
            let early = after.due_at.since(entry.at);
            found.add(id, format!("{id} was claimed {early:?} before it was due"));
        }
        let retried =
            before.state == State::Running && after.state.is_waiting() && after.cause == Some(Cause::Error);
        // The jitter may shorten the first step of the backoff by a fifth.
        let waits = after.due_at.since(entry.at);
        if retried && (after.state == State::Ready || waits < before.backoff.min.mul_f64(0.79)) {
            found.add(id, format!("{id} is to be tried again after {waits:?}, before its backoff"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn each_budget_is_kept() {
        let good = changes(&[(0, task()), (1, running())]);
        let mut too_often = running();
        too_often.attempt = 4;
        let mut too_many = running();
        too_many.rescues = 6;
        let mut early = running();
        early.due_at = at(5);
        let mut too_soon = running();
        too_soon.state = State::Scheduled;
        too_soon.cause = Some(Cause::Error);
        too_soon.due_at = at(1);
        for bad in [
            changes(&[(0, task()), (1, too_often)]),
            changes(&[(0, task()), (1, too_many)]),
            changes(&[(0, task()), (1, early)]),
            changes(&[(0, running()), (1, too_soon)]),
        ] {
            tells_apart(&PROPERTY, &good, &bad);
        }
    }
}
