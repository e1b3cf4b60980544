//! What the cases are written with: a store, its clock, short ways to say steps, and checks of outcomes.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steadfast_core::decide;
use steadfast_core::name::{Key, Kind, Queue, Slot, TaskId, WorkerId};
use steadfast_core::step::{
    Batch, Change, Guard, Head, Outcome, QueueLimit, QueuePause, Receipt, Refusal, Refused, Renewal, Report,
    States, Step, Transition,
};
use steadfast_core::storage::{
    Answer, ClaimRequest, Claimed, Error, ErrorKind, Lapsed, Lease, Query, QueueStats, Storage, TaskFilter,
    View, Worker,
};
use steadfast_core::task::{
    Attempt, Cause, Checkpoint, Due, Fence, LogEntry, LogLine, NewTask, OnConflict, OnParentFailure, Parent,
    State, Stream, Task,
};
use steadfast_core::time::{ManualClock, Timestamp};

use super::Host;
use steadfast_core::handler::Verdict;

/// What the store's clock shows when a case begins.
pub(super) const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// How long the cases lease.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Long enough for any lease and retry to be over.
pub(super) const LONG: Duration = Duration::from_secs(3_600);
/// How often a call is sent again after a conflict.
const TRIES_MAX: usize = 1_000;

/// An empty store, opened by some clients, and its clock.
pub(super) struct Bench<S> {
    pub(super) clients: Vec<S>,
    pub(super) clock: ManualClock,
    pub(super) host: Arc<dyn Host>,
}

impl<S: Storage> Bench<S> {
    /// The first client.
    pub(super) fn store(&self) -> &S {
        &self.clients[0]
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Applies batches in one call.
    pub(super) async fn send_all(&self, batches: &[Batch]) -> Vec<Outcome> {
        let outcomes = self.store().apply(batches).await.expect("the call is answered");
        assert_eq!(outcomes.len(), batches.len(), "there is one outcome for each batch");
        outcomes
    }

    /// Applies one batch.
    pub(super) async fn send_batch(&self, steps: Vec<Step>) -> Outcome {
        self.send_all(&[Batch { steps }]).await.remove(0)
    }

    /// Applies one step.
    pub(super) async fn send(&self, step: Step) -> Outcome {
        self.send_batch(vec![step]).await
    }

    /// Stores a task that nothing speaks against.
    pub(super) async fn insert(&self, task: NewTask) -> Head {
        inserted(self.send(put(&task)).await).1
    }

    /// Claims from the default queue.
    pub(super) async fn claim(&self, limit: u32) -> Vec<Lease> {
        self.ask(&claim_request("default", limit)).await.tasks
    }

    /// Claims from the queue of this name the one task that is ready there.
    pub(super) async fn claim_in(&self, queue: &str) -> Lease {
        let mut tasks = self.ask(&claim_request(queue, 10)).await.tasks;
        assert_eq!(tasks.len(), 1, "one task is ready in {queue}");
        tasks.remove(0)
    }

    pub(super) async fn ask(&self, request: &ClaimRequest) -> Claimed {
        self.store().claim(request).await.expect("the claim is answered")
    }

    pub(super) async fn view(&self, query: Query) -> View {
        self.store().read(&query).await.expect("the question is answered")
    }

    pub(super) async fn find(&self, task: &str) -> Option<Task> {
        match self.view(Query::Task(id(task))).await.answer {
            Answer::Task(task) => task.map(|task| *task),
            other => panic!("not the answer to a question for a task: {other:?}"),
        }
    }

    pub(super) async fn task(&self, task: &str) -> Task {
        self.find(task).await.unwrap_or_else(|| panic!("{task} is stored"))
    }

    pub(super) async fn state(&self, task: &str) -> State {
        self.task(task).await.state
    }

    pub(super) async fn attempts(&self, task: &str) -> Vec<Attempt> {
        match self.view(Query::Attempts(id(task))).await.answer {
            Answer::Attempts(attempts) => attempts,
            other => panic!("not the answer to a question for attempts: {other:?}"),
        }
    }

    pub(super) async fn list(&self, filter: TaskFilter) -> Vec<Task> {
        match self.view(Query::Tasks(filter)).await.answer {
            Answer::Tasks(tasks) => tasks,
            other => panic!("not the answer to a question for tasks: {other:?}"),
        }
    }

    pub(super) async fn lapsed(&self, limit: u32) -> Vec<Lapsed> {
        match self.view(Query::Lapsed { limit }).await.answer {
            Answer::Lapsed(lapsed) => lapsed,
            other => panic!("not the answer to a question for lapsed leases: {other:?}"),
        }
    }

    pub(super) async fn overdue(&self, limit: u32) -> Vec<TaskId> {
        match self.view(Query::Overdue { limit }).await.answer {
            Answer::Overdue(overdue) => overdue,
            other => panic!("not the answer to a question for overdue tasks: {other:?}"),
        }
    }

    /// The lines of a task's log after this place.
    pub(super) async fn log_after(&self, task: &str, after: (Fence, u32), limit: u32) -> Vec<LogEntry> {
        match self.view(Query::Log { task: id(task), after, limit }).await.answer {
            Answer::Log(lines) => lines,
            other => panic!("not the answer to a question for a log: {other:?}"),
        }
    }

    /// The texts of a task's whole log.
    pub(super) async fn log(&self, task: &str) -> Vec<String> {
        self.log_after(task, (0, 0), 1_000).await.into_iter().map(|entry| entry.text).collect()
    }

    pub(super) async fn checkpoints(&self, task: &str) -> Vec<Checkpoint> {
        match self.view(Query::Checkpoints(id(task))).await.answer {
            Answer::Checkpoints(checkpoints) => checkpoints,
            other => panic!("not the answer to a question for checkpoints: {other:?}"),
        }
    }

    pub(super) async fn parents(&self, task: &str) -> Vec<(Parent, Option<State>)> {
        match self.view(Query::Parents(id(task))).await.answer {
            Answer::Parents(parents) => parents,
            other => panic!("not the answer to a question for parents: {other:?}"),
        }
    }

    pub(super) async fn stats(&self, stale: Duration, stuck: Duration) -> Vec<QueueStats> {
        match self.view(Query::Stats { stale, stuck }).await.answer {
            Answer::Stats(stats) => stats.queues,
            other => panic!("not the answer to a question for queues: {other:?}"),
        }
    }

    pub(super) async fn workers(&self) -> Vec<Worker> {
        match self.view(Query::Workers).await.answer {
            Answer::Workers(workers) => workers,
            other => panic!("not the answer to a question for workers: {other:?}"),
        }
    }

    /// Records what nothing speaks against.
    pub(super) async fn report(&self, report: Report) {
        assert_eq!(applied(self.send(Step::Report(report)).await), [Receipt::Reported]);
    }

    /// Lets every lease lapse and answers the only one that had one.
    pub(super) async fn let_lapse(&self) -> Lapsed {
        self.clock.advance(LONG);
        let mut lapsed = self.lapsed(10).await;
        assert_eq!(lapsed.len(), 1, "one lease has lapsed");
        lapsed.remove(0)
    }

    /// Stores a task in a queue of its own name and brings it into this state; the lease is that of its last attempt.
    pub(super) async fn bring(&self, task: &str, to: State) -> Option<Lease> {
        self.bring_task(in_own_queue(task), to).await
    }

    /// The same for a task asked for in detail, in a queue that holds no other.
    pub(super) async fn bring_task(&self, mut task: NewTask, to: State) -> Option<Lease> {
        match to {
            State::Blocked => {
                let parent = format!("{}-parent", task.id);
                self.insert(in_own_queue(&parent)).await;
                task.parents = vec![after(&parent, OnParentFailure::Fail)];
            }
            State::Scheduled => task.due = Due::After(Duration::from_secs(60)),
            State::Ready | State::Running | State::Succeeded | State::Failed | State::Cancelled => {}
        }
        let (name, queue) = (task.id.clone(), task.queue.clone());
        self.insert(task).await;
        let lease = match to {
            State::Blocked | State::Scheduled | State::Ready => None,
            State::Running => Some(self.claim_in(queue.as_str()).await),
            State::Succeeded => Some(self.run(queue.as_str(), done()).await),
            State::Failed => Some(self.run(queue.as_str(), fail()).await),
            State::Cancelled => Some(self.run(queue.as_str(), Verdict::Cancel { reason: "no".into() }).await),
        };
        assert_eq!(self.state(name.as_str()).await, to);
        lease
    }

    /// Claims the one task of a queue and settles it.
    pub(super) async fn run(&self, queue: &str, verdict: Verdict) -> Lease {
        let lease = self.claim_in(queue).await;
        self.settle(&lease, verdict).await;
        lease
    }

    /// Settles an attempt that is its worker's.
    pub(super) async fn settle(&self, lease: &Lease, verdict: Verdict) -> Head {
        moved(self.send(settle(lease, verdict)).await)
    }

    /// Runs these in parallel and answers what they answer, in their order.
    pub(super) async fn together<T: Send + 'static>(
        &self,
        parts: impl IntoIterator<Item = BoxFuture<'static, T>>,
    ) -> Vec<T> {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let parts = parts.into_iter().enumerate().map(|(number, part)| {
            let answers = Arc::clone(&answers);
            let part: BoxFuture<'static, ()> = Box::pin(async move {
                let answer = part.await;
                answers.lock().unwrap_or_else(PoisonError::into_inner).push((number, answer));
            });
            part
        });
        self.host.together(parts.collect()).await;
        let mut answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// One of the clients, in turn.
    pub(super) fn client(&self, number: usize) -> S {
        self.clients[number % self.clients.len()].clone()
    }
}

/// Sends a call until it isn't a conflict, as the engine does.
pub(super) async fn persist<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> T {
    for _ in 0..TRIES_MAX {
        match call().await {
            Ok(answer) => return answer,
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Contended) => {}
            Err(error) => panic!("only conflicts are to be expected, not {error:?}"),
        }
    }
    panic!("still a conflict after {TRIES_MAX} tries")
}

/// Sends one batch until it isn't a conflict.
pub(super) async fn persist_batch(store: &impl Storage, steps: Vec<Step>) -> Outcome {
    let batches = [Batch { steps }];
    persist(|| store.apply(&batches)).await.remove(0)
}

/// Asks for tasks of a queue until it isn't a conflict.
pub(super) async fn persist_claim(store: &impl Storage, from: &str, limit: u32) -> Vec<Lease> {
    let request = claim_request(from, limit);
    persist(|| store.claim(&request)).await.tasks
}

pub(super) fn id(text: &str) -> TaskId {
    TaskId::new(text).expect("the cases' ids are valid")
}

pub(super) fn queue(text: &str) -> Queue {
    Queue::new(text).expect("the cases' queues are valid")
}

pub(super) fn kind(text: &str) -> Kind {
    Kind::new(text).expect("the cases' kinds are valid")
}

pub(super) fn key(text: &str) -> Key {
    Key::new(text).expect("the cases' keys are valid")
}

pub(super) fn slot(text: &str) -> Slot {
    Slot::new(text).expect("the cases' slots are valid")
}

pub(super) fn worker() -> WorkerId {
    WorkerId::trusted("worker-1")
}

/// A task with every default.
pub(super) fn task(name: &str) -> NewTask {
    NewTask::new(id(name), kind("scan"), *b"{}")
}

/// The same request under another id.
pub(super) trait WithId {
    fn with_id(&self, name: &str) -> NewTask;
}

impl WithId for NewTask {
    fn with_id(&self, name: &str) -> NewTask {
        NewTask { id: id(name), ..self.clone() }
    }
}

/// A task in a queue of its own name.
pub(super) fn in_own_queue(name: &str) -> NewTask {
    NewTask { queue: queue(name), ..task(name) }
}

/// A task for a slot.
pub(super) fn slotted(name: &str, held: &str) -> NewTask {
    NewTask { slot: Some((slot(held), OnConflict::Reject)), ..in_own_queue(name) }
}

/// A task that waits for a slot where it is held.
pub(super) fn queued(name: &str, held: &str) -> NewTask {
    NewTask { slot: Some((slot(held), OnConflict::Queue)), ..in_own_queue(name) }
}

/// A task that fails unless it has ended by then.
pub(super) fn by(name: &str, deadline: Due) -> NewTask {
    NewTask { deadline: Some(deadline), ..in_own_queue(name) }
}

/// A task that waits for others, and fails with them.
pub(super) fn dependent(name: &str, parents: &[&str]) -> NewTask {
    let parents = parents.iter().map(|parent| after(parent, OnParentFailure::Fail)).collect();
    NewTask { parents, ..in_own_queue(name) }
}

pub(super) fn after(parent: &str, on_failure: OnParentFailure) -> Parent {
    Parent { id: id(parent), on_failure }
}

pub(super) fn claim_request(from: &str, limit: u32) -> ClaimRequest {
    ClaimRequest {
        worker: worker(),
        queues: vec![queue(from)],
        kinds: vec![kind("scan")],
        limit,
        lease: LEASE,
    }
}

pub(super) fn put(task: &NewTask) -> Step {
    Step::Insert(task.clone().into())
}

pub(super) fn settle(lease: &Lease, verdict: Verdict) -> Step {
    Step::Transition(decide::settle(lease, verdict, None))
}

pub(super) fn renew(lease: &Lease) -> Step {
    Step::Renew(Renewal { task: lease.task.clone(), fence: lease.fence, lease: LEASE, entered: None })
}

pub(super) fn reclaim(lapsed: &Lapsed) -> Step {
    Step::Transition(decide::reclaim(lapsed))
}

/// Ends a task whose deadline has passed, whatever it is doing.
pub(super) fn expire(task: &str) -> Step {
    let expiry = decide::expire(&id(task));
    let guard = Guard { from: States::UNFINISHED, ..expiry.guard };
    Step::Transition(Transition::new(expiry.task, guard, expiry.change))
}

/// A report that says nothing yet.
pub(super) fn report(lease: &Lease) -> Report {
    Report::new(lease.task.clone(), lease.fence)
}

/// A line that was written just now.
pub(super) fn line(number: u32, text: &str) -> LogLine {
    LogLine { number, ago: Duration::ZERO, stream: Stream::Log, text: text.into() }
}

pub(super) fn checkpoint(name: &str, value: &[u8]) -> Checkpoint {
    Checkpoint { name: name.into(), value: value.into() }
}

pub(super) fn pause(of: &str, paused: bool) -> Step {
    Step::Pause(QueuePause { queue: queue(of), paused })
}

pub(super) fn replace(holder: &str, newcomer: &str) -> Step {
    Step::Transition(decide::replace(&id(holder), &id(newcomer)))
}

/// Cancels a task found in this state.
pub(super) fn cancel(task: &str, found: State) -> Step {
    cancel_because(task, found, "no longer needed")
}

pub(super) fn cancel_because(task: &str, found: State, reason: &str) -> Step {
    Step::Transition(decide::cancel(&id(task), found, reason).expect("it has not ended"))
}

/// Ends a task whatever it is doing, without the word of a worker.
pub(super) fn end(task: &str, from: States, to: State, cause: Cause) -> Step {
    let guard =
        Guard { from, fence: None, unless_cancel_requested: false, lease_lapsed: false, overdue: false };
    let change = Change { cause: Some(cause), ..Change::to(to) };
    Step::Transition(Transition::new(id(task), guard, change))
}

pub(super) fn limit(of: &str, concurrency: Option<u32>) -> Step {
    Step::Limit(QueueLimit { queue: queue(of), concurrency })
}

pub(super) fn done() -> Verdict {
    Verdict::Done((*b"42").into())
}

pub(super) fn fail() -> Verdict {
    Verdict::Fail { cause: Cause::Error, error: "no".into() }
}

/// An error after which another attempt follows.
pub(super) fn retry(after: Duration) -> Verdict {
    Verdict::Retry { cause: Cause::Error, error: "not yet".into(), after: Some(after) }
}

pub(super) fn head(task: &Task) -> Head {
    Head { state: task.state, rev: task.rev, fence: task.fence, cancel_requested: task.cancel.is_some() }
}

#[track_caller]
pub(super) fn applied(outcome: Outcome) -> Vec<Receipt> {
    match outcome {
        Outcome::Applied(receipts) => receipts,
        other => panic!("not applied but {other:?}"),
    }
}

#[track_caller]
pub(super) fn already(outcome: Outcome) -> Vec<Receipt> {
    match outcome {
        Outcome::Already(receipts) => receipts,
        other => panic!("not already but {other:?}"),
    }
}

#[track_caller]
pub(super) fn refused(outcome: Outcome) -> Refused {
    match outcome {
        Outcome::Refused(refused) => refused,
        other => panic!("not refused but {other:?}"),
    }
}

/// What a batch of one step was refused for.
#[track_caller]
pub(super) fn why(outcome: Outcome) -> Refusal {
    let refused = refused(outcome);
    assert_eq!(refused.step, 0, "there is but one step");
    refused.why
}

#[track_caller]
pub(super) fn stale(outcome: Outcome) -> Head {
    match why(outcome) {
        Refusal::Stale(head) => head,
        other => panic!("not stale but {other:?}"),
    }
}

#[track_caller]
pub(super) fn moved(outcome: Outcome) -> Head {
    moved_in(&applied(outcome))
}

#[track_caller]
pub(super) fn moved_in(receipts: &[Receipt]) -> Head {
    match receipts {
        [Receipt::Moved(head)] => *head,
        other => panic!("not the receipt of one transition: {other:?}"),
    }
}

#[track_caller]
pub(super) fn inserted(outcome: Outcome) -> (TaskId, Head) {
    inserted_in(&applied(outcome))
}

#[track_caller]
pub(super) fn inserted_in(receipts: &[Receipt]) -> (TaskId, Head) {
    match receipts {
        [Receipt::Inserted(task, head)] => (task.clone(), *head),
        other => panic!("not the receipt of one insert: {other:?}"),
    }
}

#[track_caller]
pub(super) fn renewed(outcome: Outcome) -> Option<String> {
    match &applied(outcome)[..] {
        [Receipt::Renewed { cancel }] => cancel.clone(),
        other => panic!("not the receipt of one renewal: {other:?}"),
    }
}
