//! Ctrl-C in a command that waits: it ends at once and says so by its exit code, and the task goes on.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::place::{Place, Process, Server, until};

/// A long poll, which is under way then, lasts a minute.
const AT_ONCE: Duration = Duration::from_secs(20);
/// How many lines of a bulk are stored together.
const SET_TASKS: usize = 500;

#[test]
fn ctrl_c_ends_a_wait_and_not_the_task() {
    let place = Place::new();
    let server = Server::start(&place, &["--allow-unknown-kinds"]);
    let through_server = ["--server", &server.url];
    for (name, way) in [("on-store", &[][..]), ("through-server", &through_server)] {
        let start = |args: &[&str]| {
            let mut command = heeding_ctrl_c(&place.command(&[way, args].concat()), &place);
            Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        };
        let submitter = start(&["submit", "elsewhere", "--id", name, "--wait"]);
        until("it is stored", || (server.get(&format!("/v1/tasks/{name}")).status == 200).then_some(()));
        let mut watcher = start(&["watch", name, "--json"]);
        watcher.first_line();
        for mut process in [submitter, watcher] {
            process.signal(Signal::INT);
            let asked = Instant::now();
            assert_eq!(process.ended().code(), Some(130), "{name}");
            assert!(asked.elapsed() < AT_ONCE, "{name}: after {:?}", asked.elapsed());
            assert!(process.stderr().contains("interrupted; what was asked for before goes on"), "{name}");
        }
        assert_eq!(server.get(&format!("/v1/tasks/{name}")).json()["state"], "ready");
    }
    server.stop();
}

#[test]
fn ctrl_c_ends_what_reads_stdin() {
    let place = Place::new();
    for args in [["submit", "elsewhere", "--payload", "-"].as_slice(), &["submit", "--bulk", "-"]] {
        let mut command = heeding_ctrl_c(&place.command(args), &place);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        until("it hears Ctrl-C", || catches_ctrl_c(&process).then_some(()));
        process.signal(Signal::INT);
        let asked = Instant::now();
        // Its stdin stays open.
        assert_eq!(process.ended().code(), Some(130), "{args:?}");
        assert!(asked.elapsed() < AT_ONCE, "{args:?}: after {:?}", asked.elapsed());
        assert!(process.stderr().contains("interrupted"), "{args:?}");
    }
}

#[test]
fn ctrl_c_ends_a_bulk_between_its_lines() {
    let place = Place::new();
    place.json(&["migrate"]);
    let mut command = heeding_ctrl_c(&place.command(&["submit", "--bulk", "-"]), &place);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    // A whole set: it is stored before there is a next line.
    let lines = "{\"kind\":\"elsewhere\"}\n".repeat(SET_TASKS);
    process.0.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    until("they are stored", || place.has_tasks().then_some(()));
    process.signal(Signal::INT);
    assert_eq!(process.ended().code(), Some(130));
}

/// Whether the process has a handler for SIGINT.
fn catches_ctrl_c(process: &Process) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (Signal::INT.as_raw() - 1) & 1 == 1
}

/// It has nothing to tell before it is through, so it ends like any other command.
#[test]
fn ctrl_c_ends_a_search_that_tells_nothing_before_its_end() {
    let place = Place::new();
    let search = ["sim", "run", "--strategy", "exhaustive", "--departures", "4"];
    let mut command = heeding_ctrl_c(&place.command(&search), &place);
    let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    until("Ctrl-C has a handler", || catches_ctrl_c(&process).then_some(()));
    process.signal(Signal::INT);
    assert_eq!(process.ended().code(), Some(130));
}

/// The command as a terminal starts it: what a script leaves in the background inherits that Ctrl-C is ignored, and these
/// tests may run there.
fn heeding_ctrl_c(command: &Command, place: &Place) -> Command {
    let mut heeding = Command::new("env");
    heeding.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => heeding.env(name, value),
            None => heeding.env_remove(name),
        };
    }
    heeding.current_dir(place.path()).stdin(Stdio::null());
    heeding
}
