//! What the simulator must find: the specimens, and what ships with one flaw, each with the property that names it.

use crate::scenario::{Scenario, drains, families, followers, incidents, leases, limits, lines, workers};
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
        SPECIMENS.iter().map(Subject::of_specimen).chain(Flaw::ALL.iter().copied().map(Subject::of_flaw))
    }

    fn of_specimen(specimen: &Specimen) -> Self {
        let Specimen { name, incident, property, faulty, fixed: _ } = *specimen;
        Self { name, source: Source::Incident(incident), property, scenario: faulty }
    }

    /// A flaw, where it shows.
    pub fn of_flaw(flaw: Flaw) -> Self {
        use incidents::{no_dispatcher, stale_status};
        let (scenario, property) = match flaw {
            Flaw::HintsWithoutPolling => (workers::SCENARIO, "P1"),
            Flaw::LostAnswerIsDefinite => (workers::SCENARIO, "P2"),
            Flaw::ClaimWithoutLock => (families::SCENARIO, "P3"),
            Flaw::UnfencedTransition | Flaw::UnfencedReport | Flaw::FenceResetOnRelease => {
                (workers::SCENARIO, "P4")
            }
            Flaw::RescueOverwritesEnd | Flaw::CancelOverwritesEnd | Flaw::PromotionKeepsRevision => {
                (workers::SCENARIO, "P5")
            }
            Flaw::FreedSlotGivenTwice => (lines::SCENARIO, "P2"),
            Flaw::RepeatedEndIsWritten => (workers::SCENARIO, "P6"),
            Flaw::RowCacheInClient => (stale_status::SCENARIO, "P7"),
            Flaw::AbsenceCached => (followers::SCENARIO, "P8"),
            Flaw::FirstParentReleases => (workers::SCENARIO, "P9"),
            Flaw::NoShareLockOnParents
            | Flaw::ReleaseInStatementOfEnd
            | Flaw::FanInByNotExists
            | Flaw::RepeatableRead => (families::SCENARIO, "P10"),
            Flaw::NoShareLockOnHolder
            | Flaw::PromotionInStatementOfEnd
            | Flaw::PromotionWithoutLocks
            | Flaw::LastInLineFirst => (lines::SCENARIO, "P11"),
            Flaw::RetryWithoutBackoff => (no_dispatcher::SCENARIO, "P12"),
            Flaw::RenewalsBehindHandlers => (drains::SCENARIO, "P12"),
            Flaw::AliasTakenOver => (workers::SCENARIO, "P13"),
            Flaw::ErrorAsSuccess | Flaw::PanicAsSuccess => (workers::SCENARIO, "P14"),
            Flaw::RetryIgnoresCancel | Flaw::CancelForgotten => (workers::SCENARIO, "P15"),
            Flaw::UncheckedLeaseOnReclaim => (leases::SCENARIO, "P16"),
            Flaw::LeaseByWorkersClock | Flaw::DeadlineByWorkersClock => (workers::SCENARIO, "P16"),
            Flaw::LimitCountedBeforeLock | Flaw::LimitOutsideClaim => (workers::SCENARIO, "P18"),
            Flaw::LimitWithoutClaims => (limits::SCENARIO, "P18"),
            Flaw::IdCursorReader => (followers::SCENARIO, "P19"),
            Flaw::CommitTagIgnored
            | Flaw::InsertLostWithItsHolder
            | Flaw::ReportNotKept
            | Flaw::RelaxedDurability
            | Flaw::BlindRetryAfterUnknown => (workers::SCENARIO, "P20"),
            Flaw::DrainForgetsClaimed => (drains::SCENARIO, "P21"),
            Flaw::ConnectionLeak => (drains::SCENARIO, "P22"),
        };
        Self { name: flaw.as_str(), source: Source::Flaw(flaw), property, scenario }
    }

    /// What is wrong with it, in a sentence.
    pub const fn about(&self) -> &'static str {
        match self.source {
            Source::Incident(_) => self.scenario.about,
            Source::Flaw(flaw) => flaw.about(),
        }
    }

    /// Ready to be run.
    pub fn setup(&self, profile: Profile) -> Setup {
        let flaws = match self.source {
            Source::Incident(_) => Vec::new(),
            Source::Flaw(flaw) => vec![flaw],
        };
        Setup { scenario: self.scenario, profile, flaws }
    }

    /// Whether it exists on this store: SQLite's only writer needs no row locks.
    pub const fn exists_on(&self, profile: Profile) -> bool {
        match (self.source, profile) {
            (Source::Incident(_), _) | (_, Profile::Postgres) => true,
            // SQLite has no server that could crash by itself.
            (Source::Flaw(Flaw::RelaxedDurability), Profile::Sqlite) => false,
            (Source::Flaw(flaw), Profile::Sqlite) => !is_about_locks(flaw),
        }
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

/// Whether it shows only where several transactions write at the same time.
const fn is_about_locks(flaw: Flaw) -> bool {
    matches!(
        flaw,
        Flaw::ClaimWithoutLock
            | Flaw::NoShareLockOnParents
            | Flaw::ReleaseInStatementOfEnd
            | Flaw::FanInByNotExists
            | Flaw::LimitCountedBeforeLock
            | Flaw::LimitOutsideClaim
            | Flaw::LimitWithoutClaims
            | Flaw::NoShareLockOnHolder
            | Flaw::PromotionInStatementOfEnd
            | Flaw::PromotionWithoutLocks
            | Flaw::InsertLostWithItsHolder
            | Flaw::RepeatableRead
            | Flaw::IdCursorReader
    )
}

#[cfg(test)]
mod tests;
