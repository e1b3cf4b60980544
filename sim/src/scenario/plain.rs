//! Twenty tasks with nothing special to them on three workers that crash, freeze and restart: claiming, running, renewing,
//! settling and trying again, and whatever calls to a store can meet. Twice: in a few seconds (`plain`), and under leases as
//! they are configured by default, with work of minutes (`long-leases`), where nearly all of the time is waiting.

use std::time::Duration;

use futures_util::future::{Either, join_all, join3, select};
use steadfast_core::handler::Running;
use steadfast_core::name::{Kind, WorkerId};
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::task::{Backoff, NewTask};
use steadfast_core::{Context, Engine, Handler, Handlers, Supervisor, Verdict, WorkerConfig, sweeper};
use tokio::time::{Instant, sleep};

use crate::choices::Stream;
use crate::history::{Event, Word};
use crate::oracle::goals;
use crate::world::{Node, World};

use super::client::{Client, TASKS, id};
use super::handler::actor;
use super::workers::WORKERS;
use super::{Goals, Scenario};

/// In seconds.
pub const SCENARIO: Scenario = Scenario {
    name: "plain",
    about: "three workers that crash, freeze and restart run twenty tasks with nothing special to them, in a few seconds",
    goals: Goals { all: GOALS, reached: goals::reached, has_faults: false },
    run: &|world| Box::pin(run(world, &SECONDS)),
};

/// In minutes.
pub const LONG_LEASES: Scenario = Scenario {
    name: "long-leases",
    about: "three workers with default leases run long tasks that are renewed, rescued, and tried again after minutes",
    goals: Goals { all: GOALS, reached: goals::reached, has_faults: false },
    run: &|world| Box::pin(run(world, &MINUTES)),
};

const GOALS: &[&str] = &[
    "a lease lapsed and the task was rescued",
    "a zombie spoke after its attempt was lost",
    "an attempt was retried",
];

/// How long everything takes, in milliseconds; of several times the first is the default.
struct Pace {
    /// How long faults last.
    storm: u64,
    lease: u64,
    sweep: u64,
    /// The shortest and the longest.
    backoff: [u64; 2],
    work: [u64; 4],
    between_blows: [u64; 4],
    dead: [u64; 4],
    /// Just within the lease, just past it, long past it.
    frozen: [u64; 4],
    /// How often the run looks whether all has ended.
    look: u64,
}

const SECONDS: Pace = Pace {
    storm: 1_000,
    lease: 600,
    sweep: 1_000,
    backoff: [100, 400],
    work: [0, 5, 50, 700],
    between_blows: [50, 150, 350, 700],
    dead: [0, 25, 580, 800],
    frozen: [100, 580, 620, 1_000],
    look: 500,
};

const MINUTES: Pace = Pace {
    storm: 120_000,
    lease: 30_000,
    sweep: 5_000,
    backoff: [30_000, 300_000],
    work: [20_000, 5_000, 45_000, 90_000],
    between_blows: [10_000, 30_000, 50_000, 70_000],
    dead: [0, 1_000, 29_000, 60_000],
    frozen: [5_000, 29_000, 31_000, 90_000],
    look: 10_000,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn run(world: World, pace: &'static Pace) {
    let node = world.start("api", 100);
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    node.spawn("committer", commits);
    let client = Client { node, engine };
    let until = Instant::now() + ms(pace.storm);
    let haunted = (0..WORKERS).map(|number| Place { world: world.clone(), number, pace }.haunt(until));
    let submits = (0..TASKS).map(|number| client.submit(number, task(number, pace)));
    let (drains, _, ()) = join3(join_all(haunted), join_all(submits), sleep(ms(pace.storm))).await;
    world.heal();
    // The bound on this wait is the run's bound on virtual time.
    while !world.is_quiet() || world.history().any_task(|task| !task.state.is_terminal()) {
        sleep(ms(pace.look)).await;
    }
    drains.iter().for_each(DrainHandle::drain);
}

fn task(number: u64, pace: &Pace) -> NewTask {
    let id = id(number);
    let mut task = NewTask::new(id.clone(), Kind::trusted("work"), id.as_str().as_bytes());
    task.backoff = Backoff { min: ms(pace.backoff[0]), max: ms(pace.backoff[1]) };
    task
}

/// One place where a worker runs, over all its incarnations.
struct Place {
    world: World,
    number: u64,
    pace: &'static Pace,
}

impl Place {
    fn start(&self, incarnation: u32) -> (Node, DrainHandle) {
        let name = format!("w{}.{incarnation}", self.number);
        let node = self.world.start(&name, 100);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        node.spawn("sweeper", sweeper::run(engine.clone(), ms(self.pace.sweep)));
        let work = Work { node: node.clone(), pace: self.pace };
        let handlers = Handlers::new().with(Kind::trusted("work"), work);
        let config = WorkerConfig {
            concurrency: 4,
            lease: ms(self.pace.lease),
            ..WorkerConfig::new(WorkerId::trusted(name))
        };
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
            self.wait("between blows", self.pace.between_blows).await;
            match self.pick("blow", 4) {
                0 | 1 => {}
                2 => {
                    node.crash();
                    self.wait("dead for", self.pace.dead).await;
                    count += 1;
                    (node, drain) = self.start(count);
                }
                _ => {
                    node.freeze();
                    self.wait("frozen for", self.pace.frozen).await;
                    node.thaw();
                }
            }
        }
        drain
    }

    fn pick(&self, site: &'static str, n: u32) -> usize {
        self.world.choices().pick(Stream::Faults, site, self.number, n) as usize
    }

    async fn wait(&self, site: &'static str, millis: [u64; 4]) {
        sleep(ms(millis[self.pick(site, 4)])).await;
    }
}

/// A handler that takes its time.
struct Work {
    node: Node,
    pace: &'static Pace,
}

impl Handler for Work {
    fn call(&self, context: Context) -> Running {
        let (node, pace) = (self.node.clone(), self.pace);
        Box::pin(async move {
            let (task, fence) = (context.task_id().clone(), context.fence());
            let payload_id = String::from_utf8_lossy(context.payload()).into_owned();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            let verdict = work(&node, &context, pace).await;
            node.record(Event::Said { task, fence, word: Word::of(&verdict) });
            verdict
        })
    }
}

async fn work(node: &Node, context: &Context, pace: &Pace) -> Verdict {
    let pick = |site, n| node.world().choices().pick(Stream::Workload, site, actor(context), n) as usize;
    let time = ms(pace.work[pick("long work", 4)]);
    if !time.is_zero() {
        let (stopped, work) = (std::pin::pin!(context.stopped()), std::pin::pin!(sleep(time)));
        if let Either::Left((reason, _)) = select(stopped, work).await {
            return Verdict::error(reason);
        }
    }
    if pick("goes wrong", 4) == 3 {
        return Verdict::error("the work went wrong");
    }
    Verdict::done(format!("fence {}", context.fence()).into_bytes())
}
