//! What an operator sees in the log: one line for each hop of a task's life, with the task's id, on the real runtime and
//! SQLite. A task that never ran is found by the first line that is missing.
//!
//! A binary of its own: tracing-test takes down every event of the process, at every level. Its `logs_assert` sees only
//! what is logged under the test's span, and a host works on a thread of its own; so the lines are found by the id.

// In a test an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use steadfast::core::engine::{Cancelled, Submitted};
use steadfast::core::task::OnConflict;
use steadfast::{Context, Handlers, Host, Kind, NewTask, Slot, State, Task, TaskId, Verdict};
use tracing_test::traced_test;

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(60);

struct Place {
    host: Host,
    _directory: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("tasks.db").display());
        Self { host: Host::open(&url.parse().unwrap()).await.unwrap(), _directory: directory }
    }

    async fn submit(&self, task: NewTask) -> TaskId {
        match self.host.engine().submit(task).await.unwrap() {
            Submitted::Accepted(accepted) => accepted.id,
            other => panic!("{other:?}"),
        }
    }

    async fn ended(&self, id: &TaskId) -> Task {
        let task = self.host.engine().wait(id, None, LONG).await.unwrap().unwrap();
        assert!(task.state.is_terminal(), "{task:?}");
        task
    }
}

fn task(id: &str) -> NewTask {
    NewTask::new(TaskId::new(id).unwrap(), Kind::new("work").unwrap(), *b"{}")
}

/// Level and message of each line about a task, in order.
fn hops(id: &TaskId) -> Vec<(String, String)> {
    let log = String::from_utf8(tracing_test::internal::global_buf().lock().unwrap().clone()).unwrap();
    let of_task = log.lines().filter(|line| line.split(' ').any(|word| word == format!("task={id}")));
    let parts = of_task.map(|line| {
        let level = line.split_whitespace().nth(1).unwrap();
        let (_, message) = line.split_once("steadfast_core::").unwrap();
        let message = message.split_once(": ").unwrap().1;
        // The fields follow the message.
        let words = message.split(' ').take_while(|word| !word.contains('='));
        (level.to_owned(), words.collect::<Vec<_>>().join(" "))
    });
    parts.collect()
}

#[track_caller]
fn assert_hops(id: &TaskId, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(level, text)| ((*level).into(), (*text).into())).collect();
    let found: Vec<(String, String)> = hops(id);
    assert_eq!(found, expected);
}

#[tokio::test]
#[traced_test]
async fn every_hop_of_a_task_leaves_one_line_with_its_id() {
    let place = Place::new().await;
    let id = place.submit(task("hops-well")).await;
    let early = place.ended_after_work(&id, |_| async { Verdict::done(*b"{}") }).await;
    assert_eq!(early.state, State::Succeeded);
    assert_hops(
        &id,
        &[
            ("DEBUG", "task accepted"),
            ("DEBUG", "task claimed"),
            ("DEBUG", "handler entered"),
            ("DEBUG", "attempt settled"),
        ],
    );
}

#[tokio::test]
#[traced_test]
async fn each_attempt_has_its_lines_and_the_end_says_why() {
    let place = Place::new().await;
    let mut twice = task("hops-twice");
    twice.attempts_max = 2;
    twice.backoff.min = Duration::from_millis(1);
    let id = place.submit(twice).await;
    let failed = place.ended_after_work(&id, |_| async { Verdict::error("no luck") }).await;
    assert_eq!(failed.state, State::Failed);
    assert_hops(
        &id,
        &[
            ("DEBUG", "task accepted"),
            ("DEBUG", "task claimed"),
            ("DEBUG", "handler entered"),
            ("INFO", "attempt settled"),
            ("DEBUG", "task claimed"),
            ("DEBUG", "handler entered"),
            ("WARN", "attempt settled"),
        ],
    );
    let log = String::from_utf8(tracing_test::internal::global_buf().lock().unwrap().clone()).unwrap();
    let end = log.lines().rfind(|line| line.contains("task=hops-twice")).unwrap();
    for part in ["attempt=2", "became=failed", "cause=\"error\"", "no luck"] {
        assert!(end.contains(part), "{part} isn't in: {end}");
    }
}

#[tokio::test]
#[traced_test]
async fn what_a_handler_logs_carries_its_task() {
    let place = Place::new().await;
    let mut twice = task("hops-spoken");
    twice.attempts_max = 2;
    twice.backoff.min = Duration::from_millis(1);
    // Claimed before it, or with it.
    let other = place.submit(task("hops-other")).await;
    let id = place.submit(twice).await;
    let handler = |context: Context| {
        tracing::info!("on the way in");
        async move {
            // It goes on another time, when others may have been polled between.
            tokio::task::yield_now().await;
            tracing::info!("in the middle");
            let fails = context.attempt() == 1 && context.task_id().as_str() == "hops-spoken";
            if fails { Verdict::error("no luck") } else { Verdict::done(*b"{}") }
        }
    };
    place.ended_after_work(&id, handler).await;
    let log = String::from_utf8(tracing_test::internal::global_buf().lock().unwrap().clone()).unwrap();
    let said = |id: &TaskId, attempt: u32, words: &str| {
        let span = format!("attempt{{task={id} attempt={attempt} fence={attempt}}}: ");
        log.lines().filter(|line| line.contains(&span) && line.ends_with(words)).count()
    };
    for words in ["on the way in", "in the middle"] {
        assert_eq!((said(&id, 1, words), said(&id, 2, words)), (1, 1), "{words}");
        assert_eq!((said(&other, 1, words), said(&other, 2, words)), (1, 0), "{words}");
    }
}

#[tokio::test]
#[traced_test]
async fn a_task_that_never_ran_is_seen_by_the_lines_that_are_missing() {
    let place = Place::new().await;
    let waiting = place.submit(task("hops-waiting")).await;
    assert_hops(&waiting, &[("DEBUG", "task accepted")]);
    let cancelled = place.host.engine().cancel(&waiting, "not needed").await.unwrap();
    assert_eq!(cancelled, Cancelled::Ended);
    assert_hops(&waiting, &[("DEBUG", "task accepted"), ("INFO", "task cancelled while it waited")]);

    let slot = Slot::new("user:42").unwrap();
    let in_slot = |id| NewTask { slot: Some((slot.clone(), OnConflict::Replace)), ..task(id) };
    let old = place.submit(in_slot("hops-old")).await;
    place.submit(in_slot("hops-new")).await;
    assert_hops(&old, &[("DEBUG", "task accepted"), ("INFO", "task replaced in its slot")]);
}

impl Place {
    /// Works until the task has ended, and then until the log has the worker's last word on it.
    async fn ended_after_work<R>(
        &self,
        id: &TaskId,
        handler: impl Fn(Context) -> R + Send + Sync + 'static,
    ) -> Task
    where
        R: Future<Output = Verdict> + Send + 'static,
    {
        let handlers = Handlers::new().with(Kind::new("work").unwrap(), handler);
        let worker = self.host.work(handlers, self.host.worker_config()).unwrap();
        let task = self.ended(id).await;
        worker.drain().await.unwrap();
        task
    }
}
