//! P11: at every commit at most one unfinished task holds a slot.

use std::collections::BTreeMap;

use super::{Facts, Found, Property};
use steadfast_core::name::{Slot, TaskId};

pub(super) const PROPERTY: Property = Property { name: "P11", meaning: "one holder per slot", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut holders: BTreeMap<&Slot, &TaskId> = BTreeMap::new();
    for (_, _, after) in facts.changes() {
        let Some(slot) = &after.slot else { continue };
        if after.state.is_terminal() {
            if holders.get(slot).is_some_and(|holder| **holder == after.id) {
                holders.remove(slot);
            }
            continue;
        }
        match holders.insert(slot, &after.id) {
            Some(holder) if *holder != after.id => {
                found.add(&after.id, format!("{} took the slot {slot} while {holder} held it", after.id));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::State;

    #[test]
    fn a_second_holder_is_noticed() {
        let mut first = task();
        first.slot = Some(Slot::trusted("s"));
        let mut second = first.clone();
        second.id = TaskId::trusted("u");
        let mut ended = first.clone();
        ended.state = State::Cancelled;
        let mut good = changes(&[(0, first.clone()), (1, ended)]);
        good.extend(changes(&[(1, second.clone())]));
        let mut bad = changes(&[(0, first)]);
        bad.extend(changes(&[(1, second)]));
        tells_apart(&PROPERTY, &good, &bad);
    }
}
