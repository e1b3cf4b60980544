//! Processing a backlog, as a service does it: a worker on the host's thread, each attempt a task of its own on the
//! service's runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use steadfast::core::storage::TaskFilter;
use steadfast::{AnyStorage, Context, Handlers, Host, State, Verdict, WorkerConfig};
use tokio::sync::Notify;

use super::{Error, kind, rate};

/// How many attempts at once. A service whose handlers only wait (for the network, mostly) sets it like this: enough for
/// one set to be claimed and another to be settled while a third is at work.
const CONCURRENCY: usize = 3_000;
/// How many tasks are claimed in one call at most.
const CLAIM_MAX: u32 = 1_000;
/// How long without any progress until it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tasks a second, from the start of the worker until the last of the waiting tasks is settled.
pub(super) async fn backlog(host: &Host<AnyStorage>, tasks: usize) -> Result<f64, Error> {
    let left = Arc::new(AtomicUsize::new(tasks));
    let all_ran = Arc::new(Notify::new());
    let handler = {
        let (left, all_ran) = (left.clone(), all_ran.clone());
        move |_: Context| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                all_ran.notify_one();
            }
            async { Verdict::done(*b"null") }
        }
    };
    let config = WorkerConfig { concurrency: CONCURRENCY, claim_max: CLAIM_MAX, ..host.worker_config() };
    let began = Instant::now();
    let worker = host.work(Handlers::new().with(kind(), handler), config).expect("it makes sense");
    let ran = tokio::time::timeout(PATIENCE, all_ran.notified()).await;
    // Returns when the last of them is settled.
    let drained = worker.drain().await;
    let took = began.elapsed();
    let left = left.load(Ordering::Relaxed);
    ran.map_err(|_| Error::Wrong(format!("{left} of {tasks} tasks were never run")))?;
    drained.map_err(|panicked| Error::Wrong(panicked.to_string()))?;
    verify(host).await?;
    Ok(rate(tasks, took))
}

/// Every task must have succeeded: fast and wrong doesn't count. What was accepted is in exactly one state; so where
/// none is in any other, all are in this one.
async fn verify(host: &Host<AnyStorage>) -> Result<(), Error> {
    for state in State::ALL.into_iter().filter(|state| *state != State::Succeeded) {
        let filter = TaskFilter { state: Some(state), limit: 1, ..TaskFilter::default() };
        if let [task, ..] = host.engine().tasks(filter).await?.as_slice() {
            return Err(Error::Wrong(format!("task {} is {state} and should have succeeded", task.id)));
        }
    }
    Ok(())
}
