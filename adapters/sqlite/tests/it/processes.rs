//! Several processes on one file. The others are this test binary again, which runs one test with a file to work on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use steadfast_core::storage::{Answer, Query, TaskFilter};
use steadfast_core::{State, Storage, Verdict, WorkerId};
use steadfast_sqlite::SqliteStorage;

use crate::{apply, claim_as, directory, head, new_task, open, settle, submit, task};

/// The variable by which a process of ours learns the file.
const FILE: &str = "STEADFAST_SQLITE_TEST_FILE";

/// This binary as another process, to play the part of this name on the file. A part is a test that does nothing
/// unless it is started so.
fn process(test: &str, file: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its binary"));
    command.args(["--exact", &format!("processes::{test}")]).env(FILE, file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The file, where this process was started by a test.
fn file() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

async fn in_state(storage: &SqliteStorage, state: State) -> usize {
    let filter = TaskFilter { state: Some(state), limit: 10_000, ..TaskFilter::default() };
    match storage.read(&Query::Tasks(filter)).await.expect("read").answer {
        Answer::Tasks(tasks) => tasks.len(),
        other => panic!("not what was asked for: {other:?}"),
    }
}

#[tokio::test]
async fn part_work_until_nothing_is_left() {
    let Some(file) = file() else { return };
    let storage = open(&file);
    let worker = WorkerId::new(format!("process-{}", std::process::id())).expect("a name");
    loop {
        let leases = claim_as(&storage, worker.clone(), 5).await.tasks;
        if leases.is_empty() {
            return;
        }
        for lease in leases {
            head(apply(&storage, settle(&lease, Verdict::done(worker.as_str().as_bytes()))).await);
        }
    }
}

#[tokio::test]
async fn processes_share_the_tasks_out_between_them() {
    const TASKS: usize = 300;
    let (_guard, path) = directory();
    let storage = open(&path);
    for n in 0..TASKS {
        submit(&storage, new_task(&format!("t{n}"))).await;
    }
    let start = || process("part_work_until_nothing_is_left", &path).spawn().expect("started");
    for mut process in [start(), start(), start()] {
        assert!(process.wait().expect("ended").success());
    }
    assert_eq!(in_state(&storage, State::Succeeded).await, TASKS);
    let mut workers = BTreeSet::new();
    for n in 0..TASKS {
        let found = task(&storage, &format!("t{n}")).await.expect("stored");
        assert_eq!((found.fence, found.attempt), (1, 1), "claimed once");
        let worker = found.worker.expect("somebody did it");
        assert_eq!(found.output.as_deref(), Some(worker.as_str().as_bytes()), "settled by who claimed it");
        workers.insert(worker);
    }
    println!("done by {} processes", workers.len());
}

#[tokio::test]
async fn part_submit_and_die() {
    let Some(file) = file() else { return };
    let storage = open(&file);
    for n in 0..50 {
        submit(&storage, new_task(&format!("t{n}"))).await;
    }
    std::process::abort();
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_process() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut hints = storage.hints();
    let ended = process("part_submit_and_die", &path).status().expect("ended");
    assert!(!ended.success(), "it was meant to die");
    tokio::time::timeout(Duration::from_secs(10), hints.wait()).await.expect("its commits are noticed");
    assert_eq!(in_state(&storage, State::Ready).await, 50);
    drop(storage);
    assert_eq!(in_state(&open(&path), State::Ready).await, 50);
}
