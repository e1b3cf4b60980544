//! `steadfast run`: like `env` or `docker run`, but durable.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::place::{Done, Place, Process, sqlite, until};

/// The grace of an attempt that was told to stop is 10 s.
const GRACE_AND_MORE: Duration = Duration::from_secs(30);

#[test]
fn a_command_runs_and_its_output_and_code_are_ours() {
    let place = Place::new();
    let done =
        place.run(&["run", "--", "sh", "-c", "echo $((6*7)); echo oh >&2; printf 'no newline'; exit 3"]);
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (3, "42\nno newline", "oh\n"));
}

/// Whoever started us may ignore SIGCHLD, and have us inherit that: the kernel then reaps children unasked.
#[test]
fn a_code_is_known_where_children_are_ignored() {
    let place = Place::new();
    let run = place.command(&["run", "--", "sh", "-c", "exit 3"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' CHLD; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    assert_eq!(shell.current_dir(place.path()).status().unwrap().code(), Some(3));
}

#[test]
fn python_prints_42() {
    let place = Place::new();
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        eprintln!("skipped: python3 isn't there");
        return;
    }
    let done = place.run(&["run", "--", "python3", "-c", "print(6*7)"]);
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, "42\n", ""));
}

#[test]
fn each_end_has_its_exit_code() {
    let place = Place::new();
    let sh = |script: &'static str| vec!["run", "--", "sh", "-c", script];
    for (args, code, error) in [
        (sh("exit 0"), 0, ""),
        (sh("exit 1"), 1, ""),
        (sh("exit 65"), 65, ""),
        (sh("exit 75"), 75, ""),
        (sh("exit 255"), 255, ""),
        (sh("kill -9 $$"), 137, ""),
        (sh("kill -TERM $$"), 143, ""),
        (vec!["run", "--", "steadfast-no-such-program"], 127, "no such program"),
        (vec!["run", "steadfast.db"], 127, "no such program"),
        (vec!["run", "./steadfast.db"], 126, "may not be executed"),
        (vec!["run", "--timeout", "300ms", "--", "sleep", "1000"], 143, "timed out after 300ms"),
        (vec!["run", "--id", "../../x", "--", "true"], 2, "may contain only letters"),
        (vec!["run", "--timeout", "soon", "--", "true"], 2, "no duration"),
        (vec!["run", "--attempts", "0", "--", "true"], 2, "--attempts"),
        (vec!["run"], 2, "COMMAND"),
        (vec!["run", "--resume", "a", "--", "true"], 2, "--resume"),
        (vec!["run", "--resume", "no-such-task"], 125, "no task no-such-task"),
        (vec!["run", "--store", "sqlite:/nowhere/at/all.db", "--", "true"], 125, "/nowhere/at/all.db"),
        (vec!["run", "--store", "nonsense", "--", "true"], 2, "names no store"),
        (vec!["run", "--server", "http://127.0.0.1:1", "--", "true"], 2, "works on a store"),
    ] {
        let done = place.run(&args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        let said = if error.is_empty() { done.stderr.is_empty() } else { done.stderr.contains(error) };
        assert!(said, "{args:?}: {done:?}");
    }
}

/// As in a command of a server's handler.
#[test]
fn where_only_a_server_is_named_nothing_runs() {
    let place = Place::new();
    for args in [&["run", "--", "touch", "ran"][..], &["run", "--resume", "a"]] {
        let mut command = place.command(args);
        let done = Done::of(&command.env("STEADFAST_SERVER", "http://127.0.0.1:1").output().unwrap());
        assert_eq!((done.code, &*done.stdout), (2, ""), "{done:?}");
        assert!(
            done.stderr.contains("only a server is named") && done.stderr.contains("--store"),
            "{done:?}"
        );
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let mut named = place.command(&["--store", &sqlite(&place), "run", "--", "echo", "here"]);
    let done = Done::of(&named.env("STEADFAST_SERVER", "http://127.0.0.1:1").output().unwrap());
    assert_eq!((done.code, &*done.stdout), (0, "here\n"), "{done:?}");
}

#[test]
fn each_end_is_in_the_list_with_its_cause() {
    let place = Place::new();
    for (id, args, cause) in [
        ("exits", &["sh", "-c", "exit 3"][..], "exit_code"),
        ("missing", &["steadfast-no-such-program"], "not_started"),
        ("killed", &["sh", "-c", "kill -9 $$"], "signal"),
    ] {
        place.run(&[&["run", "--id", id, "--"], args].concat());
        let task = place.json(&["list", "--limit", "1"])[0].clone();
        assert_eq!(
            (&task["id"], &task["state"], &task["cause"]),
            (&id.into(), &"failed".into(), &cause.into())
        );
        let page = place.run(&["list"]).stdout;
        assert!(page.lines().any(|line| line.contains(id) && line.contains(cause)), "{page}");
    }
}

#[test]
fn the_id_is_the_callers_everywhere() {
    let place = Place::new();
    let done = place.run(&["run", "--id", "my-run.7", "--", "sh", "-c", "echo $STEADFAST_TASK_ID"]);
    assert_eq!((done.code, &*done.stdout), (0, "my-run.7\n"));
    let tasks = place.json(&["list", "--kind", "_run"]);
    assert_eq!((&tasks[0]["id"], &tasks[0]["state"]), (&"my-run.7".into(), &"succeeded".into()));
    assert_eq!(place.json(&["status", "my-run.7"])["payload"]["argv"][0], "sh");
    // The same again is known, and not run again.
    let again = place.run(&["run", "--id", "my-run.7", "--", "sh", "-c", "echo $STEADFAST_TASK_ID"]);
    assert_eq!((again.code, &*again.stdout), (0, ""));
    let other = place.run(&["run", "--id", "my-run.7", "--", "true"]);
    assert_eq!(other.code, 125);
    assert!(other.stderr.contains("belongs to a task made from another request"), "{other:?}");
}

#[test]
fn attempts_are_made_here_until_one_succeeds() {
    let place = Place::new();
    let script = "echo attempt $STEADFAST_ATTEMPT; [ $STEADFAST_ATTEMPT = 2 ]";
    let done = place.run(&["run", "--attempts", "3", "--", "sh", "-c", script]);
    assert_eq!((done.code, &*done.stdout), (0, "attempt 1\nattempt 2\n"));
}

/// A script that `steadfast run` runs may itself say `steadfast run`, or start a worker.
#[test]
fn what_another_attempt_was_told_is_not_inherited() {
    let place = Place::with(
        r#"[handlers.tells]
exec = ["sh", "-c", 'printf "[\"%s\",\"%s\"]" "$STEADFAST_SLOT" "$STEADFAST_CHECKPOINTS" > "$STEADFAST_OUTPUT"']
"#,
    );
    let inside = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("STEADFAST_SLOT", "x").env("STEADFAST_CHECKPOINTS", "y");
        command
    };
    let script = r#"printf "<%s><%s>" "$STEADFAST_SLOT" "$STEADFAST_CHECKPOINTS""#;
    let done = Done::of(&inside(&["run", "--", "sh", "-c", script]).output().unwrap());
    assert_eq!((done.code, &*done.stdout), (0, "<><>"), "{done:?}");
    let worker = Process(inside(&["worker"]).stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(place.json(&["submit", "tells", "--wait"])["output"], serde_json::json!(["", ""]));
    drop(worker);
}

#[test]
fn a_command_waits_for_its_slot() {
    let place = Place::new();
    let script = "echo on; while [ ! -e go ]; do sleep 0.01; done";
    let mut first = started(&place, &["run", "--slot", "gpu", "--", "sh", "-c", script]);
    let waits =
        ["run", "--slot", "gpu", "--on-conflict", "queue", "--id", "w", "--", "sh", "-c", "[ -e go ]"];
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| place.run(&waits));
        until("it waits", || (place.run(&["status", "w"]).stdout.contains("blocked")).then_some(()));
        std::fs::write(place.path().join("go"), "").unwrap();
        second.join().unwrap()
    });
    assert_eq!((first.ended().code(), second.code), (Some(0), 0), "{second:?}");
}

#[test]
fn a_held_slot_refuses_another_command() {
    let place = Place::new();
    let mut first = started(&place, &["run", "--slot", "gpu", "--", "sh", "-c", "echo on; exec sleep 1000"]);
    let second = place.run(&["run", "--slot", "gpu", "--", "true"]);
    assert_eq!(second.code, 125);
    assert!(second.stderr.contains("the slot is held"), "{second:?}");
    let third = place.run(&["run", "--slot", "gpu", "--on-conflict", "replace", "--", "echo", "newcomer"]);
    assert_eq!((third.code, &*third.stdout), (0, "newcomer\n"));
    // Its lease is void at once, so its command is killed; or it is told to stop by whoever saw first that the task ended.
    let code = first.ended().code();
    assert!(matches!(code, Some(137 | 143)), "{code:?}");
    assert!(first.stderr().contains("replaced"));
}

/// A command that has printed its first line.
fn started(place: &Place, args: &[&str]) -> Process {
    let mut command = place.command(args);
    let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(process.first_line(), "on");
    process
}

#[test]
fn ctrl_c_cancels_cleanly() {
    let place = Place::new();
    let script = "trap 'echo cleaned > cleaned; exit 9' TERM; echo on; while :; do sleep 0.01; done";
    let mut process = started(&place, &["run", "--id", "a", "--", "sh", "-c", script]);
    process.signal(Signal::INT);
    assert_eq!(process.ended().code(), Some(130));
    assert_eq!(std::fs::read_to_string(place.path().join("cleaned")).unwrap(), "cleaned\n");
    let task = place.json(&["status", "a"]);
    assert_eq!(
        (&task["state"], &task["error"]),
        (&"cancelled".into(), &"interrupted at the terminal".into())
    );
}

#[test]
fn a_second_ctrl_c_kills() {
    let place = Place::new();
    let script = "trap 'echo told' TERM; echo on; while :; do sleep 0.01; done";
    let mut process = started(&place, &["run", "--id", "a", "--", "sh", "-c", script]);
    process.signal(Signal::INT);
    assert_eq!(process.first_line(), "told");
    process.signal(Signal::INT);
    assert_eq!(process.ended().code(), Some(130));
    assert_eq!(place.json(&["status", "a"])["state"], "cancelled");
}

#[test]
fn sigterm_cancels_too() {
    let place = Place::new();
    let mut process = started(&place, &["run", "--", "sh", "-c", "echo on; exec sleep 1000"]);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().code(), Some(143));
}

#[test]
fn a_closed_terminal_cancels_unless_nohup_says_otherwise() {
    let place = Place::new();
    let script = "echo on; while [ ! -e go ]; do sleep 0.01; done";
    let run = place.command(&["run", "--", "sh", "-c", script]);
    // Whoever runs the tests may have said nohup.
    let mut hup = std::process::Command::new("env");
    hup.arg("--default-signal=HUP").arg(run.get_program()).args(run.get_args());
    hup.current_dir(place.path()).env_remove("STEADFAST_STORE").env_remove("STEADFAST_SERVER");
    let mut process = Process(hup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(process.first_line(), "on");
    process.signal(Signal::HUP);
    assert_eq!(process.ended().code(), Some(129));

    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(run.get_program()).args(run.get_args()).current_dir(place.path()).stdin(Stdio::null());
    nohup.env_remove("STEADFAST_STORE").env_remove("STEADFAST_SERVER");
    let mut process = Process(nohup.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(process.first_line(), "on");
    process.signal(Signal::HUP);
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let place = Place::new();
    let mut process = started(&place, &["run", "--id", "a", "--", "sh", "-c", "echo on; exec yes"]);
    drop(process.0.stdout.take());
    assert_eq!(process.ended().code(), Some(141));
    assert_eq!(place.json(&["status", "a"])["state"], "cancelled");
}

/// A pager that waits for a key.
#[test]
fn a_reader_that_stands_still_holds_up_no_end() {
    let place = Place::new();
    let script = "echo on; exec yes";
    let mut interrupted = started(&place, &["run", "--id", "a", "--", "sh", "-c", script]);
    let timed_out = ["run", "--id", "b", "--timeout", "1s", "--", "sh", "-c", script];
    let mut timed_out = started(&place, &timed_out);
    for process in [&interrupted, &timed_out] {
        until_full(process);
    }
    interrupted.signal(Signal::INT);
    let asked = Instant::now();
    assert_eq!(interrupted.ended().code(), Some(130));
    assert!(asked.elapsed() < GRACE_AND_MORE, "after {:?}", asked.elapsed());
    assert_eq!(place.json(&["status", "a"])["state"], "cancelled");
    assert_eq!(timed_out.ended().code(), Some(125));
    assert!(asked.elapsed() < GRACE_AND_MORE, "after {:?}", asked.elapsed());
    assert!(timed_out.stderr().contains("timed out after 1s"));
}

#[test]
fn what_a_command_printed_waits_for_a_slow_reader_unless_ctrl_c_comes() {
    let place = Place::new();
    // More than a pipe holds, and less than fits on the way.
    let run = ["run", "--", "sh", "-c", "echo on; head -c 90000 /dev/zero | tr '\\0' x; echo; echo end"];
    let mut slow = started(&place, &run);
    let mut never = started(&place, &run);
    until("the commands have ended", || {
        let tasks = place.json(&["list"]);
        tasks.as_array().unwrap().iter().all(|task| task["state"] == "succeeded").then_some(())
    });
    let rest: Vec<String> =
        BufReader::new(slow.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!((rest.concat().len(), &*rest[rest.len() - 1]), (90_003, "end"));
    assert_eq!(slow.ended().code(), Some(0));
    assert!(never.0.try_wait().unwrap().is_none(), "its reader may still come");
    never.signal(Signal::INT);
    assert_eq!(never.ended().code(), Some(130));
}

/// Waits until nothing more goes into the pipe of its stdout.
#[track_caller]
fn until_full(process: &Process) {
    let mut before = 0;
    until("the pipe is full", || {
        let bytes = rustix::io::ioctl_fionread(process.0.stdout.as_ref().unwrap()).unwrap();
        (std::mem::replace(&mut before, bytes) == bytes && bytes > 0).then_some(())
    });
}

#[test]
fn a_killed_run_ends_its_command_and_can_be_resumed() {
    let place = Place::new();
    // The first time it stays; the second time it finds that it was there.
    let script =
        "echo on; [ -e again ] || { echo $$ > again; exec sleep 1000; }; echo and again $STEADFAST_FENCE";
    let mut process = started(&place, &["run", "--id", "a", "--lease", "1s", "--", "sh", "-c", script]);
    let again = place.path().join("again");
    let pid = until("the command has said its number", || {
        std::fs::read_to_string(&again).ok().filter(|text| text.ends_with('\n'))
    });
    process.signal(Signal::KILL);
    process.ended();
    until("the command is gone", || (!Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(()));
    assert_eq!(place.json(&["status", "a"])["state"], "running");
    let resumed = place.run(&["run", "--resume", "a"]);
    assert_eq!((resumed.code, &*resumed.stdout), (0, "on\nand again 2\n"), "{resumed:?}");
    assert!(resumed.stderr.contains("waiting until it ends or the lease lapses"), "{resumed:?}");
    let task = place.json(&["status", "a"]);
    assert_eq!((&task["attempt"], &task["rescues"]), (&1.into(), &1.into()));
}

#[test]
fn a_worker_that_is_allowed_to_carries_on_what_was_left_behind() {
    let place = Place::with("[server]\nallow_run = true\n");
    let script = "echo on; [ -e again ] || { : > again; exec sleep 1000; }";
    let mut process = started(&place, &["run", "--id", "a", "--lease", "1s", "--", "sh", "-c", script]);
    until("the command has begun", || place.path().join("again").exists().then_some(()));
    process.signal(Signal::KILL);
    process.ended();
    let mut command = place.command(&["worker", "--lease", "1s"]);
    let worker = Process(command.stderr(Stdio::null()).spawn().unwrap());
    let task = place.json(&["wait", "a"]);
    assert_eq!((&task["state"], &task["rescues"]), (&"succeeded".into(), &1.into()));
    drop(worker);
}

/// Nobody lost it, so it shows by nothing but that nobody is there: for a minute its process may only have been silent.
#[test]
fn a_worker_carries_on_what_was_left_between_two_attempts() {
    let place = Place::with("[server]\nallow_run = true\n");
    let script = "echo on; [ -e again ] || { : > again; exit 1; }";
    let mut process = started(&place, &["run", "--id", "a", "--attempts", "2", "--", "sh", "-c", script]);
    until("it is to be tried again", || (place.json(&["status", "a"])["state"] != "running").then_some(()));
    process.signal(Signal::KILL);
    process.ended();
    let mut command = place.command(&["worker"]);
    let worker = Process(command.stderr(Stdio::null()).spawn().unwrap());
    // Longer than a command may take here.
    place.run(&["wait", "a", "--timeout", "60s"]);
    let task = place.json(&["wait", "a"]);
    assert_eq!((&task["state"], &task["attempt"]), (&"succeeded".into(), &2.into()));
    drop(worker);
}

#[test]
fn runs_do_not_take_each_others_commands() {
    let place = Place::new();
    let run = |name: &'static str, queue: &[&'static str]| {
        let args = [&["run"], queue, &["--", "sh", "-c", "echo $0", name]].concat();
        let mut command = place.command(&args);
        Process(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    };
    for queue in [&[][..], &["--queue", "shared"][..]] {
        let mut runs: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, run(name, queue))).into();
        for (name, process) in &mut runs {
            assert_eq!(process.first_line(), *name);
            assert_eq!(process.ended().code(), Some(0));
        }
    }
}

#[test]
fn stdin_of_a_command_is_empty_and_arguments_arrive_as_they_are() {
    let place = Place::new();
    let mut command = place.command(&[
        "run",
        "sh",
        "-c",
        "cat; printf '<%s>' \"$@\"",
        "sh",
        "a b",
        "",
        "-x",
        "é",
        "--json",
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"not for the command");
    let done = Done::of(&child.wait_with_output().unwrap());
    assert_eq!((done.code, &*done.stdout), (0, "<a b><><-x><é><--json>"), "{done:?}");
}

#[test]
fn lines_come_as_they_are_printed() {
    let place = Place::new();
    let script = "echo on; while [ ! -e go ]; do sleep 0.01; done; echo gone";
    let mut process = started(&place, &["run", "--", "sh", "-c", script]);
    // The first line was read while the command still runs.
    std::fs::write(place.path().join("go"), "").unwrap();
    let rest: Vec<String> =
        BufReader::new(process.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(rest, ["gone"]);
    assert_eq!(process.ended().code(), Some(0));
}
