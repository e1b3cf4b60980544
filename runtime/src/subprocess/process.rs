//! The worker's side of an attempt's process: starts the guard, speaks with it, and tells the end.
//!
//! One task per attempt, the *pump*, does everything that waits: it feeds the payload and the orders, hears
//! the reports, delivers the lines and reaps the guard. What callers may order at any time (lease, terminate,
//! kill) is a value that the pump sends on when it changes: nothing queues up, and nothing blocks the caller.

use std::convert::Infallible;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal as SystemSignal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::clock;
use super::command::{Command, Environment, GuardExe, PAYLOAD_BYTES_MAX};
use super::exit::{Exit, Signal};
use super::guard::GUARD_MARK;
use super::lines::{LineSink, deliver};
use super::scratch::{Output, Scratch};
use super::wire::{self, Ending, HEADER_BYTES, Order, PROTOCOL, REPORT_BYTES_MAX, Refusal, Report, Spec};

/// How long the guard may take to say its first word.
const GUARD_HELLO_MAX: Duration = Duration::from_secs(30);
/// How long the guard may take to report the end after a kill, its own patience with the kernel included.
const GUARD_ANSWER_MAX: Duration = Duration::from_secs(15);

/// Why no attempt was started. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The payload, or the command with its environment, is larger than [`PAYLOAD_BYTES_MAX`].
    #[error(
        "the command's payload, or its arguments and environment, has {bytes} bytes; {PAYLOAD_BYTES_MAX} are allowed"
    )]
    TooLarge {
        /// Its length, in bytes.
        bytes: usize,
    },
    /// This process was itself started as a guard.
    #[error("this process is a guard: call steadfast::subprocess::guard_main_if_asked() first in main")]
    InsideGuard,
    /// The command's private directory couldn't be made.
    #[error("the command's files can't be written to the temporary directory: {0}")]
    Scratch(#[source] io::Error),
    /// The guard couldn't be started.
    #[error("the guard {} can't be started: {source}", program.display())]
    Guard {
        /// The executable named in `Command::guard`.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How an attempt's process ended, and what it left.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// How it ended, or why it never ran.
    pub exit: Exit,
    /// What it wrote to `STEADFAST_OUTPUT`.
    pub output: Output,
    /// A process that left the group held stdout or stderr open, so it still runs and its lines are lost.
    pub escaped: bool,
}

/// Starts `command` under a guard; its lines go to `lines`. A command that can't run isn't an error here: the
/// guard finds out, and [`Running::wait`] tells. Makes the command's private files and starts one process:
/// a few short blocking calls.
///
/// # Errors
/// The command is too large, or the system gives no directory, socket or process for it.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub fn spawn(command: Command, lines: impl LineSink) -> Result<Running, SpawnError> {
    if std::env::var_os(GUARD_MARK).is_some() {
        return Err(SpawnError::InsideGuard);
    }
    let lease_until_ns = clock::after(command.lease);
    let scratch = Scratch::new(&command).map_err(SpawnError::Scratch)?;
    let start = Order::Start(spec(&command, scratch.as_ref(), lease_until_ns)).encode();
    let bytes = start.len().max(command.stdin.len());
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(SpawnError::TooLarge { bytes });
    }
    let (guard, channel, hang_up) = start_guard(&command.guard)
        .map_err(|source| SpawnError::Guard { program: command.guard.program.clone(), source })?;
    let told = Orders::new(lease_until_ns);
    let (orders, orders_seen) = watch::channel(told);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let opening = Opening { start, told, payload: command.stdin };
    let pump = Pump { guard, channel, opening, orders: orders_seen, phase };
    let pump = tokio::spawn(pump.run(scratch, lines));
    Ok(Running { pump, hang_up, control: Control { orders, phase: phase_seen } })
}

/// A running attempt. Dropping it kills the process group.
#[derive(Debug)]
#[must_use = "dropping it kills the command"]
pub struct Running {
    pump: JoinHandle<Finished>,
    /// Our end of the channel once more, for an order that needs no task to carry it: closing.
    hang_up: StdUnixStream,
    control: Control,
}

impl Running {
    /// A handle for renewing and stopping while somebody waits. It has no effect once the attempt is over.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until the command has ended, its group is gone and its last line has been delivered.
    ///
    /// # Cancellation
    /// The future owns the attempt: dropping it kills the process group.
    ///
    /// # Panics
    /// With the panic of the line sink, if that panicked.
    pub async fn wait(mut self) -> Finished {
        match (&mut self.pump).await {
            Ok(finished) => finished,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Finished {
                    exit: Exit::GuardLost("the worker's runtime was shut down".into()),
                    output: Output::None,
                    escaped: false,
                },
            },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard sees the end of the channel and kills. The pump still hears the end, and reaps the guard.
        let _ = self.hang_up.shutdown(Shutdown::Write);
        self.control.kill();
    }
}

/// Orders to a running attempt. All of them return at once and none fails: what can't be delivered any more
/// isn't needed any more, since a guard whose worker can't reach it kills.
#[derive(Debug, Clone)]
pub struct Control {
    orders: watch::Sender<Orders>,
    phase: watch::Receiver<Phase>,
}

impl Control {
    /// The lease was renewed and lasts `remaining` from now; to be measured from the moment when the renewal
    /// was *sent* to the store. Unless told again, the guard kills the group when it has passed, whether the
    /// worker runs or not.
    pub fn renewed(&self, remaining: Duration) {
        let until_ns = clock::after(remaining);
        self.orders.send_modify(|orders| orders.lease_until_ns = until_ns);
    }

    /// SIGTERM to the process group, with no further consequence. SIGCONT follows, for stopped processes.
    pub fn terminate(&self) {
        self.orders.send_modify(|orders| orders.terminations += 1);
    }

    /// SIGKILL to the process group, now.
    pub fn kill(&self) {
        let at_ns = clock::now_ns();
        self.orders.send_modify(|orders| orders.kill_by(at_ns));
    }

    /// SIGTERM now, and SIGKILL after `grace` where the command hasn't ended by then. The guard keeps the
    /// time. Called again, the earlier end counts.
    pub fn stop(&self, grace: Duration) {
        let at_ns = clock::after(grace);
        self.orders.send_modify(|orders| {
            orders.terminations += 1;
            orders.kill_by(at_ns);
        });
    }

    /// Waits until the command runs and gives its process id, which is its group's as well; `None` if it
    /// couldn't be started or has already ended.
    ///
    /// # Cancellation
    /// Safe: dropping the future changes nothing.
    pub async fn started(&self) -> Option<u32> {
        let mut phase = self.phase.clone();
        let known = phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await;
        match known.as_deref() {
            Ok(Phase::Running(pid)) => Some(*pid),
            Ok(Phase::Starting | Phase::Over) | Err(_) => None,
        }
    }
}

/// What is ordered, as it stands; the pump sends what has changed.
#[derive(Debug, Clone, Copy)]
struct Orders {
    lease_until_ns: u64,
    /// How many times SIGTERM was asked for.
    terminations: u64,
    kill_at_ns: Option<u64>,
}

impl Orders {
    fn new(lease_until_ns: u64) -> Self {
        Self { lease_until_ns, terminations: 0, kill_at_ns: None }
    }

    fn kill_by(&mut self, at_ns: u64) {
        self.kill_at_ns = Some(self.kill_at_ns.map_or(at_ns, |earlier| earlier.min(at_ns)));
    }

    /// The frames that bring the guard from `before` to `self`.
    fn since(&self, before: &Self) -> Vec<u8> {
        let mut frames = Vec::new();
        if self.lease_until_ns != before.lease_until_ns {
            frames.extend(Order::Lease { until_ns: self.lease_until_ns }.encode());
        }
        if self.terminations != before.terminations {
            frames.extend(Order::Terminate.encode());
        }
        if let Some(at_ns) = self.kill_at_ns.filter(|_| self.kill_at_ns != before.kill_at_ns) {
            frames.extend(Order::KillBy { at_ns }.encode());
        }
        frames
    }
}

#[derive(Debug)]
enum Phase {
    Starting,
    Running(u32),
    Over,
}

struct Pump {
    guard: Guard,
    channel: UnixStream,
    opening: Opening,
    orders: watch::Receiver<Orders>,
    phase: watch::Sender<Phase>,
}

struct Opening {
    /// The first frame.
    start: Vec<u8>,
    /// What the guard knows from it. Others may have been ordered by the time it is sent.
    told: Orders,
    payload: Vec<u8>,
}

struct Guard {
    process: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Pump {
    async fn run(self, scratch: Option<Scratch>, lines: impl LineSink) -> Finished {
        let Self { guard: Guard { process, stdout, stderr }, channel, opening, orders, phase } = self;
        let (gone, gone_seen) = oneshot::channel();
        let talk = async {
            let exit = converse(process, channel, opening, orders, &phase).await;
            phase.send_replace(Phase::Over);
            // Fails where both streams ended first.
            let _ = gone.send(());
            exit
        };
        let (exit, ended) = tokio::join!(talk, deliver(stdout, stderr, lines, gone_seen));
        let output = match scratch {
            None => Output::None,
            Some(scratch) => tokio::task::spawn_blocking(|| scratch.collect())
                .await
                .unwrap_or_else(|error| Output::Unreadable(error.to_string())),
        };
        Finished { exit, output, escaped: !ended }
    }
}

/// Speaks with the guard until the command is gone and the guard reaped.
async fn converse(
    mut guard: Child,
    mut channel: UnixStream,
    opening: Opening,
    orders: watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
) -> Exit {
    let (mut reader, writer) = channel.split();
    let heard = tokio::select! {
        heard = listen(&mut reader, phase) => heard,
        () = unanswered(orders.clone()) => Err("it didn't answer an order to kill".into()),
        never = feed(writer, opening, orders) => match never {},
    };
    drop(channel);
    let exit = heard.unwrap_or_else(|why| {
        if let Phase::Running(pid) = *phase.borrow() {
            kill_group(pid);
        }
        // It may be stopped, or not be a guard at all; it may be gone.
        let _ = guard.start_kill();
        Exit::GuardLost(format!("the guard was lost: {why}"))
    });
    // After its last word a guard exits at once, unless somebody has stopped it.
    if tokio::time::timeout(GUARD_ANSWER_MAX, guard.wait()).await.is_err() {
        let _ = guard.kill().await;
    }
    exit
}

/// Hears the guard's reports up to the last.
async fn listen(reader: &mut ReadHalf<'_>, phase: &watch::Sender<Phase>) -> Result<Exit, String> {
    let hello = tokio::time::timeout(GUARD_HELLO_MAX, next_report(reader)).await;
    match hello {
        Ok(Ok(Report::Hello { protocol: PROTOCOL })) => {}
        Ok(Ok(_)) => return Err("it is of another build than the worker: start the worker again".into()),
        Ok(Err(error)) => return Err(format!("{error} before its first word{ASK_MAIN}")),
        Err(_) => return Err(format!("it said nothing in {GUARD_HELLO_MAX:?}{ASK_MAIN}")),
    }
    loop {
        match next_report(reader).await.map_err(|error| error.to_string())? {
            Report::Started { pid } => {
                phase.send_replace(Phase::Running(pid));
            }
            Report::NotStarted(Refusal::NotFound, why) => return Ok(Exit::NotFound(why)),
            Report::NotStarted(Refusal::NotExecutable, why) => return Ok(Exit::NotExecutable(why)),
            Report::NotStarted(Refusal::Other, why) => return Ok(Exit::StartFailed(why)),
            Report::Ended(Ending::Code(code)) => return Ok(Exit::Code(code)),
            Report::Ended(Ending::Signal(number)) => return Ok(Exit::Signal(Signal::new(number))),
            Report::Ended(Ending::Lapsed) => return Ok(Exit::LeaseLapsed),
            Report::Ended(Ending::NotGone) => return Err("SIGKILL doesn't end the command".into()),
            Report::Hello { .. } => return Err("it spoke out of turn".into()),
        }
    }
}

const ASK_MAIN: &str = " (does the program's main call guard_main_if_asked() first?)";

async fn next_report(reader: &mut ReadHalf<'_>) -> io::Result<Report> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let (tag, length) = wire::split_header(header);
    if length > REPORT_BYTES_MAX {
        return Err(wire::malformed());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Report::decode(tag, &body)
}

/// Sends the opening frames and then every change of the orders. Never ends: when the guard can't be reached,
/// `listen` knows it.
async fn feed(
    mut writer: WriteHalf<'_>,
    Opening { start, mut told, payload }: Opening,
    mut orders: watch::Receiver<Orders>,
) -> Infallible {
    let sent = async {
        writer.write_all(&start).await?;
        writer.write_all(&Order::payload_header(payload.len())).await?;
        writer.write_all(&payload).await?;
        drop(payload);
        loop {
            let current = *orders.borrow_and_update();
            writer.write_all(&current.since(&told)).await?;
            told = current;
            if orders.changed().await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let _ = sent.await;
    std::future::pending().await
}

/// Ends when a kill was ordered so long ago that the guard must be stopped or stuck.
async fn unanswered(mut orders: watch::Receiver<Orders>) {
    let answer_max_ns = u64::try_from(GUARD_ANSWER_MAX.as_nanos()).expect("some seconds");
    loop {
        let kill_at_ns = orders.borrow_and_update().kill_at_ns;
        let Some(at_ns) = kill_at_ns else {
            if orders.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep(clock::until(at_ns.saturating_add(answer_max_ns))) => return,
            // An earlier time may have been ordered, or the lease was renewed; without anybody left to order, the sleep
            // decides.
            Ok(()) = orders.changed() => {}
        }
    }
}

/// The worker's own hand, for when the guard is gone. The group's number is still the group's unless all of
/// it ended, and the number was handed out anew, in the moments since the guard died.
fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails where the group is gone already.
        let _ = rustix::process::kill_process_group(pid, SystemSignal::KILL);
    }
}

/// The guard's start order: the command, with the whole environment spelled out.
fn spec(command: &Command, scratch: Option<&Scratch>, lease_until_ns: u64) -> Spec {
    let base: Vec<_> = match command.environment {
        Environment::Inherited => std::env::vars_os().collect(),
        Environment::Exact => Vec::new(),
    };
    let variables = scratch.map(|scratch| scratch.variables.clone()).unwrap_or_default();
    Spec {
        program: command.program.clone(),
        args: command.args.clone(),
        env: base.into_iter().chain(command.env.iter().cloned()).chain(variables).collect(),
        cwd: command.cwd.clone(),
        scratch: scratch.map(|scratch| scratch.path().to_owned()),
        lease_until_ns,
    }
}

/// Starts the guard: the channel on its stdin, and on its stdout and stderr the pipes for the command.
fn start_guard(exe: &GuardExe) -> io::Result<(Guard, UnixStream, StdUnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let hang_up = ours.try_clone()?;
    ours.set_nonblocking(true)?;
    let channel = UnixStream::from_std(ours)?;
    // `command` holds the guard's end until it is dropped: before this function returns.
    let mut command = tokio::process::Command::new(&exe.program);
    command.args(&exe.args).env(GUARD_MARK, "1");
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn()?;
    let stdout = process.stdout.take().expect("stdout was piped");
    let stderr = process.stderr.take().expect("stderr was piped");
    Ok((Guard { process, stdout, stderr }, channel, hang_up))
}
