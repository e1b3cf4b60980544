//! The five incidents on the engine that ships: the stories of the [specimens](crate::specimens), with nothing in them but
//! the public API, and no property may fail. Each has goals, which show that its seeds come through the very
//! interleaving that was fatal to the service of the report.

pub mod await_under_lock;
pub mod dropped_handle;
pub mod foreign_run_id;
pub mod no_dispatcher;
pub mod stale_status;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use steadfast_core::engine::Submitted;
use steadfast_core::handler::{Running, StopReason};
use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::Refusal;
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::task::NewTask;
use steadfast_core::{
    Context, Engine, ErrorKind, Handler, Handlers, Supervisor, Verdict, WorkerConfig, sweeper,
};

use super::chaos::LEASE;
use super::chaos::drained_at_last;
use super::client::{dropped_after, is_worth_repeating};
use crate::choices::Stream;
use crate::history::{Entry, Event, SubmitAnswer, Word};
use crate::scheduler::waiting_for;
use crate::storage::SimStorage;
use crate::world::{EPOCH, Node, SimClock, World};

/// How often lapsed leases are swept.
const SWEEP: Duration = Duration::from_secs(2);
/// The beat at which things are made to meet.
const BEAT: Duration = Duration::from_secs(1);
/// How often the end of a run is looked for.
const LOOK: Duration = Duration::from_secs(2);
/// How often a submit is sent again, half a second apart.
const RESUBMITS_MAX: u32 = 40;

/// What a handler of such a service does.
pub(super) type Work = fn(Process, Context) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A process of the service, with its engine.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) node: Node,
    pub(super) engine: Engine<SimStorage, SimClock>,
}

impl Process {
    pub(super) fn start(world: &World, name: impl Into<String>) -> Self {
        let node = world.start(name, 100);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        Self { node, engine }
    }

    /// Starts a process that works.
    pub(super) fn start_worker(
        world: &World,
        name: impl Into<String>,
        concurrency: usize,
        work: Work,
    ) -> Self {
        let process = Self::start(world, name);
        // Dropping the handle changes nothing: the supervisor owns its attempts.
        drop(process.work(concurrency, work));
        process
    }

    /// Makes this process a worker too.
    pub(super) fn work(&self, concurrency: usize, work: Work) -> DrainHandle {
        self.work_on(Queue::default_queue(), concurrency, work)
    }

    /// Makes it a worker on this queue.
    pub(super) fn work_on(&self, queue: Queue, concurrency: usize, work: Work) -> DrainHandle {
        self.node.spawn("sweeper", sweeper::run(self.engine.clone(), SWEEP));
        let handlers = Handlers::new().with(Kind::trusted("work"), Noted { process: self.clone(), work });
        let mut config = WorkerConfig::new(WorkerId::trusted(self.node.name().to_owned()));
        config.queues = vec![queue];
        config.concurrency = concurrency;
        config.lease = LEASE;
        config.grace = Duration::from_secs(3);
        let (supervisor, drain) =
            Supervisor::new(self.engine.clone(), handlers, config).expect("the configuration makes sense");
        self.node.spawn("supervisor", drained_at_last(self.node.clone(), self.engine.clone(), supervisor));
        drain
    }

    /// Submits a task, again and again where that may help. With `patience` the caller goes away after so many polls.
    pub(super) async fn submit(&self, task: NewTask, patience: u32) -> SubmitAnswer {
        let id = task.id.clone();
        self.node.record(Event::Submitting { task: id.clone() });
        let mut answer = SubmitAnswer::Failed(ErrorKind::Unknown);
        for round in 0..RESUBMITS_MAX {
            answer = match dropped_after(patience, self.engine.submit(task.clone())).await {
                None => SubmitAnswer::Dropped,
                Some(Ok(Submitted::Accepted(accepted))) => SubmitAnswer::Accepted(accepted.id),
                // An earlier round may be on its way still, and find later that nothing speaks against it.
                Some(Ok(Submitted::Refused(Refusal::SlotTaken(..) | Refusal::ParentMissing(_))))
                    if round > 0 =>
                {
                    SubmitAnswer::Failed(ErrorKind::Unknown)
                }
                Some(Ok(Submitted::Refused(refusal))) => SubmitAnswer::Refused(format!("{refusal:?}")),
                Some(Ok(Submitted::Invalid(invalid))) => unreachable!("the request is valid: {invalid}"),
                // An earlier round may have been stored without an answer.
                Some(Err(error)) if is_worth_repeating(&error) => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
                Some(Err(error)) => unreachable!("the simulated store isn't broken: {error}"),
            };
            break;
        }
        self.node.record(Event::Submitted { task: id, answer: answer.clone() });
        answer
    }

    pub(super) fn pick(&self, stream: Stream, site: &'static str, number: u64, n: usize) -> usize {
        let n = u32::try_from(n).expect("few");
        self.node.world().choices().pick(stream, site, number, n) as usize
    }

    /// Waits for one of these times, in milliseconds; the first is the default.
    pub(super) async fn pause(&self, site: &'static str, number: u64, millis: &[u64]) {
        let chosen = millis[self.pick(Stream::Workload, site, number, millis.len())];
        tokio::time::sleep(Duration::from_millis(chosen)).await;
    }

    pub(super) fn odds(&self, site: &'static str, number: u64, odds: u32) -> bool {
        self.node.world().choices().odds(Stream::Faults, site, number, odds)
    }
}

/// A handler that notes when it is entered and what it says.
struct Noted {
    process: Process,
    work: Work,
}

impl Handler for Noted {
    fn call(&self, context: Context) -> Running {
        let (process, work) = (self.process.clone(), self.work);
        Box::pin(async move {
            let (node, task, fence) = (process.node.clone(), context.task_id().clone(), context.fence());
            let payload_id = String::from_utf8_lossy(context.payload()).into_owned();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            let verdict = work(process, context).await;
            node.record(Event::Said { task, fence, word: Word::of(&verdict) });
            verdict
        })
    }
}

/// A task of this number, whose payload is its id.
pub(super) fn new_task(name: &str, number: u64) -> NewTask {
    let id = format!("{name}-{number}");
    let payload = id.clone().into_bytes();
    NewTask::new(TaskId::trusted(id), Kind::trusted("work"), payload)
}

/// The number of the context's task.
pub(super) fn number_of(context: &Context) -> u64 {
    let digits = context.task_id().as_str().rsplit('-').next();
    digits.and_then(|digits| digits.parse().ok()).expect("named by `new_task`")
}

/// Done, with the fence by which the oracle knows whose word it was.
pub(super) fn done(context: &Context) -> Verdict {
    Verdict::done(format!("fence {}", context.fence()).into_bytes())
}

/// Notes that a handler heard that it should stop.
pub(super) fn told(process: &Process, context: &Context, reason: &StopReason) {
    let lost = *reason == StopReason::LeaseLost;
    process.node.record(Event::Told { task: context.task_id().clone(), fence: context.fence(), lost });
}

/// Until the next beat of a clock that all hear: what waits for it happens at the same instant.
pub(super) async fn until_the_beat(world: &World) {
    let beat = BEAT.as_micros();
    let into = world.now().since(EPOCH).as_micros() % beat;
    tokio::time::sleep(Duration::from_micros(u64::try_from(beat - into).expect("short"))).await;
}

/// Faults stop, and everything must come to an end; the bound on this wait is the run's.
pub(super) async fn heal_and_end(world: &World) {
    world.heal();
    until_all_ended(world).await;
}

/// The bound on this wait is the run's.
pub(super) async fn until_all_ended(world: &World) {
    // What a caller that went away had asked for may still be on its way to the store.
    while !(world.is_quiet() && world.history().tasks().values().all(|task| task.state.is_terminal())) {
        waiting_for("all tasks to end", tokio::time::sleep(LOOK)).await;
    }
}

/// The places in a history at which an event of this kind is, with what is said of it.
pub(super) fn places<'a, T: 'a>(
    entries: &'a [Entry],
    of: impl Fn(&'a Event) -> Option<T> + 'a,
) -> impl Iterator<Item = (usize, T)> + 'a {
    entries.iter().enumerate().filter_map(move |(place, entry)| Some((place, of(&entry.event)?)))
}

/// Where handlers were entered: the task and its fence.
fn entered(entries: &[Entry]) -> Vec<(usize, (&TaskId, u64))> {
    places(
        entries,
        |event| if let Event::Entered { task, fence, .. } = event { Some((task, *fence)) } else { None },
    )
    .collect()
}

/// Puts the name in where it holds.
pub(super) fn goals(holds: &[(&'static str, bool)]) -> BTreeSet<&'static str> {
    holds.iter().filter(|(_, holds)| *holds).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests;
