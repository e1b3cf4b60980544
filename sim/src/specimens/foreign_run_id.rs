//! Incident 5, the foreign run id. The endpoint made a run id and returned it; the executor never saw it and made its own,
//! which named the result's file. The client polled the id that it had been given, found nothing under it, and was told
//! RUNNING for ever. Errors of the background task were swallowed. The report's remedy, to wait two seconds and take the id
//! of the newest file, is a specimen of its own: a slow start leaves no file, and two requests find the same one.
//!
//! Must fail: P13, one id everywhere. Repaired, the id is chosen before the execution, stored before it is answered, and
//! handed to the executor.

use std::time::Duration;

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

const FIXED: Scenario = Scenario {
    name: "foreign-run-id (fixed)",
    about: "the id is chosen and stored before it is answered, and handed to the executor",
    goals: Goals::NONE,
    run: &|world| Box::pin(run(world, Identity::Handed)),
};

pub(super) const SPECIMEN: Specimen = Specimen {
    name: "foreign-run-id",
    incident: 5,
    property: "P13",
    faulty: Scenario {
        name: "foreign-run-id",
        about: "the endpoint answers with an id that the executor never uses",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Identity::Foreign)),
    },
    fixed: FIXED,
};

pub(super) const NEWEST_FILE: Specimen = Specimen {
    name: "newest-file",
    incident: 5,
    property: "P13",
    faulty: Scenario {
        name: "newest-file",
        about: "the endpoint waits two seconds and answers with the id of the newest result",
        goals: Goals::NONE,
        run: &|world| Box::pin(run(world, Identity::NewestFile)),
    },
    fixed: FIXED,
};

/// Where the answered id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// The endpoint makes one, the executor another.
    Foreign,
    /// The executor makes one, and the endpoint looks for it among the results.
    NewestFile,
    /// The endpoint makes and stores one, and hands it over.
    Handed,
}

/// How many runs are asked for.
const RUNS: u64 = 3;
/// How long the endpoint waits for the newest result.
const GRACE: Duration = Duration::from_secs(2);
/// How often a client polls.
const POLL: Duration = Duration::from_secs(1);

async fn run(world: World, identity: Identity) {
    let api = world.start("api", 100);
    for number in 0..RUNS {
        let node = api.clone();
        api.spawn(&format!("client {number}"), async move {
            let told = execute_configuration(&node, identity, number).await;
            poll(&node, &told).await;
        });
        pause(&world, Stream::Workload, "next request", number, &[60_000, 0, 500]).await;
    }
    until_all_ended(&world, Some(PATIENCE)).await;
}

/// The endpoint; its answer is an id to poll.
async fn execute_configuration(api: &Node, identity: Identity, number: u64) -> TaskId {
    // An id of the endpoint's, and what the executor would make for itself.
    let (made, own) = (TaskId::trusted(format!("run-{number}")), TaskId::trusted(format!("own-{number}")));
    match identity {
        Identity::Foreign => {
            submitting(api, &made);
            api.spawn(&format!("pipeline {own}"), execute(api.clone(), own, made.clone(), number));
            accepted(api, &made, &made);
            made
        }
        Identity::NewestFile => {
            submitting(api, &own);
            api.spawn(&format!("program {own}"), execute(api.clone(), own.clone(), own.clone(), number));
            tokio::time::sleep(GRACE).await;
            let newest = newest(api).unwrap_or(made);
            accepted(api, &own, &newest);
            newest
        }
        Identity::Handed => {
            submitting(api, &made);
            Session::open(api).insert(job(&made, api.world().now())).await;
            api.spawn(&format!("pipeline {made}"), execute(api.clone(), made.clone(), made.clone(), number));
            accepted(api, &made, &made);
            made
        }
    }
}

/// The result that was begun last.
fn newest(api: &Node) -> Option<TaskId> {
    let results = api.world().history().tasks();
    results
        .values()
        .max_by_key(|result| (result.submitted_at, result.id.clone()))
        .map(|result| result.id.clone())
}

/// The executor: it knows `id`; whoever asked believes that it works on `asked`.
async fn execute(api: Node, id: TaskId, asked: TaskId, number: u64) {
    pause(api.world(), Stream::Workload, "start", number, &[300, 1_900, 2_500, 10_000]).await;
    let session = Session::open(&api);
    if session.find(&id).await.is_none() {
        session.insert(job(&id, api.world().now())).await;
    }
    let Some(job) = session.change(&id, State::Running, taken(&api)).await else { return };
    entered(&api, &id, &asked, job.fence);
    pause(api.world(), Stream::Workload, "browse", number, &[5_000, 500, 30_000]).await;
    let fails = pick(api.world(), Stream::Workload, "the page is gone", number, 6) == 5;
    said(&api, &id, job.fence, !fails);
    if fails {
        session.change(&id, State::Failed, because(Cause::Error)).await;
    } else {
        session.change(&id, State::Succeeded, because(Cause::Done)).await;
    }
}

/// `GET /test-runs/{id}` until it isn't RUNNING any more: what isn't there is taken to be.
async fn poll(api: &Node, id: &TaskId) {
    let session = Session::open(api);
    let until = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < until {
        if session.find(id).await.is_some_and(|run| run.state.is_terminal()) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}
