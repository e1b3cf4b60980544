//! `sim sweep`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use steadfast_sim::determinism::Divergence;
use steadfast_sim::page::Page;
use steadfast_sim::strategy::Strategy;
use steadfast_sim::sweep::{News, Report, Swept};

use super::super::Out;
use super::{Interrupted, Sweep, What};
use crate::failure::{Exit, Failure};

/// From how many seeds on every goal must be reached.
const SEEDS_FOR_GOALS: u64 = 1_000;

pub(super) fn sweep(args: &Sweep, interrupted: &Interrupted, out: Out) -> Result<ExitCode, Failure> {
    if args.what.list {
        return What::names(out);
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let Some(end) = args.start.checked_add(args.seeds.get()) else {
        let message =
            format!("there are no {} seeds from {} on: the last is {}", args.seeds, args.start, u64::MAX - 1);
        return Err(Failure::new(Exit::Usage, message).help("give a smaller --start, or fewer --seeds"));
    };
    let seeds = args.start..end;
    let setups = args.what.setups()?;
    if let Some(folder) = &args.keep {
        std::fs::create_dir_all(folder).map_err(|error| cannot_keep(folder, &error))?;
    }
    let bar = progress(args.seeds.get().saturating_mul(setups.len() as u64), out);
    let started = Instant::now();
    let go_on = || !interrupted.is_set() && args.time.is_none_or(|time| started.elapsed() < time);
    let keep = args.keep.as_deref();
    let mut failures =
        Failures { shown: BTreeSet::new(), shrinks: !args.what.no_shrink, keep, out, error: None };
    let strategy = args.what.strategy();
    let per_seed = setups.len() as u64;
    let searched = steadfast_sim::sweep::Sweep { setups, seeds, strategy, jobs };
    let has_goals = !matches!(strategy, Strategy::Exhaustive { .. });
    let swept = searched.run(go_on, |news| {
        bar.inc(1);
        match news {
            News::Held => {}
            News::Broke(report) => bar.suspend(|| failures.broke(&report)),
            News::Parted(divergence) => bar.suspend(|| failures.parted(&divergence)),
        }
    });
    bar.finish_and_clear();
    summarise(&swept, started.elapsed(), per_seed, interrupted.is_set(), out)?;
    if let Some(error) = failures.error {
        return Err(error);
    }
    let enough = has_goals && swept.searches / per_seed.max(1) >= SEEDS_FOR_GOALS;
    let is_failed = swept.failures > 0 || (enough && !swept.missed().is_empty());
    Ok(ExitCode::from(match (interrupted.is_set(), is_failed) {
        (true, _) => Exit::Interrupted as u8,
        (false, true) => Exit::Failed as u8,
        (false, false) => 0,
    }))
}

/// A bar for people who wait.
fn progress(runs: u64, out: Out) -> ProgressBar {
    if out.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs  {per_sec}  {eta} left  {msg}");
    ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr())
        .with_style(style.expect("the template is well-formed"))
}

/// Shows failures as they are found: the first of each property with its page, the others with a line.
struct Failures<'a> {
    shown: BTreeSet<(&'static str, &'static str, &'static str)>,
    shrinks: bool,
    keep: Option<&'a Path>,
    out: Out,
    error: Option<Failure>,
}

impl Failures<'_> {
    fn broke(&mut self, report: &Report) {
        let Some(violation) = report.headline() else { return };
        let (scenario, profile) = (report.setup.scenario.name, report.setup.profile.as_str());
        let is_first = self.shown.insert((scenario, profile, violation.property));
        let page = (is_first && self.shrinks).then(|| Page::of(report, violation.property));
        let capsule = page.as_ref().map(|page| json!(page.capsule()));
        let shrunk = page.as_ref().map(|page| page.report().decisions.len());
        let json = json!({
            "seed": report.seed, "scenario": scenario, "profile": profile, "property": violation.property,
            "meaning": violation.meaning, "what": violation.what,
            "task": violation.task.as_ref().map(|task| task.as_str()),
            "decisions": report.decisions.len(), "shrunk": shrunk, "capsule": capsule,
        });
        let seed = report.seed.unwrap_or_default();
        if let (Some(folder), Some(page)) = (self.keep, &page) {
            let name = format!("{scenario}-{profile}-{}-{seed}", violation.property);
            let kept = keep_page(folder, &name, page);
            self.error = self.error.take().or(kept.err());
        }
        let written = self.out.write(&json, |out| match &page {
            Some(page) => writeln!(out, "{page}"),
            None => writeln!(out, "{scenario} on {profile}, seed {seed}: {violation}"),
        });
        self.error = self.error.take().or(written.err());
    }

    fn parted(&mut self, divergence: &Divergence) {
        let setup = divergence.setup.as_ref();
        let scenario = setup.map_or("", |setup| setup.scenario.name);
        let profile = setup.map_or("", |setup| setup.profile.as_str());
        let seed = divergence.seed.unwrap_or_default();
        let json = json!({
            "seed": seed, "scenario": scenario, "profile": profile, "property": "determinism",
            "meaning": "a seed is a run", "what": divergence.to_string(),
        });
        // A sweep runs such seeds twice; `sim run` doesn't.
        let again = format!(
            "{divergence}\nAgain:\n  steadfast sim sweep --scenario {scenario} --profile {profile} --start {seed} --seeds 1"
        );
        if let Some(folder) = self.keep {
            let kept = keep(folder, &format!("{scenario}-{profile}-determinism-{seed}"), "txt", &again);
            self.error = self.error.take().or(kept.err());
        }
        let written = self.out.write(&json, |out| writeln!(out, "{again}"));
        self.error = self.error.take().or(written.err());
    }
}

/// Writes the capsule, which `sim replay` reads, and the page beside it.
fn keep_page(folder: &Path, name: &str, page: &Page) -> Result<(), Failure> {
    keep(folder, name, "json", &page.capsule().to_json())?;
    keep(folder, name, "txt", page.to_string().trim_end())
}

fn keep(folder: &Path, name: &str, ending: &str, text: &str) -> Result<(), Failure> {
    std::fs::write(folder.join(format!("{name}.{ending}")), format!("{text}\n"))
        .map_err(|error| cannot_keep(folder, &error))
}

fn cannot_keep(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("failures can't be kept in {}: {error}", folder.display()))
        .help("give --keep a directory that can be written to")
}

fn summarise(
    swept: &Swept,
    wall: Duration,
    per_seed: u64,
    is_interrupted: bool,
    out: Out,
) -> Result<(), Failure> {
    let seeds = swept.searches / per_seed.max(1);
    let per_s = |count: u64| count as f64 / wall.as_secs_f64().max(1e-9);
    let rate = per_s(swept.runs);
    let mut goals: BTreeMap<&str, u64> = BTreeMap::new();
    swept.goals.iter().for_each(|(goal, runs)| *goals.entry(goal.what).or_default() += runs);
    let missed = swept.missed();
    let missed_json: Vec<_> = missed
        .iter()
        .map(|goal| json!({"goal": goal.what, "scenario": goal.scenario, "profile": goal.profile.as_str()}))
        .collect();
    let json = json!({
        "seeds": seeds, "violations": swept.failures, "sometimes": goals, "missed": missed_json,
        "seeds_per_s": per_s(swept.searches) / per_seed.max(1) as f64, "runs_per_s": rate,
        "virtual_s": swept.virtual_time.as_secs_f64(), "runs": swept.runs, "steps": swept.steps,
        "reruns": swept.reruns, "hash": format!("{:016x}", swept.hash), "interrupted": is_interrupted,
    });
    out.write(&json, |out| {
        let how = if is_interrupted { "interrupted after " } else { "" };
        writeln!(
            out,
            "{how}{seeds} seeds, {} runs ({rate:.0}/s): {} broke something; hash {:016x}",
            swept.runs, swept.failures, swept.hash
        )?;
        writeln!(
            out,
            "{:.0} s of virtual time, {} runs made twice",
            swept.virtual_time.as_secs_f64(),
            swept.reruns
        )?;
        writeln!(out, "{} of {} goals were reached", swept.goals.len() - missed.len(), swept.goals.len())?;
        missed.iter().try_for_each(|goal| {
            writeln!(out, "  never in {} on {}: {}", goal.scenario, goal.profile.as_str(), goal.what)
        })
    })
}
