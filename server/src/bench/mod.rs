//! `steadfast bench`: measures this machine with the engine, the host and the storage that ship, and, when asked,
//! holds the figures against a floor: the least that a table of tasks can cost in raw SQL on the same store.
//!
//! Machines are shared and noisy. So each figure is the median of several rounds, floor and engine take turns, and
//! the ratios say more than the rates.
//!
//! It never touches anybody's tasks: each round has a store of its own (`place`), made where the URL points to and
//! removed afterwards.

mod place;
mod report;

mod latency;
mod process;
mod submit;

mod floor;

use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use steadfast::{Kind, NewTask, OpenError, StoreUrl};

use place::Place;
pub use report::{Floor, Latency, Ratio, Report};

/// How often each figure is taken; the median counts.
const ROUNDS: usize = 3;
/// How many tasks go together where several do.
const SET: usize = 500;
/// What every task is given.
const PAYLOAD: &[u8; 7] = br#"{"i":1}"#;

/// `bench`.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// How many tasks are submitted in sets, and processed, in each round
    #[arg(long, value_name = "N", default_value = "100000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub tasks: u32,
    /// What to measure
    #[arg(long, value_enum, default_value = "all")]
    pub mode: Mode,
    /// Hold it against raw SQL on the same kind of store
    #[arg(long)]
    pub floor: bool,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Submitting: one caller, sixteen callers, in sets
    Submit,
    /// Claiming, running and settling tasks that wait
    Process,
    /// From submit until the handler is entered, on an idle worker
    Latency,
    /// All of it
    All,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store, or the thread that serves it, couldn't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed on the way.
    #[error(transparent)]
    Store(#[from] steadfast::Error),
    /// A temporary file couldn't be made or removed.
    #[error("a temporary file for measuring: {0}")]
    File(#[from] std::io::Error),
    /// The floor failed.
    #[error("the floor in raw SQL: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The floor failed.
    #[error("the floor in raw SQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// A task was lost or refused on the way: figures of a run that isn't correct mean nothing.
    #[error("{0}: this is a bug")]
    Wrong(String),
    /// Stopped from the keyboard. Nothing is left behind.
    #[error("interrupted")]
    Interrupted,
}

/// Measures on a temporary SQLite file, or where `store` points to. Needs a tokio runtime with several threads.
///
/// # Errors
/// In any case nothing is left behind, unless the store can't be reached any more.
///
/// # Cancellation
/// Leaves files or a schema of its own behind.
pub async fn run(bench: &Bench, store: Option<&StoreUrl>) -> Result<Report, Error> {
    let place = Place::new(store).await?;
    let measured = tokio::select! {
        report = measure(bench, &place) => report,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    };
    let removed = place.remove().await;
    let report = measured?;
    removed?;
    Ok(report)
}

async fn measure(bench: &Bench, place: &Place) -> Result<Report, Error> {
    let wants = |mode| bench.mode == mode || bench.mode == Mode::All;
    let figures = usize::from(wants(Mode::Submit)) + usize::from(wants(Mode::Latency)) + 1;
    let progress = Progress::new(ROUNDS * (figures + usize::from(bench.floor)));
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        if bench.floor {
            progress.step("the floor: raw SQL");
            let (submit, process) = floor::measure(place, bench.tasks as usize).await?;
            samples.floor_submit.push(submit);
            samples.floor_process.push(process);
        }
        progress.step("in sets, then processing what waits");
        let host = place.fresh().await?;
        samples.bulk.push(submit::in_sets(&host, bench.tasks as usize).await?);
        if wants(Mode::Process) {
            samples.process.push(process::backlog(&host, bench.tasks as usize).await?);
        }
        host.close().await;
        if wants(Mode::Submit) {
            progress.step("one caller, then sixteen");
            let host = place.fresh().await?;
            samples.single.push(submit::by_callers(&host, 1).await?);
            samples.concurrent.push(submit::by_callers(&host, 16).await?);
            host.close().await;
        }
        if wants(Mode::Latency) {
            progress.step("latency of an idle worker");
            let host = place.fresh().await?;
            samples.latencies.extend(latency::idle(&host, bench.tasks as usize).await?);
            host.close().await;
        }
    }
    progress.end();
    let synchronous = place.synchronous().await?;
    Ok(samples.report(bench.mode, place.url(), synchronous))
}

/// Every round's figures.
#[derive(Debug, Default)]
struct Samples {
    single: Vec<f64>,
    concurrent: Vec<f64>,
    bulk: Vec<f64>,
    process: Vec<f64>,
    latencies: Vec<Duration>,
    floor_submit: Vec<f64>,
    floor_process: Vec<f64>,
}

impl Samples {
    fn report(mut self, mode: Mode, store: String, synchronous: String) -> Report {
        if !matches!(mode, Mode::Submit | Mode::All) {
            self.bulk.clear();
        }
        let (bulk, process) = (median(self.bulk), median(self.process));
        let (floor_submit, floor_process) = (median(self.floor_submit), median(self.floor_process));
        let ratio = |ours: Option<f64>, floor: Option<f64>| Some(thousandths(ours? / floor?));
        let floor = floor_submit
            .zip(floor_process)
            .map(|(submit, process)| Floor { submit_per_s: submit.round(), process_per_s: process.round() });
        Report {
            store,
            synchronous,
            submit_single_per_s: median(self.single).map(f64::round),
            submit_concurrent16_per_s: median(self.concurrent).map(f64::round),
            submit_bulk_per_s: bulk.map(f64::round),
            process_per_s: process.map(f64::round),
            latency_ms: Latency::of(self.latencies),
            rss_mb: report::resident_mb(),
            ratio: floor.is_some().then_some(Ratio {
                submit: ratio(bulk, floor_submit),
                process: ratio(process, floor_process),
            }),
            floor,
        }
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn thousandths(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

/// How many in a second.
fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

fn kind() -> Kind {
    Kind::trusted("_bench")
}

fn new_task() -> NewTask {
    NewTask::new(steadfast::task_id(), kind(), *PAYLOAD)
}

/// A bar on stderr, where that is a terminal.
struct Progress(ProgressBar);

impl Progress {
    fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.expect("the template is a literal"));
        Self(bar)
    }

    fn step(&self, what: &'static str) {
        self.0.inc(1);
        self.0.set_message(what);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
