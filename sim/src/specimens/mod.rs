//! Specimens: the faulty designs of five real incidents, small and faithful, and beside each the same design repaired.
//!
//! The simulator must find each of them from seeds alone, by the property that it names, and nothing in the repaired
//! twin. They are services of their own, without anything of Steadfast but the simulated world; deliberate faults in
//! what ships are [`Flaw`](crate::storage::flaws::Flaw)s. The same five stories on the real engine are scenarios.

mod service;

mod dropped_handle;
mod await_under_lock;
mod no_dispatcher;
mod stale_status;
mod foreign_run_id;

use crate::choices::Choices;
use crate::scenario::Scenario;
use crate::sweep::{Report, Setup};
use crate::world::Profile;

/// A faulty design that must be found, and its repaired twin in which nothing must be.
#[derive(Debug, Clone, Copy)]
pub struct Specimen {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// The incident that it comes from, 1 to 5.
    pub incident: u8,
    /// The property that must fail.
    pub property: &'static str,
    /// The design as it was.
    pub faulty: Scenario,
    /// The design repaired.
    pub fixed: Scenario,
}

/// All of them.
pub const SPECIMENS: &[Specimen] = &[
    dropped_handle::SPECIMEN,
    await_under_lock::SPECIMEN,
    no_dispatcher::SPECIMEN,
    stale_status::SNAPSHOT,
    stale_status::CACHE,
    stale_status::BOTH,
    stale_status::PARSE_ERROR,
    foreign_run_id::SPECIMEN,
    foreign_run_id::NEWEST_FILE,
];

impl Specimen {
    /// The specimen of this name.
    pub fn find(name: &str) -> Option<&'static Specimen> {
        SPECIMENS.iter().find(|specimen| specimen.name == name)
    }

    /// What happens in it, in a sentence.
    pub const fn about(&self) -> &'static str {
        self.faulty.about
    }

    /// The faulty design, ready to be searched like any scenario.
    pub fn setup(&self, profile: Profile) -> Setup {
        Setup { scenario: self.faulty, profile, flaws: Vec::new() }
    }

    /// The repaired design.
    pub fn setup_fixed(&self, profile: Profile) -> Setup {
        Setup { scenario: self.fixed, profile, flaws: Vec::new() }
    }

    /// Runs the faulty design from any choices.
    pub fn run(&self, profile: Profile, choices: Choices) -> Report {
        self.setup(profile).run_choices(choices)
    }

    /// Whether a run showed what this specimen is there for.
    pub fn is_found_by(&self, report: &Report) -> bool {
        report.violations.iter().any(|violation| violation.property == self.property)
    }
}

#[cfg(test)]
mod tests;
