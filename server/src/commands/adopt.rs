//! Carries on the commands of `steadfast run` whose process has died, where the operator allows it (`allow_run`).
//!
//! Such a task waits in a queue of its own, so that nobody but its own process claims it while that lives. So they are
//! looked for, and each that was left behind gets a small worker until it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::core::diagnose::WORKER_SILENT;
use steadfast::core::storage::{Answer, Query, TaskFilter, View};
use steadfast::core::supervisor::{BEAT, DrainHandle};
use steadfast::core::time::Moment;
use steadfast::exec::{Logged, Options, RUN_KIND, Recorded};
use steadfast::{
    Cause, Clock, Context, Error, Handler, Handlers, Kind, Queue, State, Task, TaskId, Verdict, WorkerConfig,
    worker_id,
};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::store::Host;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many are looked at in one call, and in how many calls.
const PAGE: u32 = 1_000;
const PAGES_MAX: u32 = 10;
/// How many at once.
const ADOPTED_MAX: usize = 16;
/// How long a worker waits for the end of its task before it looks again.
const WAIT: Duration = Duration::from_secs(3600);
/// How long somebody else's command rests that was claimed by mistake.
const NOT_OURS_SNOOZE: Duration = Duration::from_millis(500);

/// The kind of recorded commands.
pub(super) fn run_kind() -> Kind {
    Kind::trusted(RUN_KIND)
}

/// A handler of recorded commands that runs one of them and gives every other back: a queue may hold several, and each
/// belongs to the process that recorded it.
pub(super) fn only(id: TaskId, handler: impl Handler) -> impl Handler {
    let handler = std::sync::Arc::new(handler);
    move |context: Context| {
        let is_ours = *context.task_id() == id;
        let handler = handler.clone();
        async move {
            if is_ours { handler.call(context).await } else { Verdict::Snooze { after: NOT_OURS_SNOOZE } }
        }
    }
}

/// Looks for commands that were left behind, and runs them.
pub(super) struct Adopter {
    draining: watch::Sender<bool>,
    looking: JoinHandle<()>,
}

impl Adopter {
    pub(super) fn start(host: Host, options: Options, worker: WorkerConfig) -> Self {
        let (draining, drain) = watch::channel(false);
        Self { draining, looking: tokio::spawn(look(host, options, worker, drain)) }
    }

    pub(super) async fn drain(self) {
        self.draining.send_replace(true);
        // It panics only where a host does.
        let _ = self.looking.await;
    }
}

async fn look(host: Host, options: Options, worker: WorkerConfig, mut drain: watch::Receiver<bool>) {
    let mut adopted: BTreeMap<TaskId, DrainHandle> = BTreeMap::new();
    let mut ends = JoinSet::new();
    let mut unclaimed = Unclaimed::default();
    loop {
        let left = if adopted.len() < ADOPTED_MAX { left_behind(&host).await } else { Ok(Left::default()) };
        let left = left.unwrap_or_else(|error| {
            tracing::warn!(?error, "looking for commands left behind failed and will be repeated");
            Left::default()
        });
        let for_long = unclaimed.for_long(left.unclaimed, host.engine().clock().now());
        for task in left.lost.into_iter().chain(for_long) {
            if adopted.len() < ADOPTED_MAX && !adopted.contains_key(&task.id) {
                tracing::info!(task = %task.id, "carrying on a command that was left behind");
                let (handle, end) = carry_on(&host, &options, &worker, task.clone());
                adopted.insert(task.id, handle);
                ends.spawn(end);
            }
        }
        tokio::select! {
            () = host.engine().clock().sleep(LOOK_EVERY) => {}
            Some(Ok(ended)) = ends.join_next() => {
                adopted.remove(&ended);
            }
            _ = drain.wait_for(|draining| *draining) => break,
        }
    }
    for handle in adopted.values() {
        handle.drain();
    }
    while ends.join_next().await.is_some() {}
}

/// What a look has found.
#[derive(Default)]
struct Left {
    /// Whose process let its lease lapse, or whose adopter was drained.
    lost: Vec<Task>,
    /// Of each queue the first that nobody alive can claim: its process died before its turn, or between two attempts. Who
    /// carries it on serves the queue, so that the next is found when it has ended.
    unclaimed: BTreeMap<Queue, Task>,
}

/// Since when nobody could claim a task, as far as we have looked, by our own clock. All workers seem silent for a moment
/// after this machine was suspended, or after the store's clock was set.
#[derive(Default)]
struct Unclaimed(BTreeMap<TaskId, Moment>);

impl Unclaimed {
    fn for_long(&mut self, found: BTreeMap<Queue, Task>, now: Moment) -> Vec<Task> {
        let since = found.values().map(|task| (task.id.clone(), *self.0.get(&task.id).unwrap_or(&now)));
        self.0 = since.collect();
        found.into_values().filter(|task| now.since(self.0[&task.id]) > BEAT).collect()
    }
}

/// The commands that were left behind, as far as they are among the newest that wait.
async fn left_behind(host: &Host) -> Result<Left, Error> {
    let View { as_of, answer, .. } = host.engine().read(&Query::Workers).await?;
    let Answer::Workers(mut alive) = answer else { unreachable!("workers were asked for, not {answer:?}") };
    alive.retain(|worker| {
        let is_silent = as_of.since(worker.seen_at) > WORKER_SILENT;
        !worker.gone && !is_silent && worker.kinds.contains(&run_kind())
    });
    // A process that has only just recorded its command may not have been seen yet.
    let is_unclaimed = |task: &Task| {
        as_of.since(task.submitted_at) > WORKER_SILENT
            && !alive.iter().any(|worker| worker.queues.contains(&task.queue))
    };
    let mut left = Left::default();
    // Whoever claims makes what is due ready, and here nobody does.
    for state in [State::Ready, State::Scheduled] {
        let mut before = None;
        for _ in 0..PAGES_MAX {
            let (state, kind) = (Some(state), Some(run_kind()));
            let filter = TaskFilter { state, kind, before, limit: PAGE, ..TaskFilter::default() };
            let page = host.engine().tasks(filter).await?;
            before = page.last().filter(|_| page.len() == PAGE as usize).map(|task| task.id.clone());
            for task in page.into_iter().filter(|task| task.due_at <= as_of) {
                match task.cause {
                    Some(Cause::LeaseLapsed | Cause::Drained) => left.lost.push(task),
                    // The newest come first: the oldest is left.
                    _ if is_unclaimed(&task) => drop(left.unclaimed.insert(task.queue.clone(), task)),
                    _ => {}
                }
            }
            if before.is_none() {
                break;
            }
        }
    }
    Ok(left)
}

/// A worker for this one task, and what ends when the worker has.
fn carry_on(
    host: &Host,
    options: &Options,
    worker: &WorkerConfig,
    task: Task,
) -> (DrainHandle, impl Future<Output = TaskId> + Send + use<>) {
    let config = WorkerConfig { id: worker_id(), queues: vec![task.queue], concurrency: 1, ..worker.clone() };
    let handler = only(task.id.clone(), Recorded::new(options.clone(), Logged));
    let mut worker = host
        .work(Handlers::new().with(run_kind(), handler), config)
        .expect("a worker of this configuration was started before");
    let handle = worker.drain_handle();
    let (host, id) = (host.clone(), task.id);
    let end = async move {
        tokio::select! {
            _ = worker.ended() => return id,
            () = ended(&host, &id) => {}
        }
        let _ = worker.drain().await;
        id
    };
    (handle, end)
}

/// Waits until a task has ended, whatever the store says meanwhile.
async fn ended(host: &Host, id: &TaskId) {
    loop {
        match host.engine().wait(id, None, WAIT).await {
            Ok(Some(task)) if !task.state.is_terminal() => {}
            Ok(_) => return,
            Err(_) => host.engine().clock().sleep(LOOK_EVERY).await,
        }
    }
}
