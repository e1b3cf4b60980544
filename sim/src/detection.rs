//! What the simulator must find: the specimens, and what ships with one flaw, each with the property that names it.

use crate::scenario::{Scenario, incidents, workers};
use crate::specimens::{SPECIMENS, Specimen};
use crate::storage::flaws::Flaw;
use crate::strategy::Strategy;
use crate::sweep::{Report, Setup};
use crate::world::Profile;

/// Where a subject comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A faulty design of its own, after this incident.
    Incident(u8),
    /// What ships, with this deliberate fault.
    Flaw(Flaw),
}

/// One thing that must be found.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// The property that must fail.
    pub property: &'static str,
    /// What is run.
    pub scenario: Scenario,
}

impl Subject {
    /// All of them: the specimens, then the flaws.
    pub fn all() -> impl Iterator<Item = Subject> {
        SPECIMENS.iter().map(Subject::of_specimen).chain(Flaw::ALL.into_iter().map(Subject::of_flaw))
    }

    fn of_specimen(specimen: &Specimen) -> Self {
        let Specimen { name, incident, property, faulty, fixed: _ } = *specimen;
        Self { name, source: Source::Incident(incident), property, scenario: faulty }
    }

    /// A flaw, where it shows.
    pub fn of_flaw(flaw: Flaw) -> Self {
        let (scenario, property) = match flaw {
            Flaw::UnfencedTransition | Flaw::UnfencedReport => (workers::SCENARIO, "P4"),
            Flaw::NoShareLockOnParents => (workers::SCENARIO, "P10"),
            Flaw::LimitCountedBeforeLock => (workers::SCENARIO, "P18"),
            Flaw::UncheckedLeaseOnReclaim => (workers::SCENARIO, "P16"),
            Flaw::RetryIgnoresCancel | Flaw::CancelForgotten => (workers::SCENARIO, "P15"),
            Flaw::NoShareLockOnHolder | Flaw::PromotionInStatementOfEnd | Flaw::PromotionWithoutLocks => {
                (workers::SCENARIO, "P11")
            }
            Flaw::ErrorAsSuccess | Flaw::PanicAsSuccess => (workers::SCENARIO, "P14"),
            Flaw::RetryWithoutBackoff => (incidents::no_dispatcher::SCENARIO, "P12"),
            Flaw::RescueOverwritesEnd => (workers::SCENARIO, "P5"),
            Flaw::CommitTagIgnored => (workers::SCENARIO, "P20"),
            Flaw::RowCacheInClient => (incidents::stale_status::SCENARIO, "P7"),
            Flaw::RelaxedDurability => (workers::SCENARIO, "P20"),
        };
        Self { name: flaw.as_str(), source: Source::Flaw(flaw), property, scenario }
    }

    /// Ready to be run.
    pub fn setup(&self, profile: Profile) -> Setup {
        let flaws = match self.source {
            Source::Incident(_) => Vec::new(),
            Source::Flaw(flaw) => vec![flaw],
        };
        Setup { scenario: self.scenario, profile, flaws }
    }

    /// Runs seeds until one breaks its property. Another property that breaks before is not what it is there for.
    pub fn find(
        &self,
        profile: Profile,
        strategy: Strategy,
        seeds: impl IntoIterator<Item = u64>,
    ) -> Option<Report> {
        let setup = self.setup(profile);
        seeds
            .into_iter()
            .map(|seed| setup.run_with(strategy, seed))
            .find(|report| report.breaks(self.property))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::capsule::Capsule;
    use crate::oracle::PROPERTIES;

    #[test]
    fn names_and_properties_are_known_and_nothing_is_named_twice() {
        let all: Vec<_> = Subject::all().collect();
        let names: BTreeSet<_> = all.iter().map(|subject| subject.name).collect();
        assert_eq!(names.len(), SPECIMENS.len() + Flaw::ALL.len());
        for subject in all {
            assert!(PROPERTIES.iter().any(|property| property.name == subject.property), "{subject:?}");
        }
    }

    /// The page of a specimen ends with a capsule like any other.
    #[test]
    fn what_is_found_in_a_subject_replays_from_its_capsule() {
        for name in ["dropped-handle", "stale-snapshot", "error-as-success"] {
            let subject = Subject::all().find(|subject| subject.name == name).unwrap();
            let report = subject.find(Profile::Postgres, Strategy::Random, 0..1_000).unwrap();
            let replayed = Capsule::of(&report).replay().unwrap();
            assert_eq!(replayed.hash(), report.hash(), "{name}");
        }
    }
}
