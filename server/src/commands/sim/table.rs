//! `sim table`: how soon each specimen is found, by each strategy that draws from seeds.

mod line;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::num::{NonZeroU64, NonZeroUsize};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use steadfast_sim::detection::Subject;
use steadfast_sim::shrink::{TRIES_MAX, shrink_report};
use steadfast_sim::strategy::Strategy;

use super::super::{Out, note};
use super::specimens::{PROFILE, subject};
use super::{Interrupted, Table};
use crate::failure::{Exit, Failure};
use line::{Form, Line};

/// One search that found something.
#[derive(Debug, Clone, Copy)]
struct Find {
    seeds: u64,
    wall: Duration,
    virtual_time: Duration,
    decisions: u64,
}

pub(super) fn table(args: &Table, interrupted: &Interrupted, out: Out) -> Result<ExitCode, Failure> {
    let form = if args.markdown { Form::Markdown } else { Form::Plain };
    form.head(out)?;
    let mut lines = Vec::new();
    if let Some(file) = &args.from {
        for line in line::read(file)? {
            line.write(form, out)?;
            lines.push(line);
        }
    } else {
        measure(args, interrupted, |line| {
            line.write(form, out)?;
            lines.push(line);
            Ok(())
        })?;
    }
    if interrupted.is_set() {
        return Ok(ExitCode::from(Exit::Interrupted as u8));
    }
    let unfound = summarise(&lines);
    Ok(ExitCode::from(if unfound.is_empty() { 0 } else { Exit::Failed as u8 }))
}

/// Searches for each specimen with each strategy.
fn measure(
    args: &Table,
    interrupted: &Interrupted,
    mut tell: impl FnMut(Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let subjects: Vec<Subject> = if args.specimen.is_empty() {
        Subject::all().collect()
    } else {
        args.specimen.iter().map(|name| subject(name)).collect::<Result<_, _>>()?
    };
    let searches: Vec<_> =
        subjects.iter().flat_map(|subject| Strategy::SEEDED.map(|strategy| (*subject, strategy))).collect();
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let bar = progress(searches.len() as u64 * args.repeat.get());
    in_order(
        jobs,
        &searches,
        |(subject, strategy)| {
            let finds = finds(subject, *strategy, args, interrupted, &bar)?;
            Some(Line::of(subject, *strategy, args.repeat.get(), &finds))
        },
        |line| line.map_or(Ok(()), |line| bar.suspend(|| tell(line))),
    )?;
    bar.finish_and_clear();
    Ok(())
}

/// A bar for people who wait, also where the lines are for a program.
fn progress(searches: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} searches  {elapsed}  {eta} left  {msg}");
    ProgressBar::with_draw_target(Some(searches), ProgressDrawTarget::stderr())
        .with_style(style.expect("the template is well-formed"))
}

/// Says on stderr which specimens miss the aims; answers with those that neither strategy finds in every search.
fn summarise(lines: &[Line]) -> Vec<&str> {
    let mut of: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        of.entry(&line.specimen).or_default().push(line);
    }
    let misses = |is_good: fn(&Line) -> bool| -> Vec<&str> {
        of.iter()
            .filter(|(_, lines)| !lines.iter().any(|line| is_good(line)))
            .map(|(name, _)| *name)
            .collect()
    };
    let unfound = misses(|line| line.found == line.searches);
    note(format_args!("{} specimens, {} of them not found by either strategy", of.len(), unfound.len()));
    let late = misses(Line::is_soon);
    if !late.is_empty() {
        note(format_args!("found later than is aimed at, or shrunk to more: {}", late.join(", ")));
    }
    unfound
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
        let mut early = BTreeMap::new();
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

/// What the searches for one specimen found, each from seeds of its own; nothing where they were interrupted.
fn finds(
    subject: &Subject,
    strategy: Strategy,
    args: &Table,
    interrupted: &Interrupted,
    bar: &ProgressBar,
) -> Option<Vec<Find>> {
    let search = |search| {
        bar.set_message(subject.name);
        let find = Find::of(subject, strategy, search, args.seeds_max, interrupted);
        bar.inc(1);
        find
    };
    let finds = (0..args.repeat.get()).filter_map(search).collect();
    (!interrupted.is_set()).then_some(finds)
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

#[cfg(test)]
mod tests {
    use super::*;

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
