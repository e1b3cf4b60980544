//! Running scenarios from seeds: one run, many runs, and the page that a failure prints.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use steadfast_core::name::TaskId;

use crate::choices::{Choices, Decision};
use crate::history::{self, Entry, Event};
use crate::oracle::{self, Violation};
use crate::scenario::{BOUNDS, Scenario};
use crate::scheduler::Stuck;
use crate::storage::flaws::Flaw;
use crate::world::{EPOCH, Profile, World};

/// What to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which scenario.
    pub scenario: Scenario,
    /// On which store.
    pub profile: Profile,
    /// With which deliberate faults in the storage.
    pub flaws: Vec<Flaw>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// The seed, where there was one.
    pub seed: Option<u64>,
    /// The scenario's name.
    pub scenario: &'static str,
    /// On which store.
    pub profile: Profile,
    /// Polls of all tasks.
    pub steps: u64,
    /// How long it lasted in virtual time.
    pub virtual_time: Duration,
    /// What was chosen differently from the default.
    pub decisions: Vec<Decision>,
    /// The properties that were broken, and whether it got stuck.
    pub violations: Vec<Violation>,
    /// All that happened.
    pub entries: Vec<Entry>,
}

impl Report {
    /// A number that is equal for equal histories.
    pub fn hash(&self) -> u64 {
        history::hash(&self.entries)
    }
}

impl Setup {
    /// Runs one seed.
    pub fn run(&self, seed: u64) -> Report {
        Report { seed: Some(seed), ..self.run_choices(Choices::from_seed(seed)) }
    }

    /// Runs from any choices.
    pub fn run_choices(&self, choices: Choices) -> Report {
        let world = World::new(choices.clone(), self.profile, self.flaws.iter().copied());
        let outcome = world.scheduler().run(BOUNDS, (self.scenario.run)(world.clone()));
        let entries = world.history().entries();
        // Where time ran out everybody had more than enough of it.
        let at_rest = !matches!(outcome, Err(Stuck::Polls(_)));
        let mut violations = oracle::judge(&entries, at_rest);
        if let Err(stuck) = outcome {
            let meaning = "an accepted task ends";
            violations.push(Violation {
                property: "P1",
                meaning,
                what: stuck.to_string(),
                task: unfinished(&world),
            });
        }
        Report {
            seed: None,
            scenario: self.scenario.name,
            profile: self.profile,
            steps: world.scheduler().polls(),
            virtual_time: entries.last().map(|entry| entry.at.since(EPOCH)).unwrap_or_default(),
            decisions: choices.departures(),
            violations,
            entries,
        }
    }

    /// Runs seeds until one breaks a property; answers with its report.
    pub fn find(&self, seeds: impl IntoIterator<Item = u64>) -> Option<Report> {
        seeds.into_iter().map(|seed| self.run(seed)).find(|report| !report.violations.is_empty())
    }
}

fn unfinished(world: &World) -> Option<TaskId> {
    world.history().tasks().values().find(|task| !task.state.is_terminal()).map(|task| task.id.clone())
}

impl fmt::Display for Report {
    /// The page of a failure: the properties in words, the history of the tasks concerned, and how to see it again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed.map_or_else(|| "(recorded)".to_owned(), |seed| seed.to_string());
        writeln!(f, "scenario {} on {}, seed {seed}", self.scenario, self.profile.as_str())?;
        writeln!(
            f,
            "hash {:016x}, {} steps, {:?} of virtual time",
            self.hash(),
            self.steps,
            self.virtual_time
        )?;
        for violation in &self.violations {
            writeln!(f, "BROKEN {violation}")?;
        }
        let mut tasks: Vec<TaskId> =
            self.violations.iter().filter_map(|violation| violation.task.clone()).collect();
        tasks.extend(neighbours(&self.entries, &tasks));
        for entry in self.entries.iter().filter(|entry| tasks.is_empty() || concerns(&entry.event, &tasks)) {
            writeln!(f, "{entry}")?;
        }
        if let Some(seed) = self.seed {
            writeln!(
                f,
                "again: STEADFAST_SEED={seed} STEADFAST_PROFILE={} cargo test -p steadfast-tests simulation",
                self.profile.as_str()
            )?;
        }
        Ok(())
    }
}

/// The parents of these tasks, and those that want the same slots.
fn neighbours(entries: &[Entry], tasks: &[TaskId]) -> BTreeSet<TaskId> {
    let stored = || {
        entries.iter().filter_map(|entry| match &entry.event {
            Event::Changed { before: None, after } => Some(after),
            _ => None,
        })
    };
    let slots: BTreeSet<_> =
        stored().filter(|task| tasks.contains(&task.id)).filter_map(|task| task.slot.as_ref()).collect();
    let beside = stored().filter(|task| task.slot.as_ref().is_some_and(|slot| slots.contains(slot)));
    let edges = entries
        .iter()
        .filter_map(|entry| if let Event::Edge(edge) = &entry.event { Some(edge) } else { None });
    let parents = edges.filter(|edge| tasks.contains(&edge.child)).map(|edge| edge.parent.clone());
    beside.map(|task| task.id.clone()).chain(parents).filter(|task| !tasks.contains(task)).collect()
}

fn concerns(event: &Event, tasks: &[TaskId]) -> bool {
    match event {
        Event::Changed { after, .. } => tasks.contains(&after.id),
        Event::Pruned { task } => tasks.contains(&task.id),
        Event::Edge(edge) => tasks.contains(&edge.child) && tasks.contains(&edge.parent),
        Event::Submitting { task }
        | Event::Submitted { task, .. }
        | Event::Kept { task, .. }
        | Event::Aliased { task, .. }
        | Event::Reported { task, .. }
        | Event::Cancelled { task, .. }
        | Event::Entered { task, .. }
        | Event::Told { task, .. }
        | Event::Looked { task, .. }
        | Event::Said { task, .. } => tasks.contains(task),
        Event::Limited { .. }
        | Event::Started { .. }
        | Event::Crashed { .. }
        | Event::Froze { .. }
        | Event::Thawed { .. }
        | Event::Healed => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::workers;

    #[test]
    fn a_few_seeds_hold() {
        for profile in Profile::ALL {
            let setup = Setup { scenario: workers::SCENARIO, profile, flaws: Vec::new() };
            if let Some(report) = setup.find(0..50) {
                panic!("{report}");
            }
        }
    }
}
