//! How to search: a random walk, priorities that change now and then (PCT), or every run with at most so many
//! departures from the default.
//!
//! A strategy is a way of drawing [`Choices`]. What it finds is a list of decisions like any other, and replays without
//! it.

use std::fmt;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::choices::{Choices, Decision, Stream};

/// A way to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Every choice is drawn by itself.
    #[default]
    Random,
    /// Tasks have priorities, and the highest that is ready always goes first; now and then one falls behind all
    /// others. Finds what needs a few preemptions at the right places, however long the run is (PCT).
    Pct,
    /// The workload of the seed, with every set of at most so many departures from the default in all else, the
    /// fewest first.
    Exhaustive {
        /// How many departures at most.
        departures: u32,
    },
}

impl Strategy {
    /// Those that draw each run from a seed.
    pub const SEEDED: [Strategy; 2] = [Strategy::Random, Strategy::Pct];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Strategy::Random => "random",
            Strategy::Pct => "pct",
            Strategy::Exhaustive { .. } => "exhaustive",
        }
    }

    /// Whether it is the one that a run has where nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        *self == Strategy::default()
    }

    /// The choices of a seed; of an exhaustive search, those of its first run, which departs from nothing.
    pub fn choices(self, seed: u64) -> Choices {
        match self {
            Strategy::Random => Choices::from_seed(seed),
            Strategy::Pct => Choices::with_priorities(seed),
            Strategy::Exhaustive { .. } => Choices::enumerated(seed, []),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the scheduler decides who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// First come first served, but some are set aside at a wake-up.
    SetAside,
    /// By priorities, which some lose at a wake-up.
    Priorities,
    /// As recorded, by whichever.
    Recorded,
}

/// How many priorities there are; 0 is the default and the highest.
const PRIORITIES: u32 = 16;

impl Order {
    pub(crate) fn sets_aside(self) -> bool {
        match self {
            Order::SetAside | Order::Recorded => true,
            Order::Priorities => false,
        }
    }

    pub(crate) fn has_priorities(self) -> bool {
        match self {
            Order::Priorities | Order::Recorded => true,
            Order::SetAside => false,
        }
    }

    /// A new task's priority.
    pub(crate) fn priority(self, choices: &Choices, task: u64) -> u32 {
        if !self.has_priorities() {
            return 0;
        }
        choices.pick(Stream::Schedule, "priority", task, PRIORITIES)
    }

    /// In how many of ten thousand wake-ups a task loses its priority. A run has some thousands of them.
    pub(crate) fn lowered_odds(self, choices: &Choices) -> u32 {
        if !self.has_priorities() {
            return 0;
        }
        [2, 5, 15, 60][choices.pick(Stream::Schedule, "swarm: lowered", 0, 4) as usize]
    }
}

/// Every run with at most so many departures, the fewest first.
#[derive(Debug, Clone, Copy)]
pub struct Enumeration {
    /// Over the workload of this seed.
    pub workload: u64,
    /// How many departures at most.
    pub departures_max: u32,
    /// How many runs at most.
    pub runs_max: u64,
}

/// What came of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enumerated<T> {
    /// It was ended by what was found in its so many-th run.
    Found(T, u64),
    /// There was nothing in any of these runs.
    All(u64),
    /// It was given up after as many runs as were allowed.
    GivenUp,
}

impl Enumeration {
    /// Runs each of them until one breaks off.
    pub fn each<T>(&self, mut run: impl FnMut(&Choices) -> ControlFlow<T>) -> Enumerated<T> {
        let mut runs = 0;
        for departures in 0..=self.departures_max {
            match self.below(&mut Vec::new(), departures, &mut runs, &mut run) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Some(found)) => return Enumerated::Found(found, runs),
                ControlFlow::Break(None) => return Enumerated::GivenUp,
            }
        }
        Enumerated::All(runs)
    }

    /// All runs with these decisions and so many more. Those between are run again, to learn how they can be departed
    /// from: keeping that would cost more memory than time.
    fn below<T>(
        &self,
        decisions: &mut Vec<Decision>,
        more: u32,
        runs: &mut u64,
        run: &mut impl FnMut(&Choices) -> ControlFlow<T>,
    ) -> ControlFlow<Option<T>> {
        if *runs == self.runs_max {
            return ControlFlow::Break(None);
        }
        *runs += u64::from(more == 0);
        let choices = Choices::enumerated(self.workload, decisions.iter().cloned());
        match run(&choices) {
            ControlFlow::Continue(()) => {}
            ControlFlow::Break(found) => return ControlFlow::Break(Some(found)),
        }
        if more == 0 {
            return ControlFlow::Continue(());
        }
        for point in choices.open() {
            for value in 1..point.values {
                decisions.push(Decision { site: point.site.clone(), value });
                let broken_off = self.below(decisions, more - 1, runs, run);
                decisions.pop();
                broken_off?;
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: Enumeration = Enumeration { workload: 0, departures_max: 2, runs_max: 1_000 };

    /// Three places with three values each; the last is only there where the first was the default.
    fn play(choices: &Choices) -> Vec<u32> {
        let pick = |site| choices.pick(Stream::Faults, site, 0, 3);
        let mut values = vec![pick("a"), pick("b")];
        if values[0] == 0 {
            values.push(pick("c"));
        }
        values
    }

    #[test]
    fn every_run_with_at_most_two_departures_is_made() {
        let mut met = BTreeSet::new();
        let enumerated = ALL.each(|choices| {
            met.insert(play(choices));
            ControlFlow::<()>::Continue(())
        });
        let mut expected = BTreeSet::new();
        for (a, b, c) in (0..27).map(|number| (number / 9, number / 3 % 3, number % 3)) {
            expected.insert(if a == 0 { vec![a, b, c] } else { vec![a, b] });
        }
        // Three departures at once are too many, but where there are only two places all fit.
        assert_eq!(met, expected);
        assert_eq!(enumerated, Enumerated::All(expected.len() as u64));
    }

    #[test]
    fn an_enumeration_ends_at_what_it_finds_and_gives_up_at_its_bound() {
        let find = |enumeration: Enumeration| {
            enumeration.each(|choices| match *play(choices) {
                [1, 2] => ControlFlow::Break("found"),
                _ => ControlFlow::Continue(()),
            })
        };
        assert!(matches!(find(ALL), Enumerated::Found("found", 8..=15)));
        assert_eq!(find(Enumeration { runs_max: 7, ..ALL }), Enumerated::GivenUp);
        assert_eq!(find(Enumeration { departures_max: 1, ..ALL }), Enumerated::All(7));
    }
}
