//! Incident 1, the dropped handle. An endpoint started an experiment with `create_task` and kept no reference to the task.
//! The event loop refers to its tasks weakly, so the collector took it while it was waiting for its first connection;
//! its `finally` block, run by the collector, found an experiment that hadn't completed and marked it FAILED. Not one
//! iteration had been executed and nothing said why.
//!
//! Must fail: P14, no silent error: a failure has an entered attempt or a stated reason. Repaired, the endpoint keeps the
//! handle for as long as the task lives.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::Cause;

use super::Specimen;
use super::service::{
    PATIENCE, Session, accepted, because, entered, job, pause, pick, said, submitting, taken, until_all_ended,
};
use crate::choices::Stream;
use crate::scenario::{Goals, Scenario};
use crate::world::{Node, World};

pub(super) const SPECIMEN: Specimen = Specimen {
    name: "dropped-handle",
    incident: 1,
    property: "P14",
    faulty: Scenario {
        name: "dropped-handle",
        about: "a task whose handle was dropped is collected before it ran, and marked failed",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, false)),
    },
    fixed: Scenario {
        name: "dropped-handle (fixed)",
        about: "the handle is kept for as long as the task lives",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, true)),
    },
};

/// How many experiments are started.
const EXPERIMENTS: u64 = 3;
/// How many iterations each has.
const ITERATIONS: u32 = 5;
/// How many requests in ten thousand allocate enough to set the collector off.
const COLLECTIONS: u32 = 1_500;

/// What keeps a task from being collected.
#[derive(Debug)]
struct Handle(#[allow(dead_code, reason = "it is kept, not used")] Arc<()>);

/// An event loop that refers to its tasks weakly, as asyncio's does.
#[derive(Debug, Clone)]
struct EventLoop {
    node: Node,
    tasks: Arc<Mutex<Vec<Weakly>>>,
}

/// A task as the event loop knows it.
#[derive(Debug)]
struct Weakly {
    handle: Weak<()>,
    /// What it runs refers to it.
    running: Arc<AtomicBool>,
    abort: AbortHandle,
}

impl EventLoop {
    /// Starts a task. If it is collected, all that is left of it is its `finally` block.
    fn create_task(
        &self,
        name: &str,
        running: &Arc<AtomicBool>,
        task: impl Future<Output = ()> + Send + 'static,
        finally: impl Future<Output = ()> + Send + 'static,
    ) -> Handle {
        let handle = Arc::new(());
        let (abort, registration) = AbortHandle::new_pair();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(Weakly {
            handle: Arc::downgrade(&handle),
            running: running.clone(),
            abort,
        });
        self.node.spawn(name, async move {
            if Abortable::new(task, registration).await.is_err() {
                finally.await;
            }
        });
        Handle(handle)
    }

    /// Collects every task to which nobody refers.
    fn collect(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| {
            let is_referred_to = task.handle.strong_count() > 0 || task.running.load(Ordering::Relaxed);
            if !is_referred_to {
                task.abort.abort();
            }
            is_referred_to
        });
    }
}

async fn run(world: World, keeps_handles: bool) {
    let node = world.start("api", 100);
    let event_loop = EventLoop { node: node.clone(), tasks: Arc::default() };
    let mut kept = Vec::new();
    for number in 0..EXPERIMENTS {
        let handle = start_scan(&event_loop, number).await;
        if keeps_handles {
            kept.push(handle);
        } else {
            drop(handle);
        }
        // Whoever comes next allocates something.
        pause(&world, Stream::Workload, "next request", number, &[30_000, 0, 5, 200]).await;
        if world.choices().odds(Stream::Faults, "collector", number, COLLECTIONS) {
            event_loop.collect();
        }
    }
    until_all_ended(&world, Some(PATIENCE)).await;
}

/// The endpoint.
async fn start_scan(event_loop: &EventLoop, number: u64) -> Handle {
    let node = &event_loop.node;
    let id = TaskId::trusted(format!("experiment-{number}"));
    submitting(node, &id);
    Session::open(node).insert(job(&id, node.world().now())).await;
    let running = Arc::new(AtomicBool::new(false));
    let handle = event_loop.create_task(
        "run_experiment",
        &running,
        run_experiment(node.clone(), id.clone(), number, running.clone()),
        mark_unfinished(node.clone(), id.clone()),
    );
    accepted(node, &id, &id);
    handle
}

async fn run_experiment(node: Node, id: TaskId, number: u64, running: Arc<AtomicBool>) {
    // A connection from the pool.
    pause(node.world(), Stream::Workload, "connection", number, &[0, 1, 50, 1_000]).await;
    let session = Session::open(&node);
    let Some(job) = session.change(&id, State::Running, taken(&node)).await else { return };
    // From here on the orchestrator refers to the task that runs this.
    running.store(true, Ordering::Relaxed);
    entered(&node, &id, &id, job.fence);
    for _ in 0..ITERATIONS {
        let seconds = pick(node.world(), Stream::Workload, "iteration", number, 3) as u64;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    said(&node, &id, job.fence, true);
    session.change(&id, State::Succeeded, because(Cause::Done)).await;
}

/// The `finally` block: an experiment that hasn't completed has failed. It doesn't know why.
async fn mark_unfinished(node: Node, id: TaskId) {
    let session = Session::open(&node);
    let unfinished = session.find(&id).await.is_some_and(|job| !job.state.is_terminal());
    if unfinished {
        let key = crate::storage::rows::RowKey::Task(id);
        session.update(Some(key), |job| !job.state.is_terminal(), State::Failed, because(Cause::Error)).await;
    }
}
