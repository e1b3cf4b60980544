//! What a server's end is to others: to those who wait for a task, to its tasks, and to a cancel from elsewhere.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use steadfast_tests::postgres_server::{Options, PostgresServer};

use crate::attempts::{entered_times, marker, processes};
use crate::place::{Place, Process, Server, until};

/// `slow` says that it was entered, and waits for a file `go`.
const CONFIG: &str = r#"
[handlers.slow]
exec = ["sh", "-c", "echo on; echo on >> entered; while [ ! -e go ]; do sleep 0.01; done", "MARKER"]
attempts = 1
rescues = 5
[handlers.once]
exec = ["sh", "-c", "echo on >> entered; while [ ! -e go ]; do sleep 0.01; done", "MARKER"]
attempts = 1
rescues = 0
"#;

fn place(marker: &str) -> Place {
    Place::with(&CONFIG.replace("MARKER", marker))
}

#[test]
fn who_waits_outlives_a_server_that_is_killed_and_started_again() {
    let place = place(&marker("outlived"));
    let mut server = Server::start(&place, &["--lease", "1s"]);
    let url = server.url.clone();
    let start = |args: &[&str]| {
        let mut command = place.command(&[&["--server", &url], args].concat());
        Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    };
    let submitter = start(&["submit", "slow", "--id", "a", "--wait"]);
    entered_times(&place, 1);
    let mut watcher = start(&["watch", "a"]);
    let mut follower = start(&["logs", "a", "--follow"]);
    // Each has been answered.
    watcher.first_line();
    assert_eq!(follower.first_line(), "on");
    let mut waiters = [submitter, watcher, follower];
    server.process.signal(Signal::KILL);
    server.process.ended();
    for waiter in &mut waiters {
        let mut said = String::new();
        let stderr = waiter.0.stderr.as_mut().unwrap();
        BufReader::with_capacity(1, stderr).read_line(&mut said).unwrap();
        assert!(said.contains("asking again until there is an answer"), "{said:?}");
    }
    std::fs::write(place.path().join("go"), "").unwrap();
    let mut again = place.command(&["serve", "--json", "--lease", "1s", "--listen"]);
    again.arg(url.strip_prefix("http://").unwrap());
    let _server = Server::of(again);
    for waiter in &mut waiters {
        assert_eq!(waiter.ended().code(), Some(0));
        assert_eq!(waiter.stderr(), "", "it is said once");
    }
}

#[test]
fn a_wait_for_a_server_that_stays_away_ends_in_time() {
    let place = place(&marker("away"));
    let mut server = Server::start(&place, &["--no-worker"]);
    place.json(&["--server", &server.url, "submit", "slow", "--id", "a"]);
    let mut command = place.command(&["--server", &server.url, "watch", "a"]);
    let mut watcher = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    watcher.first_line();
    server.process.signal(Signal::KILL);
    server.process.ended();
    // One that was never answered has a wrong address, and says so at once.
    let begun = Instant::now();
    let wrong = place.run(&["--server", &server.url, "wait", "a", "--timeout", "1h"]);
    assert_eq!(wrong.code, 5, "{wrong:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(watcher.0.try_wait().unwrap().is_none(), "it asks on");
}

#[test]
fn an_attempt_that_may_not_be_rescued_fails_with_its_server() {
    let marker = marker("unrescued");
    let place = place(&marker);
    let mut server = Server::start(&place, &["--lease", "1s"]);
    server.post("/v1/tasks", r#"{"kind":"once","id":"a"}"#);
    entered_times(&place, 1);
    server.process.signal(Signal::KILL);
    server.process.ended();
    until("its process is gone", || processes(&marker).is_empty().then_some(()));
    let server = Server::start(&place, &["--lease", "1s"]);
    let task = server.get("/v1/tasks/a?wait=60s").json();
    assert_eq!((&task["state"], &task["cause"]), (&"failed".into(), &"rescues_used_up".into()), "{task}");
    entered_times(&place, 1);
    server.stop();
}

#[test]
fn a_run_whose_store_stays_away_can_be_left() {
    let test = "a_run_whose_store_stays_away_can_be_left";
    let Some(postgres) = PostgresServer::start_or_skip(test, Options { fsync: false, settings: &[] }) else {
        return;
    };
    let marker = marker("left");
    let place = Place::new();
    let store = postgres.create_database("left").unwrap();
    let script = "trap '' TERM; echo on; while :; do sleep 0.1; done";
    let mut command =
        place.command(&["--store", &store, "run", "--id", "a", "--", "sh", "-c", script, &marker]);
    let mut run = Process(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(run.first_line(), "on");
    drop(postgres);
    let asked = Instant::now();
    // Signals that come close together may be heard as one.
    let status = until("it has been left", || {
        run.signal(Signal::INT);
        run.0.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(30), "after {:?}", asked.elapsed());
    let said = run.stderr();
    assert!(said.contains("`steadfast run --resume a`"), "{said}");
    until("its command is gone", || processes(&marker).is_empty().then_some(()));
}

#[test]
fn a_cancel_on_the_store_reaches_a_servers_task_on_sqlite() {
    let marker = marker("cancelled-on-sqlite");
    let place = place(&marker);
    let store = format!("sqlite:{}", place.path().join("steadfast.db").display());
    cancel_reaches(&place, &store, &marker);
}

#[test]
fn a_cancel_on_the_store_reaches_a_servers_task_on_postgres() {
    let test = "a_cancel_on_the_store_reaches_a_servers_task_on_postgres";
    let Some(postgres) = PostgresServer::start_or_skip(test, Options { fsync: true, settings: &[] }) else {
        return;
    };
    let marker = marker("cancelled-on-postgres");
    let place = place(&marker);
    cancel_reaches(&place, &postgres.create_database("cancel").unwrap(), &marker);
}

/// The command is gone a second after another process has said so: far sooner than its lease is over or renewed.
#[track_caller]
fn cancel_reaches(place: &Place, store: &str, marker: &str) {
    let server = Server::start(place, &["--store", store, "--lease", "10m"]);
    for (times, id) in ["a", "b", "c"].into_iter().enumerate() {
        server.post("/v1/tasks", &format!(r#"{{"kind":"slow","id":"{id}"}}"#));
        entered_times(place, times + 1);
        // The first renewal, a second after the claim, would bring the order whether or not anybody looks for it.
        until("it has been renewed", || {
            place.json(&["--store", store, "status", id])["entered_at"].as_str().map(drop)
        });
        let cancelled = place.json(&["--store", store, "cancel", id]);
        let asked = Instant::now();
        assert_eq!(cancelled["cancel"], "requested");
        until("its process is gone", || processes(marker).is_empty().then_some(()));
        assert!(asked.elapsed() < Duration::from_secs(1), "after {:?}", asked.elapsed());
        let task = place.json(&["--store", store, "status", id]);
        assert!(task["state"] == "running" || task["state"] == "cancelled", "{task}");
        assert_eq!(server.get(&format!("/v1/tasks/{id}?wait=60s")).json()["state"], "cancelled");
    }
    server.stop();
}
