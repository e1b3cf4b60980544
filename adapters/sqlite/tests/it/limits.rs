//! Trouble with the disk and with time: what is said about it, and that nothing that was acknowledged is lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use steadfast_core::{ErrorKind, NewTask, Outcome, State, Storage, Verdict};
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{apply, claim, directory, head, insert, new_task, open, settle, submit, task};

const LIMIT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_caller_is_answered_within_the_limit_whatever_the_file_does() {
    let (_guard, path) = directory();
    let storage =
        SqliteStorage::open(Options { time_limit: LIMIT, ..Options::file(&path) }).expect("it opens");
    let other = rusqlite::Connection::open(&path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let began = Instant::now();
    let (first, second) = ([insert(new_task("t1"))], [insert(new_task("t2"))]);
    let (begun, waiting) = tokio::join!(storage.apply(&first), storage.apply(&second));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1_500), "the lock itself is waited for two seconds: {took:?}");
    let begun = begun.expect_err("the file is locked");
    assert_eq!(begun.kind(), ErrorKind::Unknown, "{begun}");
    assert!(begun.to_string().contains("may have been stored or not"), "{begun}");
    let waiting = waiting.expect_err("another call is stuck");
    assert_eq!(waiting.kind(), ErrorKind::Unavailable, "{waiting}");
    assert!(waiting.to_string().contains("nothing of it was done"), "{waiting}");

    other.execute_batch("COMMIT").expect("unlocked");
    // The writer comes to itself. What was struck off isn't begun any more; what had begun is told by its repetition.
    let again = loop {
        match storage.apply(&first).await {
            Ok(mut outcomes) => break outcomes.remove(0),
            Err(error) => assert_ne!(error.kind(), ErrorKind::Broken, "{error}"),
        }
    };
    assert!(matches!(again, Outcome::Applied(_) | Outcome::Already(_)), "{again:?}");
    assert!(task(&storage, "t2").await.is_none());
    assert_eq!(task(&storage, "t1").await.expect("stored").state, State::Ready);
}

#[tokio::test]
async fn a_call_in_time_is_not_disturbed_by_the_limit() {
    let (_guard, path) = directory();
    let storage =
        SqliteStorage::open(Options { time_limit: LIMIT, ..Options::file(&path) }).expect("it opens");
    for n in 0..4 {
        submit(&storage, new_task(&format!("t{n}"))).await;
        tokio::time::sleep(LIMIT / 2).await;
    }
    for n in 0..4 {
        assert!(task(&storage, &format!("t{n}")).await.is_some());
    }
}

#[tokio::test]
async fn no_limit_is_a_limit_too() {
    let options = Options { time_limit: Duration::MAX, ..Options::in_memory() };
    let storage = SqliteStorage::open(options).expect("it opens");
    submit(&storage, new_task("t")).await;
    assert!(task(&storage, "t").await.is_some());
}

/// Writes over every page of the file but the first few.
fn damage(path: &Path, from: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    assert!(bytes.len() > from, "there is something to damage");
    bytes[from..].fill(0xA5);
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_damaged_file_is_reported_as_such() {
    let (_guard, path) = directory();
    let storage = open(&path);
    for n in 0..200 {
        submit(&storage, NewTask { payload: vec![b'x'; 500].into(), ..new_task(&format!("t{n}")) }).await;
    }
    drop(storage);
    damage(&path, 16 << 10);
    let error = match SqliteStorage::open(Options::file(&path)) {
        Err(error) => error,
        Ok(storage) => {
            let call = [insert(new_task("new"))];
            let written = storage.apply(&call).await.expect_err("it is damaged");
            assert_eq!(written.kind(), ErrorKind::Broken, "{written}");
            let query = steadfast_core::storage::Query::Task(steadfast_core::TaskId::trusted("t150"));
            storage.read(&query).await.expect_err("it is damaged")
        }
    };
    assert_eq!(error.kind(), ErrorKind::Broken, "{error}");
    let words = error.to_string();
    assert!(words.contains("damaged") && words.contains("restore it from a backup"), "{error}");
    assert!(words.contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_file_cut_short_is_reported_as_damaged() {
    let (_guard, path) = directory();
    let storage = open(&path);
    for n in 0..200 {
        submit(&storage, NewTask { payload: vec![b'x'; 500].into(), ..new_task(&format!("t{n}")) }).await;
    }
    drop(storage);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    file.set_len(40 << 10).expect("cut");
    let error = match SqliteStorage::open(Options::file(&path)) {
        Err(error) => error,
        Ok(storage) => storage.apply(&[insert(new_task("new"))]).await.expect_err("it is damaged"),
    };
    assert_eq!(error.kind(), ErrorKind::Broken, "{error}");
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// A small disk of our own, where this user may have one. It goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn of(kib: u32) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = Self(directory);
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).then_some(disk)
    }

    fn grow_to(&self, kib: u32) {
        assert!(self.mount(&["-o", &format!("remount,size={kib}k")]), "it was mounted before");
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        let ended = Command::new("mount").args(arguments).arg(self.0.path()).output();
        ended.is_ok_and(|ended| ended.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Where it was never mounted, there is nothing to do.
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

/// Submits until the store takes no more, and says how many it took.
async fn fill(storage: &SqliteStorage) -> (usize, steadfast_core::Error) {
    for n in 0.. {
        let large = NewTask { payload: vec![b'x'; 20 << 10].into(), ..new_task(&format!("t{n}")) };
        if let Err(error) = storage.apply(&[insert(large)]).await {
            return (n, error);
        }
    }
    unreachable!("no disk is endless")
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_worked_with_again_once_there_is_room() {
    let Some(disk) = SmallDisk::of(2_048) else {
        println!("skipped: this user may not mount a disk");
        return;
    };
    let path = disk.0.path().join("tasks.db");
    let storage = open(&path);
    let (taken, error) = fill(&storage).await;
    assert!(taken > 10, "{taken}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    for n in 0..taken {
        assert_eq!(task(&storage, &format!("t{n}")).await.expect("acknowledged").state, State::Ready);
    }
    assert!(task(&storage, &format!("t{taken}")).await.is_none(), "nothing was stored");

    disk.grow_to(16_384);
    assert_eq!(submit(&storage, new_task("more")).await.state, State::Ready);
    for lease in claim(&storage, 1_000).await.tasks {
        assert_eq!(head(apply(&storage, settle(&lease, Verdict::done(*b"1"))).await).state, State::Succeeded);
    }
    drop(storage);
    let storage = open(&path);
    for n in 0..taken {
        assert_eq!(task(&storage, &format!("t{n}")).await.expect("stored").state, State::Succeeded);
    }
}

/// The file that a process of this test is to fill.
const FILE: &str = "STEADFAST_SQLITE_TEST_FULL";

#[tokio::test]
async fn part_submit_until_the_file_can_not_grow() {
    let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    let storage = open(&path);
    let (taken, error) = fill(&storage).await;
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown), "{error}");
    for n in 0..taken {
        assert!(task(&storage, &format!("t{n}")).await.is_some(), "t{n} was acknowledged");
    }
    std::fs::write(path.with_extension("taken"), taken.to_string()).expect("written");
}

#[tokio::test]
async fn a_file_that_can_not_grow_loses_nothing() {
    let (_guard, path) = directory();
    // The limit's signal is ignored, so that the write fails instead, with an error that isn't "disk full".
    let script =
        "trap '' XFSZ; ulimit -f 2000; exec \"$0\" --exact limits::part_submit_until_the_file_can_not_grow";
    let binary = std::env::current_exe().expect("a test knows its binary");
    let ended = Command::new("sh").args(["-c", script]).arg(binary).env(FILE, &path).output().expect("run");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    let taken = std::fs::read_to_string(path.with_extension("taken")).expect("it has said so");
    let taken: usize = taken.parse().expect("a number");
    assert!(taken > 10, "{taken}");
    let storage = open(&path);
    for n in 0..taken {
        assert_eq!(task(&storage, &format!("t{n}")).await.expect("acknowledged").state, State::Ready);
    }
    // The one whose outcome was an error is stored or not: sent again, it is.
    let last = format!("t{taken}");
    let large = NewTask { payload: vec![b'x'; 20 << 10].into(), ..new_task(&last) };
    let again = apply(&storage, insert(large)).await;
    assert!(matches!(again, Outcome::Applied(_) | Outcome::Already(_)), "{again:?}");
}
