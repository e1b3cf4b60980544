//! Several handles on one file, as several processes have them.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::wake::Hint;
use steadfast_core::{State, Storage, Verdict};

use crate::{claim, directory, new_task, open, settle, submit, task};

#[tokio::test]
async fn what_one_handle_commits_the_other_reads_at_once() {
    let (_guard, path) = directory();
    let (one, two) = (open(&path), open(&path));
    submit(&one, new_task("t1")).await;
    assert_eq!(task(&two, "t1").await.expect("stored").state, State::Ready);
    let lease = claim(&two, 1).await.tasks.remove(0);
    assert_eq!(task(&one, "t1").await.expect("stored").state, State::Running);
    crate::head(crate::apply(&one, settle(&lease, Verdict::done(*b"1"))).await);
    assert_eq!(task(&two, "t1").await.expect("stored").state, State::Succeeded);
}

#[test]
fn two_handles_share_the_tasks_out_between_them() {
    const TASKS: usize = 200;
    let (_guard, path) = directory();
    let first = open(&path);
    run(async {
        for n in 0..TASKS {
            submit(&first, new_task(&format!("t{n}"))).await;
        }
    });
    let worker = || {
        let storage = open(&path);
        run(async {
            let mut done = Vec::new();
            loop {
                let leases = claim(&storage, 3).await.tasks;
                if leases.is_empty() {
                    return done;
                }
                for lease in leases {
                    crate::head(crate::apply(&storage, settle(&lease, Verdict::done(*b"1"))).await);
                    done.push(lease.task.to_string());
                }
            }
        })
    };
    let done: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("done")).collect()
    });
    assert_eq!(done.len(), TASKS, "none twice");
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>().len(), TASKS, "and none forgotten");
}

#[tokio::test]
async fn a_commit_by_another_handle_is_hinted() {
    let (_guard, path) = directory();
    let (one, two) = (open(&path), open(&path));
    let mut hints = two.hints();
    submit(&one, new_task("t1")).await;
    let hint = tokio::time::timeout(Duration::from_secs(10), hints.wait()).await.expect("a hint comes");
    assert_eq!(hint, Hint::BOTH);
}

#[tokio::test]
async fn a_handles_own_commits_are_hinted_once_and_by_what_they_did() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let mut hints = storage.hints();
    submit(&storage, new_task("t1")).await;
    assert_eq!(hints.wait().await, Hint::READY);
    let lease = claim(&storage, 1).await.tasks.remove(0);
    crate::apply(&storage, settle(&lease, Verdict::done(*b"1"))).await;
    assert_eq!(hints.wait().await, Hint::CHANGED);
    // Longer than the writer takes to look for other processes' commits several times.
    let more = tokio::time::timeout(Duration::from_millis(300), hints.wait()).await;
    assert!(more.is_err(), "its own commits are not another's: {more:?}");
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
