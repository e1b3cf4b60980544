//! Long work under leases: three workers as they are configured by default, and twenty tasks that run for up to minutes
//! or go wrong and are tried again after minutes, while workers crash and freeze. Nearly all of its time is waiting.

use std::time::Duration;

use futures_util::future::{Either, join_all, join3, select};
use steadfast_core::handler::Running;
use steadfast_core::name::{Kind, WorkerId};
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::task::{Backoff, NewTask};
use steadfast_core::{Context, Engine, Handler, Handlers, Supervisor, Verdict, WorkerConfig, sweeper};
use tokio::time::{Instant, sleep};

use crate::choices::Stream;
use crate::history::Event;
use crate::oracle::goals;
use crate::world::{Node, World};

use super::client::{Client, TASKS, id};
use super::handler::actor;
use super::workers::WORKERS;
use super::{Goals, Scenario};

/// How long faults last.
const STORM: Duration = Duration::from_secs(120);
/// How often the run looks whether all has ended.
const LOOK: Duration = Duration::from_secs(10);

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "long-leases",
    about: "three workers with default leases run long tasks that are renewed, rescued, and tried again after minutes",
    goals: Goals { all: GOALS, reached: goals::reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const GOALS: &[&str] = &[
    "a lease lapsed and the task was rescued",
    "a zombie spoke after its attempt was lost",
    "an attempt was retried",
];

async fn run(world: World) {
    let node = world.start("api", 100);
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    node.spawn("committer", commits);
    let client = Client { node, engine };
    let until = Instant::now() + STORM;
    let haunted = (0..WORKERS).map(|number| Place { world: world.clone(), number }.haunt(until));
    let submits = (0..TASKS).map(|number| client.submit(number, long_task(number)));
    let (drains, _, ()) = join3(join_all(haunted), join_all(submits), sleep(STORM)).await;
    world.heal();
    // The bound on this wait is the run's bound on virtual time.
    while world.history().any_task(|task| !task.state.is_terminal()) {
        sleep(LOOK).await;
    }
    drains.iter().for_each(DrainHandle::drain);
}

fn long_task(number: u64) -> NewTask {
    let id = id(number);
    let mut task = NewTask::new(id.clone(), Kind::trusted("work"), id.as_str().as_bytes());
    task.backoff = Backoff { min: Duration::from_secs(30), max: Duration::from_secs(300) };
    task
}

/// One place where a worker runs, over all its incarnations.
struct Place {
    world: World,
    number: u64,
}

impl Place {
    fn start(&self, incarnation: u32) -> (Node, DrainHandle) {
        let name = format!("w{}.{incarnation}", self.number);
        let node = self.world.start(&name, 100);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        node.spawn("sweeper", sweeper::run(engine.clone(), sweeper::SWEEP));
        let handlers = Handlers::new().with(Kind::trusted("work"), Long { node: node.clone() });
        let config = WorkerConfig { concurrency: 4, ..WorkerConfig::new(WorkerId::trusted(name)) };
        let (supervisor, drain) =
            Supervisor::new(engine, handlers, config).expect("the configuration makes sense");
        node.spawn("supervisor", supervisor.run());
        (node, drain)
    }

    /// Plays with the worker until `until`; returns the handle of the incarnation that lives then.
    async fn haunt(self, until: Instant) -> DrainHandle {
        let mut count = 0;
        let (mut node, mut drain) = self.start(count);
        while Instant::now() < until {
            self.wait("between blows", [10, 30, 50, 70]).await;
            match self.pick("blow", 4) {
                0 | 1 => {}
                2 => {
                    node.crash();
                    self.wait("dead for", [0, 1, 29, 60]).await;
                    count += 1;
                    (node, drain) = self.start(count);
                }
                _ => {
                    node.freeze();
                    // Just within the lease, just past it, long past it.
                    self.wait("frozen for", [5, 29, 31, 90]).await;
                    node.thaw();
                }
            }
        }
        drain
    }

    fn pick(&self, site: &'static str, n: u32) -> usize {
        self.world.choices().pick(Stream::Faults, site, self.number, n) as usize
    }

    async fn wait(&self, site: &'static str, seconds: [u64; 4]) {
        sleep(Duration::from_secs(seconds[self.pick(site, 4)])).await;
    }
}

/// A handler that takes its time.
struct Long {
    node: Node,
}

impl Handler for Long {
    fn call(&self, context: Context) -> Running {
        let node = self.node.clone();
        Box::pin(async move {
            let (task, fence) = (context.task_id().clone(), context.fence());
            let payload_id = String::from_utf8_lossy(context.payload()).into_owned();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            let verdict = work(&node, &context).await;
            let well = matches!(verdict, Verdict::Done(_));
            node.record(Event::Said { task, fence, well });
            verdict
        })
    }
}

async fn work(node: &Node, context: &Context) -> Verdict {
    let pick = |site, n| node.world().choices().pick(Stream::Workload, site, actor(context), n) as usize;
    let seconds = [20, 5, 45, 90][pick("long work", 4)];
    let (stopped, work) =
        (std::pin::pin!(context.stopped()), std::pin::pin!(sleep(Duration::from_secs(seconds))));
    if let Either::Left((reason, _)) = select(stopped, work).await {
        return Verdict::error(reason);
    }
    if pick("goes wrong", 4) == 3 {
        return Verdict::error("the work went wrong");
    }
    Verdict::done(format!("fence {}", context.fence()).into_bytes())
}
