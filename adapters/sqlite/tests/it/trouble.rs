//! Locks, full stores, values that can't be stored, callers that go away.

use std::time::Duration;

use steadfast_core::storage::Lease;
use steadfast_core::{Batch, ErrorKind, State, Step, Storage, Verdict, decide};
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{ask_to_cancel, claim, directory, insert, new_task, open, settle, submit, task};

#[tokio::test]
async fn a_lock_held_elsewhere_is_waited_for_but_not_for_ever() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let other = rusqlite::Connection::open(&path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let error = storage.apply(&[insert(new_task("t1"))]).await.expect_err("the file is locked");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(task(&storage, "t1").await.is_none(), "a writer doesn't keep readers out");

    let call = [insert(new_task("t2"))];
    let waiting = storage.apply(&call);
    let unlock = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.execute_batch("COMMIT").expect("unlocked");
    };
    let (applied, ()) = tokio::join!(waiting, unlock);
    applied.expect("the lock came free in time");
    assert!(task(&storage, "t1").await.is_none(), "an error means that nothing was stored, now or later");
}

#[tokio::test]
async fn a_full_store_takes_nothing_of_the_call_and_works_again_later() {
    let (_guard, path) = directory();
    let limited = Options { bytes_max: Some(256 << 10), ..Options::file(&path) };
    let storage = SqliteStorage::open(limited).expect("it opens");
    submit(&storage, new_task("t1")).await;
    let mut large = new_task("large");
    large.payload = vec![b'x'; 1 << 20].into();
    let call = [insert(new_task("t2")), insert(large), insert(new_task("t3"))];
    let error = storage.apply(&call).await.expect_err("it is full");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("bytes_max"), "{error}");
    assert!(task(&storage, "t2").await.is_none());

    submit(&storage, new_task("t4")).await;
    let leases = claim(&storage, 9).await.tasks;
    assert_eq!(leases.iter().map(|lease| lease.task.as_str()).collect::<Vec<_>>(), ["t1", "t4"]);
}

/// Something that every store must refuse as a whole, beside a harmless neighbour.
async fn check_rejected(storage: &SqliteStorage, culprit: Batch, words: &str) {
    let neighbour = insert(new_task("neighbour"));
    for call in [[neighbour.clone(), culprit.clone()], [culprit, neighbour]] {
        let error = storage.apply(&call).await.expect_err("it can't be stored");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(task(storage, "neighbour").await.is_none(), "the whole call is rolled back");
    }
}

async fn running(storage: &SqliteStorage) -> Lease {
    submit(storage, new_task("t1")).await;
    claim(storage, 1).await.tasks.remove(0)
}

#[tokio::test]
async fn what_cannot_be_stored_is_rejected_with_the_whole_call() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let lease = running(&storage).await;

    let verdict = Verdict::error("a\0b");
    check_rejected(&storage, settle(&lease, verdict), "an error text has no NUL bytes").await;
    let Verdict::Fail { cause, .. } = Verdict::fail("x") else { panic!("a failure") };
    let verdict = Verdict::Fail { cause, error: "\0".into() };
    check_rejected(&storage, settle(&lease, verdict), "an error text has no NUL bytes").await;
    let verdict = Verdict::done(vec![0; (64 << 20) + 1]);
    check_rejected(&storage, settle(&lease, verdict), "an output has at most 64 MiB").await;

    let mut ask = decide::cancel(&lease.task, State::Running, "x").expect("it runs");
    ask.change.request_cancel = Some("stop\0".into());
    check_rejected(&storage, Step::Transition(ask).into(), "a cancel reason has no NUL bytes").await;

    let mut large = new_task("large");
    large.payload = vec![0; (64 << 20) + 1].into();
    check_rejected(&storage, insert(large), "a payload has at most 64 MiB").await;

    let found = task(&storage, "t1").await.expect("stored");
    assert_eq!((found.state, found.fence), (State::Running, lease.fence));
    crate::head(crate::apply(&storage, ask_to_cancel("t1", "enough")).await);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_disturb_the_store() {
    let (_guard, path) = directory();
    let storage = open(&path);
    for n in 0..100 {
        let batches = [insert(new_task(&format!("t{n}")))];
        let call = storage.apply(&batches);
        // Polled once, so that the call is on its way, and dropped.
        let _ = tokio::time::timeout(Duration::ZERO, call).await;
    }
    submit(&storage, new_task("last")).await;
    assert!(task(&storage, "last").await.is_some());
}

#[tokio::test]
async fn the_last_handle_closes_the_file() {
    let (guard, path) = directory();
    let storage = open(&path);
    let hints = storage.hints();
    submit(&storage, new_task("t1")).await;
    let clone = storage.clone();
    drop(storage);
    submit(&clone, new_task("t2")).await;
    drop(clone);
    let names: Vec<_> = std::fs::read_dir(guard.path())
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name())
        .collect();
    assert_eq!(names, ["tasks.db"], "the write-ahead log has gone into the file");
    drop(hints);
}
