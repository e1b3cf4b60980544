//! Incident 5 on the engine: the caller chooses the run's id before it asks, so even one that got no answer knows what to poll;
//! the program behind the handler insists on an id of its own and reports it, and a look-up by that one finds the run.
//! An id that nobody has submitted is unknown, never running.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::name::TaskId;
use steadfast_core::step::Report;
use steadfast_core::{Context, Verdict};

use super::{Process, done, goals, heal_and_end, new_task, number_of};
use crate::choices::Stream;
use crate::history::{Entry, Event, SubmitAnswer};
use crate::scenario::{Goals, Scenario};
use crate::world::World;

const UNANSWERED: &str = "a caller got no answer and found its run under the id that it had chosen";
const BY_ALIAS: &str = "a run was found by the id that its program had made for itself";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "incident-5-foreign-run-id",
    about: "callers choose the run's id, get no answer, and poll; programs report ids of their own",
    goals: Goals { all: &[UNANSWERED, BY_ALIAS], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const RUNS: u64 = 3;
/// How a look-up by a program's own id is noted.
const ALIAS_READER: &str = "by alias";

async fn run(world: World) {
    let api = Process::start(&world, "api");
    let _worker =
        Process::start_worker(&world, "worker", 2, |process, context| Box::pin(execute(process, context)));
    for number in 0..RUNS {
        let task = new_task("run", number);
        let id = task.id.clone();
        let patience = world.choices().depart(Stream::Faults, "caller goes away", number, 4_000, 20);
        api.submit(task, patience).await;
        api.pause("poll", number, &[20_000, 0, 100, 3_000]).await;
        let unknown = api.engine.task(&TaskId::trusted(format!("never-{number}"))).await;
        assert!(!matches!(unknown, Ok(Some(_))), "an id that nobody has submitted is unknown: {unknown:?}");
        look_up(&api, &id, &id, "by id").await;
    }
    heal_and_end(&world).await;
    for number in 0..RUNS {
        let id = TaskId::trusted(format!("run-{number}"));
        look_up(&api, &own_id(number), &id, ALIAS_READER).await;
    }
}

/// The id that the program behind the handler makes for itself.
fn own_id(number: u64) -> TaskId {
    TaskId::trusted(format!("own-{number}"))
}

/// Looks a run up under one of its names: it is found as what it is, or not at all.
async fn look_up(api: &Process, name: &TaskId, run: &TaskId, reader: &str) {
    let asked_at = api.node.world().now();
    let Ok(Some(found)) = api.engine.wait(name, None, Duration::from_secs(30)).await else { return };
    assert_eq!(found.id, *run, "{name} names another run");
    let (reader, rev, state) = (reader.to_owned(), found.rev, found.state);
    api.node.record(Event::Looked { reader, task: found.id, rev, state, asked_at });
}

async fn execute(process: Process, context: Context) -> Verdict {
    let number = number_of(&context);
    process.pause("start", number, &[300, 0, 2_500]).await;
    let mut report = Report::new(context.task_id().clone(), context.fence());
    report.alias = Some(own_id(number));
    // A report that is lost is no reason to fail: the run has its id.
    let _ = process.engine.report(report).await;
    process.pause("browse", number, &[1_000, 0, 6_000]).await;
    let fails = process.pick(Stream::Workload, "the page is gone", number, 6) == 5;
    if fails { Verdict::fail("the page is gone") } else { done(&context) }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let mut unanswered = BTreeSet::new();
    let mut found_unanswered = false;
    let mut by_alias = false;
    for entry in entries {
        match &entry.event {
            Event::Submitted { task, answer: SubmitAnswer::Dropped } => {
                unanswered.insert(task);
            }
            Event::Looked { reader, task, .. } => {
                by_alias |= reader == ALIAS_READER;
                found_unanswered |= unanswered.contains(task);
            }
            _ => {}
        }
    }
    goals(&[(UNANSWERED, found_unanswered), (BY_ALIAS, by_alias)])
}
