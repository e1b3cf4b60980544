//! The stage of the stories: a client, workers, and what both note for the oracle.

use std::time::Duration;

use steadfast_core::engine::{Accepted, Submitted};
use steadfast_core::name::{Kind, Queue, Slot, TaskId, WorkerId};
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::task::{Backoff, NewTask, OnConflict, Task};
use steadfast_core::{Context, Engine, Handlers, State, Supervisor, Verdict, WorkerConfig, sweeper};
use steadfast_sim::cancel::Trial;
use steadfast_sim::history::{Event, SubmitAnswer, Word};
use steadfast_sim::storage::SimStorage;
use steadfast_sim::world::{Node, SimClock};

pub(crate) type SimEngine = Engine<SimStorage, SimClock>;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const LEASE: Duration = Duration::from_secs(6);
/// Longer than any call goes on that nobody waits for.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is looked whether all has ended, a second apart.
const LOOKS_MAX: u32 = 60;

/// The client's process.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) trial: Trial,
    pub(crate) node: Node,
    pub(crate) engine: SimEngine,
}

/// A worker's process.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) node: Node,
    pub(crate) engine: SimEngine,
}

impl Bench {
    pub(crate) fn new(trial: &Trial) -> Self {
        let node = trial.world().start("client", 100);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        Self { trial: trial.clone(), node, engine }
    }

    /// A worker's process that doesn't work yet.
    pub(crate) fn process(&self, name: &str) -> Worker {
        let node = self.trial.world().start(name, 100);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        Worker { node, engine }
    }

    /// A process that works, and sweeps.
    pub(crate) fn work(&self, name: &str) -> DrainHandle {
        let worker = self.process(name);
        let (supervisor, drain) = worker.supervisor(worker.handlers());
        worker.node.spawn("supervisor", supervisor.run());
        worker.node.spawn("sweeper", sweeper::run(worker.engine.clone(), SECOND));
        drain
    }

    /// Notes that tasks of these ids are meant to be.
    pub(crate) fn announce(&self, ids: &[&str]) {
        for id in ids {
            self.node.record(Event::Submitting { task: TaskId::trusted(*id) });
        }
    }

    /// Submits a task, which is accepted.
    pub(crate) async fn submit(&self, task: NewTask) -> Accepted {
        let id = task.id.clone();
        self.announce(&[id.as_str()]);
        let answer = self.engine.submit(task).await;
        self.told(&id, answer.ok())
    }

    /// Notes the answer to a submit.
    pub(crate) fn told(&self, id: &TaskId, answer: Option<Submitted>) -> Accepted {
        let Some(Submitted::Accepted(accepted)) = answer else { panic!("{id}: {answer:?}") };
        let told = SubmitAnswer::Accepted(accepted.id.clone());
        self.node.record(Event::Submitted { task: id.clone(), answer: told });
        accepted
    }

    /// Notes that nobody heard the answer.
    pub(crate) fn unheard(&self, id: &str) {
        self.node.record(Event::Submitted { task: TaskId::trusted(id), answer: SubmitAnswer::Dropped });
    }

    /// Waits until what is under way is through.
    pub(crate) async fn quiet(&self) {
        tokio::time::sleep(QUIET).await;
    }

    pub(crate) async fn find(&self, id: &str) -> Option<Task> {
        self.engine.task(&TaskId::trusted(id)).await.expect("nothing disturbs a read")
    }

    pub(crate) async fn state(&self, id: &str) -> State {
        self.find(id).await.expect("it is stored").state
    }

    /// Waits until a task is in this state.
    pub(crate) async fn reach(&self, id: &str, state: State) {
        for _ in 0..LOOKS_MAX * 10 {
            if self.find(id).await.is_some_and(|task| task.state == state) {
                return;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        panic!("{id} isn't {state} but {:?}", self.find(id).await);
    }

    /// Shows that the process is as good as before: another task is accepted and ends, and so do all others.
    pub(crate) async fn rest(&self) {
        self.submit(task("after", "quick")).await;
        for _ in 0..LOOKS_MAX {
            let tasks = self.trial.world().history().tasks();
            if tasks.values().all(|task| task.state.is_terminal()) {
                return;
            }
            tokio::time::sleep(SECOND).await;
        }
        let tasks = self.trial.world().history().tasks();
        let left: Vec<_> = tasks.values().filter(|task| !task.state.is_terminal()).collect();
        panic!("after a minute these haven't ended: {left:?}");
    }
}

impl Worker {
    /// What a worker's handlers do by their names, noting when they are entered and what they say.
    pub(crate) fn handlers(&self) -> Handlers {
        let quick = |context: Context| async move { done(&context) };
        let steady = |context: Context| async move {
            let work = std::pin::pin!(tokio::time::sleep(SECOND * 3));
            let stopped = std::pin::pin!(context.stopped());
            match futures_util::future::select(stopped, work).await {
                futures_util::future::Either::Left((reason, _)) => Verdict::error(reason),
                futures_util::future::Either::Right(_) => done(&context),
            }
        };
        let fail = |_: Context| async { Verdict::fail("it can't be done") };
        let again = |context: Context| async move {
            if context.attempt() == 1 { Verdict::error("not this time") } else { done(&context) }
        };
        Handlers::new()
            .with(Kind::trusted("quick"), self.noted(quick))
            .with(Kind::trusted("steady"), self.noted(steady))
            .with(Kind::trusted("again"), self.noted(again))
            .with(Kind::trusted("fail"), self.noted(fail))
    }

    /// A handler that notes when it is entered and what it says.
    pub(crate) fn noted<F>(
        &self,
        handler: impl Fn(Context) -> F + Send + Sync + 'static,
    ) -> impl steadfast_core::Handler
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let node = self.node.clone();
        move |context: Context| {
            let (node, task, fence) = (node.clone(), context.task_id().clone(), context.fence());
            let payload_id = String::from_utf8_lossy(context.payload()).into_owned();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            let running = handler(context);
            async move {
                let verdict = running.await;
                node.record(Event::Said { task, fence, word: Word::of(&verdict) });
                verdict
            }
        }
    }

    pub(crate) fn supervisor(&self, handlers: Handlers) -> (Supervisor<SimStorage, SimClock>, DrainHandle) {
        let mut config = WorkerConfig::new(WorkerId::trusted(self.node.name()));
        config.queues = vec![Queue::default_queue(), Queue::trusted("other")];
        config.concurrency = 4;
        config.lease = LEASE;
        config.grace = SECOND;
        Supervisor::new(self.engine.clone(), handlers, config).expect("the configuration makes sense")
    }
}

/// Done, with the fence by which the oracle knows whose word it was.
pub(crate) fn done(context: &Context) -> Verdict {
    Verdict::done(format!("fence {}", context.fence()).into_bytes())
}

/// A task whose payload is its id.
pub(crate) fn task(id: &str, kind: &str) -> NewTask {
    let mut task = NewTask::new(TaskId::trusted(id), Kind::trusted(kind), id.as_bytes());
    task.backoff = Backoff { min: SECOND, max: SECOND };
    task
}

/// A task in the slot `s`, and what it does about who is there.
pub(crate) fn in_slot(id: &str, kind: &str, on_conflict: OnConflict) -> NewTask {
    let mut task = task(id, kind);
    task.payload = (*b"slot s").into();
    task.slot = Some((Slot::trusted("s"), on_conflict));
    task
}

/// Where a whole story needs nothing but its bench.
macro_rules! story {
    ($name:ident, |$bench:ident| $body:block) => {
        fn $name(trial: steadfast_sim::cancel::Trial) -> super::Story {
            Box::pin(async move {
                let $bench = super::bench::Bench::new(&trial);
                $body
            })
        }
    };
}
pub(crate) use story;
