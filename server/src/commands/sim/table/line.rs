//! A line of the table: a specimen and a strategy, as text, as Markdown and as JSON.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_sim::detection::Subject;
use steadfast_sim::strategy::Strategy;

use super::super::super::Out;
use super::super::specimens::PROFILE;
use super::Find;
use crate::failure::{Exit, Failure};

/// How soon a specimen should be found, in seeds.
const SEEDS_AIM: u64 = 500;
/// The same on the clock, in seconds.
const WALL_S_AIM: f64 = 60.0;
/// To how many decisions its failure should shrink.
const DECISIONS_AIM: u64 = 15;

/// A specimen and a strategy. A median over searches of which some found nothing counts those as endless: `None` where
/// half of them or more did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) specimen: String,
    strategy: String,
    property: String,
    profile: String,
    scenario: String,
    /// How many of the searches found it.
    pub(super) found: u64,
    pub(super) searches: u64,
    /// Seeds until it was found, with the one that found it.
    seeds_median: Option<u64>,
    seeds_max: Option<u64>,
    wall_s_median: Option<f64>,
    /// Virtual time of all these seeds.
    virtual_s_median: Option<f64>,
    /// Departures from the default in the shrunk run.
    decisions_median: Option<u64>,
    decisions_max: Option<u64>,
}

/// How lines are written where they aren't JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In columns.
    Plain,
    /// As the documentation has them.
    Markdown,
}

const HEADS: [&str; 10] = [
    "specimen",
    "strategy",
    "property",
    "found",
    "seeds",
    "most",
    "wall s",
    "virtual s",
    "decisions",
    "most",
];

impl Form {
    /// What stands above the lines.
    pub(super) fn head(self, out: Out) -> Result<(), Failure> {
        if out.json {
            return Ok(());
        }
        self.write(out, &HEADS.map(String::from))?;
        match self {
            Form::Plain => Ok(()),
            Form::Markdown => self.write(out, &HEADS.map(|_| "---".to_owned())),
        }
    }

    fn write(self, out: Out, cells: &[String; 10]) -> Result<(), Failure> {
        out.write(&(), |out| match self {
            Form::Plain => {
                let [specimen, strategy, property, rest @ ..] = cells;
                write!(out, "{specimen:<30} {strategy:<8} {property:<8}")?;
                for cell in rest {
                    write!(out, " {cell:>9}")?;
                }
                writeln!(out)
            }
            Form::Markdown => writeln!(out, "| {} |", cells.join(" | ")),
        })
    }
}

impl Line {
    pub(super) fn of(subject: &Subject, strategy: Strategy, searches: u64, finds: &[Find]) -> Self {
        let seconds = |duration: Duration| duration.as_secs_f64();
        Self {
            specimen: subject.name.into(),
            strategy: strategy.as_str().into(),
            property: subject.property.into(),
            profile: PROFILE.as_str().into(),
            scenario: subject.scenario.name.into(),
            found: finds.len() as u64,
            searches,
            seeds_median: median(searches, finds.iter().map(|find| find.seeds)),
            seeds_max: finds.iter().map(|find| find.seeds).max(),
            wall_s_median: median(searches, finds.iter().map(|find| find.wall)).map(seconds),
            virtual_s_median: median(searches, finds.iter().map(|find| find.virtual_time)).map(seconds),
            decisions_median: median(searches, finds.iter().map(|find| find.decisions)),
            decisions_max: finds.iter().map(|find| find.decisions).max(),
        }
    }

    /// Whether it is found in every search, as soon as is aimed at, and shrinks as far.
    pub(super) fn is_soon(&self) -> bool {
        self.found == self.searches
            && self.seeds_median.is_some_and(|seeds| seeds < SEEDS_AIM)
            && self.wall_s_median.is_some_and(|wall| wall <= WALL_S_AIM)
            && self.decisions_median.is_some_and(|decisions| decisions <= DECISIONS_AIM)
    }

    pub(super) fn write(&self, form: Form, out: Out) -> Result<(), Failure> {
        if out.json {
            return out.write(self, |_| Ok(()));
        }
        let none = || "–".to_owned();
        let count = |figure: Option<u64>| figure.map_or_else(none, |figure| figure.to_string());
        let cells = [
            self.specimen.clone(),
            self.strategy.clone(),
            self.property.clone(),
            format!("{}/{}", self.found, self.searches),
            count(self.seeds_median),
            count(self.seeds_max),
            self.wall_s_median.map_or_else(none, |wall| format!("{wall:.2}")),
            self.virtual_s_median.map_or_else(none, |time| format!("{time:.0}")),
            count(self.decisions_median),
            count(self.decisions_max),
        ];
        form.write(out, &cells)
    }
}

/// The lines that `--json` wrote to a file.
pub(super) fn read(file: &Path) -> Result<Vec<Line>, Failure> {
    let shown = file.display();
    let help = "give a file with what `steadfast sim table --json` wrote";
    let text = std::fs::read_to_string(file).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("{shown} can't be read: {error}")).help(help)
    })?;
    let line = |(number, text): (usize, &str)| {
        serde_json::from_str(text).map_err(|error| {
            let message = format!("line {} of {shown} is no line of the table: {error}", number + 1);
            Failure::new(Exit::Usage, message).help(help)
        })
    };
    text.lines().enumerate().map(line).collect()
}

/// The middle one of `count` figures, of which those that are missing are greater than all others.
fn median<T: Ord>(count: u64, figures: impl Iterator<Item = T>) -> Option<T> {
    let mut figures: Vec<T> = figures.collect();
    figures.sort_unstable();
    let middle = usize::try_from(count / 2).ok()?;
    figures.into_iter().nth(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_found_nothing_counts_as_endless() {
        assert_eq!(median(5, [9, 1, 5, 3, 7].into_iter()), Some(5));
        assert_eq!(median(5, [9, 1, 5].into_iter()), Some(9));
        assert_eq!(median(5, [9, 1].into_iter()), None);
        assert_eq!(median(1, [4].into_iter()), Some(4));
    }

    #[test]
    fn what_misses_an_aim_is_late() {
        let find =
            Find { seeds: 10, wall: Duration::from_secs(1), virtual_time: Duration::ZERO, decisions: 3 };
        let subject = Subject::all().next().unwrap();
        let soon = |find: Find| Line::of(&subject, Strategy::Random, 1, &[find]).is_soon();
        assert!(soon(find));
        assert!(!soon(Find { seeds: 500, ..find }));
        assert!(!soon(Find { wall: Duration::from_secs(61), ..find }));
        assert!(!soon(Find { decisions: 16, ..find }));
        assert!(!Line::of(&subject, Strategy::Random, 2, &[find]).is_soon());
    }
}
