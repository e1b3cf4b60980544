//! The canary fails on purpose, so that reporting itself is tested: a client takes a cancel for acknowledged that it never
//! sent. It is not among the scenarios that are run as `all`.

use std::time::Duration;

use steadfast_core::task::Due;

use super::incidents::{Process, done, heal_and_end, new_task};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::Event;
use crate::world::World;

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "canary",
    about: "fails on purpose: a client takes a cancel for acknowledged that it never sent",
    goals: Goals::NONE,
    run: &|world| Box::pin(run(world)),
};

/// The property that it breaks.
pub const PROPERTY: &str = "P15";

const TASKS: u64 = 3;

async fn run(world: World) {
    let client = Process::start(&world, "client");
    Process::start_worker(&world, "worker", 2, |_, context| Box::pin(async move { done(&context) }));
    for number in 0..TASKS {
        let mut task = new_task("task", number);
        task.due = Due::After(Duration::from_secs(1));
        let id = task.id.clone();
        client.submit(task, 0).await;
        if client.pick(Stream::Workload, "sings", number, 4) == 3 {
            client.node.record(Event::Cancelled { task: id, acknowledged: true });
        }
    }
    heal_and_end(&world).await;
}
