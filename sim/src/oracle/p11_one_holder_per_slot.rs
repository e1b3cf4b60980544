//! P11: at every commit at most one unfinished task holds a slot; nobody waits for one that is free; and it goes to those
//! that wait in the order of their arrival. Who replaces a holder enters soon, however slow that one is to go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Facts, Found, Property};
use steadfast_core::name::{Slot, TaskId};
use steadfast_core::{Task, Timestamp};

use crate::history::{Awaited, Entry, Event};
use crate::storage::rows::{awaited_slot, held_slot};

pub(super) const PROPERTY: Property =
    Property { name: "P11", meaning: "one holder per slot, the others wait in order", check };

/// Who holds a slot, and who waits for it since when they were stored for certain.
#[derive(Default)]
struct Around<'a> {
    holder: Option<&'a TaskId>,
    waiting: BTreeMap<&'a TaskId, Timestamp>,
}

fn check(facts: &Facts<'_>, found: &mut Found) {
    found.add_overdue(facts, Awaited::Entry);
    let mut slots: BTreeMap<&Slot, Around<'_>> = BTreeMap::new();
    let mut touched: BTreeSet<&Slot> = BTreeSet::new();
    // Then times don't tell any more who came first.
    let set_back = |entry: &Entry| matches!(&entry.event, Event::Jumped { micros, .. } if *micros < 0);
    let is_ordered = !facts.entries.iter().any(set_back);
    let mut now = None;
    for (entry, before, after) in facts.changes() {
        // What one commit writes comes one after the other, at one instant.
        if now.replace(entry.at) != Some(entry.at) {
            check_free(&slots, &mut touched, found);
        }
        let Some(slot) = &after.slot else { continue };
        touched.insert(slot);
        let around = slots.entry(slot).or_default();
        let waited = around.waiting.remove(&after.id);
        if awaited_slot(after).is_some() {
            around.waiting.insert(&after.id, waited.unwrap_or(entry.at));
        } else if held_slot(after).is_some() {
            if let Some(holder) = around.holder.replace(&after.id).filter(|holder| **holder != after.id) {
                found.add(&after.id, format!("{} took the slot {slot} while {holder} held it", after.id));
            }
            if is_ordered {
                check_order(slot, around, before, after, found);
            }
        } else if around.holder == Some(&after.id) {
            around.holder = None;
        }
    }
    check_free(&slots, &mut touched, found);
}

/// Whoever was handed the slot, nobody waits who was there before it was submitted.
fn check_order(
    slot: &Slot,
    around: &Around<'_>,
    before: Option<&Arc<Task>>,
    after: &Task,
    found: &mut Found,
) {
    if !before.is_some_and(|before| before.slot_waiting) {
        return;
    }
    let earlier = around.waiting.iter().find(|(_, since)| **since < after.submitted_at);
    if let Some((earlier, _)) = earlier {
        found.add(
            &after.id,
            format!("{} got the slot {slot}, although {earlier} had been waiting for longer", after.id),
        );
    }
}

fn check_free<'a>(slots: &BTreeMap<&Slot, Around<'a>>, touched: &mut BTreeSet<&'a Slot>, found: &mut Found) {
    for slot in std::mem::take(touched) {
        let around = &slots[slot];
        if let (None, Some((waits, _))) = (around.holder, around.waiting.first_key_value()) {
            found.add(waits, format!("{waits} waits for the slot {slot}, which nobody holds"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    use steadfast_core::State;

    #[test]
    fn a_newcomer_that_does_not_enter_is_noticed() {
        overdue_is_noticed(&PROPERTY, Awaited::Entry, Awaited::Turn);
    }

    fn in_slot(id: &str) -> Task {
        Task { id: TaskId::trusted(id), slot: Some(Slot::trusted("s")), ..task() }
    }

    fn waiting(id: &str, since: i64) -> Task {
        Task { state: State::Blocked, slot_waiting: true, submitted_at: at(since), ..in_slot(id) }
    }

    fn ended(task: Task) -> Task {
        Task { state: State::Cancelled, slot_waiting: false, ..task }
    }

    /// Histories of several tasks in one, in the order of time.
    fn merged(histories: &[&[(i64, Task)]]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = histories.iter().flat_map(|steps| changes(steps)).collect();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    #[test]
    fn a_second_holder_is_noticed() {
        let (first, second) = (in_slot("t"), in_slot("u"));
        let good = merged(&[&[(0, first.clone()), (1, ended(first.clone()))], &[(1, second.clone())]]);
        tells_apart(&PROPERTY, &good, &merged(&[&[(0, first)], &[(1, second)]]));
    }

    #[test]
    fn a_free_slot_that_is_waited_for_is_noticed() {
        let holder: &[_] = &[(0, in_slot("t")), (2, ended(in_slot("t")))];
        let handed = merged(&[holder, &[(1, waiting("u", 1)), (2, in_slot("u"))]]);
        let gone = merged(&[holder, &[(1, waiting("u", 1)), (2, ended(in_slot("u")))]]);
        let lost = merged(&[holder, &[(1, waiting("u", 1))]]);
        tells_apart(&PROPERTY, &handed, &lost);
        tells_apart(&PROPERTY, &gone, &lost);
        let late = merged(&[holder, &[(1, waiting("u", 1)), (3, in_slot("u"))]]);
        tells_apart(&PROPERTY, &handed, &late);
    }

    #[test]
    fn whoever_is_passed_over_is_noticed() {
        let line = |first: &str, second: &str| {
            let waits: [&[_]; 2] = [&[(1, waiting("u", 1))], &[(2, waiting("v", 2))]];
            let gets = |id: &str, at| {
                let since = if id == "u" { 1 } else { 2 };
                let holds = Task { submitted_at: super::super::made::at(since), ..in_slot(id) };
                (at, holds)
            };
            let ends = [(3, ended(in_slot("t"))), (4, ended(in_slot(first)))];
            let mut first_life = waits[usize::from(first == "v")].to_vec();
            first_life.extend([gets(first, 3), ends[1].clone()]);
            let mut second_life = waits[usize::from(second == "v")].to_vec();
            second_life.push(gets(second, 4));
            merged(&[&[(0, in_slot("t")), ends[0].clone()], &first_life, &second_life])
        };
        tells_apart(&PROPERTY, &line("u", "v"), &line("v", "u"));
    }
}
