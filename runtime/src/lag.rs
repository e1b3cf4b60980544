//! How late the service's own executor is: a task on it that should wake every second, and a look at it from the host's
//! thread, which doesn't depend on it.
//!
//! A handler that computes without an await delays every other task of its runtime. Leases don't lapse for it, but
//! cancels, timeouts and everything else of the service come late, and nothing else says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use steadfast_core::{Clock, WorkerId};

use crate::clock::TokioClock;

/// How often the probe should wake.
const PERIOD: Duration = Duration::from_secs(1);
/// From when on it is said.
pub const LAG_WARNING: Duration = Duration::from_millis(500);

/// Tells how late a worker's executor is. Clones tell of the same one.
#[derive(Debug, Clone)]
pub struct ExecutorLag(Arc<Measured>);

#[derive(Debug)]
struct Measured {
    /// When the probe should wake next, in nanoseconds of the process's clock.
    due_ns: AtomicU64,
    /// How late it was last.
    last_ns: AtomicU64,
}

impl ExecutorLag {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Measured {
            due_ns: AtomicU64::new(now_ns() + nanos(PERIOD)),
            last_ns: AtomicU64::new(0),
        }))
    }

    /// How late the executor was when it last woke a task by the clock, or is now, if that is longer. Zero once the worker
    /// has ended.
    pub fn now(&self) -> Duration {
        let overdue = now_ns().saturating_sub(self.0.due_ns.load(Ordering::Relaxed));
        Duration::from_nanos(overdue.max(self.0.last_ns.load(Ordering::Relaxed)))
    }

    /// Measures, on the executor.
    pub(crate) async fn probe(self) {
        let probing = Probing(self.0);
        loop {
            let due = now_ns() + nanos(PERIOD);
            probing.0.due_ns.store(due, Ordering::Relaxed);
            tokio::time::sleep(PERIOD).await;
            probing.0.last_ns.store(now_ns().saturating_sub(due), Ordering::Relaxed);
        }
    }

    /// Looks, from elsewhere, and says when it is too late, and when it isn't any more.
    pub(crate) async fn watch(self, worker: WorkerId) {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(PERIOD).await;
            let lag = self.now();
            match watch.look(lag) {
                None => {}
                Some(Say::Late) => tracing::warn!(
                    %worker, ?lag,
                    "the handlers' executor is late: a handler computes or blocks without an await; move such work to spawn_blocking"
                ),
                Some(Say::Well) => tracing::info!(%worker, ?lag, "the handlers' executor is in time again"),
            }
        }
    }
}

/// While the probe runs. Whom nobody will wake isn't late.
struct Probing(Arc<Measured>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.due_ns.store(u64::MAX, Ordering::Relaxed);
        self.0.last_ns.store(0, Ordering::Relaxed);
    }
}

/// What was said last, so that it isn't said every second.
#[derive(Debug, Default)]
struct Watch {
    is_late: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    Late,
    Well,
}

impl Watch {
    fn look(&mut self, lag: Duration) -> Option<Say> {
        let was_late = std::mem::replace(&mut self.is_late, lag >= LAG_WARNING);
        match (was_late, self.is_late) {
            (false, true) => Some(Say::Late),
            (true, false) => Some(Say::Well),
            (false, false) | (true, true) => None,
        }
    }
}

fn now_ns() -> u64 {
    nanos(TokioClock.now().since_origin())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_whose_worker_has_ended_is_not_late() {
        let lag = ExecutorLag::new();
        let long_ago = now_ns().saturating_sub(nanos(PERIOD));
        lag.0.due_ns.store(long_ago, Ordering::Relaxed);
        assert!(lag.now() >= PERIOD);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.spawn(lag.clone().probe());
        runtime.block_on(tokio::task::yield_now());
        lag.0.due_ns.store(long_ago, Ordering::Relaxed);
        drop(runtime);
        assert_eq!(lag.now(), Duration::ZERO);
    }

    #[test]
    fn a_late_executor_is_said_once_and_so_is_its_end() {
        let mut watch = Watch::default();
        let ms = Duration::from_millis;
        let said: Vec<_> = [0, 499, 500, 900, 2_000, 499, 0, 501].map(|lag| watch.look(ms(lag))).into();
        let expected = [None, None, Some(Say::Late), None, None, Some(Say::Well), None, Some(Say::Late)];
        assert_eq!(said, expected);
    }
}
