//! Running scenarios: one run, every run of a strategy, many seeds on several threads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use steadfast_core::name::TaskId;

use crate::choices::{Choices, Decision};
use crate::determinism::{self, Divergence};
use crate::history::{Entry, Event};
use crate::oracle::{self, Violation};
use crate::panics;
use crate::scenario::{BOUNDS, Scenario};
use crate::scheduler::{Bounds, Stuck};
use crate::storage::flaws::Flaw;
use crate::strategy::{Enumerated, Enumeration, Strategy};
use crate::world::{EPOCH, Profile, World};

/// How many runs an exhaustive search of one workload has at most.
pub const ENUMERATED_RUNS_MAX: u64 = 200_000;
/// Every so many-th seed of a sweep is run twice, to see that it is the same run.
const SEEDS_PER_RERUN: u64 = 128;
/// How many unfinished tasks are named where a run got stuck.
const STUCK_TASKS_SHOWN_MAX: usize = 5;

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
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run.
    pub setup: Setup,
    /// The seed, where there was one.
    pub seed: Option<u64>,
    /// How its choices were drawn.
    pub strategy: Strategy,
    /// How many runs it took: 1, but for an exhaustive search.
    pub runs: u64,
    /// Whether an exhaustive search was given up before it had made all of its runs.
    pub is_given_up: bool,
    /// Polls of all tasks.
    pub steps: u64,
    /// How long it lasted in virtual time.
    pub virtual_time: Duration,
    /// What was chosen differently from the default.
    pub decisions: Vec<Decision>,
    /// What should have been chosen differently, but the run never came there.
    pub unapplied: Vec<Decision>,
    /// The properties that were broken, and whether it got stuck.
    pub violations: Vec<Violation>,
    /// All that happened.
    pub entries: Vec<Entry>,
    /// The names of the scheduler's tasks, by their numbers.
    pub tasks: Vec<Cow<'static, str>>,
    /// Whether everybody had time to come to an end.
    pub(crate) at_rest: bool,
    pub(crate) hash: u64,
}

impl Report {
    /// A number that is equal for equal runs: for their histories and their numbers of steps.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The violation that says most: that a task never ended is often only what another one led to.
    pub fn headline(&self) -> Option<&Violation> {
        let first = self.violations.iter().find(|violation| violation.property != "P1");
        first.or(self.violations.first())
    }

    /// What is broken in the eyes of an oracle that doesn't know this property.
    pub fn violations_without(&self, property: &str) -> Vec<Violation> {
        let mut violations = oracle::judge_without(Some(property), &self.entries, self.at_rest);
        // That a run got stuck isn't in its history.
        let stuck = self.violations.iter().skip(oracle::judge(&self.entries, self.at_rest).len());
        violations.extend(stuck.filter(|violation| violation.property != property).cloned());
        violations
    }

    /// Whether it broke this property.
    pub fn breaks(&self, property: &str) -> bool {
        self.violations.iter().any(|violation| violation.property == property)
    }

    /// Where another run parts from this one, which should have been the same.
    pub fn divergence(&self, again: &Report) -> Option<Box<Divergence>> {
        if self.hash == again.hash {
            return None;
        }
        // Where the histories agree the steps don't: they part in what isn't noted.
        let unnoted = || Divergence::at(self.entries.len(), &self.entries, &again.entries);
        let divergence = determinism::first_divergence(&self.entries, &again.entries).unwrap_or_else(unnoted);
        Some(Box::new(Divergence { setup: Some(self.setup.clone()), seed: self.seed, ..divergence }))
    }
}

impl Setup {
    /// Runs one seed as a random walk.
    pub fn run(&self, seed: u64) -> Report {
        Report { seed: Some(seed), ..self.run_choices(Choices::from_seed(seed)) }
    }

    /// Runs one seed; an exhaustive search runs until something is broken, and reports on its first run if nothing is.
    pub fn run_with(&self, strategy: Strategy, seed: u64) -> Report {
        self.run_while(strategy, seed, &|| true)
    }

    /// The same; an exhaustive search is given up as soon as `go_on` says no.
    pub fn run_while(&self, strategy: Strategy, seed: u64, go_on: &dyn Fn() -> bool) -> Report {
        let report = match strategy {
            Strategy::Random | Strategy::Pct => self.run_choices(strategy.choices(seed)),
            Strategy::Exhaustive { departures } => self.enumerate(seed, departures, go_on),
        };
        Report { seed: Some(seed), strategy, ..report }
    }

    /// Runs from any choices.
    pub fn run_choices(&self, choices: Choices) -> Report {
        self.run_within(BOUNDS, choices)
    }

    /// Runs from any choices within these bounds.
    pub fn run_within(&self, bounds: Bounds, choices: Choices) -> Report {
        let world = World::new(choices.clone(), self.profile, self.flaws.iter().copied());
        let played = panics::catch(|| world.scheduler().run(bounds, (self.scenario.run)(world.clone())));
        let entries = world.history().take_entries();
        // Where time ran out everybody had more than enough of it; a test that failed has broken off.
        let has_failed = matches!(entries.last().map(|entry| &entry.event), Some(Event::Asserted { .. }));
        let at_rest = !has_failed && matches!(played, Ok(Ok(()) | Err(Stuck::Time(_))));
        let mut violations = oracle::judge(&entries, at_rest);
        match played {
            Ok(Ok(())) => {}
            Ok(Err(stuck)) => violations.push(of_stuck(&stuck, &world)),
            Err(said) => {
                world.scheduler().abandon();
                violations.push(of_panic(said));
            }
        }
        let steps = world.scheduler().polls();
        Report {
            setup: self.clone(),
            seed: None,
            strategy: Strategy::Random,
            runs: 1,
            is_given_up: false,
            steps,
            virtual_time: entries.last().map(|entry| entry.at.since(EPOCH)).unwrap_or_default(),
            decisions: choices.departures(),
            unapplied: choices.unapplied(),
            violations,
            at_rest,
            hash: determinism::hash(&entries).wrapping_add(steps),
            entries,
            tasks: world.scheduler().names(),
        }
    }

    fn enumerate(&self, workload: u64, departures_max: u32, go_on: &dyn Fn() -> bool) -> Report {
        let enumeration = Enumeration { workload, departures_max, runs_max: ENUMERATED_RUNS_MAX };
        let mut runs = 0;
        // Broken off with the run that broke something, or with nothing.
        let enumerated = enumeration.each(|choices| {
            if !go_on() {
                return ControlFlow::Break(None);
            }
            let report = self.run_choices(choices.clone());
            runs += 1;
            let is_broken = !report.violations.is_empty();
            if is_broken { ControlFlow::Break(Some(report)) } else { ControlFlow::Continue(()) }
        });
        let is_given_up = matches!(enumerated, Enumerated::GivenUp | Enumerated::Found(None, _));
        match enumerated {
            Enumerated::Found(Some(report), _) => Report { runs, ..report },
            Enumerated::All(_) | Enumerated::GivenUp | Enumerated::Found(None, _) => {
                Report { runs, is_given_up, ..self.run_choices(Choices::enumerated(workload, [])) }
            }
        }
    }

    /// Runs one seed twice.
    ///
    /// # Errors
    /// [`Divergence`] where it wasn't the same run.
    pub fn run_twice(&self, seed: u64) -> Result<Report, Box<Divergence>> {
        let report = self.run(seed);
        match report.divergence(&self.run(seed)) {
            None => Ok(report),
            Some(divergence) => Err(divergence),
        }
    }

    /// Runs seeds until one breaks a property; answers with its report.
    pub fn find(&self, seeds: impl IntoIterator<Item = u64>) -> Option<Report> {
        self.find_with(Strategy::Random, seeds)
    }

    /// The same with another strategy.
    pub fn find_with(&self, strategy: Strategy, seeds: impl IntoIterator<Item = u64>) -> Option<Report> {
        let mut reports = seeds.into_iter().map(|seed| self.run_with(strategy, seed));
        reports.find(|report| !report.violations.is_empty())
    }
}

fn of_stuck(stuck: &Stuck, world: &World) -> Violation {
    let tasks = world.history().tasks();
    let unfinished: Vec<_> = tasks.values().filter(|task| !task.state.is_terminal()).collect();
    let mut what = stuck.to_string();
    for task in unfinished.iter().take(STUCK_TASKS_SHOWN_MAX) {
        what += &format!("; {} is {}", task.id, task.state);
        if task.parents_pending > 0 {
            what += &format!(" and waits for {} of its parents", task.parents_pending);
        }
        if let (Some(worker), false) = (&task.worker, task.state.is_waiting()) {
            what += &format!(" under {worker}, fence {}", task.fence);
        }
    }
    if unfinished.len() > STUCK_TASKS_SHOWN_MAX {
        what += &format!("; and {} more", unfinished.len() - STUCK_TASKS_SHOWN_MAX);
    }
    let task: Option<TaskId> = unfinished.first().map(|task| task.id.clone());
    Violation { property: "P1", meaning: "an accepted task ends", what, task }
}

fn of_panic(said: String) -> Violation {
    Violation { property: "panic", meaning: "nothing but a handler panics", what: said, task: None }
}

/// Many seeds on several threads. The threads are outside of every simulation: each run is one thread's alone.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// What each seed is run on.
    pub setups: Vec<Setup>,
    /// Which seeds.
    pub seeds: Range<u64>,
    /// How their choices are drawn.
    pub strategy: Strategy,
    /// How many threads.
    pub jobs: NonZeroUsize,
}

/// What a sweep came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// How often a seed was run on a setup.
    pub searches: u64,
    /// How many runs that took: one each, but for an exhaustive search.
    pub runs: u64,
    /// How many of them broke something, or weren't the same when they were run again.
    pub failures: u64,
    /// How many were run again to see that.
    pub reruns: u64,
    /// In how many runs each goal was reached. Of an exhaustive search only what departs from nothing is looked at.
    pub goals: BTreeMap<Goal, u64>,
    /// Polls of all runs.
    pub steps: u64,
    /// Virtual time of all runs.
    pub virtual_time: Duration,
    /// A number that is equal for equal runs, in whatever order they were made.
    pub hash: u64,
}

/// What must happen sometimes, in a scenario on a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Goal {
    /// In words.
    pub what: &'static str,
    /// In which scenario.
    pub scenario: &'static str,
    /// On which store.
    pub profile: Profile,
}

/// What a sweep tells while it goes on.
#[derive(Debug)]
pub enum News {
    /// A run went well.
    Held,
    /// A run broke a property.
    Broke(Box<Report>),
    /// A run wasn't the same when it was run again.
    Parted(Box<Divergence>),
}

impl Sweep {
    /// Runs all seeds, or until `go_on` says no; tells the caller's thread what happens, in no particular order.
    pub fn run(&self, go_on: impl Fn() -> bool + Sync, mut tell: impl FnMut(News)) -> Swept {
        let next = AtomicU64::new(self.seeds.start);
        let mut swept = Swept::default();
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(64);
            for _ in 0..self.jobs.get() {
                let (sender, next, go_on, stopped) = (sender.clone(), &next, &go_on, &stopped);
                scope.spawn(move || {
                    while !stopped.load(Ordering::Relaxed) && go_on() {
                        let seed = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seed| {
                            (seed < self.seeds.end).then(|| seed + 1)
                        });
                        let Ok(seed) = seed else { break };
                        for setup in &self.setups {
                            if sender.send(self.one(setup, seed, go_on)).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
            drop(sender);
            for (part, news) in receiver {
                swept.add(part);
                tell(news);
            }
        });
        swept
    }

    fn one(&self, setup: &Setup, seed: u64, go_on: &dyn Fn() -> bool) -> (Swept, News) {
        let is_rerun = self.strategy == Strategy::Random && seed.is_multiple_of(SEEDS_PER_RERUN);
        let report = match is_rerun {
            true => setup.run_twice(seed),
            false => Ok(setup.run_while(self.strategy, seed, go_on)),
        };
        let mut part = Swept { searches: 1, runs: 1, reruns: u64::from(is_rerun), ..Swept::default() };
        let report = match report {
            Ok(report) => report,
            Err(divergence) => return (Swept { failures: 1, ..part }, News::Parted(divergence)),
        };
        part.runs = report.runs;
        let goals = setup.scenario.goals;
        let reached = (goals.reached)(&report.entries);
        let (scenario, profile) = (setup.scenario.name, setup.profile);
        let of = |what| (Goal { what, scenario, profile }, u64::from(reached.contains(what)));
        part.goals = goals.of(profile).map(of).collect();
        part.steps = report.steps;
        part.virtual_time = report.virtual_time;
        part.hash = report.hash ^ seed.rotate_left(32);
        if report.violations.is_empty() {
            return (part, News::Held);
        }
        (Swept { failures: 1, ..part }, News::Broke(Box::new(report)))
    }
}

impl Swept {
    fn add(&mut self, part: Swept) {
        let Swept { searches, runs, failures, reruns, goals, steps, virtual_time, hash } = part;
        self.searches += searches;
        self.runs += runs;
        self.failures += failures;
        self.reruns += reruns;
        for (goal, count) in goals {
            *self.goals.entry(goal).or_default() += count;
        }
        self.steps += steps;
        self.virtual_time += virtual_time;
        self.hash = self.hash.wrapping_add(hash);
    }

    /// The goals that no run reached.
    pub fn missed(&self) -> Vec<Goal> {
        self.goals.iter().filter(|(_, runs)| **runs == 0).map(|(goal, _)| *goal).collect()
    }
}

impl fmt::Display for Report {
    /// The page of a failure, shrunk: that takes up to [`TRIES_MAX`](crate::shrink::TRIES_MAX) runs. A line where
    /// nothing is broken.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.headline() {
            Some(violation) => crate::page::Page::of(self, violation.property).fmt(f),
            None => {
                let Setup { scenario, profile, .. } = &self.setup;
                let seed = self.seed.map_or_else(|| "recorded".to_owned(), |seed| format!("seed {seed}"));
                let seconds = self.virtual_time.as_secs_f64();
                let (name, profile) = (scenario.name, profile.as_str());
                write!(f, "{name} on {profile}, {seed}: ")?;
                match (self.strategy, self.is_given_up) {
                    (Strategy::Exhaustive { departures }, false) => {
                        write!(
                            f,
                            "holds in all {} runs with at most {departures} departures; without any: ",
                            self.runs
                        )?;
                    }
                    (Strategy::Exhaustive { .. }, true) => {
                        write!(
                            f,
                            "nothing was found in {} runs, then it was given up; without departures: ",
                            self.runs
                        )?;
                    }
                    (Strategy::Random | Strategy::Pct, _) => write!(f, "holds; ")?,
                }
                write!(f, "hash {:016x}, {} steps, {seconds:.1} s of virtual time", self.hash, self.steps)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::workers;

    fn setup(profile: Profile) -> Setup {
        Setup { scenario: workers::SCENARIO, profile, flaws: Vec::new() }
    }

    #[test]
    fn a_few_seeds_hold() {
        for profile in Profile::ALL {
            if let Some(report) = setup(profile).find(0..50) {
                panic!("{report}");
            }
        }
    }

    #[test]
    fn a_sweep_is_the_same_on_one_thread_and_on_two() {
        let sweep = |jobs| {
            let setups = Profile::ALL.map(setup).to_vec();
            let jobs = NonZeroUsize::new(jobs).unwrap();
            Sweep { setups, seeds: 0..40, strategy: Strategy::Random, jobs }.run(|| true, |_| {})
        };
        let one = sweep(1);
        assert_eq!(one, sweep(2));
        assert_eq!((one.runs, one.reruns), (80, 2));
    }

    #[test]
    fn a_sweep_ends_when_it_is_told_to() {
        let done = AtomicU64::new(0);
        let sweep = Sweep {
            setups: vec![setup(Profile::Sqlite)],
            seeds: 0..u64::MAX,
            strategy: Strategy::Pct,
            jobs: NonZeroUsize::MIN,
        };
        let swept = sweep.run(
            || done.load(Ordering::Relaxed) < 3,
            |_| {
                done.fetch_add(1, Ordering::Relaxed);
            },
        );
        assert!((3..100).contains(&swept.runs), "{}", swept.runs);
    }
}
