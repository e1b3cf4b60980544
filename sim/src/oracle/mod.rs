//! The oracle: what must hold of every history, one property a file.
//!
//! A checker reads the history of commits and of what handlers and clients saw, and knows nothing of how the engine
//! came to it. Each is unit-tested on made histories to be *able to fail*.

mod p01_accepted_tasks_end;
mod p02_errors_mean_what_they_say;
mod p03_one_valid_lease;
mod p04_stale_fences_change_nothing;
mod p05_legal_transitions;
mod p06_one_end;
mod p07_reads_move_forward;
mod p08_read_your_writes;
mod p09_children_wait;
mod p10_no_lost_wakeup;
mod p11_one_holder_per_slot;
mod p12_attempts_within_budget;
mod p13_one_id;
mod p14_no_silent_error;
mod p15_cancel_is_kept;
mod p16_the_stores_clock_decides;
mod p18_limits_hold;
mod p19_followers_miss_nothing;
mod p20_conservation;
mod p21_drained_workers_leave_nothing;
mod p22_no_leak;
mod own_assertion;

pub mod goals;
#[cfg(test)]
pub(crate) mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use steadfast_core::name::TaskId;
use steadfast_core::task::Task;

use crate::history::{Awaited, Entry, Event, SubmitAnswer};

/// A property that a history breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the architecture, for example `P3`.
    pub property: &'static str,
    /// The property in words.
    pub meaning: &'static str,
    /// What broke it.
    pub what: String,
    /// The task concerned.
    pub task: Option<TaskId>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.property, self.meaning, self.what)
    }
}

/// A property.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Its number in the architecture.
    pub name: &'static str,
    /// In words.
    pub meaning: &'static str,
    check: fn(&Facts<'_>, &mut Found),
}

/// All properties that are checked, in order.
pub const PROPERTIES: &[Property] = &[
    p01_accepted_tasks_end::PROPERTY,
    p02_errors_mean_what_they_say::PROPERTY,
    p03_one_valid_lease::PROPERTY,
    p04_stale_fences_change_nothing::PROPERTY,
    p05_legal_transitions::PROPERTY,
    p06_one_end::PROPERTY,
    p07_reads_move_forward::PROPERTY,
    p08_read_your_writes::PROPERTY,
    p09_children_wait::PROPERTY,
    p10_no_lost_wakeup::PROPERTY,
    p11_one_holder_per_slot::PROPERTY,
    p12_attempts_within_budget::PROPERTY,
    p13_one_id::PROPERTY,
    p14_no_silent_error::PROPERTY,
    p15_cancel_is_kept::PROPERTY,
    p16_the_stores_clock_decides::PROPERTY,
    p18_limits_hold::PROPERTY,
    p19_followers_miss_nothing::PROPERTY,
    p20_conservation::PROPERTY,
    p21_drained_workers_leave_nothing::PROPERTY,
    p22_no_leak::PROPERTY,
    own_assertion::PROPERTY,
];

/// What a history says, in the forms that checkers need.
pub(crate) struct Facts<'a> {
    pub(crate) entries: &'a [Entry],
    /// Each task as it is at the end.
    pub(crate) tasks: BTreeMap<&'a TaskId, &'a Arc<Task>>,
    /// Tasks that a client was told are accepted.
    pub(crate) accepted: BTreeSet<&'a TaskId>,
    /// Whether the run came to rest: faults had stopped and everybody had time.
    pub(crate) at_rest: bool,
}

/// What a checker found.
#[derive(Default)]
pub(crate) struct Found(Vec<(String, Option<TaskId>)>);

impl Found {
    pub(crate) fn add(&mut self, task: &TaskId, what: String) {
        self.0.push((what, Some(task.clone())));
    }

    /// Who has waited too long for this.
    pub(crate) fn add_overdue(&mut self, facts: &Facts<'_>, awaited: Awaited) {
        for entry in facts.entries {
            if let Event::Overdue { task, what } = &entry.event
                && *what == awaited
            {
                self.add(task, format!("{task} has waited too long {what}"));
            }
        }
    }

    /// What concerns no task in particular.
    pub(crate) fn add_in_general(&mut self, what: String) {
        self.0.push((what, None));
    }
}

impl<'a> Facts<'a> {
    fn new(entries: &'a [Entry], at_rest: bool) -> Self {
        let mut tasks = BTreeMap::new();
        let mut accepted = BTreeSet::new();
        for entry in entries {
            match &entry.event {
                Event::Changed { after, .. } => {
                    tasks.insert(&after.id, after);
                }
                Event::Lost { task } => {
                    tasks.remove(&task.id);
                }
                Event::Submitted { answer: SubmitAnswer::Accepted(id), .. } => {
                    accepted.insert(id);
                }
                _ => {}
            }
        }
        Self { entries, tasks, accepted, at_rest }
    }

    /// Every change of a task: when, before, after.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&'a Entry, Option<&'a Arc<Task>>, &'a Arc<Task>)> {
        self.entries.iter().filter_map(|entry| match &entry.event {
            Event::Changed { before, after } => Some((entry, before.as_ref(), after)),
            _ => None,
        })
    }
}

/// Judges a history. The first violation of each property is enough.
pub fn judge(entries: &[Entry], at_rest: bool) -> Vec<Violation> {
    judge_without(None, entries, at_rest)
}

/// The same without one of the properties: what that one alone would have found passes.
pub fn judge_without(left_out: Option<&str>, entries: &[Entry], at_rest: bool) -> Vec<Violation> {
    let facts = Facts::new(entries, at_rest);
    let mut violations = Vec::new();
    for property in PROPERTIES.iter().filter(|property| left_out != Some(property.name)) {
        let mut found = Found::default();
        (property.check)(&facts, &mut found);
        let first = found.0.into_iter().next();
        violations.extend(first.map(|(what, task)| Violation {
            property: property.name,
            meaning: property.meaning,
            what,
            task,
        }));
    }
    violations
}
