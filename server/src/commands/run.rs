//! `run`: records a command as a task, runs it here and exits as it does.
//!
//! The task waits in a queue of its own, which nobody else claims from, so that this process runs its own command and
//! no other's. If this process dies, its lease lapses and the task waits there: `run --resume ID`, or a worker that is
//! allowed to, carries on.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use steadfast::core::engine::{Accepted, Cancelled, Submitted};
use steadfast::core::task::OnConflict;
use steadfast::exec::{Options, RUN_KIND, Recorded, RunCommand};
use steadfast::subprocess::Exit as CommandExit;
use steadfast::{Cause, Handlers, NewTask, Queue, State, StoreId, StoreUrl, Task, TaskId, WorkerPanicked};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::adopt::{only, run_kind};
use super::relay::{Relay, Written};
use super::{Out, blocking, in_time, json_line, note};
use crate::backend::{Missing, open};
use crate::cli;
use crate::failure::{Exit, Failure};
use crate::service;
use crate::store::Host;
use crate::units::{duration_text, time_text};
use crate::wire::TaskJson;

/// How long to wait for the task's end before looking again.
const WAIT: Duration = Duration::from_secs(3600);
/// The wait after the store couldn't be read.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often the store may fail in a row before we give up waiting.
const STORE_FAILURES_MAX: u32 = 60;
/// How long whoever reads us may stand still once the command was ended or given up.
const READER_PATIENCE: Duration = Duration::from_secs(3);

/// A failure of Steadfast's own: `run` has an exit code for that, since the others are the command's.
fn failed(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Usage => failure,
        _ => failure.exit(Exit::RunFailed),
    }
}

pub(super) async fn run(args: cli::Run, store: &StoreUrl, out: Out) -> Result<ExitCode, Failure> {
    carry_out(args, store, out).await.map_err(failed)
}

async fn carry_out(args: cli::Run, store: &StoreUrl, out: Out) -> Result<ExitCode, Failure> {
    let mut stop = Stop { signals: Signals::new()?, first: None, command: None };
    let lease = args.lease;
    let (id, new) = match args.resume.clone() {
        Some(id) => (id, None),
        None => {
            let task = recorded(args)?;
            (task.id.clone(), Some(task))
        }
    };
    match carry_through(&id, new, lease, store, &mut stop, out).await {
        Ok(code) => Ok(code),
        Err(Cut::Failed(failure)) => Err(failure),
        Err(Cut::Left(signal)) => {
            in_time(move || {
                note(format_args!(
                    "left before all was known of task {id}; nothing of it runs here any more. \
                    `steadfast status {id}` tells how it is, `steadfast run --resume {id}` carries it on, \
                    `steadfast cancel {id}` ends it"
                ));
            });
            Ok(ExitCode::from(signal.exit_code()))
        }
    }
}

async fn carry_through(
    id: &TaskId,
    new: Option<NewTask>,
    lease: Option<Duration>,
    store: &StoreUrl,
    stop: &mut Stop,
    out: Out,
) -> Result<ExitCode, Cut> {
    let (host, store_id, task) = stop.heed(stored(id, new, store)).await??;
    Here { host, store_id, task, lease }.run(stop, out).await
}

/// The task in the store: a new one, or one that was there before.
async fn stored(
    id: &TaskId,
    new: Option<NewTask>,
    store: &StoreUrl,
) -> Result<(Host, StoreId, Task), Failure> {
    let missing = if new.is_some() { Missing::Create } else { Missing::Refuse };
    let (host, store_id) = open(store, missing).await?;
    let task = match new {
        Some(task) => submit(&host, task).await?,
        None => resumable(host.engine().task(id).await?.ok_or_else(|| no_task(id))?)?,
    };
    Ok((host, store_id, task))
}

/// The command line as a task.
fn recorded(args: cli::Run) -> Result<NewTask, Failure> {
    let text = |word: std::ffi::OsString| {
        word.into_string().map_err(|word| {
            Failure::new(Exit::Usage, format!("the argument {word:?} isn't UTF-8, and can't be recorded"))
        })
    };
    let argv = args.command.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::new(Exit::RunFailed, format!("the current directory: {error}")))?;
    if cwd.to_str().is_none() {
        return Err(Failure::new(
            Exit::Usage,
            format!("the directory {cwd:?} isn't UTF-8, and can't be recorded"),
        ));
    }
    let command = RunCommand { argv, cwd, env: BTreeMap::new() };
    let id = args.id.unwrap_or_else(steadfast::task_id);
    let mut task = NewTask::new(id, run_kind(), command.to_payload());
    task.queue = args.queue.unwrap_or_else(|| own_queue(&task.id));
    task.slot = args.slot.map(|slot| (slot, args.on_conflict.unwrap_or(OnConflict::Reject)));
    task.timeout = args.timeout.unwrap_or(task.timeout);
    task.attempts_max = args.attempts.into();
    task.rescues_max = args.rescues.unwrap_or(task.rescues_max);
    Ok(task)
}

/// A worker ends by itself only through a bug.
fn unasked(ended: Result<(), WorkerPanicked>) -> Failure {
    let why = ended.map_or_else(|panicked| panicked.to_string(), |()| "the worker ended unasked".into());
    Failure::new(Exit::RunFailed, why)
}

fn no_task(id: &TaskId) -> Failure {
    service::no_task(id).into()
}

/// A queue for one task. Two ids that differ only beyond the length of a name share one, which harms neither.
fn own_queue(id: &TaskId) -> Queue {
    let name: String = RUN_KIND.chars().chain(".".chars()).chain(id.as_str().chars()).collect();
    Queue::trusted(name.chars().take(steadfast::core::name::NAME_BYTES_MAX).collect::<String>())
}

async fn submit(host: &Host, task: NewTask) -> Result<Task, Failure> {
    let id = task.id.clone();
    match host.engine().submit(task).await? {
        Submitted::Accepted(Accepted { id, is_new, .. }) => {
            let task = host.engine().task(&id).await?.ok_or_else(|| no_task(&id))?;
            if is_new { Ok(task) } else { resumable(task) }
        }
        Submitted::Refused(refusal) => Err(service::refused(&id, &refusal).into()),
        Submitted::Invalid(wrong) => Err(Failure::new(Exit::Usage, wrong.to_string())),
    }
}

/// A task that was there before: says what is waited for.
fn resumable(task: Task) -> Result<Task, Failure> {
    if task.kind != run_kind() {
        let what =
            format!("task {} is of kind {}: only commands of `run` can be resumed", task.id, task.kind);
        return Err(Failure::new(Exit::Refused, what)
            .help("its own handler carries it on, in any worker that has it"));
    }
    if task.state.is_terminal() {
        note(format_args!("task {} had ended: it is {}", task.id, task.state));
    } else if let (State::Running, Some(worker), Some(until)) =
        (task.state, &task.worker, task.lease_expires_at)
    {
        note(format_args!(
            "task {} is held by {worker} until {} at least; waiting until it ends or the lease lapses",
            task.id,
            time_text(until)
        ));
    }
    Ok(task)
}

/// The command's task, and this process's seat.
struct Here {
    host: Host,
    store_id: StoreId,
    task: Task,
    lease: Option<Duration>,
}

impl Here {
    async fn run(self, stop: &mut Stop, out: Out) -> Result<ExitCode, Cut> {
        let (relay, mut written) = Relay::start()
            .map_err(|error| Failure::new(Exit::RunFailed, format!("no thread for the output: {error}")))?;
        let mut worker = self.work(&relay)?;
        stop.command = Some(relay.clone());
        let followed = tokio::select! {
            followed = self.follow(stop, &mut written) => followed?,
            ended = worker.ended() => Err(unasked(ended)),
        };
        // A process that is still stopping has its grace.
        let drained = stop.heed(worker.drain()).await?;
        let exit = relay.exit();
        drop((relay, stop.command.take()));
        let task = match followed {
            Ok(()) => stop.heed(self.last_look()).await?,
            Err(failure) => Err(failure),
        };
        // What a command printed that ended by itself is for its reader, however slow that is.
        let by_itself =
            |task: &Task| matches!(task.cause, Some(Cause::Done | Cause::ExitCode | Cause::Signal));
        let is_patient = exit.is_some() && task.as_ref().is_ok_and(by_itself);
        let patience = |stop: &Stop| (!is_patient || stop.first.is_some()).then_some(READER_PATIENCE);
        let mut all_read = stop.for_reader(written.finish(), patience(stop)).await;
        let task = task?;
        drained.map_err(|panicked| unasked(Err(panicked)))?;
        let (code, words) = verdict(&task, exit.as_ref(), stop.first);
        let json = out.json.then(|| json_line(&TaskJson::new(&task, &[], &self.store_id)));
        // On a thread: what the command printed may have filled stderr, too.
        all_read &= stop.for_reader(blocking(move || say(json, words)), patience(stop)).await;
        let cut_short = stop.first.filter(|_| !all_read);
        Ok(ExitCode::from(cut_short.map_or(code, Interrupt::exit_code)))
    }

    async fn last_look(&self) -> Result<Task, Failure> {
        self.host.engine().task(&self.task.id).await?.ok_or_else(|| no_task(&self.task.id))
    }

    fn work(&self, relay: &Relay) -> Result<steadfast::Worker, Failure> {
        let mut config = self.host.worker_config();
        config.queues = vec![self.task.queue.clone()];
        config.concurrency = 1;
        config.lease = self.lease.unwrap_or(config.lease);
        let recorded = Recorded::new(Options::new(config.grace), relay.clone());
        let handler = only(self.task.id.clone(), recorded);
        self.host
            .work(Handlers::new().with(run_kind(), handler), config)
            .map_err(|invalid| Failure::new(Exit::Usage, invalid.to_string()))
    }

    /// Waits for the task's end, and passes on what is to end it sooner.
    async fn follow(&self, stop: &mut Stop, written: &mut Written) -> Result<Result<(), Failure>, Cut> {
        let ended = self.ended();
        tokio::pin!(ended);
        let interrupt = match stop.first {
            // It came before there was a task to cancel.
            Some(interrupt) => interrupt,
            None => tokio::select! {
                ended = &mut ended => return Ok(ended),
                interrupt = stop.signals.next() => interrupt,
                Ok(()) = &mut written.reader_gone => Interrupt::Pipe,
            },
        };
        stop.first = Some(interrupt);
        match stop.heed(self.host.engine().cancel(&self.task.id, interrupt.reason())).await? {
            Ok(Cancelled::Ended | Cancelled::Requested | Cancelled::HadEnded(_)) => {}
            Ok(Cancelled::NotFound) => stop.kill(),
            Err(error) => {
                stop.kill();
                in_time(move || {
                    note(format_args!(
                        "the store can't be told to cancel ({error}); the command is killed. Interrupted \
                        again, we don't wait for the store"
                    ));
                });
            }
        }
        stop.heed(ended).await
    }

    /// Waits until the task has ended; a store that fails for a moment is asked again.
    async fn ended(&self) -> Result<(), Failure> {
        let mut failures = 0;
        loop {
            match self.host.engine().wait(&self.task.id, None, WAIT).await {
                Ok(Some(task)) if !task.state.is_terminal() => failures = 0,
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(no_task(&self.task.id)),
                Err(error) if failures >= STORE_FAILURES_MAX => return Err(error.into()),
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }
}

/// The last that is said, on stderr.
fn say(json: Option<String>, words: Option<String>) {
    if let Some(json) = json {
        // Where stderr is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{json}");
    }
    if let Some(words) = words {
        note(words);
    }
}

/// What the command's own end, and the task's, make of our exit code; and what is to be said of it.
fn verdict(task: &Task, exit: Option<&CommandExit>, interrupt: Option<Interrupt>) -> (u8, Option<String>) {
    if task.state == State::Succeeded {
        return (0, None);
    }
    if let (State::Cancelled, Some(interrupt)) = (task.state, interrupt) {
        return (interrupt.exit_code(), None);
    }
    let why = task.error.as_deref().unwrap_or_default();
    let words = match task.cause {
        Some(Cause::ExitCode | Cause::Signal) if exit.is_some() => None,
        Some(Cause::NotStarted) => Some(why.to_owned()),
        Some(Cause::Timeout) => {
            Some(format!("task {} timed out after {}", task.id, duration_text(task.timeout)))
        }
        cause => {
            let cause = cause.map_or(String::new(), |cause| format!(" ({cause})"));
            Some(format!("task {} is {}{cause}: {why}", task.id, task.state))
        }
    };
    let code = match exit {
        Some(exit) if exit.run_code() != 0 => exit.run_code(),
        // It ended elsewhere, or before it began. The record has the code.
        _ => recorded_code(why).unwrap_or(Exit::RunFailed as u8),
    };
    (code, words)
}

/// The code in the record of a command that ended elsewhere: `exit code 3`, and perhaps more.
fn recorded_code(error: &str) -> Option<u8> {
    let rest = error.strip_prefix("exit code ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse::<i32>().ok().map(|code| code.to_le_bytes()[0])
}

/// What ends a command sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupt {
    Int,
    Term,
    Hup,
    /// Nobody reads what it prints any more.
    Pipe,
}

impl Interrupt {
    fn reason(self) -> &'static str {
        match self {
            Interrupt::Int => "interrupted at the terminal",
            Interrupt::Term => "`steadfast run` was terminated",
            Interrupt::Hup => "the terminal was closed",
            Interrupt::Pipe => "nobody reads the output any more",
        }
    }

    /// 128 and the signal's number.
    fn exit_code(self) -> u8 {
        match self {
            Interrupt::Hup => 129,
            Interrupt::Int => 130,
            Interrupt::Pipe => 141,
            Interrupt::Term => 143,
        }
    }
}

/// What was asked of us by signals.
struct Stop {
    signals: Signals,
    /// What is to end the command: what came first.
    first: Option<Interrupt>,
    /// Where there is something left to kill.
    command: Option<Relay>,
}

/// Why there is nothing more to wait for.
enum Cut {
    Failed(Failure),
    /// Whoever interrupted us doesn't wait for the store.
    Left(Interrupt),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Stop {
    /// SIGKILL to the command, now.
    fn kill(&mut self) {
        if let Some(command) = self.command.take() {
            command.kill();
        }
    }

    /// Waits for what may take as long as the store likes. A signal meanwhile kills the command, where there is one; one
    /// more ends the wait.
    async fn heed<T>(&mut self, doing: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::pin!(doing);
        loop {
            let signal = tokio::select! {
                done = &mut doing => return Ok(done),
                signal = self.signals.next() => signal,
            };
            let is_first = self.first.is_none();
            let first = *self.first.get_or_insert(signal);
            if self.command.is_none() && !is_first {
                return Err(Cut::Left(first));
            }
            self.kill();
        }
    }

    /// Waits for whoever reads us, for so long at most; a signal ends that, too. Whether all was read.
    async fn for_reader(&mut self, writing: impl Future<Output = ()>, patience: Option<Duration>) -> bool {
        let impatient = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = writing => true,
            () = impatient => false,
            signal = self.signals.next() => {
                self.first.get_or_insert(signal);
                false
            }
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Not where whoever started us had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Exit::RunFailed, format!("signals can't be heard: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: if is_ignored(SignalKind::hangup()) { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) -> Interrupt {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Interrupt::Int,
            _ = self.terminate.recv() => Interrupt::Term,
            _ = hangup => Interrupt::Hup,
        }
    }
}

/// Whether this process ignores a signal. Only Linux says so.
pub(super) fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}
