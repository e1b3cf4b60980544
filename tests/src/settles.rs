//! One call that does what a busy worker's does: 500 attempts are settled, 7 of them under a fence that isn't theirs
//! any more, 50 are tried again, and 57 have a child that waits.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::decide;
use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Batch, Head, Outcome, Receipt, Refusal, Refused, Step};
use steadfast_core::storage::{Answer, ClaimRequest, Query, Storage, TaskFilter};
use steadfast_core::task::{Cause, NewTask, OnParentFailure, Parent, State, Task};

/// How many attempts are settled.
pub const SETTLES: usize = 500;
/// Which of them are stale.
pub const STALE: std::ops::Range<usize> = 490..497;
/// Which have a child, besides the stale ones.
pub const PARENTS: std::ops::Range<usize> = 0..50;
/// Which are tried again.
pub const RETRIES: std::ops::Range<usize> = 100..150;

/// The call, on a store that is ready for it.
#[derive(Debug)]
pub struct Settles {
    /// One batch for each attempt, in the order of their tasks' ids.
    pub batches: Vec<Batch>,
}

/// The id of a task that is settled.
#[must_use]
pub fn task_id(number: usize) -> TaskId {
    TaskId::trusted(format!("task-{number:03}"))
}

fn child_id(number: usize) -> TaskId {
    TaskId::trusted(format!("child-{number:03}"))
}

fn has_child(number: usize) -> bool {
    PARENTS.contains(&number) || STALE.contains(&number)
}

impl Settles {
    /// Stores and claims the tasks.
    ///
    /// # Panics
    /// If the store doesn't.
    pub async fn prepare(store: &impl Storage) -> Self {
        let kind = Kind::trusted("scan");
        let put = |task: NewTask| Batch::from(Step::Insert(task.into()));
        let tasks: Vec<Batch> =
            (0..SETTLES).map(|n| put(NewTask::new(task_id(n), kind.clone(), *b"{}"))).collect();
        let child = |n: usize| {
            let mut child = NewTask::new(child_id(n), kind.clone(), *b"{}");
            child.queue = Queue::trusted("children");
            child.parents = vec![Parent { id: task_id(n), on_failure: OnParentFailure::Fail }];
            put(child)
        };
        let children: Vec<Batch> = (0..SETTLES).filter(|n| has_child(*n)).map(child).collect();
        for call in [tasks, children] {
            let outcomes = store.apply(&call).await.expect("new tasks are stored");
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))));
        }
        let request = ClaimRequest {
            worker: WorkerId::trusted("worker-1"),
            queues: vec![Queue::default_queue()],
            kinds: vec![kind],
            limit: u32::try_from(SETTLES).expect("a small number"),
            lease: Duration::from_secs(600),
        };
        let mut leases = store.claim(&request).await.expect("ready tasks are leased").tasks;
        assert_eq!(leases.len(), SETTLES);
        leases.sort_by(|a, b| a.task.cmp(&b.task));
        let settle = |(n, mut lease): (usize, steadfast_core::storage::Lease)| {
            lease.fence += u64::from(STALE.contains(&n));
            let again = Verdict::Retry {
                cause: Cause::Error,
                error: "not yet".into(),
                after: Some(Duration::from_secs(3_600)),
            };
            let verdict = if RETRIES.contains(&n) { again } else { Verdict::done(*b"42") };
            Batch::from(Step::Transition(decide::settle(&lease, verdict, None)))
        };
        Self { batches: leases.into_iter().enumerate().map(settle).collect() }
    }

    /// Checks what the call answers: where it is the first, or where it was committed before.
    ///
    /// # Panics
    /// If anything else was answered.
    pub fn check(&self, outcomes: &[Outcome], is_first: bool) {
        assert_eq!(outcomes.len(), SETTLES);
        for (n, outcome) in outcomes.iter().enumerate() {
            let (state, rev) = expected(n);
            let head = Head { state, rev, fence: 1, cancel_requested: false };
            let expected = if STALE.contains(&n) {
                Outcome::Refused(Refused { step: 0, why: Refusal::Stale(head) })
            } else if is_first {
                Outcome::Applied(vec![Receipt::Moved(head)])
            } else {
                Outcome::Already(vec![Receipt::Moved(head)])
            };
            assert_eq!(*outcome, expected, "{}", task_id(n));
        }
    }

    /// Checks what the call leaves behind, however often it was sent.
    ///
    /// # Panics
    /// If something was not applied, or twice.
    pub async fn check_rows(&self, store: &impl Storage) {
        let filter = TaskFilter { limit: 10_000, ..TaskFilter::default() };
        let view = store.read(&Query::Tasks(filter)).await.expect("the store answers");
        let Answer::Tasks(tasks) = view.answer else { panic!("tasks were asked for") };
        let tasks: BTreeMap<TaskId, Task> = tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        assert_eq!(tasks.len(), SETTLES + PARENTS.len() + STALE.len());
        for n in 0..SETTLES {
            let task = &tasks[&task_id(n)];
            assert_eq!((task.state, task.rev), expected(n), "{}", task.id);
            assert_eq!(task.lease_expires_at.is_some(), STALE.contains(&n), "{}", task.id);
            if has_child(n) {
                let child = &tasks[&child_id(n)];
                let found = (child.state, child.rev, child.parents_pending);
                let waits = STALE.contains(&n);
                let expected = if waits { (State::Blocked, 0, 1) } else { (State::Ready, 1, 0) };
                assert_eq!(found, expected, "{}", child.id);
            }
        }
        for n in [RETRIES.start, RETRIES.end - 1, STALE.start, PARENTS.start] {
            let view = store.read(&Query::Attempts(task_id(n))).await.expect("the store answers");
            let Answer::Attempts(attempts) = view.answer else { panic!("attempts were asked for") };
            assert_eq!(attempts.len(), usize::from(RETRIES.contains(&n)), "{}", task_id(n));
        }
    }

    /// Checks that the call has left nothing behind.
    ///
    /// # Panics
    /// If it has.
    pub async fn check_untouched(&self, store: &impl Storage) {
        let filter = TaskFilter { state: Some(State::Running), limit: 10_000, ..TaskFilter::default() };
        let view = store.read(&Query::Tasks(filter)).await.expect("the store answers");
        let Answer::Tasks(tasks) = view.answer else { panic!("tasks were asked for") };
        assert!(tasks.len() == SETTLES && tasks.iter().all(|task| task.rev == 1));
    }
}

/// In which state and at which revision a task is after the call.
fn expected(number: usize) -> (State, u64) {
    match number {
        n if STALE.contains(&n) => (State::Running, 1),
        n if RETRIES.contains(&n) => (State::Scheduled, 2),
        _ => (State::Succeeded, 2),
    }
}
