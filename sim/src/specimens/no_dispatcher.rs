//! Incident 3, no dispatcher. Tasks stayed QUEUED unless somebody called `/tasks/dispatch`; nothing polled. Everything ran
//! inside the web process: a restart interrupted what was IN_PROGRESS, and nobody took it up again. A retry went back to
//! the queue, where it stalled without a word, and dependents waited for all of these.
//!
//! Must fail: P1, an accepted task ends. Repaired as the report recommends: a loop in the server dispatches whatever is
//! due every 30 s, and a server that starts takes back what the one before it had in progress.

use std::future::Future;
use std::time::Duration;

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::{Cause, OnParentFailure, Task};
use tokio::sync::oneshot;

use super::Specimen;
use super::service::{
    Session, accepted, because, entered, job, pause, pick, said, submitting, taken, until_all_ended,
};
use crate::choices::Stream;
use crate::history::{Event, SubmitAnswer};
use crate::scenario::{Goals, Scenario};
use crate::storage::rows::EdgeRow;
use crate::world::{Node, World};

pub(super) const SPECIMEN: Specimen = Specimen {
    name: "no-dispatcher",
    incident: 3,
    property: "P1",
    faulty: Scenario {
        name: "no-dispatcher",
        about: "tasks wait until somebody calls dispatch, and a restart forgets what was in progress",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, false)),
    },
    fixed: Scenario {
        name: "no-dispatcher (fixed)",
        about: "the server dispatches by itself, and takes back what was in progress when it starts",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, true)),
    },
};

/// How many tasks there are; each odd one waits for the one before it.
const TASKS: u64 = 4;
/// How many tasks one dispatch claims.
const DISPATCHED_MAX: usize = 5;
/// How long a new server waits before it dispatches, and how long between two dispatches.
const DISPATCH_FIRST: Duration = Duration::from_secs(10);
const DISPATCH_EVERY: Duration = Duration::from_secs(30);
/// How long until an attempt that went wrong is due again.
const RETRY: Duration = Duration::from_secs(180);
/// In how many of ten thousand cases the client forgets to dispatch, and the server restarts.
const FORGETS: u32 = 700;
const RESTARTS: u32 = 700;

/// A web server, and all that runs in its process.
#[derive(Debug, Clone)]
struct Server {
    node: Node,
}

impl Server {
    async fn start(world: &World, incarnation: u64, dispatches: bool) -> Self {
        let server = Self { node: world.start(format!("server-{incarnation}"), 100) };
        if dispatches {
            let session = Session::open(&server.node);
            // It is the only one: whatever is in progress was its predecessor's.
            let lost = |job: &mut Task| {
                job.rescues += 1;
                job.cause = Some(Cause::LeaseLapsed);
            };
            session.update(None, |job| job.state == State::Running, State::Ready, lost).await;
            server.node.spawn("dispatcher", server.clone().dispatch_for_ever());
        }
        server
    }

    async fn dispatch_for_ever(self) {
        tokio::time::sleep(DISPATCH_FIRST).await;
        loop {
            self.dispatch().await;
            tokio::time::sleep(DISPATCH_EVERY).await;
        }
    }

    /// A request to this server: no answer if it restarts meanwhile.
    async fn request<T: Send + 'static>(
        &self,
        what: &str,
        handle: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.node.spawn(what, async move {
            // The client may be gone.
            let _ = answer.send(handle.await);
        });
        answered.await.ok()
    }

    /// `POST /tasks`.
    async fn create(self, id: TaskId, parent: Option<TaskId>) {
        let session = Session::open(&self.node);
        let mut new = job(&id, self.node.world().now());
        if let Some(parent) = parent {
            let is_done = session.find(&parent).await.is_some_and(|parent| parent.state == State::Succeeded);
            if !is_done {
                (new.state, new.parents_pending) = (State::Blocked, 1);
            }
            session
                .insert_child(
                    new,
                    EdgeRow { parent, child: id, on_failure: OnParentFailure::Fail, gone: false },
                )
                .await;
        } else {
            session.insert(new).await;
        }
    }

    /// `POST /tasks/dispatch`: claims what is due and not blocked, and runs it in the background.
    async fn dispatch(&self) {
        let now = self.node.world().now();
        let is_due =
            move |job: &Task| matches!(job.state, State::Ready | State::Scheduled) && job.due_at <= now;
        let session = Session::open(&self.node);
        let done: Vec<TaskId> = session
            .all()
            .await
            .into_iter()
            .filter(|job| job.state == State::Succeeded)
            .map(|job| name_of(number_of(&job.id) + 1))
            .collect();
        let unblocked = move |job: &Task| job.state == State::Blocked && done.contains(&job.id);
        session.update(None, unblocked, State::Ready, |job| job.parents_pending = 0).await;
        let claimed = session.update(None, is_due, State::Running, taken(&self.node)).await;
        assert!(claimed.len() <= DISPATCHED_MAX, "there are fewer tasks than one dispatch claims");
        for job in claimed {
            let agent = self.clone().run_agent(job.id.clone(), job.fence);
            self.node.spawn(&format!("agent {}", job.id), agent);
        }
    }

    /// The agent. When a task is done, those that wait for it are dispatched.
    fn run_agent(self, id: TaskId, fence: u64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            entered(&self.node, &id, &id, fence);
            let world = self.node.world().clone();
            let number = number_of(&id);
            pause(&world, Stream::Workload, "agent", number, &[1_000, 5_000, 20_000]).await;
            let fails = fence == 1 && pick(&world, Stream::Workload, "first attempt fails", number, 8) == 7;
            said(&self.node, &id, fence, !fails);
            let session = Session::open(&self.node);
            if fails {
                let due = world.now() + RETRY;
                let retried = move |job: &mut Task| {
                    job.cause = Some(Cause::Error);
                    job.due_at = due;
                };
                session.change(&id, State::Scheduled, retried).await;
                return;
            }
            session.change(&id, State::Succeeded, because(Cause::Done)).await;
            self.dispatch().await;
        })
    }
}

fn name_of(number: u64) -> TaskId {
    TaskId::trusted(format!("task-{number}"))
}

fn number_of(id: &TaskId) -> u64 {
    id.as_str().trim_start_matches("task-").parse().expect("named by `name_of`")
}

async fn run(world: World, dispatches: bool) {
    let client = world.start("client", 100);
    let choices = world.choices();
    let mut incarnation = 0;
    let mut server = Server::start(&world, incarnation, dispatches).await;
    for number in 0..TASKS {
        let (id, parent) = (name_of(number), (number % 2 == 1).then(|| name_of(number - 1)));
        submitting(&client, &id);
        match server.request("POST /tasks", server.clone().create(id.clone(), parent)).await {
            Some(()) => accepted(&client, &id, &id),
            None => client.record(Event::Submitted { task: id.clone(), answer: SubmitAnswer::Dropped }),
        }
        if !choices.odds(Stream::Workload, "forgets to dispatch", number, FORGETS) {
            let dispatching = server.clone();
            server.request("POST /tasks/dispatch", async move { dispatching.dispatch().await }).await;
        }
        pause(&world, Stream::Workload, "next request", number, &[60_000, 0, 3_000, 15_000]).await;
        if choices.odds(Stream::Faults, "restart", number, RESTARTS) {
            server.node.crash();
            incarnation += 1;
            server = Server::start(&world, incarnation, dispatches).await;
        }
    }
    until_all_ended(&world, None).await;
}
