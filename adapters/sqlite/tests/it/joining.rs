//! Claims that share the commit of the call before them.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use steadfast_core::storage::Claimed;
use steadfast_core::wake::Hint;
use steadfast_core::{Batch, Error, ErrorKind, Outcome, State, Storage, Verdict, WorkerId};
use steadfast_sqlite::SqliteStorage;

use crate::{claim, claim_request, directory, insert, new_task, open, settle, submit, task};

/// Has a batch applied and then a task claimed, by calls that stand behind each other when the writer begins.
async fn apply_and_claim(
    path: &Path,
    storage: &SqliteStorage,
    batch: Batch,
) -> (Result<Vec<Outcome>, Error>, Result<Claimed, Error>) {
    let other = Connection::open(path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let (one, two) = (storage.clone(), storage.clone());
    let applied = tokio::spawn(async move { one.apply(&[batch]).await });
    let claimed = tokio::spawn(async move { two.claim(&claim_request(WorkerId::trusted("w1"), 1)).await });
    // Both are polled once, in this order, and have sent their calls then.
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").expect("unlocked");
    (applied.await.expect("no panic"), claimed.await.expect("no panic"))
}

/// How many commits the log beside the file holds: the last frame of each says how long the file is then.
fn commits(path: &Path) -> usize {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = std::fs::read(path.with_extension("db-wal")).expect("the log can be read");
    let salt = &log[16..24];
    let frames = log[HEADER..].chunks_exact(FRAME).take_while(|frame| &frame[8..16] == salt);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

/// Makes every lease fail, in a way that ends the statement, or the whole transaction.
fn forbid_leases(path: &Path, how: &str) -> impl FnOnce() {
    let other = Connection::open(path).expect("opened");
    let forbid = format!(
        "CREATE TRIGGER forbidden BEFORE UPDATE OF state ON task WHEN new.state = 3
         BEGIN SELECT RAISE({how}, 'no leases today'); END"
    );
    other.execute_batch(&forbid).expect("forbidden");
    move || other.execute_batch("DROP TRIGGER forbidden").expect("allowed again")
}

#[tokio::test]
async fn a_claim_behind_an_insert_shares_its_commit() {
    let (_guard, path) = directory();
    let storage = open(&path);
    submit(&storage, new_task("t0")).await;
    assert_eq!(claim(&storage, 9).await.tasks.len(), 1);
    let before = commits(&path);
    let (inserted, claimed) = apply_and_claim(&path, &storage, insert(new_task("t1"))).await;
    assert!(matches!(inserted.expect("applied")[..], [Outcome::Applied(_)]));
    assert_eq!(claimed.expect("claimed").tasks[0].task.as_str(), "t1");
    assert_eq!(commits(&path), before + 1, "one sync to the disk for both");
}

/// Who has settled many tasks goes on with them while the next are claimed.
#[tokio::test]
async fn a_claim_behind_a_settling_has_a_commit_of_its_own() {
    let (_guard, path) = directory();
    let storage = open(&path);
    submit(&storage, new_task("t0")).await;
    submit(&storage, new_task("t1")).await;
    let lease = claim(&storage, 1).await.tasks.remove(0);
    let before = commits(&path);
    let end = settle(&lease, Verdict::done(*b"1"));
    let (settled, claimed) = apply_and_claim(&path, &storage, end).await;
    assert!(matches!(settled.expect("applied")[..], [Outcome::Applied(_)]));
    assert_eq!(claimed.expect("claimed").tasks[0].task.as_str(), "t1");
    assert_eq!(commits(&path), before + 2);
}

#[tokio::test]
async fn an_idle_worker_is_told_of_a_new_task_before_it_is_committed() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut hints = storage.hints();
    let other = Connection::open(&path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let calls = [insert(new_task("t1"))];
    let inserted = storage.apply(&calls);
    let told = async {
        let hint = tokio::time::timeout(Duration::from_secs(1), hints.wait()).await;
        other.execute_batch("COMMIT").expect("unlocked");
        hint
    };
    let (inserted, hint) = tokio::join!(inserted, told);
    inserted.expect("applied");
    assert_eq!(hint.expect("the file is still locked"), Hint::READY);
    assert_eq!(hints.wait().await, Hint::READY, "and when it is");
}

#[tokio::test]
async fn a_claim_that_fails_takes_nobody_with_it() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let allow = forbid_leases(&path, "ABORT");
    let (inserted, claimed) = apply_and_claim(&path, &storage, insert(new_task("t1"))).await;
    let error = claimed.expect_err("it is forbidden");
    assert!(error.to_string().contains("could not claim from"), "{error}");
    assert!(error.to_string().contains("no leases today"), "{error}");
    inserted.expect("its neighbour's trouble isn't its own");
    assert_eq!(task(&storage, "t1").await.expect("stored").state, State::Ready);
    allow();
    assert_eq!(claim(&storage, 1).await.tasks.len(), 1);
}

#[tokio::test]
async fn where_sqlite_rolls_everything_back_everybody_is_told_so() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let allow = forbid_leases(&path, "ROLLBACK");
    let (inserted, claimed) = apply_and_claim(&path, &storage, insert(new_task("t1"))).await;
    for error in [inserted.expect_err("rolled back"), claimed.expect_err("forbidden")] {
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains("no leases today"), "{error}");
    }
    assert!(task(&storage, "t1").await.is_none(), "nothing was stored");
    allow();
    submit(&storage, new_task("t1")).await;
    assert_eq!(claim(&storage, 1).await.tasks.len(), 1);
}
