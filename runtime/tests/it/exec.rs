//! Tasks as commands: what the subprocess contract makes of an attempt.

use std::sync::Arc;
use std::time::Duration;

use steadfast::core::Clock;
use steadfast::core::engine::Cancelled;
use steadfast::core::handler::Orders;
use steadfast::core::storage::Lease;
use steadfast::core::task::Backoff;
use steadfast::exec::{Exec, Observer, Options};
use steadfast::subprocess::{Control, Exit, GuardExe, Line, LineSink};
use steadfast::{
    Cause, Context, Handler, Handlers, Host, NewTask, Queue, Slot, State, Task, TaskId, TokioClock, Verdict,
    WorkerConfig,
};
use tokio::sync::mpsc;

use crate::host::{LONG, ended, host, kind, once, submit};

fn options(grace: Duration) -> Options {
    let mut options = Options::new(grace);
    options.guard = GuardExe::at(env!("CARGO_BIN_EXE_steadfast-guard"));
    options
}

/// The kind `sh`: its payload is a script.
fn shell(config: &WorkerConfig) -> Exec {
    Exec::new("sh", ["-c", "exec sh -c \"$(cat)\""], None, options(config.grace))
}

async fn end_of(script: &str) -> Task {
    let host = host().await;
    let config = host.worker_config();
    let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
    let id = submit(&host, once("sh", script.as_bytes())).await;
    ended(&host, &id).await
}

/// Tells each line as it comes.
struct Lines(mpsc::Sender<String>);

struct Sink(mpsc::Sender<String>);

impl Observer for Lines {
    type Lines = Sink;

    fn lines(&self, _: &Context) -> Sink {
        Sink(self.0.clone())
    }

    fn started(&self, _: &Context, _: Control) {}

    fn ended(&self, _: &Context, _: &Exit) {}
}

impl LineSink for Sink {
    async fn line(&mut self, line: Line<'_>) {
        let _ = self.0.send(String::from_utf8_lossy(line.bytes).into_owned()).await;
    }
}

/// A host whose worker runs one script that has printed its first line.
async fn started(task: NewTask, change: impl FnOnce(&mut WorkerConfig)) -> (Host, TaskId, steadfast::Worker) {
    let host = host().await;
    let mut config = host.worker_config();
    change(&mut config);
    let (lines, mut first) = mpsc::channel(100);
    let handler = shell(&config).observed_by(Lines(lines));
    let worker = host.work(Handlers::new().with(kind("sh"), handler), config).unwrap();
    let id = submit(&host, task).await;
    first.recv().await.expect("a first line");
    // Whatever else it prints is read on.
    tokio::spawn(async move { while first.recv().await.is_some() {} });
    (host, id, worker)
}

#[tokio::test]
async fn the_command_knows_its_task_and_its_output_is_the_file() {
    let host = host().await;
    let config = host.worker_config();
    let mut options = options(config.grace);
    options.server = Some("http://here:1".into());
    let script = "echo not this; printf '%s %s %s %s %s %s' $STEADFAST_TASK_ID $STEADFAST_ATTEMPT $STEADFAST_FENCE \
                  $STEADFAST_SLOT $STEADFAST_SERVER \"$(cat)\" > $STEADFAST_OUTPUT";
    let handler = Exec::new("sh", ["-c", script], None, options);
    let _worker = host.work(Handlers::new().with(kind("sh"), handler), config).unwrap();
    let mut task = once("sh", b"{\"a\":  1}");
    let slot = Slot::new("user:7").unwrap();
    task.slot = Some((slot, steadfast::core::task::OnConflict::Reject));
    let id = submit(&host, task).await;
    let task = ended(&host, &id).await;
    let expected = format!("{id} 1 1 user:7 http://here:1 {{\"a\":  1}}");
    assert_eq!(task.output.as_deref(), Some(expected.as_bytes()), "{task:?}");
}

#[tokio::test]
async fn each_end_has_its_state_cause_and_reason() {
    for (script, state, cause, error) in [
        ("exit 0", State::Succeeded, Cause::Done, None),
        ("exit 3", State::Failed, Cause::ExitCode, Some("exit code 3")),
        (
            "echo oh no >&2; exit 1",
            State::Failed,
            Cause::ExitCode,
            Some("exit code 1; its last words: oh no"),
        ),
        ("exit 65", State::Failed, Cause::ExitCode, Some("exit code 65 (EX_DATAERR): failed for good")),
        ("kill -9 $$", State::Failed, Cause::Signal, Some("ended by SIGKILL")),
        (
            "head -c 2000000 /dev/zero > $STEADFAST_OUTPUT",
            State::Failed,
            Cause::Unrecordable,
            Some("the command succeeded, but wrote 2000000 bytes to STEADFAST_OUTPUT; 1048576 are allowed"),
        ),
    ] {
        let task = end_of(script).await;
        assert_eq!((task.state, task.cause), (state, Some(cause)), "{script}: {task:?}");
        assert_eq!(task.error.as_deref(), error, "{script}");
    }
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_another_unless_it_failed_for_good() {
    for (code, attempts) in [(1, 3), (65, 1)] {
        let host = host().await;
        let config = host.worker_config();
        let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
        let mut task = once("sh", format!("exit {code}").as_bytes());
        task.attempts_max = 3;
        task.backoff.min = Duration::from_millis(1);
        let id = submit(&host, task).await;
        assert_eq!(ended(&host, &id).await.attempt, attempts);
    }
}

#[tokio::test]
async fn exit_75_gives_the_attempt_back() {
    let host = host().await;
    let config = host.worker_config();
    let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
    let mut task =
        once("sh", b"[ $STEADFAST_FENCE -ge 3 ] || exit 75; printf $STEADFAST_ATTEMPT > $STEADFAST_OUTPUT");
    task.backoff.min = Duration::from_millis(1);
    let id = submit(&host, task).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.attempt, task.fence), (State::Succeeded, 1, 3));
    assert_eq!(task.output.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_why() {
    let host = host().await;
    let config = host.worker_config();
    let handler = Exec::new("steadfast-no-such-program", [""; 0], None, options(config.grace));
    let _worker = host.work(Handlers::new().with(kind("missing"), handler), config).unwrap();
    let id = submit(&host, once("missing", b"")).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::NotStarted)));
    assert!(task.error.unwrap().contains("no such program"));
}

#[tokio::test]
async fn a_worker_that_can_start_nothing_uses_no_attempts_up() {
    let host = host().await;
    let config = host.worker_config();
    let mut options = options(config.grace);
    options.guard = steadfast::subprocess::GuardExe::at("/no/such/guard");
    let handler = Exec::new("true", [""; 0], None, options);
    let _worker = host.work(Handlers::new().with(kind("true"), handler), config).unwrap();
    let mut task = once("true", b"");
    task.backoff.min = Duration::from_millis(1);
    let id = submit(&host, task).await;
    let mut rev = None;
    let task = loop {
        let task = host.engine().wait(&id, rev, LONG).await.unwrap().unwrap();
        rev = Some(task.rev);
        if task.fence >= 3 || task.state.is_terminal() {
            break task;
        }
    };
    assert!(!task.state.is_terminal() && task.attempt <= 1, "{task:?}");
    let why = log_of(&host, &id, steadfast::core::task::Stream::Log).await;
    assert!(why[0].1.contains("/no/such/guard can't be started"), "{why:?}");
}

#[tokio::test]
async fn a_cancelled_command_may_clean_up() {
    let script = b"trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let (host, id, _worker) = started(once("sh", script), |_| {}).await;
    assert_eq!(host.engine().cancel(&id, "enough").await.unwrap(), Cancelled::Requested);
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.error.as_deref()), (State::Cancelled, Some("enough")));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_however_it_resists() {
    let mut task = once("sh", b"trap '' TERM; echo ready; while :; do sleep 0.01; done");
    task.timeout = Duration::from_millis(300);
    let (host, id, _worker) = started(task, |config| config.grace = Duration::from_millis(300)).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::Timeout)));
}

#[tokio::test]
async fn a_drained_worker_gives_its_commands_back() {
    let (host, id, worker) = started(once("sh", b"echo ready; sleep 1000"), |_| {}).await;
    worker.drain().await.unwrap();
    let task = host.engine().task(&id).await.unwrap().unwrap();
    assert_eq!((task.state, task.cause, task.attempt), (State::Ready, Some(Cause::Drained), 0));
}

#[tokio::test]
async fn a_command_outlives_several_leases() {
    let script = b"echo ready; sleep 2; printf done > $STEADFAST_OUTPUT";
    let (host, id, _worker) =
        started(once("sh", script), |config| config.lease = Duration::from_millis(500)).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.fence), (State::Succeeded, 1), "{task:?}");
}

/// The lines of a task's log that came from this stream, by attempt.
#[tokio::test]
async fn a_command_that_was_killed_because_no_renewal_came_in_time_has_not_failed() {
    let orders = Orders { stop: None, lease_until: TokioClock.now() + Duration::from_millis(300) };
    let (_worker, orders) = tokio::sync::watch::channel(orders);
    let lease = Lease {
        task: steadfast::task_id(),
        fence: 1,
        kind: kind("sh"),
        queue: Queue::default_queue(),
        slot: None,
        payload: (*b"").into(),
        attempt: 1,
        attempts_max: 1,
        timeout: Duration::from_secs(3600),
        backoff: Backoff::default(),
        deadline: None,
    };
    let exec = Exec::new("sleep", ["1000"], None, options(Duration::from_secs(10)));
    let attempt = exec.call(Context::new(Arc::new(lease), orders));
    // Whether one goes through late is for the store to say: the attempt is as lost as in a crash.
    assert_eq!(tokio::time::timeout(LONG, attempt).await, Ok(Verdict::Lost));
}

async fn log_of(host: &Host, id: &TaskId, stream: steadfast::core::task::Stream) -> Vec<(u64, String)> {
    let lines = host.engine().log(id, (0, 0), 1_000).await.unwrap();
    lines.into_iter().filter(|line| line.stream == stream).map(|line| (line.fence, line.text)).collect()
}

#[tokio::test]
async fn what_a_command_prints_is_its_log_and_its_directives_are_followed() {
    use steadfast::core::task::Stream;
    let host = host().await;
    let config = host.worker_config();
    let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
    let script = r"echo hello; echo oops >&2; echo '::progress 40 half of it'; echo '::checkpoint rows [1, 2]'
                   echo '::alias my-own.7'; echo '::alias a/b'; printf 'no newline'";
    let id = submit(&host, once("sh", script.as_bytes())).await;
    let task = ended(&host, &id).await;
    assert_eq!(task.state, State::Succeeded, "{task:?}");
    let progress = task.progress.expect("it was said before the end");
    assert_eq!((progress.percent, progress.message.as_str()), (40, "half of it"));
    let checkpoints = host.engine().checkpoints(&id).await.unwrap();
    assert_eq!((checkpoints[0].name.as_str(), &*checkpoints[0].value), ("rows", &b"[1, 2]"[..]));
    let alias = TaskId::new("my-own.7").unwrap();
    assert_eq!(host.engine().task(&alias).await.unwrap().unwrap().id, id);
    let stdout: Vec<String> = log_of(&host, &id, Stream::Stdout).await.into_iter().map(|l| l.1).collect();
    assert_eq!(stdout.len(), 6, "directives are lines, too: {stdout:?}");
    assert_eq!((stdout[0].as_str(), stdout[5].as_str()), ("hello", "no newline"));
    assert_eq!(log_of(&host, &id, Stream::Stderr).await, [(1, "oops".to_owned())]);
    let said = log_of(&host, &id, Stream::Log).await;
    assert!(said[0].1.contains("a/b") && said.len() == 1, "{said:?}");
}

#[tokio::test]
async fn a_later_attempt_is_given_the_checkpoints_of_earlier_ones() {
    let host = host().await;
    let config = host.worker_config();
    let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
    let script = r#"if [ -z "$STEADFAST_CHECKPOINTS" ]; then
        echo '::checkpoint b {"n":  1}'; echo '::checkpoint a "x"'; exit 1; fi
        cat "$STEADFAST_CHECKPOINTS" > $STEADFAST_OUTPUT"#;
    let mut task = once("sh", script.as_bytes());
    task.attempts_max = 2;
    task.backoff.min = Duration::from_millis(1);
    let id = submit(&host, task).await;
    let task = ended(&host, &id).await;
    let output = String::from_utf8_lossy(task.output.as_deref().expect("it succeeded")).into_owned();
    assert_eq!(output, "{\"a\":\"x\",\"b\":{\"n\":  1}}\n");
}

#[tokio::test]
async fn an_alias_that_is_taken_is_said_in_the_log_and_the_command_goes_on() {
    use steadfast::core::task::Stream;
    let host = host().await;
    let config = host.worker_config();
    let _worker = host.work(Handlers::new().with(kind("sh"), shell(&config)), config).unwrap();
    let other = submit(&host, once("sh", b"exit 0")).await;
    ended(&host, &other).await;
    let id = submit(&host, once("sh", format!("echo ::alias {other}; echo on").as_bytes())).await;
    assert_eq!(ended(&host, &id).await.state, State::Succeeded);
    let said = log_of(&host, &id, Stream::Log).await;
    assert!(said[0].1.contains("is taken by task"), "{said:?}");
    assert_eq!(host.engine().task(&other).await.unwrap().unwrap().id, other);
}
