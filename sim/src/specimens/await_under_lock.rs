//! Incident 2, await under lock. `register_task(session, task)` took the registry's lock, cancelled the session's old task
//! and awaited it there. The old task's cleanup needs that lock, and so does the first line of the new one: a circle.
//! The endpoint had answered 200 OK; nothing ran, and nobody saw an error.
//!
//! Must fail: P1, an accepted task ends; the run is stuck, and says who waits for what. Repaired, the new task is
//! registered under the lock and the old one is awaited after it was released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::Cause;
use tokio::sync::{Mutex, watch};

use super::Specimen;
use super::service::{
    Session, accepted, because, entered, job, pause, pick, said, submitting, taken, until_all_ended,
};
use crate::choices::Stream;
use crate::scenario::{Goals, Scenario};
use crate::scheduler::waiting_for;
use crate::world::{Node, World};

pub(super) const SPECIMEN: Specimen = Specimen {
    name: "await-under-lock",
    incident: 2,
    property: "P1",
    faulty: Scenario {
        name: "await-under-lock",
        about: "the old task is awaited under the lock that its cleanup needs",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Await::UnderLock)),
    },
    fixed: Scenario {
        name: "await-under-lock (fixed)",
        about: "the old task is awaited after the lock was released",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Await::Outside)),
    },
};

/// How many requests there are, all for the same session.
const REQUESTS: u64 = 3;
/// How many events a task sends to the session's listeners.
const EVENTS: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Await {
    UnderLock,
    Outside,
}

/// A background task as its registry sees it.
#[derive(Debug, Clone)]
struct Background {
    id: TaskId,
    cancel: Arc<watch::Sender<bool>>,
    done: watch::Receiver<bool>,
}

impl Background {
    fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    async fn end(mut self) {
        // A task that is gone has ended.
        let _ = self.done.wait_for(|done| *done).await;
    }
}

/// The broadcaster of a service: who listens to a session and which task runs for it, under one lock.
#[derive(Debug, Clone)]
struct Broadcaster {
    node: Node,
    design: Await,
    tasks: Arc<Mutex<BTreeMap<&'static str, Background>>>,
}

const SESSION: &str = "session-939e5c26";

impl Broadcaster {
    async fn register_task(&self, task: Background) {
        let mut tasks = waiting_for("the registry's lock", self.tasks.lock()).await;
        let old = tasks.get(SESSION).filter(|old| !old.is_done()).cloned();
        if let Some(old) = &old {
            old.cancel.send_replace(true);
        }
        match self.design {
            Await::UnderLock => {
                if let Some(old) = old {
                    waiting_for("the old task's end, holding the registry's lock", old.end()).await;
                }
                tasks.insert(SESSION, task);
            }
            Await::Outside => {
                tasks.insert(SESSION, task);
                drop(tasks);
                if let Some(old) = old {
                    waiting_for("the old task's end", old.end()).await;
                }
            }
        }
    }

    /// Sends an event to everybody who listens to the session.
    async fn broadcast(&self) {
        let _tasks = waiting_for("the registry's lock", self.tasks.lock()).await;
    }

    async fn unregister(&self, id: &TaskId) {
        let mut tasks = waiting_for("the registry's lock", self.tasks.lock()).await;
        if tasks.get(SESSION).is_some_and(|task| task.id == *id) {
            tasks.remove(SESSION);
        }
    }
}

async fn run(world: World, design: Await) {
    let node = world.start("api", 100);
    let broadcaster = Broadcaster { node: node.clone(), design, tasks: Arc::default() };
    for number in 0..REQUESTS {
        let endpoint = post_run(broadcaster.clone(), number);
        node.spawn(&format!("POST /run {number}"), endpoint);
        pause(&world, Stream::Workload, "next request", number, &[60_000, 0, 2_000, 15_000]).await;
    }
    until_all_ended(&world, None).await;
}

/// The endpoint: it stores the job, starts its task, answers, and registers the task.
async fn post_run(broadcaster: Broadcaster, number: u64) {
    let node = &broadcaster.node;
    let id = TaskId::trusted(format!("run-{number}"));
    submitting(node, &id);
    Session::open(node).insert(job(&id, node.world().now())).await;
    let (cancel, cancelled) = watch::channel(false);
    let (done, is_done) = watch::channel(false);
    let task = Background { id: id.clone(), cancel: Arc::new(cancel), done: is_done };
    let body = call_agent(broadcaster.clone(), id.clone(), number, cancelled);
    node.spawn(&format!("call_agent {id}"), async move {
        body.await;
        done.send_replace(true);
    });
    accepted(node, &id, &id);
    broadcaster.register_task(task).await;
}

/// The task: it works until it is cancelled, and cleans up after itself in any case.
async fn call_agent(broadcaster: Broadcaster, id: TaskId, number: u64, mut cancelled: watch::Receiver<bool>) {
    let done = {
        let work = std::pin::pin!(work(&broadcaster, &id, number));
        let cancelled = std::pin::pin!(cancelled.wait_for(|cancelled| *cancelled));
        match select(cancelled, work).await {
            Either::Left(_) => false,
            Either::Right(_) => true,
        }
    };
    broadcaster.unregister(&id).await;
    let session = Session::open(&broadcaster.node);
    if done {
        session.change(&id, State::Succeeded, because(Cause::Done)).await;
    } else {
        session.change(&id, State::Cancelled, because(Cause::Replaced)).await;
    }
}

async fn work(broadcaster: &Broadcaster, id: &TaskId, number: u64) {
    let node = &broadcaster.node;
    broadcaster.broadcast().await;
    let session = Session::open(node);
    let Some(job) = session.change(id, State::Running, taken(node)).await else { return };
    entered(node, id, id, job.fence);
    for _ in 0..EVENTS {
        let seconds = pick(node.world(), Stream::Workload, "thinks", number, 5) as u64;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        broadcaster.broadcast().await;
    }
    said(node, id, job.fence, true);
}
