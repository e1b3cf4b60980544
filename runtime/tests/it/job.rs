//! Typed tasks, reports of handlers and the executor's lag, on a real store.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steadfast::{
    Cause, Context, ErrorKind, Failure, Handlers, Host, Job, Jobs, State, SubmitError, TypedSteps, Verdict,
};

use crate::host::{LONG, ended, host, kind, once, submit};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    a: u32,
    b: u32,
}

impl Job for Add {
    const KIND: &'static str = "add";
    type Output = u32;
}

fn adding() -> Handlers {
    Handlers::new().with_job(|add: Add, _| async move {
        add.a.checked_add(add.b).ok_or_else(|| Failure::fatal("the sum is too large"))
    })
}

async fn worked(host: &Host, handlers: Handlers) -> steadfast::Worker {
    host.work(handlers, host.worker_config()).unwrap()
}

#[tokio::test]
async fn arguments_come_in_and_the_output_comes_back_typed() {
    let host = host().await;
    let _worker = worked(&host, adding()).await;
    let task = host.submit(Add { a: 2, b: 3 }.task().unwrap()).await.unwrap();
    let task = ended(&host, &task.id).await;
    assert_eq!((task.kind.as_str(), &*task.payload), ("add", &br#"{"a":2,"b":3}"#[..]));
    assert_eq!(Add::output(&task).unwrap(), Some(5));
    let task = host.submit(Add { a: u32::MAX, b: 1 }.task().unwrap()).await.unwrap();
    let task = ended(&host, &task.id).await;
    assert_eq!((task.state, task.error.as_deref()), (State::Failed, Some("the sum is too large")));
    assert_eq!((task.attempt, Add::output(&task).unwrap()), (1, None));
}

#[tokio::test]
async fn a_payload_that_is_no_job_fails_for_good_and_says_why() {
    let host = host().await;
    let _worker = worked(&host, adding()).await;
    for payload in ["", "{\"a\":1}", "{\"a\":1,\"b\":2,\"c\":3}", "{\"a\":-1,\"b\":2}"] {
        let mut task = once("add", payload.as_bytes());
        task.attempts_max = 3;
        let id = submit(&host, task).await;
        let task = ended(&host, &id).await;
        assert_eq!((task.state, task.cause, task.attempt), (State::Failed, Some(Cause::Error), 1));
        assert!(task.error.as_deref().unwrap().starts_with("the payload is no \"add\": "), "{task:?}");
    }
}

#[tokio::test]
async fn a_task_that_is_not_accepted_is_an_error() {
    let host = host().await;
    let mut task = Add { a: 1, b: 2 }.task().unwrap();
    task.attempts_max = 0;
    let error = host.submit(task.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "the task makes no sense: attempts: must be at least 1");
    task.attempts_max = 1;
    host.submit(task.clone()).await.unwrap();
    task.priority = 7;
    assert!(matches!(host.submit(task).await, Err(SubmitError::Refused(_))));
}

/// Fails after its first step, until the third attempt.
#[derive(Serialize, Deserialize)]
struct Fragile;

impl Job for Fragile {
    const KIND: &'static str = "fragile";
    type Output = (u32, u64);
}

#[tokio::test]
async fn a_finished_step_is_not_done_again_by_a_later_attempt() {
    let host = host().await;
    let fragile = |_: Fragile, task: Context| async move {
        let attempt = task.attempt();
        let first: u32 = task.step_as("first", async || Ok::<_, Failure>(attempt)).await?;
        if attempt < 3 {
            return Err(Failure::retry_after("not yet", Duration::from_millis(1)));
        }
        Ok((first, task.fence()))
    };
    let _worker = worked(&host, Handlers::new().with_job(fragile)).await;
    let task = host.submit(Fragile.task().unwrap()).await.unwrap();
    let task = ended(&host, &task.id).await;
    assert_eq!(Fragile::output(&task).unwrap(), Some((1, 3)));
}

#[tokio::test]
async fn what_a_handler_says_is_there_while_it_runs() {
    let host = host().await;
    let (go_on, may_go_on) = tokio::sync::watch::channel(false);
    let handler = move |task: Context| {
        let mut may_go_on = may_go_on.clone();
        async move {
            for percent in 0..=70 {
                task.progress(percent, format!("{percent} of 100"));
            }
            task.log("one\ntwo \0");
            may_go_on.wait_for(|go| *go).await.unwrap();
            task.log("three");
            Verdict::done(*b"")
        }
    };
    let _worker = worked(&host, Handlers::new().with(kind("talks"), handler)).await;
    let id = submit(&host, once("talks", b"")).await;
    let mut task = host.engine().task(&id).await.unwrap().unwrap();
    while task.progress.is_none() {
        assert!(!task.state.is_terminal(), "{task:?}");
        task = host.engine().wait(&id, Some(task.rev), LONG).await.unwrap().unwrap();
    }
    assert_eq!(task.progress.unwrap().message, "70 of 100");
    assert!(task.reported_at.is_some());
    go_on.send_replace(true);
    ended(&host, &id).await;
    let log = host.engine().log(&id, (0, 0), 10).await.unwrap();
    let lines: Vec<_> = log.iter().map(|line| (line.fence, line.number, line.text.as_str())).collect();
    assert_eq!(lines, [(1, 1, "one"), (1, 2, "two \u{fffd}"), (1, 3, "three")]);
}

#[tokio::test]
async fn a_deadline_ends_an_attempt_and_says_so() {
    let host = host().await;
    let handler = |task: Context| async move { Verdict::error(task.stopped().await) };
    let _worker = worked(&host, Handlers::new().with(kind("waits"), handler)).await;
    let mut task = once("waits", b"");
    (task.deadline, task.attempts_max) =
        (Some(steadfast::core::task::Due::After(Duration::from_millis(300))), 3);
    let id = submit(&host, task).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::Deadline)));
}

#[tokio::test]
async fn a_failed_task_is_retried_as_a_new_one() {
    use steadfast::core::engine::Retried;
    let host = host().await;
    let handler = |task: Context| async move {
        if task.task_id().as_str().ends_with(".retry") {
            return Verdict::done(*b"now");
        }
        Verdict::fail("no")
    };
    let _worker = worked(&host, Handlers::new().with(kind("moody"), handler)).await;
    let id = submit(&host, once("moody", b"")).await;
    ended(&host, &id).await;
    let Retried::Anew(again) = host.engine().retry(&id).await.unwrap() else { panic!("it had failed") };
    assert_eq!(again.id.to_string(), format!("{id}.retry"));
    assert_eq!(ended(&host, &again.id).await.state, State::Succeeded);
    // One that waits for its backoff is due at once.
    let later = |_: Context| async { Verdict::Snooze { after: Duration::from_secs(3600) } };
    let worker = worked(&host, Handlers::new().with(kind("later"), later)).await;
    let id = submit(&host, once("later", b"")).await;
    let mut task = host.engine().task(&id).await.unwrap().unwrap();
    while task.state != State::Scheduled {
        task = host.engine().wait(&id, Some(task.rev), LONG).await.unwrap().unwrap();
    }
    worker.drain().await.unwrap();
    assert_eq!(host.engine().retry(&id).await.unwrap(), Retried::Due);
    assert_eq!(host.engine().task(&id).await.unwrap().unwrap().state, State::Ready);
}

#[tokio::test]
async fn a_worker_is_known_while_it_works_and_gone_when_it_is_drained() {
    let host = host().await;
    let worker = worked(&host, adding()).await;
    let id = worker.id().clone();
    // The sign of life is sent before the first claim is answered.
    let task = host.submit(Add { a: 1, b: 1 }.task().unwrap()).await.unwrap();
    ended(&host, &task.id).await;
    let known = |workers: Vec<steadfast::core::storage::Worker>| {
        workers.into_iter().find(|worker| worker.id == id).expect("it has said that it lives")
    };
    let seen = known(host.engine().workers().await.unwrap());
    assert_eq!((seen.gone, seen.kinds), (false, vec![kind("add")]));
    worker.drain().await.unwrap();
    assert!(known(host.engine().workers().await.unwrap()).gone);
}

#[tokio::test]
async fn a_worker_that_could_do_nothing_is_not_started() {
    let host = host().await;
    let mut config = host.worker_config();
    config.concurrency = 0;
    let error = host.work(adding(), config).unwrap_err();
    assert_eq!(error.to_string(), "the worker's concurrency must be at least 1");
}

/// A handler that blocks its executor is seen from outside, while it does.
#[tokio::test]
async fn the_lag_of_a_blocked_executor_is_seen_while_it_is_blocked() {
    let host = host().await;
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let blocks = move |_: Context| {
        let _ = released.lock().unwrap().recv();
        async { Verdict::done([]) }
    };
    let handlers = Handlers::new().with(kind("blocks"), blocks);
    let (tell, told) = tokio::sync::oneshot::channel();
    let executor = {
        let host = host.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut worker = worked(&host, handlers).await;
                tell.send(worker.executor_lag()).unwrap();
                worker.ended().await
            })
        })
    };
    let lag = told.await.unwrap();
    assert!(lag.now() < Duration::from_secs(1));
    let id = submit(&host, once("blocks", b"")).await;
    let until = Instant::now() + LONG;
    while lag.now() < Duration::from_secs(1) {
        assert!(Instant::now() < until, "the lag isn't seen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    release.send(()).unwrap();
    ended(&host, &id).await;
    while lag.now() >= steadfast::LAG_WARNING {
        assert!(Instant::now() < until, "the end of the lag isn't seen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.close().await;
    executor.join().unwrap().unwrap();
}

#[test]
fn any_error_is_a_failure_with_its_sources() {
    let inner = steadfast::Error::new(ErrorKind::Unavailable, "no route");
    let failed = || -> Result<(), Failure> {
        Err(steadfast::Error::new(ErrorKind::Broken, "can't ask").with_source(inner))?
    };
    assert_eq!(failed().unwrap_err(), Failure::new("can't ask: no route"));
}

#[path = "../../examples/embed.rs"]
mod embed;

#[test]
fn the_example_runs_and_is_the_readmes() {
    embed::main().unwrap();
    let readme = include_str!("../../../README.md");
    let example = include_str!("../../examples/embed.rs");
    let block = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let written = lines(example);
    for line in lines(block) {
        assert!(line.is_empty() || written.contains(&line), "not in the example: {line}");
    }
    assert!(block.contains("host.work("));
}
