//! The page of a failure, which a person reads in two minutes: what is broken, what was chosen, what happened to the
//! tasks concerned in a lane for each node, and how to see it again.

mod lanes;
mod words;

use std::fmt;

use crate::capsule::Capsule;
use crate::oracle::{self, Violation};
use crate::shrink::{TRIES_MAX, shrink_report};
use crate::strategy::Strategy;
use crate::sweep::{Report, Setup};

/// The page of a failed run.
#[derive(Debug)]
pub struct Page {
    report: Report,
    /// The violation that the page is about.
    violation: Violation,
    shrunk: Option<FromWhat>,
}

/// What a shrunk run was shrunk from.
#[derive(Debug, Clone, Copy)]
struct FromWhat {
    decisions: usize,
    tries: u32,
    is_minimal: bool,
    runs: u64,
}

impl Page {
    /// The page of a failed run, shrunk for the property that is broken.
    ///
    /// # Panics
    /// Where the run doesn't break that property.
    pub fn of(report: &Report, property: &str) -> Self {
        let (shrunk, smallest) = shrink_report(report, property, TRIES_MAX);
        let from = FromWhat {
            decisions: report.decisions.len(),
            tries: shrunk.tries,
            is_minimal: shrunk.is_minimal,
            runs: report.runs,
        };
        Page { shrunk: Some(from), ..Self::as_it_is(smallest, property) }
    }

    /// The page of a failed run as it is.
    ///
    /// # Panics
    /// Where the run doesn't break that property.
    pub fn as_it_is(report: Report, property: &str) -> Self {
        let violation = report.violations.iter().find(|violation| violation.property == property).cloned();
        let violation = violation.expect("the run breaks the property");
        Self { report, violation, shrunk: None }
    }

    /// The run that it shows.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The run that it shows, to be kept and replayed.
    pub fn capsule(&self) -> Capsule {
        Capsule { property: Some(self.violation.property.into()), ..Capsule::of(&self.report) }
    }
}

/// How many entries of the history it takes to break the property.
fn moment(report: &Report, property: &str) -> usize {
    let breaks = |count: usize| {
        oracle::judge(&report.entries[..count], false).iter().any(|violation| violation.property == property)
    };
    let (mut holds, mut broken) = (0, report.entries.len());
    if !breaks(broken) {
        // Only the end shows it: something has not happened.
        return broken;
    }
    while broken - holds > 1 {
        let middle = usize::midpoint(holds, broken);
        if breaks(middle) {
            broken = middle;
        } else {
            holds = middle;
        }
    }
    broken
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, violation, .. } = self;
        writeln!(f, "{} is broken: {}", violation.property, violation.meaning)?;
        writeln!(f, "  {}", violation.what)?;
        for other in report.violations.iter().filter(|other| other.property != violation.property) {
            writeln!(f, "  also {}: {}", other.property, other.what)?;
        }
        writeln!(f)?;
        self.write_facts(f)?;
        writeln!(f)?;
        match report.decisions.len() {
            0 => writeln!(f, "Chosen: nothing but the defaults")?,
            n => writeln!(f, "Chosen, {n} in all; everything else is the default")?,
        }
        let cast = words::Cast::of(report);
        for decision in &report.decisions {
            writeln!(f, "  {}", cast.words(decision))?;
        }
        for decision in &report.unapplied {
            writeln!(f, "  (no longer met: {decision})")?;
        }
        writeln!(f)?;
        lanes::write(f, &report.entries, violation, moment(report, violation.property))?;
        writeln!(f)?;
        self.write_again(f)
    }
}

impl Page {
    fn write_facts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { setup, seed, strategy, steps, virtual_time, .. } = &self.report;
        let Setup { scenario, profile, flaws } = setup;
        write!(f, "scenario  {} on {}", scenario.name, profile.as_str())?;
        for flaw in flaws {
            write!(f, ", with the flaw {}", flaw.as_str())?;
        }
        writeln!(f)?;
        if let Some(seed) = seed {
            write!(f, "seed      {seed}, {strategy}")?;
            match self.shrunk {
                Some(FromWhat { runs, .. }) if runs > 1 => writeln!(f, ", run {runs}")?,
                Some(_) | None => writeln!(f)?,
            }
        }
        if let Some(FromWhat { decisions, tries, is_minimal, .. }) = self.shrunk {
            let left = self.report.decisions.len();
            write!(f, "shrunk    from {decisions} decisions to {left} in {tries} tries")?;
            writeln!(f, "{}", if is_minimal { "" } else { ", then given up" })?;
        }
        let seconds = virtual_time.as_secs_f64();
        writeln!(
            f,
            "run       hash {:016x}, {steps} steps, {seconds:.3} s of virtual time",
            self.report.hash()
        )
    }

    fn write_again(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { setup, seed, strategy, .. } = &self.report;
        let Setup { scenario, profile, flaws } = setup;
        let profile = profile.as_str();
        writeln!(f, "Again:")?;
        if let Some(seed) = seed {
            write!(f, "  steadfast sim run --scenario {} --profile {profile} --seed {seed}", scenario.name)?;
            if *strategy != Strategy::Random {
                write!(f, " --strategy {strategy}")?;
            }
            for flaw in flaws {
                write!(f, " --flaw {}", flaw.as_str())?;
            }
            writeln!(f)?;
            if flaws.is_empty() && *strategy == Strategy::Random {
                writeln!(
                    f,
                    "  STEADFAST_SEED={seed} STEADFAST_PROFILE={profile} cargo test -p steadfast-tests simulation"
                )?;
            }
        }
        writeln!(f, "  with the line below in FILE: steadfast sim replay FILE")?;
        writeln!(
            f,
            "                           or: STEADFAST_REPLAY=FILE cargo test -p steadfast-tests replay"
        )?;
        writeln!(f, "{}", self.capsule().to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::workers;
    use crate::storage::flaws::Flaw;
    use crate::world::Profile;

    #[test]
    fn a_page_tells_the_story_of_a_missing_fence() {
        let flaws = vec![Flaw::UnfencedTransition];
        let setup = Setup { scenario: workers::SCENARIO, profile: Profile::Postgres, flaws };
        let report = setup.find(0..1_000).expect("the fence is missed");
        let page = Page::of(&report, "P4");
        insta::assert_snapshot!(page);
        let replayed = page.capsule().replay().unwrap();
        assert_eq!(replayed.hash(), page.report().hash());
        assert!(replayed.breaks("P4"));
    }
}
