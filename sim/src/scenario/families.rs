//! Families: parents that end at the same instant on several workers, and children that are added at that very instant.
//! Nothing limits the queue, so that claims meet as well.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use steadfast_core::name::TaskId;
use steadfast_core::task::{NewTask, OnParentFailure, Parent};
use steadfast_core::{Context, Verdict};
use steadfast_core::{State, Timestamp};

use super::incidents::{Process, done, goals, heal_and_end, new_task, number_of, places, until_the_beat};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::world::World;

const TOGETHER: &str = "two parents of a child ended at the same instant";
const OVERTAKEN: &str = "a child was added at the instant at which its parent ended";
const FAILED: &str = "a failed parent failed its child";
const WAITED: &str = "a child waited for several parents and ran";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "families",
    about: "parents end at the same instant on three workers, and children are added at that instant",
    goals: Goals { all: &[TOGETHER, OVERTAKEN, FAILED, WAITED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const WORKERS: u64 = 3;
const FAMILIES: u64 = 4;
/// The most parents of a family, and the most children.
const MEMBERS_MAX: u64 = 3;

async fn run(world: World) {
    let client = Process::start(&world, "client");
    for number in 0..WORKERS {
        Process::start_worker(&world, format!("worker-{number}"), 2, |process, context| {
            Box::pin(work(process, context))
        });
    }
    for family in 0..FAMILIES {
        let first = family * MEMBERS_MAX * 2;
        let pick = |site, n| client.pick(Stream::Workload, site, family, n) as u64;
        let parents: Vec<u64> = (first..=first + 1 + pick("parents", 2)).collect();
        join_all(parents.iter().map(|number| client.submit(new_task("task", *number), 0))).await;
        if pick("children come late", 2) == 1 {
            until_the_beat(&world).await;
        }
        let children = first + MEMBERS_MAX..=first + MEMBERS_MAX + pick("children", 2);
        join_all(children.map(|number| client.submit(child(&client, number, &parents), 0))).await;
        until_the_beat(&world).await;
    }
    heal_and_end(&world).await;
}

/// A task that waits for all of these, or but for the first.
fn child(client: &Process, number: u64, parents: &[u64]) -> NewTask {
    let mut task = new_task("task", number);
    let left_out = client.pick(Stream::Workload, "without the first parent", number, 3) / 2;
    let on_failure = [OnParentFailure::Fail, OnParentFailure::Run]
        [client.pick(Stream::Workload, "runs anyway", number, 2)];
    task.parents = parents[left_out..]
        .iter()
        .map(|number| Parent { id: TaskId::trusted(format!("task-{number}")), on_failure })
        .collect();
    task
}

async fn work(process: Process, context: Context) -> Verdict {
    let number = number_of(&context);
    match process.pick(Stream::Workload, "work", number, 6) {
        0 | 1 => {}
        2..=4 => until_the_beat(process.node.world()).await,
        _ => return Verdict::fail("the work can't be done"),
    }
    done(&context)
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let ends: Vec<_> = places(entries, |event| match event {
        Event::Changed { after, .. } if after.state.is_terminal() => Some(&after.id),
        _ => None,
    })
    .map(|(place, id)| (id, entries[place].at))
    .collect();
    let ended_at = |id: &TaskId| ends.iter().find(|(ended, _)| *ended == id).map(|(_, at)| *at);
    let edges: Vec<_> =
        places(entries, |event| if let Event::Edge(edge) = event { Some(edge) } else { None }).collect();
    let near = |one: Timestamp, other: Timestamp| {
        let apart = std::cmp::max(one, other).since(std::cmp::min(one, other));
        apart < Duration::from_millis(20)
    };
    let together = edges.iter().any(|(_, edge)| {
        edges.iter().any(|(_, other)| {
            let ends = ended_at(&edge.parent).zip(ended_at(&other.parent));
            edge.child == other.child
                && edge.parent != other.parent
                && ends.is_some_and(|(one, other)| near(one, other))
        })
    });
    let overtaken = edges
        .iter()
        .any(|(place, edge)| ended_at(&edge.parent).is_some_and(|at| near(at, entries[*place].at)));
    let failed = places(entries, |event| match event {
        Event::Changed { after, .. } => Some(after),
        _ => None,
    })
    .any(|(_, after)| after.cause == Some(steadfast_core::Cause::DependencyFailed));
    let several = |id: &TaskId| edges.iter().filter(|(_, edge)| edge.child == *id).count() > 1;
    let waited = entries.iter().any(|entry| match &entry.event {
        Event::Changed { before: Some(before), after } => {
            before.state == State::Blocked && after.state == State::Ready && several(&after.id)
        }
        _ => false,
    });
    goals(&[(TOGETHER, together), (OVERTAKEN, overtaken), (FAILED, failed), (WAITED, waited)])
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn no_child_is_forgotten() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
