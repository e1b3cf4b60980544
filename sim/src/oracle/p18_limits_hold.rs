//! P18: in commit order, never more of a queue run than its limit allows. (A limit that is lowered doesn't stop what runs.)

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::State;
use steadfast_core::name::{Queue, TaskId};

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property { name: "P18", meaning: "concurrency limits hold", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut limits: BTreeMap<&Queue, u32> = BTreeMap::new();
    let mut running: BTreeMap<&Queue, BTreeSet<&TaskId>> = BTreeMap::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Limited { queue, concurrency: Some(concurrency) } => {
                limits.insert(queue, *concurrency);
            }
            Event::Limited { queue, concurrency: None } => {
                limits.remove(queue);
            }
            Event::Changed { before, after } => {
                let of_queue = running.entry(&after.queue).or_default();
                if after.state != State::Running {
                    of_queue.remove(&after.id);
                    continue;
                }
                of_queue.insert(&after.id);
                let claimed = before.as_ref().is_none_or(|before| after.fence > before.fence);
                let over = limits.get(&after.queue).filter(|limit| of_queue.len() > **limit as usize);
                if let (true, Some(limit)) = (claimed, over) {
                    let count = of_queue.len();
                    found.add(
                        &after.id,
                        format!("{} makes {count} of queue {} run; {limit} may", after.id, after.queue),
                    );
                }
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
    fn one_too_many_is_noticed() {
        let limit = event(0, Event::Limited { queue: Queue::default_queue(), concurrency: Some(1) });
        let mut other = running();
        other.id = TaskId::trusted("u");
        let good: Vec<_> = [limit.clone()].into_iter().chain(changes(&[(0, running())])).collect();
        let bad: Vec<_> = good.iter().cloned().chain(changes(&[(1, other)])).collect();
        tells_apart(&PROPERTY, &good, &bad);
    }
}
