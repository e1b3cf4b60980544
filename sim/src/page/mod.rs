//! The page of a failure, which a person reads in two minutes: what is broken, what was chosen, what happened to the
//! tasks concerned in a lane for each node, and how to see it again.

mod embedded;
mod lanes;
mod words;

use std::fmt;

use crate::capsule::Capsule;
use crate::oracle::{self, Violation};
use crate::scenario::{self, workers};
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
    /// Its last lines, where they aren't those of Steadfast's own scenarios.
    ending: Option<String>,
}

/// What a shrunk run was shrunk from.
#[derive(Debug, Clone, Copy)]
struct FromWhat {
    decisions: usize,
    tries: u32,
    is_minimal: bool,
    is_repeatable: bool,
    runs: u64,
}

impl Page {
    /// The page of a failed run, shrunk for the property that is broken.
    ///
    /// # Panics
    /// Where the run doesn't break that property.
    pub fn of(report: &Report, property: &str) -> Self {
        Self::shrunk_within(TRIES_MAX, report, property)
    }

    /// The same in at most so many runs.
    ///
    /// # Panics
    /// Where the run doesn't break that property.
    pub fn shrunk_within(tries_max: u32, report: &Report, property: &str) -> Self {
        let (shrunk, smallest) = shrink_report(report, property, tries_max);
        let from = FromWhat {
            decisions: report.decisions.len(),
            tries: shrunk.tries,
            is_minimal: shrunk.is_minimal,
            is_repeatable: shrunk.is_repeatable,
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
        Self { report, violation, shrunk: None, ending: None }
    }

    /// Ends it with these lines in place of how Steadfast's own scenarios are run again.
    #[must_use]
    pub fn ending_with(self, lines: impl Into<String>) -> Self {
        Self { ending: Some(lines.into()), ..self }
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
        for other in report.violations.iter().filter(|other| *other != violation) {
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
        match &self.ending {
            Some(lines) => writeln!(f, "{lines}"),
            None => self.write_again(f),
        }
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
        if self.shrunk.is_some_and(|from| !from.is_repeatable) {
            writeln!(
                f,
                "          run again, the same decisions broke nothing: the run depends on something else, too"
            )?;
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
            match strategy {
                Strategy::Random => {}
                Strategy::Pct => write!(f, " --strategy {strategy}")?,
                Strategy::Exhaustive { departures } => {
                    write!(f, " --strategy {strategy} --departures {departures}")?;
                }
            }
            for flaw in flaws {
                write!(f, " --flaw {}", flaw.as_str())?;
            }
            writeln!(f)?;
            // The design of an incident, which fails, is none that the tests know.
            if scenario::find(scenario.name).is_some() && flaws.is_empty() && *strategy == Strategy::Random {
                // The tests run `workers` unless they are told of another scenario.
                let of_scenario = match scenario.name {
                    name if name == workers::SCENARIO.name => String::new(),
                    name => format!("STEADFAST_SCENARIO={name} "),
                };
                writeln!(
                    f,
                    "  {of_scenario}STEADFAST_SEED={seed} STEADFAST_PROFILE={profile} cargo test -p steadfast-tests simulation"
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
    use std::sync::Arc;
    use std::time::Duration;

    use steadfast_core::task::Task;
    use steadfast_core::{Cause, State, WorkerId};

    use super::*;
    use crate::choices::{Decision, Site, Stream};
    use crate::history::{Entry, Event, SubmitAnswer, Word};
    use crate::oracle::made;
    use crate::scenario::workers;
    use crate::storage::flaws::Flaw;
    use crate::world::{EPOCH, Profile};

    fn setup(flaw: Flaw) -> Setup {
        Setup { scenario: workers::SCENARIO, profile: Profile::Postgres, flaws: vec![flaw] }
    }

    /// The changes of a task that is settled by an attempt that had lost it.
    fn settled_by_a_zombie() -> Vec<(u64, Task)> {
        let worker = |name: &str| Some(WorkerId::trusted(name));
        let mut steps = vec![(0, Task { rev: 0, ..made::task() })];
        let mut then = |at, change: &dyn Fn(&mut Task)| {
            let mut task: Task = steps.last().expect("the first is there").1.clone();
            change(&mut task);
            steps.push((at, task));
        };
        then(10, &|task| {
            (task.rev, task.state, task.fence, task.attempt, task.worker) =
                (1, State::Running, 1, 1, worker("w0.0"));
        });
        then(3_000, &|task| task.lease_expires_at = Some(EPOCH));
        then(6_000, &|task| task.lease_expires_at = Some(EPOCH));
        then(25_000, &|task| {
            (task.rev, task.state, task.attempt, task.rescues) = (2, State::Ready, 0, 1);
            task.cause = Some(Cause::LeaseLapsed);
        });
        then(25_010, &|task| {
            (task.rev, task.state, task.fence, task.attempt, task.worker) =
                (3, State::Running, 2, 1, worker("w1.0"));
        });
        then(26_500, &|task| {
            (task.rev, task.state, task.cause) = (4, State::Succeeded, Some(Cause::Done));
            task.output = Some((*b"fence 1").into());
        });
        steps
    }

    fn told_by_the_others() -> Vec<(u64, Event)> {
        let id = || made::task().id;
        let entered = |node: &str, fence| Event::Entered {
            node: node.into(),
            task: id(),
            payload_id: "t".into(),
            fence,
        };
        vec![
            (0, Event::Started { node: "api".into() }),
            (0, Event::Started { node: "w0.0".into() }),
            (0, Event::Started { node: "w1.0".into() }),
            (0, Event::Started { node: "w2.0".into() }),
            (0, Event::Submitting { task: id() }),
            (5, Event::Submitted { task: id(), answer: SubmitAnswer::Accepted(id()) }),
            (20, entered("w0.0", 1)),
            (7_000, Event::Froze { node: "w0.0".into() }),
            (9_000, Event::Crashed { node: "w2.0".into() }),
            (25_020, entered("w1.0", 2)),
            (26_000, Event::Thawed { node: "w0.0".into() }),
            (26_000, Event::Said { task: id(), fence: 1, word: Word::Done }),
            (27_000, Event::Told { task: id(), fence: 2, lost: false }),
            (90_000, Event::Healed),
        ]
    }

    /// A report whose history is written by hand, so that the page stays while scenarios change.
    fn made_report() -> Report {
        let mut timed = told_by_the_others();
        let mut before: Option<Arc<Task>> = None;
        for (millis, task) in settled_by_a_zombie() {
            let after = Arc::new(task);
            timed.push((millis, Event::Changed { before, after: after.clone() }));
            before = Some(after);
        }
        timed.sort_by_key(|(millis, _)| *millis);
        let entry = |(millis, event)| Entry { at: EPOCH + Duration::from_millis(millis), event };
        let entries: Vec<Entry> = timed.into_iter().map(entry).collect();
        let decision = |stream, site: &'static str, actor, arrival, value| Decision {
            site: Site { stream, site: site.into(), actor, arrival },
            value,
        };
        let handler = xxhash_rust::xxh3::xxh3_64(b"t");
        Report {
            setup: setup(Flaw::UnfencedTransition),
            seed: Some(7),
            strategy: Strategy::Random,
            runs: 1,
            is_given_up: false,
            steps: 1_234,
            virtual_time: Duration::from_secs(90),
            decisions: vec![
                decision(Stream::Workload, "attempts", 0, 0, 2),
                decision(Stream::Workload, "handler", handler, 0, 5),
                decision(Stream::Workload, "short work", handler, 0, 99),
                decision(Stream::Faults, "blow", 0, 2, 3),
                decision(Stream::Faults, "frozen for", 0, 0, 3),
                decision(Stream::Faults, "apply", 3, 4, 3),
                decision(Stream::Schedule, "set aside", 1, 9, 4),
                decision(Stream::Storage, "commit", 4, 1, 3),
            ],
            unapplied: vec![decision(Stream::Faults, "claim", 9, 0, 1)],
            violations: oracle::judge(&entries, true)
                .into_iter()
                .filter(|one| one.property == "P4")
                .collect(),
            entries,
            tasks: vec!["main".into(), "w0.0/supervisor".into()],
            at_rest: true,
            hash: 0x5eed,
        }
    }

    #[test]
    fn a_page_tells_the_story_of_a_missing_fence() {
        insta::assert_snapshot!(Page::as_it_is(made_report(), "P4"));
    }

    #[test]
    fn the_page_of_a_seed_is_shrunk_and_its_capsule_replays_it() {
        let report = setup(Flaw::UnfencedTransition).find(0..1_000).expect("the fence is missed");
        let property = report.headline().expect("it failed").property;
        let page = Page::shrunk_within(200, &report, property);
        let text = page.to_string();
        assert!(text.starts_with(&format!("{property} is broken")) && text.contains("══"), "{text}");
        assert!(page.report().decisions.len() < report.decisions.len() / 4, "{text}");
        let line = text.lines().last().expect("a page has lines");
        let replayed =
            Capsule::from_json(line).expect("the last line is a capsule").replay().expect("it is ours");
        assert_eq!(replayed.hash(), page.report().hash());
        assert!(replayed.breaks(property));
    }
}
