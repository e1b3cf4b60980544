//! Submitting inside a transaction of the caller's own.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use steadfast_core::engine::{Accepted, Submitted};
use steadfast_core::storage::{Answer, Query, TaskFilter};
use steadfast_core::task::{Due, OnConflict, OnParentFailure, Parent};
use steadfast_core::{Cause, ErrorKind, Key, NewTask, Refusal, Slot, State, Storage, TaskId, Verdict};
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{apply, claim, directory, head, new_task, open, settle, submit, task};

/// A connection of the caller's own, with a table of its own beside the store's.
fn caller(path: &Path) -> Connection {
    let conn = Connection::open(path).expect("opened");
    conn.execute_batch("CREATE TABLE IF NOT EXISTS customer (name TEXT)").expect("made");
    conn
}

fn begin(conn: &mut Connection) -> Transaction<'_> {
    conn.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun")
}

fn sign_up(tx: &Transaction<'_>) {
    tx.execute("INSERT INTO customer VALUES ('Ada')", []).expect("stored");
}

fn customers(path: &Path) -> i64 {
    caller(path).query_one("SELECT count(*) FROM customer", [], |row| row.get(0)).expect("read")
}

#[track_caller]
fn accepted(submitted: Submitted) -> Accepted {
    match submitted {
        Submitted::Accepted(accepted) => accepted,
        other => panic!("not accepted but {other:?}"),
    }
}

fn in_slot(id: &str, on_conflict: OnConflict) -> NewTask {
    NewTask { slot: Some((Slot::trusted("s"), on_conflict)), ..new_task(id) }
}

async fn count(storage: &SqliteStorage) -> usize {
    let filter = TaskFilter { limit: 100, ..TaskFilter::default() };
    match storage.read(&Query::Tasks(filter)).await.expect("read").answer {
        Answer::Tasks(tasks) => tasks.len(),
        other => panic!("not what was asked for: {other:?}"),
    }
}

#[tokio::test]
async fn a_task_submitted_within_a_transaction_runs_once_it_is_committed() {
    let (_guard, path) = directory();
    let (storage, other) = (open(&path), open(&path));
    let mut conn = caller(&path);
    let mut hints = [storage.hints(), other.hints()];
    // What came before is not what is listened for.
    for hints in &mut hints {
        let _ = tokio::time::timeout(Duration::from_millis(200), hints.wait()).await;
    }
    let tx = begin(&mut conn);
    sign_up(&tx);
    let request = NewTask { key: Some(Key::trusted("k")), ..new_task("t1") };
    let found = accepted(storage.submit_within(&tx, request.clone()).expect("submitted"));
    assert_eq!((found.id.as_str(), found.state, found.is_new), ("t1", State::Ready, true));
    assert!(task(&storage, "t1").await.is_none(), "not before the commit");
    tx.commit().expect("committed");
    for hints in &mut hints {
        tokio::time::timeout(Duration::from_secs(10), hints.wait()).await.expect("the commit is hinted at");
    }
    let lease = claim(&other, 9).await.tasks.remove(0);
    assert_eq!(lease.task.as_str(), "t1");
    assert_eq!(head(apply(&storage, settle(&lease, Verdict::done(*b"1"))).await).state, State::Succeeded);
    assert_eq!(customers(&path), 1);

    let tx = begin(&mut conn);
    let again = NewTask { id: TaskId::trusted("t2"), ..request };
    let found = accepted(storage.submit_within(&tx, again).expect("submitted"));
    assert_eq!(
        (found.id.as_str(), found.state, found.is_new),
        ("t1", State::Succeeded, false),
        "known by its key"
    );
}

#[tokio::test]
async fn a_task_submitted_within_a_transaction_is_gone_with_it() {
    let (_guard, path) = directory();
    let storage = open(&path);
    submit(&storage, in_slot("holder", OnConflict::Reject)).await;
    let before = task(&storage, "holder").await;
    let mut conn = caller(&path);
    let tx = begin(&mut conn);
    sign_up(&tx);
    accepted(storage.submit_within(&tx, new_task("t1")).expect("submitted"));
    let parents = vec![Parent { id: TaskId::trusted("t1"), on_failure: OnParentFailure::Fail }];
    let child = NewTask { parents, deadline: Some(Due::After(Duration::from_secs(60))), ..new_task("child") };
    assert_eq!(accepted(storage.submit_within(&tx, child).expect("submitted")).state, State::Blocked);
    accepted(storage.submit_within(&tx, in_slot("waiter", OnConflict::Queue)).expect("submitted"));
    accepted(storage.submit_within(&tx, in_slot("newcomer", OnConflict::Replace)).expect("submitted"));
    tx.rollback().expect("rolled back");
    assert_eq!((count(&storage).await, customers(&path)), (1, 0));
    assert_eq!(task(&storage, "holder").await, before);
    for table in ["edge", "deadline", "slot_waiter"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(conn.query_one(&sql, [], |row| row.get::<_, i64>(0)), Ok(0), "{table}");
    }
}

#[tokio::test]
async fn a_task_that_is_refused_leaves_the_transaction_usable() {
    let (_guard, path) = directory();
    let storage = open(&path);
    submit(&storage, in_slot("holder", OnConflict::Reject)).await;
    submit(&storage, NewTask { key: Some(Key::trusted("k")), ..new_task("t1") }).await;
    let stored = count(&storage).await;
    let mut conn = caller(&path);
    let tx = begin(&mut conn);
    sign_up(&tx);
    let other = || (*b"another").into();
    let parents = vec![Parent { id: TaskId::trusted("nobody"), on_failure: OnParentFailure::Fail }];
    for (request, expected) in [
        (in_slot("n1", OnConflict::Reject), "SlotTaken"),
        (NewTask { payload: other(), ..in_slot("n2", OnConflict::Join) }, "SlotTaken"),
        (NewTask { payload: other(), ..new_task("t1") }, "IdTaken"),
        (NewTask { payload: other(), key: Some(Key::trusted("k")), ..new_task("n3") }, "KeyTaken"),
        (NewTask { parents: parents.clone(), ..new_task("n4") }, "ParentMissing"),
        (NewTask { parents, ..in_slot("n5", OnConflict::Replace) }, "ParentMissing"),
    ] {
        match storage.submit_within(&tx, request).expect("answered") {
            Submitted::Refused(why) => assert!(format!("{why:?}").starts_with(expected), "{why:?}"),
            other => panic!("not refused as {expected} but {other:?}"),
        }
    }
    let nonsense = NewTask { attempts_max: 0, ..new_task("n6") };
    assert!(matches!(storage.submit_within(&tx, nonsense), Ok(Submitted::Invalid(_))));
    accepted(storage.submit_within(&tx, new_task("fine")).expect("submitted"));
    tx.commit().expect("committed");
    assert_eq!((count(&storage).await, customers(&path)), (stored + 1, 1));
    assert_eq!(task(&storage, "holder").await.expect("stored").state, State::Ready);
}

#[tokio::test]
async fn what_can_not_be_stored_leaves_the_transaction_usable() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut conn = caller(&path);
    // A task whose row breaks a rule of the store, of which the core knows nothing.
    conn.execute_batch(
        "CREATE TRIGGER t BEFORE INSERT ON task WHEN new.priority = 7 BEGIN SELECT raise(ABORT, 'no'); END",
    )
    .expect("made");
    let tx = begin(&mut conn);
    sign_up(&tx);
    let culprit = NewTask { priority: 7, key: Some(Key::trusted("k")), ..new_task("t1") };
    let error = storage.submit_within(&tx, culprit).expect_err("it can't be stored");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    let fine = NewTask { key: Some(Key::trusted("k")), ..new_task("t1") };
    accepted(storage.submit_within(&tx, fine).expect("nothing is in its way"));
    tx.commit().expect("committed");
    assert_eq!((count(&storage).await, customers(&path)), (1, 1));
}

#[tokio::test]
async fn every_policy_for_slots_is_honoured_within_a_transaction() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut conn = caller(&path);
    submit(&storage, in_slot("old", OnConflict::Reject)).await;
    let lease = claim(&storage, 1).await.tasks.remove(0);

    let tx = begin(&mut conn);
    let joined = accepted(storage.submit_within(&tx, in_slot("join", OnConflict::Join)).expect("submitted"));
    assert_eq!((joined.id.as_str(), joined.joined, joined.state), ("old", true, State::Running));
    let waiter =
        accepted(storage.submit_within(&tx, in_slot("waiter", OnConflict::Queue)).expect("submitted"));
    assert_eq!(waiter.state, State::Blocked);
    tx.commit().expect("committed");
    assert!(task(&storage, "join").await.is_none());

    let tx = begin(&mut conn);
    let new = accepted(storage.submit_within(&tx, in_slot("new", OnConflict::Replace)).expect("submitted"));
    assert_eq!((new.state, new.replaced), (State::Ready, Some(TaskId::trusted("old"))));
    tx.commit().expect("committed");
    let old = task(&storage, "old").await.expect("stored");
    assert_eq!((old.state, old.cause), (State::Cancelled, Some(Cause::Replaced)));
    let late = apply(&storage, settle(&lease, Verdict::done(*b"1"))).await;
    assert!(
        matches!(&late, steadfast_core::Outcome::Refused(refused) if matches!(refused.why, Refusal::Stale(_)))
    );
    assert!(task(&storage, "waiter").await.expect("stored").slot_waiting, "who replaces comes first");

    let lease = claim(&storage, 9).await.tasks.remove(0);
    assert_eq!(lease.task.as_str(), "new");
    head(apply(&storage, settle(&lease, Verdict::done(*b"1"))).await);
    assert_eq!(task(&storage, "waiter").await.expect("stored").state, State::Ready);
}

#[tokio::test]
async fn a_transaction_elsewhere_is_refused_loudly() {
    let (guard, path) = directory();
    let storage = open(&path);
    let other_path = guard.path().join("other.db");
    drop(open(&other_path));
    let check = |conn: &mut Connection, words: &str| {
        let tx = begin(conn);
        let error = storage.submit_within(&tx, new_task("t1")).expect_err("it isn't on the store's file");
        assert_eq!(error.kind(), ErrorKind::Broken, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    check(&mut Connection::open(other_path).expect("opened"), "on another store");
    check(&mut Connection::open_in_memory().expect("opened"), "isn't on a store");
    let mut conn = caller(&path);
    conn.execute_batch("PRAGMA user_version = 99").expect("set");
    check(&mut conn, "version 99");
}

#[tokio::test]
async fn a_transaction_that_read_too_early_can_not_write() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut conn = caller(&path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Deferred).expect("begun");
    tx.query_one("SELECT count(*) FROM customer", [], |row| row.get::<_, i64>(0)).expect("read");
    submit(&storage, new_task("between")).await;
    let error = storage.submit_within(&tx, new_task("t1")).expect_err("its snapshot is old");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    tx.rollback().expect("rolled back");
    let tx = begin(&mut conn);
    accepted(storage.submit_within(&tx, new_task("t1")).expect("submitted"));
    tx.commit().expect("committed");
    assert_eq!(count(&storage).await, 2);
}

#[tokio::test]
async fn an_open_transaction_holds_up_writers_but_not_for_ever() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut conn = caller(&path);
    let tx = begin(&mut conn);
    accepted(storage.submit_within(&tx, new_task("t1")).expect("submitted"));
    let call = [crate::insert(new_task("t2"))];
    let error = storage.apply(&call).await.expect_err("the caller has the lock");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    tx.commit().expect("committed");
    submit(&storage, new_task("t2")).await;
    assert_eq!(count(&storage).await, 2);
}

#[tokio::test]
async fn a_full_disk_within_a_transaction_is_said_to_have_ended_it_where_it_has() {
    let (_guard, path) = directory();
    let storage = SqliteStorage::open(Options::file(&path)).expect("it opens");
    let mut conn = caller(&path);
    let pages: i64 = conn.query_one("PRAGMA page_count", [], |row| row.get(0)).expect("read");
    conn.query_one(&format!("PRAGMA max_page_count = {}", pages + 4), [], |_| Ok(())).expect("set");
    let tx = begin(&mut conn);
    sign_up(&tx);
    let large = NewTask { payload: vec![b'x'; 1 << 20].into(), ..new_task("large") };
    let error = storage.submit_within(&tx, large).expect_err("it is full");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(error.to_string().contains("whole transaction"), tx.is_autocommit(), "{error}");
    if !tx.is_autocommit() {
        accepted(storage.submit_within(&tx, new_task("small")).expect("there is room for it"));
        tx.commit().expect("committed");
        assert_eq!((count(&storage).await, customers(&path)), (1, 1));
    }
}
