//! P3: a task has at most one valid lease: it is claimed only when nobody runs it, and taken from a worker only when its lease has lapsed.

use super::{Facts, Found, Property};
use steadfast_core::State;

pub(super) const PROPERTY: Property = Property { name: "P3", meaning: "at most one valid lease", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for (entry, before, after) in facts.changes() {
        let Some(before) = before else { continue };
        let id = &after.id;
        if before.state == State::Running && after.fence > before.fence {
            found.add(
                id,
                format!("{id} was claimed under fence {} while it ran under {}", after.fence, before.fence),
            );
        }
        let valid_until = before.lease_expires_at.filter(|expires| *expires > entry.at);
        if let (true, Some(valid_until)) = (after.rescues > before.rescues, valid_until) {
            let left = valid_until.since(entry.at);
            found.add(
                id,
                format!(
                    "{id} was rescued although its lease under fence {} lasts another {left:?}",
                    before.fence
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_claim_of_a_running_task_is_noticed() {
        let mut again = running();
        again.fence = 2;
        tells_apart(
            &PROPERTY,
            &changes(&[(0, task()), (0, running())]),
            &changes(&[(0, running()), (1, again)]),
        );
    }

    #[test]
    fn a_rescue_of_a_live_lease_is_noticed() {
        let mut rescued = task();
        rescued.rescues = 1;
        let good = changes(&[(0, running()), (30, rescued.clone())]);
        let bad = changes(&[(0, running()), (29, rescued)]);
        tells_apart(&PROPERTY, &good, &bad);
    }
}
