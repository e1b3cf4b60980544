//! What these tests are made of: a service with sessions, handlers that do as their kind says, and a journal of what
//! they did, on which tests wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steadfast_core::WorkerConfig;
use steadfast_core::engine::{Accepted, Submitted};
use steadfast_core::handler::Running;
use steadfast_core::storage::TaskFilter;
use steadfast_core::task::OnConflict;
use steadfast_core::wake::{Hint, Wake};
use steadfast_core::{
    Clock, Context, Engine, Handler, Handlers, Kind, NewTask, Slot, Storage, Task, TaskId, Verdict, WorkerId,
};

/// Ends at once.
pub(super) const QUICK: &str = "quick";
/// Goes on until it is released or told to stop; then it looks at its session, as cleanups do, and ends.
pub(super) const PATIENT: &str = "patient";
/// Goes on until it is released, whatever it is told.
pub(super) const STUBBORN: &str = "stubborn";
/// Reports an error.
pub(super) const FAILS: &str = "fails";
/// Panics.
pub(super) const PANICS: &str = "panics";

/// The handler was entered.
pub(super) const ENTERED: &str = "entered";
/// It was told to stop.
pub(super) const TOLD: &str = "told to stop";
/// It has cleaned up.
pub(super) const CLEANED: &str = "cleaned up";
/// Its future is gone, however it ended.
pub(super) const GONE: &str = "gone";
/// The test lets it end.
const RELEASED: &str = "released";

/// Drains a worker and waits for its end.
pub(super) type Drain = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A process that can have workers.
pub(super) struct Service<S, C> {
    pub(super) engine: Engine<S, C>,
    pub(super) work: Arc<dyn Fn(Handlers, WorkerConfig) -> Drain + Send + Sync>,
}

pub(super) struct Bench<S, C> {
    service: Service<S, C>,
    pub(super) journal: Journal,
    lives: Arc<AtomicUsize>,
}

impl<S: Storage, C: Clock> Bench<S, C> {
    pub(super) fn new(service: Service<S, C>) -> Self {
        Self { service, journal: Journal::default(), lives: Arc::default() }
    }

    pub(super) fn engine(&self) -> &Engine<S, C> {
        &self.service.engine
    }

    /// Starts a worker with so many attempts at once, whose graces are longer than the test.
    pub(super) fn work(&self, concurrency: usize) -> Drain {
        let scripted = || Scripted {
            engine: self.engine().clone(),
            journal: self.journal.clone(),
            lives: self.lives.clone(),
        };
        let kinds = [QUICK, PATIENT, STUBBORN, FAILS, PANICS];
        let handlers = kinds
            .into_iter()
            .fold(Handlers::new(), |handlers, kind| handlers.with(Kind::trusted(kind), scripted()));
        let mut config = WorkerConfig::new(WorkerId::trusted("worker"));
        config.concurrency = concurrency;
        config.grace = Duration::from_secs(600);
        (self.service.work)(handlers, config)
    }

    /// Registers a task for a session, in place of what the session has.
    pub(super) async fn register(&self, session: &str, kind: &str, name: &str) -> Accepted {
        self.submit(in_session(session, kind, name)).await
    }

    pub(super) async fn submit(&self, task: NewTask) -> Accepted {
        match self.engine().submit(task).await.unwrap() {
            Submitted::Accepted(accepted) => accepted,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn ended(&self, name: &str) -> Task {
        let long = Duration::from_secs(600);
        let task = self.engine().wait(&TaskId::trusted(name), None, long).await.unwrap().unwrap();
        assert!(task.state.is_terminal(), "{task:?}");
        task
    }

    /// The unfinished tasks of all sessions, oldest first.
    pub(super) async fn sessions(&self) -> Vec<Task> {
        let filter = TaskFilter { in_slot: true, unfinished: true, limit: 1_000, ..TaskFilter::default() };
        let mut tasks = self.engine().tasks(filter).await.unwrap();
        tasks.reverse();
        tasks
    }

    /// Handlers that were entered and aren't gone.
    pub(super) fn lives(&self) -> usize {
        self.lives.load(Ordering::SeqCst)
    }

    /// Drains the worker; afterwards nothing may be left of what it did.
    pub(super) async fn rest(&self, drain: Drain) {
        drain().await;
        assert!(self.engine().registry().is_empty(), "no attempt outlives its worker");
        assert_eq!(self.lives(), 0, "no handler outlives its worker");
    }
}

/// A request for a session's task. Its name is its id.
pub(super) fn in_session(session: &str, kind: &str, name: &str) -> NewTask {
    let mut task = NewTask::new(TaskId::trusted(name), Kind::trusted(kind), name.as_bytes());
    task.slot = Some((Slot::trusted(session), OnConflict::Replace));
    task.attempts_max = 1;
    task
}

/// What handlers did, in order.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<(String, &'static str)>>>, Wake);

impl Journal {
    pub(super) fn note(&self, name: &str, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), what));
        self.1.notify(Hint::CHANGED);
    }

    pub(super) fn says(&self, name: &str, what: &str) -> bool {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().any(|(who, noted)| who == name && *noted == what)
    }

    /// Waits until it says so.
    pub(super) async fn until(&self, name: &str, what: &str) {
        let mut hints = self.1.listen();
        while !self.says(name, what) {
            hints.wait().await;
        }
    }

    /// Lets a patient or stubborn one end.
    pub(super) fn release(&self, name: &str) {
        self.note(name, RELEASED);
    }
}

struct Scripted<S, C> {
    engine: Engine<S, C>,
    journal: Journal,
    lives: Arc<AtomicUsize>,
}

/// From a handler's entry to its end, however that comes.
struct Life {
    name: String,
    journal: Journal,
    lives: Arc<AtomicUsize>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.lives.fetch_sub(1, Ordering::SeqCst);
        self.journal.note(&self.name, GONE);
    }
}

impl<S: Storage, C: Clock> Handler for Scripted<S, C> {
    fn call(&self, context: Context) -> Running {
        let (engine, journal) = (self.engine.clone(), self.journal.clone());
        let name = String::from_utf8(context.payload().to_vec()).unwrap();
        assert_eq!(name, context.task_id().as_str(), "one id from submit to the handler");
        self.lives.fetch_add(1, Ordering::SeqCst);
        let life = Life { name: name.clone(), journal: journal.clone(), lives: self.lives.clone() };
        Box::pin(async move {
            let _life = life;
            journal.note(&name, ENTERED);
            match context.lease().kind.as_str() {
                QUICK => Verdict::done(name.into_bytes()),
                PATIENT => patient(&engine, &journal, &context, &name).await,
                STUBBORN => {
                    journal.until(&name, RELEASED).await;
                    Verdict::done(name.into_bytes())
                }
                FAILS => Verdict::error("no luck"),
                // Unlike `panic!` this doesn't print.
                PANICS => std::panic::resume_unwind(Box::new("it panicked".to_owned())),
                kind => unreachable!("no such kind: {kind}"),
            }
        })
    }
}

async fn patient<S: Storage, C: Clock>(
    engine: &Engine<S, C>,
    journal: &Journal,
    context: &Context,
    name: &str,
) -> Verdict {
    let released = std::pin::pin!(journal.until(name, RELEASED));
    let stopped = std::pin::pin!(context.stopped());
    match futures_util::future::select(stopped, released).await {
        futures_util::future::Either::Right(_) => Verdict::done(name.as_bytes()),
        futures_util::future::Either::Left((reason, _)) => {
            journal.note(name, TOLD);
            // In the incident this needed the lock under which it was awaited.
            let filter =
                TaskFilter { slot: context.lease().slot.clone(), limit: 10, ..TaskFilter::default() };
            let mine = engine.tasks(filter).await.unwrap();
            assert!(mine.iter().any(|task| task.id == *context.task_id()));
            assert!(!engine.registry().is_empty(), "it is still there itself");
            journal.note(name, CLEANED);
            Verdict::Cancel { reason: reason.to_string() }
        }
    }
}
