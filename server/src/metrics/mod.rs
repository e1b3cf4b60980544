//! What is measured, under the names of the published interface. Figures of the store are asked for when somebody
//! looks; those of this process are counted as things happen.

mod handler;

use std::time::{Duration, Instant};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use steadfast::{Cause, Clock, State, Storage};
use tokio::sync::Mutex;

use crate::service::{Service, name_in_figures};
use crate::wire::Problem;

pub use handler::measured;

/// How long the store's figures stand before they are asked for again.
const FIGURES_KEPT: Duration = Duration::from_secs(3);
/// How long they are waited for: well within the ten seconds that Prometheus has for a page.
const FIGURES_WITHIN: Duration = Duration::from_secs(4);

/// What is measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    execution_delay: Histogram,
    queue_wait: Histogram,
    run: Histogram,
    attempts: IntCounterVec,
    lease_lost: IntCounter,
    store: HistogramVec,
    figures: Figures,
    /// When the figures were asked for. Held while they are, so that many who look ask once.
    asked_at: Mutex<Option<Instant>>,
}

/// The store's figures.
#[derive(Debug)]
struct Figures {
    tasks: IntGaugeVec,
    workers: IntGaugeVec,
    stale: IntGauge,
    stuck: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From a millisecond to a bit more than an hour.
fn waits() -> Vec<f64> {
    vec![
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
        3600.0,
    ]
}

impl Metrics {
    /// Nothing measured yet.
    ///
    /// # Panics
    /// Never: the names are constants, each registered once.
    pub fn new() -> Self {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str| {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(waits()));
            register(&registry, made)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let execution_delay = histogram(
            "steadfast_task_execution_delay_seconds",
            "From the submit of a task until its handler was first entered.",
        );
        let queue_wait =
            histogram("steadfast_queue_wait_seconds", "From when a task was due until a worker claimed it.");
        let run = histogram("steadfast_run_seconds", "How long handlers ran, for each attempt.");
        let attempts = IntCounterVec::new(
            Opts::new("steadfast_attempts_total", "Attempts whose end was recorded, by its cause."),
            &["outcome"],
        );
        let buckets =
            vec![0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
        let store = HistogramVec::new(
            HistogramOpts::new("steadfast_store_seconds", "How long calls to the store took.")
                .buckets(buckets),
            &["op"],
        );
        let lease_lost = IntCounter::new(
            "steadfast_lease_lost_total",
            "Attempts that were stopped because they weren't this worker's any more.",
        );
        let figures = Figures {
            tasks: gauges("steadfast_tasks", "Tasks by queue and state.", &["queue", "state"]),
            workers: gauges("steadfast_workers", "Workers that are alive, by queue.", &["queue"]),
            stale: register(
                &registry,
                IntGauge::new("steadfast_stale_queued", "Ready tasks that nobody has claimed for 5 minutes."),
            ),
            stuck: register(
                &registry,
                IntGauge::new(
                    "steadfast_stuck_running",
                    "Running tasks whose handler has given no sign for 10 minutes.",
                ),
            ),
        };
        let attempts = register(&registry, attempts);
        for cause in [Cause::Done, Cause::Error, Cause::LeaseLapsed] {
            // So that a rate can be taken from the first one on.
            attempts.with_label_values(&[cause.as_str()]);
        }
        Self {
            execution_delay,
            queue_wait,
            run,
            attempts,
            lease_lost: register(&registry, lease_lost),
            store: register(&registry, store),
            figures,
            registry,
            asked_at: Mutex::new(None),
        }
    }

    pub(crate) fn store_call(&self, op: &str, took: Duration) {
        self.store.with_label_values(&[op]).observe(took.as_secs_f64());
    }

    pub(crate) fn attempt_ended(&self, cause: Cause) {
        self.attempts.with_label_values(&[cause.as_str()]).inc();
    }

    /// The page that Prometheus reads, and its content type. Where the store can't be reached, or not soon, its figures
    /// are left out: old ones would look like good news, and the others shouldn't wait.
    ///
    /// # Panics
    /// Never: everything that is registered can be written.
    pub async fn page<S: Storage, C: Clock>(&self, service: &Service<S, C>) -> (String, Vec<u8>) {
        let mut asked_at = self.asked_at.lock().await;
        if asked_at.is_none_or(|at| at.elapsed() >= FIGURES_KEPT) {
            self.figures.clear();
            let asked = tokio::time::timeout(FIGURES_WITHIN, self.figures.ask(service)).await;
            *asked_at = matches!(asked, Ok(Ok(()))).then(Instant::now);
        }
        let mut families = self.registry.gather();
        if asked_at.is_none() {
            families.retain(|family| {
                !matches!(family.name(), "steadfast_stale_queued" | "steadfast_stuck_running")
            });
        }
        let encoder = TextEncoder::new();
        let mut page = Vec::new();
        encoder.encode(&families, &mut page).expect("what was gathered can be written");
        (encoder.format_type().to_owned(), page)
    }
}

impl Figures {
    fn clear(&self) {
        self.tasks.reset();
        self.workers.reset();
    }

    async fn ask<S: Storage, C: Clock>(&self, service: &Service<S, C>) -> Result<(), Problem> {
        let (stats, _) = service.figures().await?;
        let workers = service.workers().await?.workers;
        for queue in &stats.queues {
            for state in State::ALL {
                let count = queue.tasks[usize::from(state.code())];
                self.tasks.with_label_values(&[queue.queue.as_str(), state.as_str()]).set(gauge(count));
            }
        }
        for worker in workers.iter().filter(|worker| worker.alive) {
            for queue in &worker.queues {
                self.workers.with_label_values(&[name_in_figures(queue)]).inc();
            }
        }
        self.stale.set(gauge(stats.queues.iter().map(|queue| queue.stale).sum()));
        self.stuck.set(gauge(stats.queues.iter().map(|queue| queue.stuck).sum()));
        Ok(())
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let collector = made.expect("the names and labels are constants of the right form");
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}
