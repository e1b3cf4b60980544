//! `sim`: the simulator on the command line. What is run and judged is the simulator's; this reads what is asked for,
//! and shows what came of it.

mod bench;
mod certify;
mod run;
mod specimens;
mod sweep;
mod table;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use steadfast::StoreUrl;
use steadfast_sim::capsule::{CapsuleError, all_scenarios, find};
use steadfast_sim::oracle::Violation;
use steadfast_sim::scenario::{SCENARIOS, Scenario, workers};
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::strategy::Strategy;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

use super::Out;
use crate::failure::{Exit, Failure};
use crate::units::duration;

/// `sim`.
#[derive(Debug, Args)]
pub struct Sim {
    /// What to do with it.
    #[command(subcommand)]
    pub command: SimCommand,
}

impl Sim {
    /// Whether it looks at a store that the command line names.
    pub(super) fn asks_a_store(&self) -> bool {
        matches!(self.command, SimCommand::Certify(_))
    }
}

/// What to do with the simulator.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Run one seed
    Run(Run),
    /// Run many seeds, and show what breaks
    Sweep(Sweep),
    /// Run what a failure page ends with, and show its page
    Replay(Replay),
    /// Name the faults that must be found, or find one and show its page
    Specimens(Specimens),
    /// Measure how soon each of them is found; exit code 1 where one isn't
    Table(Table),
    /// Play the same programs on the simulated stores and on real ones; exit code 1 where they differ
    Certify(Certify),
    /// Measure the simulator on this machine, on one core
    Bench(Bench),
}

/// What is run.
#[derive(Debug, Args)]
pub struct What {
    /// Which scenario, or all
    #[arg(long, value_name = "NAME", default_value = workers::SCENARIO.name)]
    pub scenario: String,
    /// On which simulated store: postgres, sqlite, or all
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub profile: String,
    /// With this deliberate fault, to see that it is found; may be given several times. `sim specimens NAME` runs it in the
    /// scenario in which it shows
    #[arg(long, value_name = "NAME")]
    pub flaw: Vec<String>,
    /// How to search
    #[arg(long, value_enum, default_value = "random")]
    pub strategy: StrategyName,
    /// How many departures from the default an exhaustive search makes at most
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(0..=4))]
    pub departures: u32,
    /// Name the scenarios, profiles and flaws, and do nothing
    #[arg(long)]
    pub list: bool,
    /// Show failures as they are, without making them smaller
    #[arg(long)]
    pub no_shrink: bool,
}

/// A way to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// Every choice is drawn by itself
    Random,
    /// Tasks have priorities, which they lose now and then
    Pct,
    /// The seed's workload, with every set of a few departures from the default
    Exhaustive,
}

/// `sim run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Which seed; decimal, or hexadecimal behind 0x
    #[arg(long, value_name = "N", default_value = "0", value_parser = seed)]
    pub seed: u64,
    /// What is run.
    #[command(flatten)]
    pub what: What,
}

/// `sim sweep`.
#[derive(Debug, Args)]
pub struct Sweep {
    /// How many seeds
    #[arg(long, value_name = "N", default_value = "1000")]
    pub seeds: NonZeroU64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = seed)]
    pub start: u64,
    /// For how long at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub time: Option<Duration>,
    /// How many threads [default: as many as there are cores]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Keep the capsule and the page of each property's first failure in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_shrink")]
    pub keep: Option<PathBuf>,
    /// What is run.
    #[command(flatten)]
    pub what: What,
}

/// `sim replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// A file with the line that a failure page ends with
    #[arg(value_name = "CAPSULE")]
    pub capsule: PathBuf,
}

/// `sim specimens`.
#[derive(Debug, Args)]
pub struct Specimens {
    /// Which one is to be found
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// How many seeds are tried at most
    #[arg(long, value_name = "N", default_value = "10000")]
    pub seeds_max: NonZeroU64,
}

/// `sim table`.
#[derive(Debug, Args)]
pub struct Table {
    /// After how many seeds a search gives up
    #[arg(long, value_name = "N", default_value = "10000")]
    pub seeds_max: NonZeroU64,
    /// How often each is searched, from other seeds each time
    #[arg(long, value_name = "R", default_value = "5")]
    pub repeat: NonZeroU64,
    /// Only these specimens; may be given several times
    #[arg(long, value_name = "NAME")]
    pub specimen: Vec<String>,
    /// How many threads; each search has one [default: as many as there are cores]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Measure nothing: show what `--json` wrote to this file before
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Write the table in Markdown, as the documentation has it; --json goes before it
    #[arg(long)]
    pub markdown: bool,
}

/// `sim certify`.
#[derive(Debug, Args)]
pub struct Certify {
    /// How many random programs of each kind
    #[arg(long, value_name = "N", default_value = "200")]
    pub programs: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = seed)]
    pub seed: u64,
}

/// `sim bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// For how long each scenario is run on each profile
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub time: Duration,
}

/// Does it on a thread of its own: a simulation has an executor of its own, which can't run inside of this one.
pub(super) async fn sim(args: Sim, store: Option<&StoreUrl>, out: Out) -> Result<ExitCode, Failure> {
    let store = store.cloned();
    let stops_itself =
        matches!(args.command, SimCommand::Sweep(_) | SimCommand::Table(_) | SimCommand::Certify(_));
    let interrupted = Interrupted::default();
    let flag = interrupted.clone();
    let done = tokio::task::spawn_blocking(move || match args.command {
        SimCommand::Run(args) => run::run(&args, out),
        SimCommand::Sweep(args) => sweep::sweep(&args, &flag, out),
        SimCommand::Replay(args) => run::replay(&args, out),
        SimCommand::Specimens(args) => specimens::specimens(&args, out),
        SimCommand::Table(args) => table::table(&args, &flag, out),
        SimCommand::Certify(args) => certify::certify(&args, store.as_ref(), &flag, out),
        SimCommand::Bench(args) => bench::bench(&args, out),
    });
    let mut done = std::pin::pin!(done);
    let done = tokio::select! {
        done = &mut done => done,
        _ = tokio::signal::ctrl_c() => {
            if !stops_itself {
                std::process::exit(Exit::Interrupted as i32);
            }
            interrupted.0.store(true, Ordering::Relaxed);
            tokio::select! {
                done = &mut done => done,
                // The second time it is meant.
                _ = tokio::signal::ctrl_c() => std::process::exit(Exit::Interrupted as i32),
            }
        }
    };
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Whether somebody pressed Ctrl-C.
#[derive(Debug, Clone, Default)]
struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl What {
    fn strategy(&self) -> Strategy {
        match self.strategy {
            StrategyName::Random => Strategy::Random,
            StrategyName::Pct => Strategy::Pct,
            StrategyName::Exhaustive => Strategy::Exhaustive { departures: self.departures },
        }
    }

    /// Every scenario asked for on every profile asked for.
    fn setups(&self) -> Result<Vec<Setup>, Failure> {
        // Those that fail on purpose only who names them gets.
        let scenarios = match self.scenario.as_str() {
            "all" => SCENARIOS.to_vec(),
            name => vec![find("scenario", name, &all_scenarios(), |scenario| scenario.name)?],
        };
        let profiles = one_or_all("profile", &self.profile, &Profile::ALL, |profile| profile.as_str())?;
        let flaws: Vec<Flaw> = self
            .flaw
            .iter()
            .map(|name| find("flaw", name, Flaw::ALL, |flaw| flaw.as_str()))
            .collect::<Result<_, _>>()?;
        let setup = |scenario, profile| Setup { scenario, profile, flaws: flaws.clone() };
        let on_each = |scenario: Scenario| profiles.iter().map(move |profile| (scenario, *profile));
        Ok(scenarios
            .into_iter()
            .flat_map(on_each)
            .map(|(scenario, profile)| setup(scenario, profile))
            .collect())
    }

    /// Names what there is.
    fn names(out: Out) -> Result<ExitCode, Failure> {
        let scenarios: Vec<_> = SCENARIOS.iter().map(|one| (one.name, one.about)).collect();
        let profiles = Profile::ALL.map(Profile::as_str);
        let flaws: Vec<_> = Flaw::ALL.iter().map(|flaw| flaw.as_str()).collect();
        let json = serde_json::json!({
            "scenarios": scenarios.iter().map(|(name, about)| serde_json::json!({"name": name, "about": about}))
                .collect::<Vec<_>>(),
            "profiles": profiles,
            "flaws": flaws,
        });
        out.write(&json, |out| {
            for (name, about) in &scenarios {
                writeln!(out, "scenario  {name}: {about}")?;
            }
            writeln!(out, "profiles  {}", profiles.join(", "))?;
            writeln!(out, "flaws     {}", flaws.join(", "))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn one_or_all<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: impl Fn(&T) -> &'static str,
) -> Result<Vec<T>, CapsuleError> {
    if name == "all" { Ok(all.to_vec()) } else { find(what, name, all, name_of).map(|one| vec![one]) }
}

/// A seed, as a failure page or a program writes it.
fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}: write 1234 or 0x5eed"))
}

fn violation_json(violation: &Violation) -> serde_json::Value {
    let Violation { property, meaning, what, task } = violation;
    serde_json::json!({
        "property": property, "meaning": meaning, "what": what, "task": task.as_ref().map(|task| task.as_str()),
    })
}

impl From<CapsuleError> for Failure {
    fn from(error: CapsuleError) -> Self {
        let exit = match error {
            CapsuleError::Unknown { .. } => Exit::NotFound,
            _ => Exit::Usage,
        };
        Failure::new(exit, error.to_string()).help("`steadfast sim run --list` names what there is")
    }
}
