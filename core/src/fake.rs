//! For the core's own tests: time that stands until it is moved, a store that answers as it is told and notes what it
//! was asked, and a way to run futures as far as they go. What real stores do is the business of other tests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::decide;
use crate::engine::Engine;
use crate::handler::Handlers;
use crate::name::{Kind, Queue, StoreId, TaskId, WorkerId};
use crate::step::{Batch, Beat, Head, Insert, Outcome, Receipt, Refusal, Refused, Report, Step};
use crate::storage::{Answer, ClaimRequest, Claimed, Error, ErrorKind, Lease, Query, Storage, View};
use crate::supervisor::{DrainHandle, Supervisor, WorkerConfig};
use crate::task::{Backoff, Checkpoint, State, Task};
use crate::time::{Clock, Moment, Timestamp};
use crate::wake::{Hints, Wake as HintCell};

#[derive(Clone, Default)]
pub(crate) struct FakeClock(Arc<Mutex<(Duration, Vec<Waker>)>>);

impl FakeClock {
    pub(crate) fn advance(&self, by: Duration) {
        let mut inner = self.0.lock().unwrap();
        inner.0 += by;
        inner.1.drain(..).for_each(Waker::wake);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Moment {
        Moment::from_origin(self.0.lock().unwrap().0)
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        std::future::poll_fn(|context| {
            let mut inner = self.0.lock().unwrap();
            if Moment::from_origin(inner.0) >= until {
                return Poll::Ready(());
            }
            inner.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[derive(Clone, Default)]
pub(crate) struct FakeStore(Arc<Mutex<Store>>);

#[derive(Default)]
pub(crate) struct Store {
    /// Given to the next claim.
    pub(crate) leases: Vec<Lease>,
    /// What was applied, call by call.
    pub(crate) calls: Vec<Vec<Batch>>,
    /// How often the finished steps were read.
    pub(crate) steps_read: u32,
    pub(crate) steps: Vec<Checkpoint>,
    /// By id; what is inserted is put in.
    pub(crate) tasks: Vec<Task>,
    pub(crate) overdue: Vec<TaskId>,
    /// Errors for the next calls that carry a report.
    pub(crate) report_errors: VecDeque<ErrorKind>,
    /// How often the store says that a deadline hasn't passed yet.
    pub(crate) not_yet: u32,
    /// Why reports are refused.
    pub(crate) refuses_reports: Option<Refusal>,
    /// Tasks that ended long ago, and how many of them are too much for one call.
    pub(crate) old: u32,
    pub(crate) old_max: Option<u32>,
    /// Whether somebody holds what every transition needs.
    pub(crate) holds_transitions: bool,
    /// Why transitions to a waiting state are refused.
    pub(crate) refuses_waiting: Option<Refusal>,
    /// How many tasks fit into the answer to a claim.
    pub(crate) claimed_max: Option<usize>,
    /// How long it is until another task is due.
    pub(crate) next_due: Option<Duration>,
    /// Whether an output can't be stored.
    pub(crate) rejects_outputs: bool,
    /// How often tasks were read whole.
    pub(crate) tasks_read: u32,
}

impl FakeStore {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    fn steps_of<T>(&self, of: impl Fn(&Step) -> Option<T>) -> Vec<T> {
        let store = self.lock();
        store.calls.iter().flatten().flat_map(|batch| &batch.steps).filter_map(of).collect()
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.steps_of(|step| if let Step::Report(report) = step { Some(report.clone()) } else { None })
    }

    pub(crate) fn beats(&self) -> Vec<Beat> {
        self.steps_of(|step| if let Step::Beat(beat) = step { Some(beat.clone()) } else { None })
    }

    pub(crate) fn settled(&self) -> Vec<crate::step::Change> {
        self.steps_of(|step| if let Step::Transition(t) = step { Some(t.change.clone()) } else { None })
    }

    pub(crate) fn renewed(&self) -> usize {
        self.steps_of(|step| matches!(step, Step::Renew(_)).then_some(())).len()
    }

    /// How many calls carried a report.
    pub(crate) fn report_calls(&self) -> usize {
        let is_report = |batch: &Batch| matches!(batch.steps[..], [Step::Report(_)]);
        self.lock().calls.iter().filter(|batches| batches.iter().any(is_report)).count()
    }
}

impl Store {
    fn outcome(&mut self, batch: &Batch) -> Outcome {
        let refused = |why: &Refusal| Outcome::Refused(Refused { step: 0, why: why.clone() });
        let head = Head { state: State::Running, rev: 1, fence: 1, cancel_requested: false };
        let mut receipts = Vec::new();
        for step in &batch.steps {
            receipts.push(match step {
                Step::Report(_) if self.refuses_reports.is_some() => {
                    return refused(self.refuses_reports.as_ref().unwrap());
                }
                Step::Transition(t) if t.change.to.is_waiting() && self.refuses_waiting.is_some() => {
                    return refused(self.refuses_waiting.as_ref().unwrap());
                }
                Step::Transition(t) if t.guard.overdue && self.not_yet > 0 => {
                    self.not_yet -= 1;
                    return refused(&Refusal::Stale(head));
                }
                Step::Insert(insert) => {
                    if let Some(known) = self.tasks.iter().find(|task| task.id == insert.task.id) {
                        return refused(&Refusal::IdTaken(Head { state: known.state, ..head }));
                    }
                    self.tasks.push(stored(insert));
                    Receipt::Inserted(insert.task.id.clone(), Head { state: State::Ready, ..head })
                }
                Step::Transition(t) => {
                    if let Some(task) = self.tasks.iter_mut().find(|task| task.id == t.task) {
                        task.state = t.change.to;
                    }
                    Receipt::Moved(Head { state: t.change.to, ..head })
                }
                Step::Renew(_) => Receipt::Renewed { cancel: None },
                Step::Report(_) => Receipt::Reported,
                Step::Limit(_) => Receipt::Limited,
                Step::Pause(_) => Receipt::Paused,
                Step::Beat(_) => Receipt::Seen,
                Step::Prune(prune) => {
                    let count = self.old.min(prune.limit);
                    self.old -= count;
                    Receipt::Pruned(count)
                }
            });
        }
        Outcome::Applied(receipts)
    }
}

impl Storage for FakeStore {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let mut store = self.lock();
        let count = store.leases.len().min(request.limit as usize);
        if store.claimed_max.is_some_and(|max| count > max) {
            return Err(Error::new(ErrorKind::Contended, "the answer takes too long"));
        }
        Ok(Claimed { tasks: store.leases.drain(..count).collect(), next_due: store.next_due })
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let mut store = self.lock();
        store.calls.push(batches.to_vec());
        let reports = batches.iter().flat_map(|batch| &batch.steps).any(|s| matches!(s, Step::Report(_)));
        if let Some(kind) = reports.then(|| store.report_errors.pop_front()).flatten() {
            return Err(Error::new(kind, "as the test wants it"));
        }
        let is_move = |step: &Step| matches!(step, Step::Transition(_));
        if store.holds_transitions && batches.iter().flat_map(|batch| &batch.steps).any(is_move) {
            return Err(Error::new(ErrorKind::Contended, "somebody holds it"));
        }
        let has_output = |step: &Step| matches!(step, Step::Transition(t) if t.change.output.is_some());
        if store.rejects_outputs && batches.iter().flat_map(|batch| &batch.steps).any(has_output) {
            return Err(Error::new(ErrorKind::Rejected, "it can't be stored"));
        }
        let is_too_much = |step: &Step| matches!(step, Step::Prune(prune) if store.old_max.is_some_and(|max| prune.limit > max));
        if batches.iter().flat_map(|batch| &batch.steps).any(is_too_much) {
            return Err(Error::new(ErrorKind::Contended, "it takes too long"));
        }
        Ok(batches.iter().map(|batch| store.outcome(batch)).collect())
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let mut store = self.lock();
        let answer = match query {
            Query::Checkpoints(_) => {
                store.steps_read += 1;
                Answer::Checkpoints(store.steps.clone())
            }
            Query::Task(id) => {
                store.tasks_read += 1;
                Answer::Task(store.tasks.iter().find(|task| task.id == *id).cloned().map(Box::new))
            }
            Query::Heads(ids) => {
                let head = |task: &Task| {
                    let Task { state, rev, fence, cancel, .. } = task;
                    (
                        task.id.clone(),
                        Head { state: *state, rev: *rev, fence: *fence, cancel_requested: cancel.is_some() },
                    )
                };
                Answer::Heads(store.tasks.iter().filter(|task| ids.contains(&task.id)).map(head).collect())
            }
            Query::Overdue { .. } => Answer::Overdue(store.overdue.clone()),
            other => panic!("no test asks for {other:?}"),
        };
        Ok(View { store: StoreId::trusted("fake"), as_of: Timestamp::from_micros(0), answer })
    }

    fn hints(&self) -> Hints {
        HintCell::new().listen()
    }
}

/// A task as a store keeps it.
pub(crate) fn stored(insert: &Insert) -> Task {
    let new = &insert.task;
    let zero = Timestamp::from_micros(0);
    Task {
        id: new.id.clone(),
        kind: new.kind.clone(),
        queue: new.queue.clone(),
        state: State::Ready,
        cause: None,
        error: None,
        rev: 0,
        attempt: 0,
        attempts_max: new.attempts_max,
        rescues: 0,
        rescues_max: new.rescues_max,
        fence: 0,
        slot: new.slot.as_ref().map(|(slot, _)| slot.clone()),
        slot_waiting: false,
        key: new.key.clone(),
        priority: new.priority,
        payload: new.payload.clone(),
        output: None,
        submitted_at: zero,
        due_at: zero,
        deadline_at: None,
        claimed_at: None,
        entered_at: None,
        progress: None,
        reported_at: None,
        finished_at: None,
        lease_expires_at: None,
        worker: None,
        timeout: new.timeout,
        backoff: new.backoff,
        cancel: None,
        parents_pending: 0,
        digest: insert.digest,
        mark: 0,
    }
}

/// A first attempt's lease.
pub(crate) fn lease(id: &str) -> Lease {
    Lease {
        task: TaskId::trusted(id),
        fence: 1,
        kind: Kind::trusted("work"),
        queue: Queue::default_queue(),
        slot: None,
        payload: (*b"").into(),
        attempt: 1,
        attempts_max: 3,
        timeout: Duration::from_secs(3600),
        backoff: Backoff::default(),
        deadline: None,
    }
}

/// A future, run as far as it goes.
pub(crate) struct Run<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
    ended: Option<T>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl<T> Run<T> {
    pub(crate) fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Woken(AtomicBool::new(true))), ended: None }
    }

    /// Polls while it is woken; says whether it has ended.
    pub(crate) fn go(&mut self) -> bool {
        let waker = Waker::from(self.woken.clone());
        while self.ended.is_none() && self.woken.0.swap(false, Ordering::SeqCst) {
            if let Poll::Ready(end) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.ended = Some(end);
            }
        }
        self.ended.is_some()
    }

    pub(crate) fn end(mut self) -> T {
        assert!(self.go(), "it has ended");
        self.ended.expect("it has")
    }
}

/// A worker on a fake store.
pub(crate) struct Bench {
    pub(crate) clock: FakeClock,
    pub(crate) store: FakeStore,
    pub(crate) engine: Engine<FakeStore, FakeClock>,
    pub(crate) drain: DrainHandle,
    run: Run<()>,
}

impl Bench {
    /// A worker that finds these tasks.
    pub(crate) fn new(handlers: Handlers, leases: Vec<Lease>) -> Self {
        Self::on(FakeClock::default(), handlers, leases)
    }

    /// The same on this clock, for handlers that know it.
    pub(crate) fn on(clock: FakeClock, handlers: Handlers, leases: Vec<Lease>) -> Self {
        let store = FakeStore::default();
        store.lock().leases = leases;
        let (engine, commits) = Engine::new(store.clone(), clock.clone());
        let config = WorkerConfig::new(WorkerId::trusted("w"));
        let (supervisor, drain) = Supervisor::new(engine.clone(), handlers, config).unwrap();
        let run = Run::new(async move {
            let works = std::pin::pin!(supervisor.run());
            let commits = std::pin::pin!(commits);
            futures_util::future::select(works, commits).await;
        });
        let mut bench = Self { clock, store, engine, drain, run };
        bench.run.go();
        bench
    }

    /// Lets time pass in small steps, with all that happens meanwhile; says whether the worker has ended.
    pub(crate) fn pass(&mut self, time: Duration) -> bool {
        let step = Duration::from_millis(50);
        let mut left = time;
        while !left.is_zero() {
            self.clock.advance(step.min(left));
            left = left.saturating_sub(step);
            self.run.go();
        }
        self.run.go()
    }
}

/// Runs a call of an engine on a fake store to its end.
pub(crate) fn on_store<T: 'static, F: Future<Output = T> + 'static>(
    store: &FakeStore,
    call: impl FnOnce(Engine<FakeStore, FakeClock>) -> F,
) -> T {
    let (engine, commits) = Engine::new(store.clone(), FakeClock::default());
    let call = call(engine);
    Run::new(async move {
        match futures_util::future::select(Box::pin(call), Box::pin(commits)).await {
            futures_util::future::Either::Left((end, _)) => end,
            futures_util::future::Either::Right(_) => panic!("the committer ended first"),
        }
    })
    .end()
}

/// A task that has ended so, as a store keeps it.
pub(crate) fn ended(task: crate::task::NewTask, state: State) -> Task {
    assert!(decide::next(State::Running, decide::Command::End(state)).is_some());
    Task { state, ..stored(&Insert::from(task)) }
}
