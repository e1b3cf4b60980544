//! What every storage must hold to, as one function: [`run`]. An adapter says how to make an empty store and how to
//! open it ([`Builder`]), and gets every case.
//!
//! Each case starts on an empty store whose clock is set by hand, and names the rule or property that it defends. A
//! case knows no executor: what it needs of one is a [`Host`], so that simulated stores run the same cases on
//! virtual time. Failures are collected; the last thing that a run says is the list of them.

mod batches;
mod bench;
mod cancel;
mod claim;
mod concurrency;
mod deadlines;
mod hints;
mod insert;
mod limits;
mod prune;
mod queues;
mod races;
mod reads;
mod reclaim;
mod release;
mod renew;
mod reports;
mod slots;
mod transition;
mod waiting;
mod waiting_races;
mod workers;

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use steadfast_core::Storage;
use steadfast_core::time::ManualClock;

use bench::{Bench, START};

/// How an adapter's stores are made.
pub trait Builder {
    /// One store. Dropping it takes it away.
    type Guard;
    /// A client of it.
    type Storage: Storage;

    /// Makes an empty store.
    fn create(&self) -> impl Future<Output = Self::Guard>;

    /// Opens the store as one more process would, judging time by this clock in place of the store's own.
    fn open(&self, store: &Self::Guard, clock: &ManualClock) -> impl Future<Output = Self::Storage>;

    /// What runs the cases.
    fn host(&self) -> Arc<dyn Host>;
}

/// What a case needs of an executor.
pub trait Host: Send + Sync {
    /// Runs these side by side until all have ended or one has panicked: truly in parallel where the store is real.
    /// Dropping the future ends them.
    fn together(&self, parts: Vec<BoxFuture<'static, ()>>) -> BoxFuture<'static, ()>;

    /// Waits; only ever to bound the wait for an event.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Tokio, with a task for each part; the first panic ends them all.
#[derive(Debug, Clone, Copy)]
pub struct TokioHost;

impl Host for TokioHost {
    fn together(&self, parts: Vec<BoxFuture<'static, ()>>) -> BoxFuture<'static, ()> {
        // Dropped half-way, it takes its tasks with it.
        let mut tasks: tokio::task::JoinSet<()> = parts.into_iter().collect();
        Box::pin(async move {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// One thing that a storage must do.
struct Case<S> {
    name: &'static str,
    /// The rule or property that it defends.
    defends: &'static str,
    /// How many clients it opens.
    clients: usize,
    run: for<'a> fn(&'a Bench<S>) -> BoxFuture<'a, ()>,
}

/// Lists a module's cases: its name, how many clients each opens, and for each case what it defends.
macro_rules! cases {
    ($theme:literal, $clients:expr, $($defends:literal => $name:ident,)*) => {
        pub(super) fn cases<S: steadfast_core::Storage>() -> Vec<$crate::conformance::Case<S>> {
            vec![$($crate::conformance::Case {
                name: concat!($theme, "::", stringify!($name)),
                defends: $defends,
                clients: $clients,
                run: |bench| Box::pin($name(bench)),
            },)*]
        }
    };
}
use cases;

/// The longest that one case may take.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// The variable that holds a part of the names of the only cases to run.
const ONLY: &str = "STEADFAST_CASE";

/// Runs every case and says which ones failed.
///
/// # Panics
/// At the end, if any case failed.
pub async fn run<B: Builder>(suite: &str, builder: &B) {
    let only = std::env::var(ONLY).unwrap_or_default();
    let cases: Vec<_> = all::<B::Storage>().into_iter().filter(|case| case.name.contains(&only)).collect();
    let mut failures = Vec::new();
    for case in &cases {
        match outcome(builder, case).await {
            Ok(()) => println!("{suite}: {} … ok", case.name),
            Err(why) => {
                println!("{suite}: {} … FAILED", case.name);
                failures.push(format!("{} (defends {}): {why}", case.name, case.defends));
            }
        }
    }
    assert!(!cases.is_empty(), "no case has {only:?} in its name");
    assert!(
        failures.is_empty(),
        "{suite}: {} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

async fn outcome<B: Builder>(builder: &B, case: &Case<B::Storage>) -> Result<(), String> {
    let clock = ManualClock::at(START);
    let store = builder.create().await;
    let mut clients = Vec::new();
    for _ in 0..case.clients {
        clients.push(builder.open(&store, &clock).await);
    }
    let bench = Bench { clients, clock, host: builder.host() };
    let run = AssertUnwindSafe((case.run)(&bench)).catch_unwind();
    match select(run, bench.host.sleep(CASE_LIMIT)).await {
        Either::Left((Ok(()), _)) => Ok(()),
        Either::Left((Err(panic), _)) => Err(words_of(&*panic)),
        Either::Right(_) => Err(format!("not done within {CASE_LIMIT:?}")),
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}

fn all<S: Storage>() -> Vec<Case<S>> {
    [
        insert::cases(),
        claim::cases(),
        transition::cases(),
        cancel::cases(),
        renew::cases(),
        release::cases(),
        slots::cases(),
        limits::cases(),
        reclaim::cases(),
        batches::cases(),
        reads::cases(),
        hints::cases(),
        concurrency::cases(),
        races::cases(),
        reports::cases(),
        deadlines::cases(),
        waiting::cases(),
        waiting_races::cases(),
        queues::cases(),
        workers::cases(),
        prune::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
