//! P14: no silent error: what ended has a cause, a failure has an entered attempt or a reason that needs none, and no error is recorded as success.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::{Cause, State};

use super::{Facts, Found, Property};
use crate::history::Event;

pub(super) const PROPERTY: Property = Property { name: "P14", meaning: "no silent error", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut said = BTreeMap::new();
    let mut entered = BTreeSet::new();
    for entry in facts.entries {
        match &entry.event {
            Event::Said { task, fence, well } => {
                said.insert((task, *fence), *well);
            }
            Event::Entered { task, fence, .. } => {
                entered.insert((task, *fence));
            }
            Event::Changed { after, .. } if after.state.is_terminal() => {
                let id = &after.id;
                if after.cause.is_none() {
                    found.add(id, format!("{id} has {} without a cause", after.state));
                }
                let needs_none = matches!(
                    after.cause,
                    Some(Cause::DependencyFailed | Cause::RescuesUsedUp | Cause::Deadline)
                );
                let was_entered = entered.contains(&(id, after.fence));
                if after.state == State::Failed && !needs_none && !was_entered {
                    found.add(id, format!("{id} has failed ({:?}) without an entered attempt", after.cause));
                }
                if after.state == State::Succeeded && said.get(&(id, after.fence)) != Some(&true) {
                    found.add(id, format!("{id} is recorded as success, but its handler didn't say so"));
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
    fn silent_errors_are_noticed() {
        let history = |state, cause, well: Option<bool>| {
            let mut ended = running();
            ended.state = state;
            ended.cause = cause;
            let mut entries = changes(&[(0, running())]);
            if let Some(well) = well {
                let entered =
                    Event::Entered { node: "w".into(), task: task().id, payload_id: "t".into(), fence: 1 };
                entries.push(event(1, entered));
                entries.push(event(1, Event::Said { task: task().id, fence: 1, well }));
            }
            entries.extend(changes(&[(2, ended)]));
            entries
        };
        let good = history(State::Succeeded, Some(Cause::Done), Some(true));
        tells_apart(&PROPERTY, &good, &history(State::Succeeded, Some(Cause::Done), Some(false)));
        tells_apart(&PROPERTY, &good, &history(State::Succeeded, Some(Cause::Done), None));
        tells_apart(&PROPERTY, &good, &history(State::Failed, None, Some(false)));
        tells_apart(&PROPERTY, &good, &history(State::Failed, Some(Cause::Error), None));
        let lost = history(State::Failed, Some(Cause::RescuesUsedUp), None);
        tells_apart(&PROPERTY, &lost, &history(State::Failed, Some(Cause::Error), None));
        let late = history(State::Failed, Some(Cause::Deadline), None);
        tells_apart(&PROPERTY, &late, &history(State::Failed, Some(Cause::Timeout), None));
    }
}
