//! P14: no silent error: what ended has a cause, a failure has an entered attempt or a reason that needs none, no error is
//! recorded as success, and of an attempt that its handler gave up as lost nothing is recorded at all.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::task::Fence;
use steadfast_core::{Cause, State, Task, TaskId};

use super::{Facts, Found, Property};
use crate::history::{Event, Word};

pub(super) const PROPERTY: Property = Property { name: "P14", meaning: "no silent error", check };

fn check(facts: &Facts<'_>, found: &mut Found) {
    let mut said = BTreeMap::new();
    let mut entered = BTreeSet::new();
    for entry in facts.entries {
        if let Event::Changed { before: Some(before), after } = &entry.event {
            check_lost(&said, before, after, found);
        }
        match &entry.event {
            Event::Said { task, fence, word } => {
                said.insert((task, *fence), *word);
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
                if after.state == State::Succeeded && said.get(&(id, after.fence)) != Some(&Word::Done) {
                    found.add(id, format!("{id} is recorded as success, but its handler didn't say so"));
                }
            }
            _ => {}
        }
    }
}

/// A lost attempt is over when its lease has lapsed, or when somebody else ends the task.
fn check_lost(said: &BTreeMap<(&TaskId, Fence), Word>, before: &Task, after: &Task, found: &mut Found) {
    let is_over = before.state == State::Running && after.state != State::Running;
    if !is_over || said.get(&(&after.id, before.fence)) != Some(&Word::Lost) {
        return;
    }
    let by_others = matches!(
        after.cause,
        Some(
            Cause::LeaseLapsed | Cause::RescuesUsedUp | Cause::Cancelled | Cause::Replaced | Cause::Deadline
        )
    );
    if !by_others {
        let (id, fence, cause) = (&after.id, before.fence, after.cause);
        found.add(
            id,
            format!("the attempt of {id} under fence {fence} was lost, and is recorded ({cause:?})"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::*;
    use super::*;

    #[test]
    fn silent_errors_are_noticed() {
        let history = |state, cause, word: Option<Word>| {
            let mut ended = running();
            ended.state = state;
            ended.cause = cause;
            let mut entries = changes(&[(0, running())]);
            if let Some(word) = word {
                let entered =
                    Event::Entered { node: "w".into(), task: task().id, payload_id: "t".into(), fence: 1 };
                entries.push(event(1, entered));
                entries.push(event(1, Event::Said { task: task().id, fence: 1, word }));
            }
            entries.extend(changes(&[(2, ended)]));
            entries
        };
        let good = history(State::Succeeded, Some(Cause::Done), Some(Word::Done));
        tells_apart(&PROPERTY, &good, &history(State::Succeeded, Some(Cause::Done), Some(Word::NotDone)));
        tells_apart(&PROPERTY, &good, &history(State::Succeeded, Some(Cause::Done), None));
        tells_apart(&PROPERTY, &good, &history(State::Failed, None, Some(Word::NotDone)));
        tells_apart(&PROPERTY, &good, &history(State::Failed, Some(Cause::Error), None));
        let lost = history(State::Failed, Some(Cause::RescuesUsedUp), None);
        tells_apart(&PROPERTY, &lost, &history(State::Failed, Some(Cause::Error), None));
        let late = history(State::Failed, Some(Cause::Deadline), None);
        tells_apart(&PROPERTY, &late, &history(State::Failed, Some(Cause::Timeout), None));
    }

    #[test]
    fn what_is_recorded_of_a_lost_attempt_is_noticed() {
        let history = |cause| {
            let mut over = running();
            (over.state, over.cause) = (State::Scheduled, Some(cause));
            let mut entries = changes(&[(0, running()), (2, over)]);
            entries.insert(1, event(1, Event::Said { task: task().id, fence: 1, word: Word::Lost }));
            entries
        };
        let good = history(Cause::LeaseLapsed);
        tells_apart(&PROPERTY, &good, &history(Cause::Error));
        tells_apart(&PROPERTY, &good, &history(Cause::Drained));
    }
}
