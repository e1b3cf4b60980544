//! The store as this crate opens it: with an observer beside it, who counts and times what is asked of it.

use std::sync::Arc;
use std::time::Instant;

use steadfast::core::Batch;
use steadfast::core::engine::Engine;
use steadfast::core::step::{Outcome, Receipt, States, Step};
use steadfast::core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast::core::wake::Hints;
use steadfast::{AnyStorage, Error, OpenError, Storage, StoreUrl, TokioClock};

use crate::metrics::Metrics;

/// A process's seat at a store.
pub type Host = steadfast::Host<Observed>;
/// The engine on a store.
pub type StoreEngine = Engine<Observed, TokioClock>;

/// A storage whose calls are timed and whose ended attempts are counted.
#[derive(Debug, Clone)]
pub struct Observed<S = AnyStorage> {
    storage: S,
    metrics: Arc<Metrics>,
}

/// Opens a store, and creates or migrates it first where necessary.
///
/// # Errors
/// It can't be reached or isn't one of ours; or the system gives no thread.
pub async fn host(url: &StoreUrl, metrics: Arc<Metrics>) -> Result<Host, OpenError> {
    let url = url.clone();
    Host::start(async move || {
        let storage = AnyStorage::open(&url).await?;
        Ok(Observed::new(storage, metrics))
    })
    .await
}

impl<S: Storage> Storage for Observed<S> {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let begun = Instant::now();
        let claimed = self.storage.claim(request).await;
        self.metrics.store_call("claim", begun.elapsed());
        claimed
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let begun = Instant::now();
        let outcomes = self.storage.apply(batches).await;
        self.metrics.store_call("apply", begun.elapsed());
        for (batch, outcome) in batches.iter().zip(outcomes.as_deref().unwrap_or_default()) {
            if let Outcome::Applied(receipts) = outcome {
                self.count_ended(batch, receipts);
            }
        }
        outcomes
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let begun = Instant::now();
        let view = self.storage.read(query).await;
        self.metrics.store_call("read", begun.elapsed());
        view
    }

    fn hints(&self) -> Hints {
        self.storage.hints()
    }
}

impl<S> Observed<S> {
    /// This storage, observed.
    pub fn new(storage: S, metrics: Arc<Metrics>) -> Self {
        Self { storage, metrics }
    }

    /// Counts the attempts whose end was recorded: they were running under a fence, and aren't any more.
    fn count_ended(&self, batch: &Batch, receipts: &[Receipt]) {
        for (step, receipt) in batch.steps.iter().zip(receipts) {
            let (Step::Transition(transition), Receipt::Moved(head)) = (step, receipt) else { continue };
            let was_running = transition.guard.from == States::RUNNING && transition.guard.fence.is_some();
            let is_running = States::RUNNING.contains(head.state);
            if let (true, false, Some(cause)) = (was_running, is_running, transition.change.cause) {
                self.metrics.attempt_ended(cause);
            }
        }
    }
}
