//! The guard: the small process that stands between a worker and a command, and ends the command's group.
//!
//! It is a process of its own because a worker that was killed or stopped can end nothing. It stays *outside*
//! the group that it guards: so a command's `kill 0`, `kill -9 0` or `kill -STOP 0` doesn't hit it, it can
//! reap the command and tell its exact end, and it needs no signal to itself for its own end. The group's
//! number stays the group's for as long as the guard may use it: the command leads the group and is reaped
//! only after the last signal.
//!
//! Threads, std and system calls only: no async runtime, no logging, nothing that starts slowly or may panic.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::clock;
use super::wire::{Ending, Order, PROTOCOL, Refusal, Report, Spec};

/// The hidden first argument that makes an executable a guard.
pub const GUARD_ARGUMENT: &str = "_guard";
/// Set in a guard's environment, never in a command's: finds a `main` that doesn't call
/// [`guard_main_if_asked`] before such programs start one another for ever.
pub(super) const GUARD_MARK: &str = "STEADFAST_GUARD";

/// How late the guard may notice that the lease has passed where the machine was suspended meanwhile.
const LEASE_CHECK: Duration = Duration::from_secs(1);
/// How long SIGKILL may take to end the command; one in uninterruptible I/O can take for ever.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the rest of the group may take after its leader.
const GROUP_GONE_MAX: Duration = Duration::from_secs(1);
const GROUP_GONE_CHECK: Duration = Duration::from_millis(1);
/// Orders read ahead of their turn.
const EVENTS_MAX: usize = 16;

/// Becomes the guard and never returns, if this process was started as one; else does nothing. To be called
/// first in `main`, before any thread or runtime is started, by every program that runs commands with
/// [`GuardExe::this_executable`](super::GuardExe::this_executable).
pub fn guard_main_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == GUARD_ARGUMENT) {
        guard_main();
    }
}

/// Is the guard: serves the worker at the other end of the socket on stdin, then exits. For an executable
/// that is nothing else; see [`GuardExe::at`](super::GuardExe::at).
pub fn guard_main() -> ! {
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "steadfast guard: {error}. A worker starts this; it is of no use by hand."
            );
            2
        }
    };
    std::process::exit(code)
}

fn serve() -> io::Result<()> {
    let channel = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    // Whatever the worker let its children inherit is not for the command.
    close_fds::set_fds_cloexec(3, &[]);
    leave_the_workers_session();
    adopt_orphans();
    absorb_signals()?;
    report(&channel, &Report::Hello { protocol: PROTOCOL })?;
    let Some(Order::Start(spec)) = Order::read(&mut &channel)? else { return Ok(()) };
    if clock::until(spec.lease_until_ns).is_zero() {
        return report(&channel, &Report::Ended(Ending::Lapsed));
    }
    let mut hands = match Hands::start(channel.try_clone()?) {
        Ok(hands) => hands,
        Err(error) => {
            let why = format!("the guard can't start its threads: {error}");
            return report(&channel, &Report::NotStarted(Refusal::Other, why));
        }
    };
    let mut group = match Group::start(&spec) {
        Ok(group) => group,
        Err(error) => return report(&channel, &refusal(&spec, &error)),
    };
    release_output();
    hands.watch(&mut group);
    let _ = report(&channel, &Report::Started { pid: group.child.id() });

    let why = hands.hold(&group, spec.lease_until_ns);
    let ending = hands.end(&mut group, &why);
    let _ = report(&channel, &Report::Ended(ending));
    if let (End::HungUp, Some(scratch)) = (why, &spec.scratch) {
        let _ = std::fs::remove_dir_all(scratch);
    }
    Ok(())
}

/// Why the attempt is over.
enum End {
    /// The command exited by itself.
    Exited,
    /// The worker ordered it.
    Ordered,
    /// The lease passed.
    Lapsed,
    /// The worker closed the channel, or died.
    HungUp,
}

enum Event {
    Order(Order),
    HungUp,
    /// The command has exited and isn't reaped yet.
    Exited,
}

/// The guard's threads, each of which waits for one thing; this one alone decides and signals. They are
/// started before the command is: what can fail, fails while there is nothing to clean up.
struct Hands {
    events: Receiver<Event>,
    pid: SyncSender<Pid>,
    payload: SyncSender<(ChildStdin, Vec<u8>)>,
    stdin: Option<ChildStdin>,
}

impl Hands {
    fn start(channel: UnixStream) -> io::Result<Self> {
        let (event, events) = mpsc::sync_channel(EVENTS_MAX);
        let (pid, pid_given) = mpsc::sync_channel(1);
        let (payload, payload_given) = mpsc::sync_channel::<(ChildStdin, Vec<u8>)>(1);
        let exited = event.clone();
        thread::Builder::new().name("orders".into()).spawn(move || read_orders(&channel, &event))?;
        thread::Builder::new().name("exit".into()).spawn(move || {
            if let Ok(pid) = pid_given.recv() {
                await_exit(pid, &exited);
            }
        })?;
        thread::Builder::new().name("payload".into()).spawn(move || {
            if let Ok((mut stdin, bytes)) = payload_given.recv() {
                // A command that doesn't read its payload, or not all of it, is within its rights.
                let _ = stdin.write_all(&bytes);
            }
        })?;
        Ok(Self { events, pid, payload, stdin: None })
    }

    fn watch(&mut self, group: &mut Group) {
        self.stdin = group.child.stdin.take();
        // The thread waits for this one message, and the channel has room for it.
        let _ = self.pid.send(group.pid);
    }

    /// Obeys orders until the attempt is over. The command is not reaped when this returns.
    fn hold(&mut self, group: &Group, mut lease_until_ns: u64) -> End {
        let mut kill_at_ns = u64::MAX;
        loop {
            let wait = clock::until(lease_until_ns.min(kill_at_ns)).min(LEASE_CHECK);
            match self.events.recv_timeout(wait) {
                Ok(Event::Exited) => return End::Exited,
                Ok(Event::HungUp) | Err(mpsc::RecvTimeoutError::Disconnected) => return End::HungUp,
                Ok(Event::Order(Order::Lease { until_ns })) => lease_until_ns = until_ns,
                Ok(Event::Order(Order::Terminate)) => group.terminate(),
                Ok(Event::Order(Order::KillBy { at_ns })) => kill_at_ns = kill_at_ns.min(at_ns),
                Ok(Event::Order(Order::Payload(bytes))) => self.feed(bytes),
                Ok(Event::Order(Order::Start(_))) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => reap_orphans(group.pid),
            }
            if clock::until(kill_at_ns).is_zero() {
                return End::Ordered;
            }
            if clock::until(lease_until_ns).is_zero() {
                return End::Lapsed;
            }
        }
    }

    fn feed(&mut self, bytes: Vec<u8>) {
        if let Some(stdin) = self.stdin.take() {
            // Dropping stdin, in the thread or with a failed send, closes it for the command.
            let _ = self.payload.try_send((stdin, bytes));
        }
    }

    /// Ends the whole group, the command's leftover children included, and reaps the command.
    fn end(&mut self, group: &mut Group, why: &End) -> Ending {
        group.kill();
        let until = Instant::now() + KILL_WAIT_MAX;
        let mut exited = matches!(why, End::Exited);
        while !exited {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => exited = matches!(event, Event::Exited),
                Err(_) => return Ending::NotGone,
            }
        }
        let Ok(status) = group.reap() else { return Ending::NotGone };
        match why {
            End::Lapsed => Ending::Lapsed,
            End::Exited | End::Ordered | End::HungUp => ending(status),
        }
    }
}

fn read_orders(channel: &UnixStream, events: &SyncSender<Event>) {
    let mut from = channel;
    while let Ok(Some(order)) = Order::read(&mut from) {
        if events.send(Event::Order(order)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::HungUp);
}

/// Waits for the command's exit without reaping it, so that its number stays taken.
fn await_exit(pid: Pid, events: &SyncSender<Event>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
    let _ = events.send(Event::Exited);
}

/// The command and all that it started and that stayed in its group. Dropping it kills what is left.
struct Group {
    child: Child,
    pid: Pid,
    reaped: bool,
}

impl Group {
    fn start(spec: &Spec) -> io::Result<Self> {
        let mut command = std::process::Command::new(&spec.program);
        command.args(&spec.args).env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).process_group(0);
        if let Some(cwd) = &spec.cwd {
            command.current_dir(cwd);
        }
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid, reaped: false })
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
        // A stopped process acts on SIGTERM only once it goes on.
        self.signal(Signal::CONT);
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if !self.reaped {
            // The group may have emptied itself but for the leader, or hold a process of another user.
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Reaps the command, after `kill` and its exit, and waits for the others to be gone.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.reaped = true;
        let until = Instant::now() + GROUP_GONE_MAX;
        loop {
            reap_orphans(self.pid);
            if rustix::process::test_kill_process_group(self.pid).is_err() || Instant::now() >= until {
                return Ok(status);
            }
            thread::sleep(GROUP_GONE_CHECK);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::NotGone,
    }
}

/// Why the command can't run, in words that say what to do.
fn refusal(spec: &Spec, error: &io::Error) -> Report {
    let shown = spec.program.display();
    if let Some(cwd) = spec.cwd.as_deref().filter(|cwd| !cwd.is_dir()) {
        let why = format!("the working directory {} isn't there: create it or name another", cwd.display());
        return Report::NotStarted(Refusal::Other, why);
    }
    let found = find_program(spec);
    let (refusal, why) = match (error.kind(), found) {
        (io::ErrorKind::NotFound, Some(path)) => (
            Refusal::NotExecutable,
            format!("{} is there, but the interpreter that it names isn't: install it", path.display()),
        ),
        (io::ErrorKind::PermissionDenied, Some(path)) => (
            Refusal::NotExecutable,
            format!("{} may not be executed: make it an executable file (chmod +x)", path.display()),
        ),
        (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied, None) => (
            Refusal::NotFound,
            format!("{shown}: no such program: install it, give its full path, or set PATH"),
        ),
        (_, _) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => (
            Refusal::NotExecutable,
            format!("{shown} is no program for this machine, nor a script with a #! line"),
        ),
        (_, _) => (Refusal::Other, format!("{shown}: {error}")),
    };
    Report::NotStarted(refusal, why)
}

/// The file that the program's name stands for, executable or not.
fn find_program(spec: &Spec) -> Option<PathBuf> {
    let program = Path::new(&spec.program);
    let base = spec.cwd.clone().unwrap_or_default();
    if program.components().count() > 1 || program.is_absolute() {
        return Some(base.join(program)).filter(|path| path.exists());
    }
    let path = spec.env.iter().rfind(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let folders = path.unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&folders).map(|folder| base.join(folder).join(program)).find(|path| path.is_file())
}

/// A session of its own: no terminal whose keys or hang-up reach the guard, and none at which the command,
/// reading a password perhaps, would be stopped for ever instead of told that there is none.
fn leave_the_workers_session() {
    // It fails only for the leader of a group, who has a session or a shell's job of its own.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    // What an operator's `pkill steadfast` matches must be the worker and not its guards.
    let _ = rustix::thread::set_name(c"sf-guard");
}

/// A process of the command's that loses its parent becomes the guard's child, and not init's: in a container
/// the first process may be the worker, or another that reaps nobody, and then the dead would pile up.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    // A kernel that refuses leaves them to init, as without a guard.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Reaps the dead among the adopted, each by its own number: the command itself stays for `Group::reap`.
fn reap_orphans(command: Pid) {
    // Only Linux has this directory, and only Linux has orphans adopted.
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = children.split_ascii_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?));
        for pid in pids.filter(|pid| *pid != command) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// A handler that does nothing, not `SIG_IGN`: ignoring would be inherited by the command. And where the worker ignores
/// SIGCHLD, the kernel would reap the command before the guard has seen how it ended.
fn absorb_signals() -> io::Result<()> {
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, std::sync::Arc::default())?;
    }
    Ok(())
}

/// Lets go of the command's stdout and stderr, so that the worker sees their end when the command is gone.
fn release_output() {
    // Where there is no /dev/null the guard's own exit closes them, a little later.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn report(channel: &UnixStream, report: &Report) -> io::Result<()> {
    let mut to = channel;
    to.write_all(&report.encode())
}
