//! P15: after an acknowledged cancel the task is never claimed again.

use std::collections::BTreeSet;

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property =
    Property { name: "P15", meaning: "an acknowledged cancel is kept", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut cancelled = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Cancelled { task, acknowledged: true } => {
                cancelled.insert(task);
            }
            Event::Changed { before: Some(before), after }
                if after.fence > before.fence && cancelled.contains(&after.id) =>
            {
                found.add(&after.id, format!("{} was claimed after its cancel was acknowledged", after.id));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_claim_after_a_cancel_is_noticed() {
        let claim = changes(&[(0, task()), (2, running())]);
        let cancel = event(1, Event::Cancelled { task: task().id, acknowledged: true });
        let bad = vec![claim[0].clone(), cancel, claim[1].clone()];
        tells_apart(&PROPERTY, &claim, &bad);
    }
}
