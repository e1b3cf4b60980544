//! Runs that failed once, kept in a file beside the test and replayed before any seed: a line of JSON each.
//!
//! Their decisions are named by where they are made, so an entry outlives unrelated edits. Where it doesn't, the first
//! decision that no longer applies is told.

use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

use crate::capsule::{Capsule, CapsuleError, file_from};
use crate::choices::Choices;
use crate::sweep::{Report, Setup};
use crate::world::Profile;

use super::settings::Package;

/// Where failing runs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regressions {
    /// In a file beside the test: `tests/orders.rs` has `tests/orders.regressions.jsonl`.
    BesideTheTest,
    /// In this file.
    In(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// Why what is kept can't be replayed: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegressionsError {
    /// The file can't be read.
    #[error("{}: {error}: give a file that holds the JSON line of a failure page", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is no run of this version.
    #[error("{}, line {line}: {error}; where the run isn't needed any more, remove the line", path.display())]
    Line {
        /// In which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        error: CapsuleError,
    },
    /// There is nothing in it.
    #[error("{} holds no run: give a failure page, or a file that holds the JSON line of one", path.display())]
    Nothing {
        /// Which.
        path: PathBuf,
    },
    /// All runs are other tests'.
    #[error(
        "{} holds no run of the test {name:?}, but one of {other:?}: run that test, such as `cargo test {other}`",
        path.display()
    )]
    OfAnother {
        /// In which file.
        path: PathBuf,
        /// The test that runs.
        name: &'static str,
        /// The test that it is of.
        other: String,
    },
}

/// A kept run that holds now, and some of whose decisions aren't met any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Where it is kept.
    pub path: PathBuf,
    /// In which line, from 1.
    pub line: usize,
    /// The first decision that no longer applies, in words.
    pub first: String,
    /// How many don't.
    pub count: usize,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, first, count } = self;
        write!(
            f,
            "{}, line {line}: the run holds, but {count} of its decisions no longer apply, the first being: {first}. \
             It may not test any more what it was kept for; where the place is gone for good, remove the line",
            path.display()
        )
    }
}

impl Regressions {
    /// The file, if there is one.
    pub(super) fn file(&self, test: &Location<'_>, package: &Package) -> Option<PathBuf> {
        match self {
            Regressions::BesideTheTest => beside(Path::new(test.file()), package),
            Regressions::In(path) => Some(path.clone()),
            Regressions::Nowhere => None,
        }
    }
}

/// The compiler names files from the workspace's folder, and tests run in their package's: the longest end of the path
/// that is a file there is the test.
fn beside(source: &Path, package: &Package) -> Option<PathBuf> {
    let folder = package.folder.as_deref()?;
    let parts: Vec<_> = source.components().collect();
    let ends = (0..parts.len()).map(|from| folder.join(parts[from..].iter().collect::<PathBuf>()));
    let test = ends.into_iter().find(|path| path.is_file())?;
    Some(test.with_extension("regressions.jsonl"))
}

/// A kept run.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) line: usize,
    capsule: Capsule,
}

/// The runs that are kept in a file; none where there is no file.
pub(super) fn kept(path: &Path) -> Result<Vec<Entry>, RegressionsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => runs(path, &text, |line| !line.trim().is_empty() && !line.starts_with('#')),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RegressionsError::Read { path: path.into(), error }),
    }
}

/// The runs of a test in a file that somebody gives: a failure page, or what is kept.
pub(super) fn given(
    path: &Path,
    name: &'static str,
    package: &Package,
) -> Result<Vec<Entry>, RegressionsError> {
    let path = &package.folder.as_deref().map_or_else(|| path.into(), |folder| file_from(folder, path));
    let text =
        std::fs::read_to_string(path).map_err(|error| RegressionsError::Read { path: path.into(), error })?;
    let (own, others): (Vec<Entry>, Vec<Entry>) =
        runs(path, &text, Capsule::is_line)?.into_iter().partition(|entry| entry.test() == name);
    match others.first() {
        _ if !own.is_empty() => Ok(own),
        None => Err(RegressionsError::Nothing { path: path.into() }),
        Some(other) => {
            let other = other.test().to_owned();
            Err(RegressionsError::OfAnother { path: path.into(), name, other })
        }
    }
}

fn runs(path: &Path, text: &str, is_run: impl Fn(&str) -> bool) -> Result<Vec<Entry>, RegressionsError> {
    let lines = text.lines().enumerate().filter(|(_, line)| is_run(line));
    lines
        .map(|(number, line)| {
            let line_error = |error| RegressionsError::Line { path: path.into(), line: number + 1, error };
            let capsule = Capsule::from_json(line).map_err(line_error)?;
            Ok(Entry { path: path.into(), line: number + 1, capsule })
        })
        .collect()
}

impl Entry {
    /// The test that it is a run of.
    pub(super) fn test(&self) -> &str {
        &self.capsule.scenario
    }

    pub(super) fn profile(&self) -> Result<Profile, RegressionsError> {
        crate::capsule::find("profile", &self.capsule.profile, &Profile::ALL, |profile| profile.as_str())
            .map_err(|error| self.error(error))
    }

    fn error(&self, error: CapsuleError) -> RegressionsError {
        RegressionsError::Line { path: self.path.clone(), line: self.line, error }
    }

    /// Runs it again.
    pub(super) fn replay(&self, setup: &Setup) -> Result<Report, RegressionsError> {
        let decisions = self.capsule.decisions().map_err(|error| self.error(error))?;
        Ok(Report { seed: self.capsule.seed, ..setup.run_choices(Choices::from_decisions(decisions)) })
    }

    /// What of it no longer applies, if anything.
    pub(super) fn stale(&self, report: &Report) -> Option<Stale> {
        let first = report.unapplied.first()?.to_string();
        Some(Stale { path: self.path.clone(), line: self.line, first, count: report.unapplied.len() })
    }
}

/// Keeps a run, unless the same decisions are kept already. Says whether it was added.
pub(super) fn keep(path: &Path, capsule: &Capsule) -> Result<bool, String> {
    let known = kept(path).map_err(|error| error.to_string())?;
    let is_same = |entry: &Entry| {
        let Capsule { scenario, profile, decisions, .. } = &entry.capsule;
        (scenario, profile, decisions) == (&capsule.scenario, &capsule.profile, &capsule.decisions)
    };
    if known.iter().any(is_same) {
        return Ok(false);
    }
    let mut file = std::fs::File::options();
    let file = file.create(true).append(true).open(path);
    let line = format!("{}\n", capsule.to_json());
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(true)
}
