//! Stores of older versions: opened, brought up to date, and gone on with.

use std::path::Path;
use std::time::Duration;

use steadfast_core::step::{Prune, QueuePause, Receipt, Report};
use steadfast_core::storage::{Answer, ClaimRequest, Lease, Query, TaskFilter};
use steadfast_core::task::{LogLine, OnConflict, Stream};
use steadfast_core::time::ManualClock;
use steadfast_core::{
    ErrorKind, Kind, NewTask, Outcome, Queue, Slot, State, Step, Storage, Task, TaskId, Timestamp, Verdict,
    WorkerId,
};
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{apply, directory, head, insert, new_task, settle, submit, task};

/// When the store of version 1 was left alone.
const LEFT: Timestamp = Timestamp::from_micros(1_767_225_610_000_000);

fn make_version_1(path: &Path) {
    let conn = rusqlite::Connection::open(path).expect("opened");
    conn.execute_batch("PRAGMA journal_mode = WAL").expect("as a store has it");
    conn.execute_batch(include_str!("version_1.sql")).expect("made");
}

fn open_then(path: &Path) -> SqliteStorage {
    let options = Options { clock: Some(ManualClock::at(LEFT)), ..Options::file(path) };
    SqliteStorage::open(options).expect("it is migrated")
}

fn version(path: &Path) -> i64 {
    let conn = rusqlite::Connection::open(path).expect("opened");
    conn.query_one("PRAGMA user_version", [], |row| row.get(0)).expect("read")
}

async fn all(storage: &SqliteStorage) -> Vec<Task> {
    let filter = TaskFilter { limit: 100, ..TaskFilter::default() };
    match storage.read(&Query::Tasks(filter)).await.expect("read").answer {
        Answer::Tasks(tasks) => tasks,
        other => panic!("not what was asked for: {other:?}"),
    }
}

/// The lease that a worker of version 1 still holds.
fn held() -> Lease {
    Lease {
        task: TaskId::trusted("running"),
        fence: 1,
        kind: Kind::trusted("scan"),
        queue: Queue::trusted("running"),
        slot: Some(Slot::trusted("s")),
        payload: (*br#"{"n": 1}"#).into(),
        attempt: 1,
        attempts_max: 3,
        timeout: Duration::from_secs(3600),
        backoff: steadfast_core::task::Backoff::default(),
        deadline: None,
    }
}

#[tokio::test]
async fn a_store_of_version_1_keeps_every_task() {
    let (_guard, path) = directory();
    make_version_1(&path);
    let storage = open_then(&path);
    assert_eq!(storage.store().as_str(), "59d9717f96cdbd07bf873d298731c411");
    let tasks = all(&storage).await;
    let states: Vec<_> = tasks.iter().map(|task| (task.id.as_str(), task.state)).collect();
    let expected = [
        ("cancelled", State::Cancelled),
        ("ready", State::Ready),
        ("scheduled", State::Scheduled),
        ("blocked", State::Blocked),
        ("running", State::Running),
        ("failed", State::Failed),
        ("done", State::Succeeded),
    ];
    assert_eq!(states, expected);
    for task in &tasks {
        assert_eq!((&*task.payload, task.submitted_at <= LEFT), (&br#"{"n": 1}"#[..], true));
        assert!(!task.slot_waiting && task.deadline_at.is_none() && task.progress.is_none(), "{task:?}");
    }
    let done = &tasks[6];
    assert_eq!((done.output.as_deref(), done.rev), (Some(&b"42"[..]), 2));
    let failed = &tasks[5];
    assert_eq!((failed.error.as_deref(), failed.attempt), (Some("twice"), 2));
    let view = storage.read(&Query::Attempts(failed.id.clone())).await.expect("read");
    assert!(matches!(view.answer, Answer::Attempts(attempts) if attempts.len() == 1));
    let running = &tasks[4];
    let lease_end = Some(LEFT + Duration::from_secs(30));
    assert_eq!((running.priority, running.lease_expires_at), (-3, lease_end));
    drop(storage);
    assert_eq!(version(&path), 4);
    assert_eq!(all(&open_then(&path)).await, tasks, "once is enough");
}

#[tokio::test]
async fn a_store_of_version_1_is_gone_on_with() {
    let (_guard, path) = directory();
    make_version_1(&path);
    let storage = open_then(&path);
    let waiter = NewTask {
        slot: Some((Slot::trusted("s"), OnConflict::Queue)),
        queue: Queue::trusted("waiter"),
        ..new_task("waiter")
    };
    assert_eq!(submit(&storage, waiter).await.state, State::Blocked);
    let line = LogLine { number: 1, ago: Duration::ZERO, stream: Stream::Log, text: "x".into() };
    let said = Report { lines: vec![line], ..Report::new(TaskId::trusted("running"), 1) };
    assert!(matches!(apply(&storage, Step::Report(said).into()).await, Outcome::Applied(_)));
    let end = settle(&held(), Verdict::done(*b"7"));
    assert_eq!(head(apply(&storage, end.clone()).await).state, State::Succeeded);
    assert!(matches!(apply(&storage, end).await, Outcome::Already(_)));
    assert_eq!(
        task(&storage, "blocked").await.expect("stored").state,
        State::Ready,
        "its parents have ended"
    );
    assert_eq!(task(&storage, "waiter").await.expect("stored").state, State::Ready, "its slot is free");
    let view = storage.read(&Query::Parents(TaskId::trusted("blocked"))).await.expect("read");
    assert!(matches!(view.answer, Answer::Parents(parents) if parents.len() == 2));

    // The limit has outlived the migration, and may be paused.
    let mut another = new_task("another");
    another.queue = Queue::trusted("ready");
    submit(&storage, another).await;
    let request = ClaimRequest {
        worker: WorkerId::trusted("w2"),
        queues: vec![Queue::trusted("ready")],
        kinds: vec![Kind::trusted("scan")],
        limit: 9,
        lease: Duration::from_secs(30),
    };
    assert_eq!(storage.claim(&request).await.expect("claimed").tasks.len(), 1);
    let pause = QueuePause { queue: Queue::trusted("ready"), paused: true };
    assert!(matches!(apply(&storage, Step::Pause(pause).into()).await, Outcome::Applied(_)));

    // What was known is known.
    let mut again = new_task("ready");
    again.queue = Queue::trusted("ready");
    again.payload = (*br#"{"n": 1}"#).into();
    assert!(matches!(apply(&storage, insert(again)).await, Outcome::Already(_)));
}

#[test]
fn many_may_migrate_the_same_store_at_once() {
    let (_guard, path) = directory();
    make_version_1(&path);
    let stores: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open_then(&path).store().clone())).collect();
        threads.into_iter().map(|thread| thread.join().expect("opened")).collect()
    });
    assert!(stores.windows(2).all(|two| two[0] == two[1]), "{stores:?}");
    assert_eq!(version(&path), 4);
}

#[test]
fn a_migration_that_fails_half_way_changes_nothing() {
    let (_guard, path) = directory();
    make_version_1(&path);
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.execute_batch("CREATE TABLE worker (mine TEXT)").expect("in the way of a later table");
    let tasks = |conn: &rusqlite::Connection| {
        conn.query_one("SELECT count(*) FROM task", [], |row| row.get::<_, i64>(0)).expect("read")
    };
    let error = SqliteStorage::open(Options::file(&path)).expect_err("it can't be migrated");
    assert_eq!(error.kind(), ErrorKind::Broken, "{error}");
    assert!(error.to_string().contains("worker"), "{error}");
    assert_eq!((version(&path), tasks(&conn)), (1, 7));
    conn.execute_batch("DROP TABLE worker").expect("out of the way");
    drop(open_then(&path));
    assert_eq!((version(&path), tasks(&conn)), (4, 7));
}

#[tokio::test]
async fn what_ended_under_version_1_is_pruned() {
    let (_guard, path) = directory();
    make_version_1(&path);
    let storage = open_then(&path);
    let prune = |limit| Step::Prune(Prune { succeeded: Duration::ZERO, otherwise: Duration::ZERO, limit });
    for (limit, count) in [(1, 1), (9, 1), (9, 0)] {
        let Outcome::Applied(receipts) = apply(&storage, prune(limit).into()).await else {
            panic!("refused")
        };
        assert_eq!(receipts, [Receipt::Pruned(count)]);
    }
    let left: Vec<State> = all(&storage).await.iter().map(|task| task.state).collect();
    // The one that succeeded has a key, which is kept.
    assert_eq!(left, [State::Ready, State::Scheduled, State::Blocked, State::Running, State::Succeeded]);
}

#[test]
fn an_older_program_that_is_still_running_fails_loudly() {
    let older = ["schema_1.sql", "schema_2.sql", "schema_3.sql"];
    // What such a program begins each of its transactions with.
    for (version, column) in [(1, "clock"), (2, "high_water"), (3, "high_water")] {
        let (_guard, path) = directory();
        let old = rusqlite::Connection::open(&path).expect("opened");
        for name in &older[..version] {
            let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
            old.execute_batch(&std::fs::read_to_string(schema).expect("read")).expect("made");
        }
        let header = format!("PRAGMA application_id = 1400137313; PRAGMA user_version = {version}");
        old.execute_batch(&header).expect("made");
        let mut begins = old.prepare(&format!("SELECT {column} FROM meta WHERE one = 1")).expect("prepared");
        assert_eq!(begins.query_one([], |row| row.get::<_, i64>(0)), Ok(0));
        drop(open_then(&path));
        let error = begins.query_one([], |row| row.get::<_, i64>(0)).expect_err("it must not go on");
        assert!(error.to_string().contains("no such column"), "{error}");
    }
}
