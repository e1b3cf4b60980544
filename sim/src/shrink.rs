//! Shrinking: fewer departures, and smaller ones, by which the same property still fails.
//!
//! Because 0 is always the benign default and a choice is keyed where it happens, leaving a departure out leaves the
//! others where they were. So this is delta debugging over a list: whole sites first (no frozen nodes at all, no
//! latencies in the store), then parts of the list, then single departures; then values towards 0.
//!
//! Such a list can be stuck in a coincidence: thirty departures that only make two things happen at the same time. So
//! the sites that are left are searched afresh, with everything else at its default, for another failure of the same
//! property that shrinks to less.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::choices::{Choices, Decision, Stream};
use crate::scenario::BOUNDS;
use crate::scheduler::Bounds;
use crate::sweep::Report;

/// How many runs shrinking takes at most, where nothing else is said: a few seconds.
pub const TRIES_MAX: u32 = 2_000;
/// A shrunk run may take this many times the steps of the run that it comes from.
const STEPS_FACTOR: u64 = 4;
/// And so many more.
const STEPS_SPARE: u64 = 50_000;
/// While shrinking, a run that hasn't come to rest after that long counts as stuck: many times what one needs. What is
/// left at last is judged by the whole bound. A story that is long by itself has so much more than it needs.
const TIME_SPARE: Duration = Duration::from_secs(900);
/// Where so few departures are left, no other failure is looked for.
const SMALL_ENOUGH: usize = 8;
/// How many runs afresh are made for one that fails.
const AFRESH_MAX: u32 = 150;

/// What shrinking came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// What is left.
    pub decisions: Vec<Decision>,
    /// How many lists were tried.
    pub tries: u32,
    /// Whether no single departure can be left out or made smaller; otherwise it was given up after that many tries.
    pub is_minimal: bool,
    /// Whether its decisions broke the property again at all: where they don't, the run isn't made by them alone.
    pub is_repeatable: bool,
}

/// Shrinks a list of departures as long as `fails`, which answers with those that the failing run met.
pub fn shrink(
    decisions: Vec<Decision>,
    tries_max: u32,
    fails: impl FnMut(&[Decision]) -> Option<Vec<Decision>>,
) -> Shrunk {
    let mut search = Search { best: decisions, tries: 0, tries_max, fails };
    search.sites();
    loop {
        let before = search.best.clone();
        search.parts();
        search.values();
        if search.best == before || search.is_over() {
            break;
        }
    }
    let is_minimal = !search.is_over();
    Shrunk { decisions: search.best, tries: search.tries, is_minimal, is_repeatable: true }
}

/// Shrinks a failed run for one property; answers with the report of the smallest run that fails in the same way.
pub fn shrink_report(report: &Report, property: &str, tries_max: u32) -> (Shrunk, Report) {
    let bounds = bounds(report, property);
    let run = |choices: Choices| {
        let tried = report.setup.run_within(bounds, choices);
        tried.breaks(property).then_some(tried.decisions)
    };
    let replay = |decisions: &[Decision]| run(Choices::from_decisions(decisions.iter().cloned()));
    let mut shrunk = shrink(report.decisions.clone(), tries_max, replay);
    let mut failed_tries = 0;
    for round in 0.. {
        let is_over = shrunk.tries >= tries_max || failed_tries >= AFRESH_MAX;
        if is_over || shrunk.decisions.len() <= SMALL_ENOUGH {
            break;
        }
        shrunk.tries += 1;
        failed_tries += 1;
        let choices = Choices::narrowed(round, some_sites(&shrunk.decisions, round));
        let Some(decisions) = run(choices) else { continue };
        let other = shrink(decisions, tries_max - shrunk.tries, replay);
        shrunk.tries += other.tries;
        if other.decisions.len() < shrunk.decisions.len() {
            shrunk = Shrunk { tries: shrunk.tries, ..other };
            failed_tries = 0;
        }
    }
    let again = |decisions: &[Decision]| {
        let again = report.setup.run_choices(Choices::from_decisions(decisions.iter().cloned()));
        again.breaks(property).then_some(again)
    };
    let smallest = again(&shrunk.decisions).or_else(|| {
        // It was only late, not stuck. Rare enough to give up.
        shrunk = Shrunk { decisions: report.decisions.clone(), is_minimal: false, ..shrunk.clone() };
        again(&shrunk.decisions)
    });
    shrunk.is_repeatable = smallest.is_some();
    let smallest = smallest.unwrap_or_else(|| report.clone());
    (shrunk, Report { seed: report.seed, strategy: report.strategy, runs: report.runs, ..smallest })
}

/// How far a run may go while this one is shrunk.
fn bounds(report: &Report, property: &str) -> Bounds {
    // A run in which a task never ends says nothing of the time that the story takes.
    let needed = match property {
        "P1" => report.setup.run_choices(Choices::from_decisions([])).virtual_time,
        _ => report.virtual_time,
    };
    Bounds {
        polls: (report.steps * STEPS_FACTOR + STEPS_SPARE).min(BOUNDS.polls),
        time: (needed + TIME_SPARE).min(BOUNDS.time),
    }
}

/// The sites of a list of departures, every second time without some of them.
fn some_sites(decisions: &[Decision], round: u64) -> BTreeSet<(Stream, Cow<'static, str>)> {
    let all: BTreeSet<_> = decisions.iter().map(|d| (d.site.stream, d.site.site.clone())).collect();
    if round.is_multiple_of(2) {
        return all;
    }
    let is_left_out = |place: usize| round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (place % 60) & 3 == 0;
    let kept = all.into_iter().enumerate().filter(|(place, _)| !is_left_out(*place));
    kept.map(|(_, site)| site).collect()
}

struct Search<F> {
    best: Vec<Decision>,
    tries: u32,
    tries_max: u32,
    fails: F,
}

impl<F: FnMut(&[Decision]) -> Option<Vec<Decision>>> Search<F> {
    fn is_over(&self) -> bool {
        self.tries >= self.tries_max
    }

    /// Takes a smaller list, if the failure stays.
    fn try_out(&mut self, candidate: Vec<Decision>) -> bool {
        if self.is_over() {
            return false;
        }
        self.tries += 1;
        match (self.fails)(&candidate) {
            // What the run didn't meet goes as well.
            Some(met) => {
                self.best = if met.len() <= candidate.len() { met } else { candidate };
                true
            }
            None => false,
        }
    }

    fn without(&self, is_left_out: impl Fn(&Decision) -> bool) -> Vec<Decision> {
        self.best.iter().filter(|decision| !is_left_out(decision)).cloned().collect()
    }

    /// Leaves out whole streams, then whole sites, the most frequent first.
    fn sites(&mut self) {
        for stream in Stream::ALL {
            let candidate = self.without(|decision| decision.site.stream == stream);
            if candidate.len() < self.best.len() {
                self.try_out(candidate);
            }
        }
        let mut counts: BTreeMap<(Stream, String), usize> = BTreeMap::new();
        for decision in &self.best {
            *counts.entry((decision.site.stream, decision.site.site.to_string())).or_default() += 1;
        }
        let mut sites: Vec<_> = counts.into_iter().collect();
        sites.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for ((stream, site), _) in sites {
            let candidate =
                self.without(|decision| decision.site.stream == stream && decision.site.site == site);
            if candidate.len() < self.best.len() {
                self.try_out(candidate);
            }
        }
    }

    /// Leaves out parts of the list: halves, quarters, and so on to single ones, until none can be missed.
    fn parts(&mut self) {
        let mut size = self.best.len().div_ceil(2);
        while size > 0 && !self.is_over() {
            let mut start = 0;
            let mut has_shrunk = false;
            while start < self.best.len() && !self.is_over() {
                let end = (start + size).min(self.best.len());
                let mut candidate = self.best[..start].to_vec();
                candidate.extend_from_slice(&self.best[end..]);
                if self.try_out(candidate) {
                    has_shrunk = true;
                } else {
                    start += size;
                }
            }
            // Single ones until none can be missed: one may be needed only because of a later one.
            size = if size == 1 && has_shrunk { 1 } else { size / 2 };
        }
    }

    /// Makes values smaller: 1, else half, else one less.
    fn values(&mut self) {
        let mut place = 0;
        while place < self.best.len() && !self.is_over() {
            let value = self.best[place].value;
            let smaller = [1, value / 2, value - 1];
            let mut candidates: Vec<u32> = smaller.into_iter().filter(|v| (1..value).contains(v)).collect();
            candidates.dedup();
            let is_smaller = candidates.into_iter().any(|value| {
                let mut candidate = self.best.clone();
                candidate[place].value = value;
                self.try_out(candidate)
            });
            // The list may have become another one; then the same place is looked at again.
            place += usize::from(!is_smaller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Site;

    fn decision(site: &'static str, arrival: u32, value: u32) -> Decision {
        Decision { site: Site { stream: Stream::Faults, site: site.into(), actor: 0, arrival }, value }
    }

    fn all() -> Vec<Decision> {
        (0..200).map(|n| decision(["crash", "freeze", "lose"][n as usize % 3], n / 3, 1 + n % 7)).collect()
    }

    /// Fails by a crash at 20 together with a freeze at 31 of at least 3.
    fn fails(decisions: &[Decision]) -> Option<Vec<Decision>> {
        let has = |site: &str, arrival, value| {
            decisions.iter().any(|d| d.site.site == site && d.site.arrival == arrival && d.value >= value)
        };
        (has("crash", 20, 1) && has("freeze", 31, 3)).then(|| decisions.to_vec())
    }

    #[test]
    fn two_needed_departures_of_two_hundred_are_left_with_their_least_values() {
        assert!(fails(&all()).is_some());
        let shrunk = shrink(all(), 1_000, fails);
        assert_eq!(shrunk.decisions, [decision("crash", 20, 1), decision("freeze", 31, 3)]);
        assert!(shrunk.is_minimal);
        assert!(shrunk.tries < 60, "{} tries", shrunk.tries);
    }

    #[test]
    fn a_failure_without_departures_shrinks_to_none() {
        let shrunk = shrink(all(), 1_000, |decisions| Some(decisions.to_vec()));
        assert_eq!(shrunk.decisions, []);
    }

    #[test]
    fn shrinking_gives_up_at_its_bound_and_keeps_what_fails() {
        let mut tries = 0;
        let shrunk = shrink(all(), 5, |decisions| {
            tries += 1;
            fails(decisions)
        });
        assert_eq!((shrunk.tries, shrunk.is_minimal, tries), (5, false, 5));
        assert!(fails(&shrunk.decisions).is_some());
    }

    #[test]
    fn what_a_run_never_met_goes_without_a_try() {
        let met = |decisions: &[Decision]| {
            let met: Vec<_> = decisions.iter().filter(|d| d.site.arrival == 20).cloned().collect();
            met.iter().any(|d| d.site.site == "crash").then_some(met)
        };
        let shrunk = shrink(all(), 1_000, met);
        assert_eq!(shrunk.decisions, [decision("crash", 20, 1)]);
        assert!(shrunk.tries < 10, "{} tries", shrunk.tries);
    }
}
