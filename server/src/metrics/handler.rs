//! Handlers that are measured: how long tasks waited for them, how long they ran, whether they lost their lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use steadfast::core::handler::{Orders, Running, StopReason};
use steadfast::core::storage::{Answer, Lease, Query};
use steadfast::{Context, Handler, Handlers, Verdict};
use tokio::sync::watch;

use super::Metrics;
use crate::store::StoreEngine;

/// How often in a second a task is looked up for how long it waited. A worker that runs thousands a second must not
/// read each of them for the sake of a histogram, which shows the same from a sample.
const LOOKED_UP_MAX: u32 = 50;

/// The same handlers, measured.
pub fn measured(handlers: Handlers, metrics: &Arc<Metrics>, engine: &StoreEngine) -> Handlers {
    let shared = Arc::new(Shared {
        metrics: metrics.clone(),
        engine: engine.clone(),
        budget: Mutex::new(Budget { since: Instant::now(), used: 0 }),
    });
    handlers.map(|handler| Measured { handler, shared: shared.clone() })
}

struct Measured {
    handler: Arc<dyn Handler>,
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    engine: StoreEngine,
    budget: Mutex<Budget>,
}

struct Budget {
    since: Instant,
    used: u32,
}

impl Handler for Measured {
    fn call(&self, context: Context) -> Running {
        let shared = self.shared.clone();
        let handler = self.handler.clone();
        Box::pin(async move {
            let entered = Instant::now();
            let lease = context.lease().clone();
            if shared.may_look_up() {
                let shared = shared.clone();
                tokio::spawn(async move { shared.look_up(&lease, entered).await });
            }
            let mut attempt = Attempt { shared, entered, orders: context.orders(), is_lost: false };
            let verdict = handler.call(context).await;
            attempt.is_lost = verdict == Verdict::Lost;
            verdict
        })
    }
}

/// An attempt, until it ends or is dropped.
struct Attempt {
    shared: Arc<Shared>,
    entered: Instant,
    orders: watch::Receiver<Orders>,
    /// By its own word.
    is_lost: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.run.observe(self.entered.elapsed().as_secs_f64());
        if self.is_lost || self.orders.borrow().stop == Some(StopReason::LeaseLost) {
            metrics.lease_lost.inc();
        }
    }
}

impl Shared {
    fn may_look_up(&self) -> bool {
        // Nothing under this lock can panic half-way.
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.since.elapsed() >= Duration::from_secs(1) {
            *budget = Budget { since: Instant::now(), used: 0 };
        }
        budget.used += 1;
        budget.used <= LOOKED_UP_MAX
    }

    /// All times are the store's, but for how long ago the handler was entered.
    async fn look_up(&self, lease: &Lease, entered: Instant) {
        let Ok(view) = self.engine.read(&Query::Task(lease.task.clone())).await else { return };
        let Answer::Task(Some(task)) = view.answer else { return };
        // Another attempt, or what was due is due again.
        let (true, Some(claimed_at), false) =
            (task.fence == lease.fence, task.claimed_at, task.state.is_waiting())
        else {
            return;
        };
        self.metrics.queue_wait.observe(claimed_at.since(task.due_at).as_secs_f64());
        if task.fence == 1 {
            let age = view.as_of.since(task.submitted_at).saturating_sub(entered.elapsed());
            self.metrics.execution_delay.observe(age.as_secs_f64());
        }
    }
}
