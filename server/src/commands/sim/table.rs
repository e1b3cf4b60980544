//! `sim table`: how soon each specimen is found, by each strategy that draws from seeds.

use std::num::{NonZeroU64, NonZeroUsize};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;
use steadfast_sim::detection::Subject;
use steadfast_sim::shrink::{TRIES_MAX, shrink_report};
use steadfast_sim::strategy::Strategy;

use super::super::Out;
use super::specimens::{PROFILE, subject};
use super::{Interrupted, Table};
use crate::failure::{Exit, Failure};

/// A specimen and a strategy. A median over searches of which some found nothing counts those as endless: `None` where
/// half of them or more did.
#[derive(Debug, Serialize)]
struct Line {
    specimen: &'static str,
    strategy: &'static str,
    property: &'static str,
    profile: &'static str,
    /// How many of the searches found it.
    found: u64,
    searches: u64,
    /// Seeds until it was found, with the one that found it.
    seeds_median: Option<u64>,
    wall_s_median: Option<f64>,
    /// Virtual time of all these seeds.
    virtual_s_median: Option<f64>,
    /// Departures from the default in the shrunk run.
    decisions_median: Option<u64>,
    decisions_max: Option<u64>,
}

/// One search that found something.
#[derive(Debug, Clone, Copy)]
struct Find {
    seeds: u64,
    wall: Duration,
    virtual_time: Duration,
    decisions: u64,
}

pub(super) fn table(args: &Table, interrupted: &Interrupted, out: Out) -> Result<ExitCode, Failure> {
    let subjects: Vec<Subject> = if args.specimen.is_empty() {
        Subject::all().collect()
    } else {
        args.specimen.iter().map(|name| subject(name)).collect::<Result<_, _>>()?
    };
    let searches: Vec<_> =
        subjects.iter().flat_map(|subject| Strategy::SEEDED.map(|strategy| (*subject, strategy))).collect();
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    if !out.json {
        out.write(&(), |out| {
            writeln!(
                out,
                "{:<32} {:<8} {:<5} {:>6} {:>7} {:>8} {:>10} {:>10}",
                "specimen", "strategy", "prop.", "found", "seeds", "wall s", "virtual s", "decisions"
            )
        })?;
    }
    let mut is_all_found = true;
    in_order(
        jobs,
        &searches,
        |(subject, strategy)| Line::of(subject, *strategy, args, interrupted),
        |line| {
            if interrupted.is_set() {
                return Ok(());
            }
            is_all_found &= line.found == line.searches;
            line.write(out)
        },
    )?;
    Ok(ExitCode::from(match (interrupted.is_set(), is_all_found) {
        (true, _) => Exit::Interrupted as u8,
        (false, true) => 0,
        (false, false) => Exit::Failed as u8,
    }))
}

/// Does `work` on several threads, and gives what comes of it to `tell` in the order of `all`, as soon as it is there.
fn in_order<T: Sync, R: Send>(
    jobs: NonZeroUsize,
    all: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut tell: impl FnMut(R) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..jobs.get() {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(number) else { break };
                    if sender.send((number, work(one))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early = std::collections::BTreeMap::new();
        let mut told = 0;
        for (number, result) in receiver {
            early.insert(number, result);
            while let Some(result) = early.remove(&told) {
                tell(result)?;
                told += 1;
            }
        }
        Ok(())
    })
}

impl Line {
    fn of(subject: &Subject, strategy: Strategy, args: &Table, interrupted: &Interrupted) -> Self {
        let searches = args.repeat.get();
        let finds: Vec<Find> = (0..searches)
            .filter_map(|search| Find::of(subject, strategy, search, args.seeds_max, interrupted))
            .collect();
        let seconds = |duration: Duration| duration.as_secs_f64();
        Self {
            specimen: subject.name,
            strategy: strategy.as_str(),
            property: subject.property,
            profile: PROFILE.as_str(),
            found: finds.len() as u64,
            searches,
            seeds_median: median(searches, finds.iter().map(|find| find.seeds)),
            wall_s_median: median(searches, finds.iter().map(|find| find.wall)).map(seconds),
            virtual_s_median: median(searches, finds.iter().map(|find| find.virtual_time)).map(seconds),
            decisions_median: median(searches, finds.iter().map(|find| find.decisions)),
            decisions_max: finds.iter().map(|find| find.decisions).max(),
        }
    }

    fn write(&self, out: Out) -> Result<(), Failure> {
        let figure = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
        out.write(self, |out| {
            writeln!(
                out,
                "{:<32} {:<8} {:<5} {:>6} {:>7} {:>8} {:>10} {:>10}",
                self.specimen,
                self.strategy,
                self.property,
                format!("{}/{}", self.found, self.searches),
                figure(self.seeds_median.map(|seeds| seeds.to_string())),
                figure(self.wall_s_median.map(|wall| format!("{wall:.2}"))),
                figure(self.virtual_s_median.map(|time| format!("{time:.0}"))),
                figure(self.decisions_median.map(|decisions| decisions.to_string())),
            )
        })
    }
}

impl Find {
    /// One search, from seeds of its own; without the time that shrinking takes.
    fn of(
        subject: &Subject,
        strategy: Strategy,
        search: u64,
        seeds_max: NonZeroU64,
        interrupted: &Interrupted,
    ) -> Option<Self> {
        let setup = subject.setup(PROFILE);
        let started = Instant::now();
        let start = search.wrapping_mul(seeds_max.get());
        let mut virtual_time = Duration::ZERO;
        for seeds in 1..=seeds_max.get() {
            if interrupted.is_set() {
                return None;
            }
            let report = setup.run_with(strategy, start.wrapping_add(seeds - 1));
            virtual_time += report.virtual_time;
            if report.breaks(subject.property) {
                let wall = started.elapsed();
                let (shrunk, _) = shrink_report(&report, subject.property, TRIES_MAX);
                return Some(Self { seeds, wall, virtual_time, decisions: shrunk.decisions.len() as u64 });
            }
        }
        None
    }
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
    fn lines_are_told_in_order_however_long_each_took() {
        let all: Vec<u64> = (0..20).collect();
        let mut told = Vec::new();
        let jobs = NonZeroUsize::new(4).unwrap();
        in_order(
            jobs,
            &all,
            |n| n * 2,
            |n| {
                told.push(n);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(told, (0..20).map(|n| n * 2).collect::<Vec<_>>());
    }
}
