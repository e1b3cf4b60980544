//! The test's own assertion: what a service's test demands of every run, beside what Steadfast promises.

use super::{Facts, Found, Property};
use crate::history::Event;

/// Its name on pages and in capsules.
pub(super) const PROPERTY: Property =
    Property { name: "the test's own assertion", meaning: "what the test demands of every run", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for entry in facts.entries {
        if let Event::Asserted { what } = &entry.event {
            found.add_in_general(what.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn a_failed_assertion_is_noticed() {
        let good = event(0, Event::Noted { node: None, task: None, text: "charged".into() });
        let bad = event(1, Event::Asserted { what: "charged twice".into() });
        tells_apart(&PROPERTY, std::slice::from_ref(&good), &[good.clone(), bad]);
    }
}
