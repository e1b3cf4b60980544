//! A capsule: a run as a line of JSON, by which it replays on any machine, and in later versions as long as the places of
//! its decisions exist.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::choices::{Choices, Decision, Site, Stream};
use crate::scenario::{BY_NAME, SCENARIOS, Scenario};
use crate::specimens::SPECIMENS;
use crate::storage::flaws::Flaw;
use crate::strategy::Strategy;
use crate::sweep::{Report, Setup};
use crate::world::Profile;

/// The version of the format.
const FORMAT: u32 = 1;

/// A run: what was run, and what was chosen differently from the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capsule {
    /// The version of the format.
    pub format: u32,
    /// The version of Steadfast that it was made with.
    pub steadfast: Cow<'static, str>,
    /// Which scenario.
    pub scenario: Cow<'static, str>,
    /// On which store.
    pub profile: Cow<'static, str>,
    /// With which deliberate faults in the storage.
    #[serde(default)]
    pub flaws: Vec<Cow<'static, str>>,
    /// The property that it broke; `None` where it held.
    pub property: Option<Cow<'static, str>>,
    /// The seed that it comes from.
    pub seed: Option<u64>,
    /// How that seed was searched.
    #[serde(default, skip_serializing_if = "Strategy::is_default")]
    pub strategy: Strategy,
    /// The hash of the run, in hexadecimal.
    pub hash: String,
    /// What was chosen differently from the default.
    pub decisions: Vec<Departure>,
}

/// Stream, site, actor, arrival and value.
pub type Departure = (Cow<'static, str>, Cow<'static, str>, u64, u32, u32);

/// The file that somebody names from a folder above the one in which a test runs: cargo runs tests in their package's.
pub fn file_from(folder: &Path, path: &Path) -> PathBuf {
    let named = folder.ancestors().map(|above| above.join(path));
    named.into_iter().find(|named| named.is_file()).unwrap_or_else(|| folder.join(path))
}

/// Why a capsule can't be replayed: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapsuleError {
    /// It isn't a capsule.
    #[error("this isn't a capsule: {0}: give a file that holds the line at the end of a failure page")]
    Json(#[from] serde_json::Error),
    /// It comes from a version that knows more.
    #[error("the capsule has format {0}, and this version reads {FORMAT}: use the version that made it")]
    Format(u32),
    /// It names what doesn't exist.
    #[error("there is no {what} {name:?} in this version: known are {known}")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
}

impl Capsule {
    /// The capsule of a run.
    pub fn of(report: &Report) -> Self {
        let Setup { scenario, profile, flaws } = &report.setup;
        let decision = |decision: &Decision| {
            let Site { stream, site, actor, arrival } = &decision.site;
            (stream.as_str().into(), site.clone(), *actor, *arrival, decision.value)
        };
        Self {
            format: FORMAT,
            steadfast: env!("CARGO_PKG_VERSION").into(),
            scenario: scenario.name.into(),
            profile: profile.as_str().into(),
            flaws: flaws.iter().map(|flaw| flaw.as_str().into()).collect(),
            property: report.headline().map(|violation| violation.property.into()),
            seed: report.seed,
            strategy: report.strategy,
            hash: format!("{:016x}", report.hash()),
            decisions: report.decisions.iter().map(decision).collect(),
        }
    }

    /// Reads a capsule.
    ///
    /// # Errors
    /// [`CapsuleError`] where it isn't one, or one of a later version.
    pub fn from_json(text: &str) -> Result<Self, CapsuleError> {
        let capsule: Self = serde_json::from_str(text)?;
        if capsule.format != FORMAT {
            return Err(CapsuleError::Format(capsule.format));
        }
        Ok(capsule)
    }

    /// Reads the capsule that a text has as one of its lines, as a failure page has it; or that it is.
    ///
    /// # Errors
    /// [`CapsuleError`] where there is none, or one of a later version.
    pub fn from_text(text: &str) -> Result<Self, CapsuleError> {
        Self::from_json(text.lines().find(|line| Self::is_line(line)).unwrap_or(text))
    }

    /// Whether a line of a text is meant to be a capsule.
    pub(crate) fn is_line(line: &str) -> bool {
        line.trim_start().starts_with("{\"format\":")
    }

    /// One line, without a line break.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// What it was run on.
    ///
    /// # Errors
    /// [`CapsuleError::Unknown`] where that doesn't exist in this version.
    pub fn setup(&self) -> Result<Setup, CapsuleError> {
        let scenario = find("scenario", &self.scenario, &all_scenarios(), |scenario| scenario.name)?;
        let profile = find("profile", &self.profile, &Profile::ALL, |profile| profile.as_str())?;
        let flaws = self.flaws.iter().map(|name| find("flaw", name, Flaw::ALL, |flaw| flaw.as_str()));
        Ok(Setup { scenario, profile, flaws: flaws.collect::<Result<_, _>>()? })
    }

    /// Its departures.
    ///
    /// # Errors
    /// [`CapsuleError::Unknown`] where one belongs to no stream.
    pub fn decisions(&self) -> Result<Vec<Decision>, CapsuleError> {
        let decision =
            |(stream, site, actor, arrival, value): &(Cow<'_, str>, Cow<'static, str>, u64, u32, u32)| {
                let stream = find("stream", stream, &Stream::ALL, |stream| stream.as_str())?;
                let site = Site { stream, site: site.clone(), actor: *actor, arrival: *arrival };
                Ok(Decision { site, value: *value })
            };
        self.decisions.iter().map(decision).collect()
    }

    /// Runs it again. [`Report::unapplied`] has the decisions that the run didn't meet: where there are any, the
    /// program has changed where they were made.
    ///
    /// # Errors
    /// [`CapsuleError`] where it names what this version doesn't have.
    pub fn replay(&self) -> Result<Report, CapsuleError> {
        let report = self.setup()?.run_choices(Choices::from_decisions(self.decisions()?));
        Ok(Report { seed: self.seed, strategy: self.strategy, ..report })
    }
}

/// Whatever can be run: scenarios of what ships, faulty designs and their repaired twins.
pub fn all_scenarios() -> Vec<Scenario> {
    let specimens = SPECIMENS.iter().flat_map(|specimen| [specimen.faulty, specimen.fixed]);
    SCENARIOS.iter().chain(BY_NAME).copied().chain(specimens).collect()
}

/// The one of this name.
///
/// # Errors
/// [`CapsuleError::Unknown`] names those that there are.
pub fn find<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: impl Fn(&T) -> &'static str,
) -> Result<T, CapsuleError> {
    all.iter().copied().find(|one| name_of(one) == name).ok_or_else(|| CapsuleError::Unknown {
        what,
        name: name.into(),
        known: all.iter().map(name_of).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::workers;

    #[test]
    fn a_capsule_is_the_run_that_it_was_made_from() {
        let setup = Setup {
            scenario: workers::SCENARIO,
            profile: Profile::Postgres,
            flaws: vec![Flaw::UnfencedTransition],
        };
        for strategy in Strategy::SEEDED {
            let report = setup.run_with(strategy, 3);
            let capsule = Capsule::of(&report);
            let read = Capsule::from_json(&capsule.to_json()).unwrap();
            assert_eq!(read, capsule);
            let replayed = read.replay().unwrap();
            assert_eq!((replayed.hash(), replayed.strategy), (report.hash(), strategy));
            assert_eq!(replayed.unapplied, []);
        }
    }

    #[test]
    fn what_this_version_does_not_have_is_named() {
        let setup = Setup { scenario: workers::SCENARIO, profile: Profile::Sqlite, flaws: Vec::new() };
        let capsule = Capsule::of(&setup.run(1));
        let error = |capsule: Capsule| capsule.replay().unwrap_err().to_string();
        let named = error(Capsule { scenario: "gone".into(), ..capsule.clone() });
        assert!(named.contains("scenario \"gone\"") && named.contains("workers"), "{named}");
        let later = Capsule { format: 2, ..capsule.clone() }.to_json();
        assert!(matches!(Capsule::from_json(&later), Err(CapsuleError::Format(2))));
        assert!(matches!(Capsule::from_json("{}"), Err(CapsuleError::Json(_))));
        let mut moved = capsule;
        moved.decisions.push(("faults".into(), "blow".into(), 99, 0, 2));
        assert_eq!(moved.replay().unwrap().unapplied.len(), 1);
    }
}
