//! What is SQLite's own. The contract itself is checked by the conformance suite in `tests/`.

mod joining;
mod limits;
mod migrating;
mod opening;
mod processes;
mod sharing;
mod time;
mod trouble;
mod within;

use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_core::step::{Head, Receipt, States};
use steadfast_core::storage::{Answer, ClaimRequest, Claimed, Lease, Query};
use steadfast_core::{
    Batch, Kind, NewTask, Outcome, Queue, State, Step, Storage, Task, TaskId, Verdict, WorkerId, decide,
};
use steadfast_sqlite::{Options, SqliteStorage};

/// A directory that goes with the test.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("tasks.db");
    (directory, path)
}

fn open(path: &Path) -> SqliteStorage {
    SqliteStorage::open(Options::file(path)).expect("the store opens")
}

fn new_task(id: &str) -> NewTask {
    NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{}")
}

fn insert(task: NewTask) -> Batch {
    Step::Insert(task.into()).into()
}

fn settle(lease: &Lease, verdict: Verdict) -> Batch {
    Step::Transition(decide::settle(lease, verdict, None)).into()
}

/// Applies one batch that must be accepted, and says how the step's task stands afterwards.
#[track_caller]
fn head(outcome: Outcome) -> Head {
    match outcome {
        Outcome::Applied(receipts) | Outcome::Already(receipts) => match receipts[..] {
            [Receipt::Inserted(_, head) | Receipt::Moved(head)] => head,
            _ => panic!("one task was written: {receipts:?}"),
        },
        Outcome::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

async fn apply(storage: &SqliteStorage, batch: Batch) -> Outcome {
    let mut outcomes = storage.apply(&[batch]).await.expect("applied");
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

async fn submit(storage: &SqliteStorage, task: NewTask) -> Head {
    head(apply(storage, insert(task)).await)
}

async fn claim(storage: &SqliteStorage, limit: u32) -> Claimed {
    claim_as(storage, WorkerId::trusted("w1"), limit).await
}

async fn claim_as(storage: &SqliteStorage, worker: WorkerId, limit: u32) -> Claimed {
    storage.claim(&claim_request(worker, limit)).await.expect("claimed")
}

fn claim_request(worker: WorkerId, limit: u32) -> ClaimRequest {
    ClaimRequest {
        worker,
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("scan")],
        limit,
        lease: Duration::from_secs(30),
    }
}

async fn task(storage: &SqliteStorage, id: &str) -> Option<Task> {
    let view = storage.read(&Query::Task(TaskId::trusted(id))).await.expect("read");
    match view.answer {
        Answer::Task(task) => task.map(|task| *task),
        other => panic!("not what was asked for: {other:?}"),
    }
}

/// Asks a running task to stop.
fn ask_to_cancel(id: &str, reason: &str) -> Batch {
    let step =
        decide::cancel(&TaskId::trusted(id), State::Running, reason).expect("a running task can be asked");
    assert_eq!(step.guard.from, States::RUNNING);
    Step::Transition(step).into()
}

#[tokio::test]
async fn a_task_lives_from_submit_to_its_end_and_survives_a_restart() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let store = storage.store().clone();
    assert_eq!(submit(&storage, new_task("t1")).await.state, State::Ready);

    let lease = claim(&storage, 10).await.tasks.remove(0);
    assert_eq!((lease.fence, lease.attempt), (1, 1));
    let again = settle(&lease, Verdict::error("no luck"));
    assert_eq!(head(apply(&storage, again.clone()).await).state, State::Scheduled);
    assert!(matches!(apply(&storage, again).await, Outcome::Already(_)));
    drop(storage);

    let storage = open(&path);
    assert_eq!(storage.store(), &store);
    let found = task(&storage, "t1").await.expect("it was stored");
    assert_eq!(found.error.as_deref(), Some("no luck"));
    let view = storage.read(&Query::Attempts(TaskId::trusted("t1"))).await.expect("read");
    assert!(matches!(view.answer, Answer::Attempts(attempts) if attempts.len() == 1));
}

#[tokio::test]
async fn a_store_in_memory_serves_reads_as_well() {
    let storage = SqliteStorage::open(Options::in_memory()).expect("it opens");
    submit(&storage, new_task("t1")).await;
    let clone = storage.clone();
    drop(storage);
    assert_eq!(task(&clone, "t1").await.expect("it is there").state, State::Ready);
}

#[tokio::test]
async fn a_payload_of_any_length_comes_back_byte_for_byte() {
    let (_guard, path) = directory();
    let storage = open(&path);
    for length in [0, 1, 1_024, 1_025, 3_000_000] {
        let id = format!("t{length}");
        let payload: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).expect("small")).collect();
        let mut new = new_task(&id);
        new.payload = payload.clone().into();
        submit(&storage, new).await;
        assert_eq!(*task(&storage, &id).await.expect("stored").payload, payload, "{length} bytes");
        let lease = claim(&storage, 1).await.tasks.remove(0);
        assert_eq!(*lease.payload, payload, "{length} bytes");
        apply(&storage, settle(&lease, Verdict::done(payload.clone()))).await;
        let found = task(&storage, &id).await.expect("stored");
        assert_eq!(found.output.as_deref(), Some(&payload[..]), "{length} bytes");
    }
}
