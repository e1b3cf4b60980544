//! P22: nothing leaks: a drained worker's process knows no attempt any more, and when everybody has gone the store has no
//! connection left.

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property { name: "P22", meaning: "nothing leaks", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    for entry in facts.entries {
        match &entry.event {
            Event::Drained { node, attempts } if *attempts > 0 => {
                found.add_in_general(format!(
                    "{node} was drained and its registry still has {attempts} attempts"
                ));
            }
            Event::Closed { connections } if *connections > 0 => {
                found.add_in_general(format!(
                    "{connections} connections to the store are open when everybody has gone"
                ));
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
    fn what_is_left_is_noticed() {
        let drained = |attempts| [event(1, Event::Drained { node: "w".into(), attempts })];
        tells_apart(&PROPERTY, &drained(0), &drained(1));
        let closed = |connections| [event(1, Event::Closed { connections })];
        tells_apart(&PROPERTY, &closed(0), &closed(1));
    }
}
