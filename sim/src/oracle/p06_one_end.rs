//! P6: a task ends in exactly one commit.

use super::{Facts, Found, Property};
use std::collections::BTreeSet;

pub(super) const PROPERTY: Property = Property { name: "P6", meaning: "exactly one terminal commit", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut ended = BTreeSet::new();
    for (_, _, after) in facts.changes().filter(|(_, _, after)| after.state.is_terminal()) {
        if !ended.insert(&after.id) {
            found.add(&after.id, format!("{} ended twice", after.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::State;

    #[test]
    fn a_second_end_is_noticed() {
        let mut ended = running();
        ended.state = State::Succeeded;
        let good = changes(&[(0, running()), (1, ended.clone())]);
        tells_apart(&PROPERTY, &good, &changes(&[(0, running()), (1, ended.clone()), (2, ended)]));
    }
}
