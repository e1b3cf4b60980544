//! That no process outlives its attempt: not the command, not its children, whatever happens to the worker.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use steadfast::subprocess::{Command, Exit, GuardExe, Line, Running, SpawnError, Stream, spawn};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::subprocess::{LONG, Lines, OwnedLine, command, ended, guard, run, shell};

/// A command whose first line is two pids, its own and a background child's, and that then waits for ever.
const PARENT_AND_CHILD: &str = "sleep 1000 & echo $$ $!; wait; sleep 1000";

struct Started {
    running: Running,
    pids: Vec<Pid>,
    lines: mpsc::Receiver<OwnedLine>,
}

/// Starts the command and waits for its first line, which holds pids.
async fn started(command: Command) -> Started {
    let (sink, mut lines) = mpsc::channel(100);
    let running = spawn(command, sink).unwrap();
    let (_, line) = lines.recv().await.expect("a first line");
    // The line may come before the guard's report, without which nobody but the guard knows the group. It answers
    // nothing where the command has ended since.
    let _ = running.control().started().await;
    Started { running, pids: pids(&String::from_utf8(line).unwrap()), lines }
}

/// Reads lines up to this one; the shell has things to say between ours.
async fn until(lines: &mut mpsc::Receiver<OwnedLine>, wanted: &str) {
    while lines.recv().await.expect("the wanted line comes before the end").1 != wanted.as_bytes() {}
}

fn pids(line: &str) -> Vec<Pid> {
    line.split_whitespace().map(|word| Pid::from_raw(word.parse().unwrap()).unwrap()).collect()
}

/// Whether a process runs: a zombie doesn't any more.
fn runs(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    status.is_ok_and(|text| !text.rsplit(") ").next().unwrap_or_default().starts_with(['Z', 'X']))
}

/// For ends that nobody reports: asks until there is none of them, within a limit.
async fn all_gone(pids: &[Pid]) {
    let until = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < until, "{pids:?} still run");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[track_caller]
fn none_runs(pids: &[Pid]) {
    assert!(pids.len() > 1 && !pids.iter().any(|pid| runs(*pid)), "one of {pids:?} still runs");
}

#[tokio::test]
async fn children_left_behind_are_gone_when_the_end_is_told() {
    let lines = Lines::default();
    let running = spawn(shell("sleep 1000 & echo $$ $!; exit 7"), lines.sink()).unwrap();
    let finished = ended(running).await;
    none_runs(&pids(&lines.of(Stream::Stdout)[0]));
    assert_eq!(finished.exit, Exit::Code(7));
    assert!(!finished.escaped);
}

#[tokio::test]
async fn orphans_of_the_command_are_reaped_while_it_runs() {
    // The inner shell's child outlives it for a moment, and dies without a parent of its own.
    let script = "PIDS=$(sh -c 'sleep 0.1 >&- & echo $!'); echo $$ $PIDS; while [ -e /proc/$PIDS ]; do sleep 0.05; done";
    let Started { running, .. } = started(shell(script)).await;
    assert_eq!(ended(running).await.exit, Exit::Code(0));
}

#[tokio::test]
async fn terminate_reaches_the_whole_group() {
    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    assert_eq!(running.control().started().await, Some(pids[0].as_raw_nonzero().get().cast_unsigned()));
    running.control().terminate();
    assert_eq!(ended(running).await.exit.to_string(), "ended by SIGTERM");
    none_runs(&pids);
}

#[tokio::test]
async fn kill_ends_the_group_at_once() {
    let script = format!("trap '' TERM; {PARENT_AND_CHILD}");
    let Started { running, pids, .. } = started(shell(&script)).await;
    running.control().kill();
    assert_eq!(ended(running).await.exit.to_string(), "ended by SIGKILL");
    none_runs(&pids);
}

#[tokio::test]
async fn a_command_may_clean_up_within_the_grace() {
    let script = "trap 'echo cleaned; exit 75' TERM; echo $$; while :; do sleep 0.01; done";
    let Started { running, mut lines, .. } = started(shell(script)).await;
    running.control().stop(LONG);
    assert_eq!(ended(running).await.exit, Exit::Code(75));
    until(&mut lines, "cleaned").await;
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_after_the_grace() {
    let script = "trap 'echo told' TERM; sleep 1000 & echo $$ $!; while :; do sleep 0.01; done";
    let Started { running, pids, mut lines } = started(shell(script)).await;
    let grace = Duration::from_millis(300);
    let asked = Instant::now();
    running.control().stop(grace);
    assert_eq!(ended(running).await.exit.to_string(), "ended by SIGKILL");
    assert!(asked.elapsed() >= grace, "{:?}", asked.elapsed());
    until(&mut lines, "told").await;
    none_runs(&pids);
}

#[tokio::test]
async fn dropping_the_handle_or_its_wait_kills() {
    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    drop(running);
    all_gone(&pids).await;

    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    let given_up = tokio::time::timeout(Duration::from_millis(1), running.wait()).await;
    assert!(given_up.is_err());
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_sink_that_panics_ends_the_group() {
    let (sink, mut lines) = mpsc::channel(1);
    let panics = move |line: Line<'_>| {
        sink.try_send((line.stream, line.bytes.to_vec())).unwrap();
        panic!("as the test wants it");
    };
    let running = spawn(shell(PARENT_AND_CHILD), panics).unwrap();
    let failed = tokio::spawn(ended(running)).await;
    assert!(failed.is_err_and(|error| error.is_panic()));
    let (_, line) = lines.recv().await.unwrap();
    all_gone(&pids(&String::from_utf8(line).unwrap())).await;
}

#[tokio::test]
async fn the_lease_ends_the_group_unless_it_is_renewed() {
    let lease = Duration::from_secs(2);
    let mut short = shell("sleep 1000 & echo $$ $!; sleep 2.5; echo still here; wait");
    short.lease = lease;
    let Started { running, pids, mut lines } = started(short).await;
    running.control().renewed(LONG);
    until(&mut lines, "still here").await;
    running.control().renewed(Duration::from_millis(1));
    assert_eq!(ended(running).await.exit, Exit::LeaseLapsed);
    none_runs(&pids);
}

#[tokio::test]
async fn a_lease_that_has_passed_starts_nothing() {
    let mut late = shell("echo ran");
    late.lease = Duration::ZERO;
    let (finished, lines) = run(late).await;
    assert_eq!(finished.exit, Exit::LeaseLapsed);
    assert_eq!(lines.of(Stream::Stdout), [""; 0]);
}

#[tokio::test]
async fn a_process_that_left_the_group_isnt_waited_for() {
    let child = "echo $$ $$; kill -USR1 $PARENT; exec sleep 1000";
    let script = format!("trap 'exit 0' USR1; export PARENT=$$; setsid sh -c '{child}' & wait");
    let Started { running, pids, .. } = started(shell(&script)).await;
    let finished = ended(running).await;
    assert_eq!(finished.exit, Exit::Code(0));
    // The documented limit, and it is told.
    assert!(finished.escaped && runs(pids[0]));
    kill_process(pids[0], Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_lost_guard_ends_the_group_by_the_workers_hand() {
    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    kill_process(parent_of(pids[0]), Signal::KILL).unwrap();
    let finished = ended(running).await;
    assert!(matches!(finished.exit, Exit::GuardLost(_)), "{:?}", finished.exit);
    all_gone(&pids).await;
}

/// Takes the 15 seconds that a guard has for its answer.
#[tokio::test]
async fn a_stopped_guard_is_not_waited_for_for_ever() {
    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    kill_process(parent_of(pids[0]), Signal::STOP).unwrap();
    let control = running.control();
    control.kill();
    // The worker lives, and so does its lease.
    let renewing = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            control.renewed(LONG);
        }
    };
    let finished = tokio::select! {
        finished = ended(running) => finished,
        () = renewing => unreachable!("it renews for ever"),
    };
    assert!(matches!(finished.exit, Exit::GuardLost(_)), "{:?}", finished.exit);
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_renewal_before_the_guard_has_heard_of_the_lease_is_told() {
    let mut command = shell("sleep 1");
    command.lease = Duration::from_millis(500);
    let running = spawn(command, Lines::default().sink()).unwrap();
    running.control().renewed(LONG);
    assert_eq!(ended(running).await.exit, Exit::Code(0));
}

fn parent_of(pid: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    pids(parent)[0]
}

#[tokio::test]
async fn an_executable_that_is_no_guard_is_told() {
    let mut no_guard = shell("true");
    no_guard.guard = GuardExe::at("/bin/true");
    let exit = run(no_guard).await.0.exit;
    assert!(matches!(exit, Exit::GuardLost(_)), "{exit:?}");
    assert!(exit.to_string().contains("guard_main_if_asked"), "{exit}");

    let mut nothing = shell("true");
    nothing.guard = GuardExe::at("/no/such/guard");
    assert!(matches!(spawn(nothing, Lines::default().sink()), Err(SpawnError::Guard { .. })));
}

/// Set for a copy of this test binary that is to act as a worker.
const WORKER_LEASE_MS: &str = "STEADFAST_TEST_WORKER_LEASE_MS";

/// Not a test by itself: the worker process that the tests below kill and stop. Returns at once unless they ask.
#[tokio::test]
async fn worker_process() {
    let Ok(lease_ms) = std::env::var(WORKER_LEASE_MS) else { return };
    let mut command = command("sh", &["-c", PARENT_AND_CHILD]);
    command.env = vec![(WORKER_LEASE_MS.into(), "".into())];
    command.output_bytes_max = Some(1);
    command.args[1] = format!("echo $STEADFAST_OUTPUT; {PARENT_AND_CHILD}").into();
    command.lease = Duration::from_millis(lease_ms.parse().unwrap());
    command.guard = guard();
    let print = |line: Line<'_>| {
        eprintln!("{}", String::from_utf8_lossy(line.bytes));
    };
    let finished = ended(spawn(command, print).unwrap()).await;
    eprintln!("{}", finished.exit);
}

struct Worker {
    process: tokio::process::Child,
    /// The file of its command's `STEADFAST_OUTPUT`.
    output: String,
    pids: Vec<Pid>,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

/// Starts a worker in a process of its own and waits until its command runs.
async fn worker(lease: Duration) -> Worker {
    let mut this = tokio::process::Command::new(std::env::current_exe().unwrap());
    this.args(["--exact", "subprocess_ends::worker_process", "--nocapture"]);
    this.env(WORKER_LEASE_MS, lease.as_millis().to_string());
    this.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = this.spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let output = lines.next_line().await.unwrap().expect("the output file's name");
    let pids = pids(&lines.next_line().await.unwrap().expect("a line of pids"));
    Worker { process, output, pids, lines }
}

#[tokio::test]
async fn a_killed_worker_leaves_no_process_and_no_files() {
    let Worker { mut process, pids, output, .. } = worker(LONG).await;
    let guard = parent_of(pids[0]);
    let folder = Path::new(&output).parent().unwrap();
    assert!(folder.exists());
    process.kill().await.unwrap();
    all_gone(&pids).await;
    all_gone(&[guard]).await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_stopped_workers_command_ends_with_the_lease() {
    let lease = Duration::from_secs(3);
    let Worker { process, pids, mut lines, .. } = worker(lease).await;
    let worker = Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    kill_process(worker, Signal::STOP).unwrap();
    assert!(pids.iter().all(|pid| runs(*pid)));
    all_gone(&pids).await;
    // When it goes on, it learns what happened.
    kill_process(worker, Signal::CONT).unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), Exit::LeaseLapsed.to_string());
}

#[tokio::test]
async fn a_stray_sigterm_to_the_guard_changes_nothing() {
    let Started { running, pids, .. } = started(shell(PARENT_AND_CHILD)).await;
    let guard = parent_of(pids[0]);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(guard, signal).unwrap();
    }
    running.control().terminate();
    assert_eq!(ended(running).await.exit.to_string(), "ended by SIGTERM");
    none_runs(&pids);
}
