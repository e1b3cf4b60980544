//! Incident 4, the stale status. The worker had committed COMPLETED, and the API went on reading RUNNING until the client
//! gave up. Two layers hid the row, each of them enough: the API's session lived long, under snapshot isolation, and so
//! read its old snapshot for ever; and its object cache shadowed what the query had fetched. `refresh` alone didn't help,
//! nor did another isolation level alone. On the way a parse error was recorded as COMPLETED.
//!
//! Must fail: P7, reads move forward: a reader is never shown less than was committed when it asked. Repaired, each read
//! is a transaction of its own and keeps nothing. For the parse error: P14, no error is recorded as success.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::{Cause, Task};

use super::Specimen;
use super::service::{
    PATIENCE, Session, accepted, because, entered, job, pause, pick, said, submitting, taken, until_all_ended,
};
use crate::choices::Stream;
use crate::history::Event;
use crate::scenario::{Goals, Scenario};
use crate::world::{Node, World};

/// Which layers hide the row.
#[derive(Debug, Clone, Copy)]
struct Layers {
    /// One transaction for all requests: its first read took the snapshot of all.
    snapshot: bool,
    /// Whatever was read once is answered from memory.
    cache: bool,
}

const NONE: Layers = Layers { snapshot: false, cache: false };

const FIXED: Scenario = Scenario {
    name: "stale-status (fixed)",
    about: "each read is a transaction of its own and keeps nothing",
    goals: Goals::NONE,
    run: &|world| Box::pin(run(world, NONE)),
};

pub(super) const SNAPSHOT: Specimen = Specimen {
    name: "stale-snapshot",
    incident: 4,
    property: "P7",
    faulty: Scenario {
        name: "stale-snapshot",
        about: "the API's session keeps its snapshot: it reads running after succeeded was committed",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Layers { snapshot: true, ..NONE })),
    },
    fixed: FIXED,
};

pub(super) const CACHE: Specimen = Specimen {
    name: "stale-cache",
    incident: 4,
    property: "P7",
    faulty: Scenario {
        name: "stale-cache",
        about: "the API's object cache shadows the row: it shows running after succeeded was committed",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Layers { cache: true, ..NONE })),
    },
    fixed: FIXED,
};

pub(super) const BOTH: Specimen = Specimen {
    name: "stale-status",
    incident: 4,
    property: "P7",
    faulty: Scenario {
        name: "stale-status",
        about: "a session that keeps its snapshot under an object cache, as it was found",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Layers { snapshot: true, cache: true })),
    },
    fixed: FIXED,
};

pub(super) const PARSE_ERROR: Specimen = Specimen {
    name: "parse-error-completed",
    incident: 4,
    property: "P14",
    faulty: Scenario {
        name: "parse-error-completed",
        about: "a worker that can't parse its model's answer records the task as completed",
        goals: Goals::NONE,
        run: &|world| Box::pin(run_parsing(world, false)),
    },
    fixed: Scenario {
        name: "parse-error-completed (fixed)",
        about: "the parse error is recorded as the failure that it is",
        goals: Goals::NONE,
        run: &|world| Box::pin(run_parsing(world, true)),
    },
};

/// How many tasks there are.
const TASKS: u64 = 2;
/// How often a client polls, and when it gives up.
const POLL: Duration = Duration::from_secs(2);
const GIVES_UP: Duration = Duration::from_secs(20);

/// The API's access to tasks.
struct Api {
    node: Node,
    layers: Layers,
    /// The session that lives as long as the process.
    session: Session,
    cache: BTreeMap<TaskId, Task>,
}

impl Api {
    fn new(node: Node, layers: Layers) -> Self {
        let session = Session::open(&node);
        if layers.snapshot {
            session.begin_with_snapshot();
        }
        Self { node, layers, session, cache: BTreeMap::new() }
    }

    /// `GET /tasks/{id}`.
    async fn status(&mut self, id: &TaskId) -> Option<State> {
        let asked_at = self.node.world().now();
        // The query is sent in any case; the cache only prefers what it knows to what comes back.
        let read = self.session.find(id).await?;
        let shown = if self.layers.cache { self.cache.entry(id.clone()).or_insert(read) } else { &read };
        let (rev, state) = (shown.rev, shown.state);
        let reader = self.node.name().to_owned();
        self.node.record(Event::Looked { reader, task: id.clone(), rev, state, asked_at });
        Some(state)
    }
}

async fn run(world: World, layers: Layers) {
    let worker = world.start("worker", 100);
    let mut api = Api::new(world.start("api", 100), layers);
    for number in 0..TASKS {
        let id = submit(&api.node, number).await;
        worker.spawn(&format!("actor {id}"), work(worker.clone(), id.clone(), number, Parse::Well));
        // Whoever looks only when all is done is shown the truth.
        pause(&world, Stream::Workload, "first poll", number, &[60_000, 0, 1_000, 2_500]).await;
        let until = tokio::time::Instant::now() + GIVES_UP;
        while !api.status(&id).await.is_some_and(State::is_terminal) && tokio::time::Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn run_parsing(world: World, records_failure: bool) {
    let node = world.start("worker", 100);
    let on_error = if records_failure { State::Failed } else { State::Succeeded };
    for number in 0..TASKS {
        let id = submit(&node, number).await;
        let fails = pick(&world, Stream::Workload, "the model's answer", number, 6) == 5;
        let parse = if fails { Parse::Badly { recorded_as: on_error } } else { Parse::Well };
        node.spawn(&format!("actor {id}"), work(node.clone(), id, number, parse));
    }
    until_all_ended(&world, Some(PATIENCE)).await;
}

async fn submit(node: &Node, number: u64) -> TaskId {
    let id = TaskId::trusted(format!("task-{number}"));
    submitting(node, &id);
    // In a session of its own: the long one only reads.
    Session::open(node).insert(job(&id, node.world().now())).await;
    accepted(node, &id, &id);
    id
}

/// Whether the worker can parse what the model answers.
#[derive(Debug, Clone, Copy)]
enum Parse {
    Well,
    Badly { recorded_as: State },
}

/// The worker's actor.
async fn work(node: Node, id: TaskId, number: u64, parse: Parse) {
    pause(node.world(), Stream::Workload, "message", number, &[0, 10, 2_000]).await;
    let session = Session::open(&node);
    let Some(job) = session.change(&id, State::Running, taken(&node)).await else { return };
    entered(&node, &id, &id, job.fence);
    pause(node.world(), Stream::Workload, "model", number, &[500, 2_000, 8_000]).await;
    match parse {
        Parse::Well => {
            said(&node, &id, job.fence, true);
            session.change(&id, State::Succeeded, because(Cause::Done)).await;
        }
        Parse::Badly { recorded_as } => {
            said(&node, &id, job.fence, false);
            session.change(&id, recorded_as, because(Cause::Error)).await;
        }
    }
}
