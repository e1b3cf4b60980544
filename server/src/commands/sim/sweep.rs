//! `sim sweep`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use steadfast_sim::determinism::Divergence;
use steadfast_sim::page::Page;
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
    let seeds = args.start..args.start.saturating_add(args.seeds.get());
    let setups = args.what.setups()?;
    let bar = progress(args.seeds.get() * setups.len() as u64, out);
    let started = Instant::now();
    let go_on = || !interrupted.is_set() && args.time.is_none_or(|time| started.elapsed() < time);
    let keep = args.keep.as_deref();
    let mut failures =
        Failures { shown: BTreeSet::new(), shrinks: !args.what.no_shrink, keep, out, error: None };
    let strategy = args.what.strategy();
    let per_seed = setups.len() as u64;
    let searched = steadfast_sim::sweep::Sweep { setups, seeds, strategy, jobs };
    let swept = searched.run(go_on, |news| {
        bar.inc(1);
        match news {
            News::Held => {}
            News::Broke(report) => bar.suspend(|| failures.broke(&report)),
            News::Parted(divergence) => bar.suspend(|| failures.parted(&divergence)),
        }
    });
    bar.finish_and_clear();
    if let Some(error) = failures.error {
        return Err(error);
    }
    summarise(&swept, started.elapsed(), per_seed, interrupted.is_set(), out)?;
    let enough = swept.runs / per_seed.max(1) >= SEEDS_FOR_GOALS;
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
            let kept = keep(folder, &name, page);
            self.error = self.error.take().or(kept.err());
        }
        let written = self.out.write(&json, |out| match &page {
            Some(page) => writeln!(out, "{page}"),
            None => writeln!(out, "{scenario} on {profile}, seed {seed}: {violation}"),
        });
        self.error = self.error.take().or(written.err());
    }

    fn parted(&mut self, divergence: &Divergence) {
        let json = json!({
            "seed": divergence.seed, "property": "determinism", "meaning": "a seed is a run",
            "what": divergence.to_string(),
        });
        let written = self.out.write(&json, |out| writeln!(out, "{divergence}"));
        self.error = self.error.take().or(written.err());
    }
}

/// Writes the capsule, which `sim replay` reads, and the page beside it.
fn keep(folder: &Path, name: &str, page: &Page) -> Result<(), Failure> {
    let write = |ending: &str, text: String| {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.{ending}")), text)
    };
    let capsule = format!("{}\n", page.capsule().to_json());
    write("json", capsule).and_then(|()| write("txt", page.to_string())).map_err(|error| {
        Failure::new(Exit::Failed, format!("the failure can't be kept in {}: {error}", folder.display()))
            .help("give --keep a directory that can be written to")
    })
}

fn summarise(
    swept: &Swept,
    wall: Duration,
    per_seed: u64,
    is_interrupted: bool,
    out: Out,
) -> Result<(), Failure> {
    let seeds = swept.runs / per_seed.max(1);
    let rate = swept.runs as f64 / wall.as_secs_f64().max(1e-9);
    let goals: serde_json::Map<String, serde_json::Value> =
        swept.goals.iter().map(|(goal, runs)| ((*goal).to_owned(), json!(runs))).collect();
    let json = json!({
        "seeds": seeds, "violations": swept.failures, "sometimes": goals, "seeds_per_s": rate,
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
        let missed = swept.missed();
        writeln!(out, "{} of {} goals were reached", swept.goals.len() - missed.len(), swept.goals.len())?;
        missed.iter().try_for_each(|goal| writeln!(out, "  never: {goal}"))
    })
}
