//! Incident 3 on the engine: nobody ever calls a dispatch, the server runs its tasks itself and restarts when it likes, first
//! attempts fail, and some tasks wait for others. Everything runs: polling and leases see to it.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::task::{Backoff, Cause, OnParentFailure, Parent};
use steadfast_core::{Context, Verdict};

use super::{Process, done, entered, goals, heal_and_end, new_task, number_of, places};
use crate::choices::Stream;
use crate::history::{Entry, Event, SubmitAnswer};
use crate::scenario::{Goals, Scenario};
use crate::world::World;

const RESTARTED: &str = "what was running at a restart ran again";
const RETRIED: &str = "an attempt that went wrong was followed by another that nobody asked for";
const RELEASED: &str = "a dependent was released and ran";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "incident-3-no-dispatcher",
    about: "nobody calls dispatch, the server restarts in the middle, attempts fail and dependents wait",
    goals: Goals { all: &[RESTARTED, RETRIED, RELEASED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const TASKS: u64 = 4;

async fn run(world: World) {
    let client = Process::start(&world, "client");
    let mut server = Process::start_worker(&world, "server-0", 5, |process, context| {
        Box::pin(run_agent(process, context))
    });
    for number in 0..TASKS {
        let mut task = new_task("task", number);
        task.backoff = Backoff { min: Duration::from_secs(20), max: Duration::from_secs(60) };
        if number % 2 == 1 {
            let id = TaskId::trusted(format!("task-{}", number - 1));
            task.parents = vec![Parent { id, on_failure: OnParentFailure::Fail }];
        }
        let answer = client.submit(task, 0).await;
        assert!(matches!(answer, SubmitAnswer::Accepted(_)), "the parent is stored: {answer:?}");
        client.pause("next request", number, &[40_000, 0, 1_500, 6_000]).await;
        if client.odds("restart", number, 3_500) {
            server.node.crash();
            let name = format!("server-{}", number + 1);
            server = Process::start_worker(&world, name, 5, |process, context| {
                Box::pin(run_agent(process, context))
            });
        }
    }
    heal_and_end(&world).await;
}

async fn run_agent(process: Process, context: Context) -> Verdict {
    let number = number_of(&context);
    process.pause("agent", number, &[1_000, 5_000, 20_000]).await;
    let fails =
        context.attempt() == 1 && process.pick(Stream::Workload, "first attempt fails", number, 4) == 3;
    if fails { Verdict::error("the agent went wrong") } else { done(&context) }
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let entered = entered(entries);
    let runs_after = |place, task: &TaskId| entered.iter().any(|(at, (of, _))| *at > place && *of == task);
    let crashed =
        places(entries, |event| if let Event::Crashed { node } = event { Some(node) } else { None });
    let restarted = crashed.into_iter().any(|(place, node)| {
        let newest = |task: &TaskId| {
            places(&entries[..place], |event| match event {
                Event::Changed { after, .. } => Some(after),
                _ => None,
            })
            .filter(|(_, after)| after.id == *task)
            .last()
        };
        entered.iter().any(|(at, (task, _))| {
            let ran_there = newest(task).is_some_and(|(_, now)| {
                now.state == State::Running
                    && now.worker.as_ref().is_some_and(|worker| worker.as_str() == node)
            });
            *at < place && ran_there && runs_after(place, task)
        })
    });
    let changed = |is: fn(State, &steadfast_core::Task) -> bool| {
        places(entries, move |event| match event {
            Event::Changed { before: Some(before), after } if is(before.state, after) => Some(&after.id),
            _ => None,
        })
        .any(|(place, task)| runs_after(place, task))
    };
    goals(&[
        (RESTARTED, restarted),
        (
            RETRIED,
            changed(|from, to| {
                from == State::Running && to.cause == Some(Cause::Error) && to.state.is_waiting()
            }),
        ),
        (RELEASED, changed(|from, to| from == State::Blocked && to.state == State::Ready)),
    ])
}
