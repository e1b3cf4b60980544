//! A request that comes again, an answer that is lost, and a reader that goes away.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;

use crate::place::{Place, Process, Server, sqlite};

#[test]
fn the_same_request_is_known_after_the_defaults_have_changed() {
    let place = Place::with("[handlers.scan]\nexec = [\"true\"]\n");
    let body = r#"{"kind":"scan","id":"a","key":"k","payload":{"of":1}}"#;
    let server = Server::start(&place, &["--no-worker"]);
    assert_eq!(server.post("/v1/tasks", body).status, 201);
    server.stop();
    let changed = "[handlers.scan]\nexec = [\"true\"]\nattempts = 7\nrescues = 1\ntimeout = \"5s\"\nqueue = \"scans\"\n";
    std::fs::write(place.path().join("steadfast.toml"), changed).unwrap();
    let server = Server::start(&place, &["--no-worker"]);
    assert_eq!(server.post("/v1/tasks", body).status, 200);
    assert_eq!(server.get("/v1/tasks/a").json()["attempts_max"], 3);
    // The command line has the configuration of where it is called, and no other id.
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"scan","key":"k","payload":{"of":1}}"#).json()["id"], "a");
    // What is asked for is part of the request.
    let asked = r#"{"kind":"scan","id":"a","key":"k","payload":{"of":1},"attempts":7}"#;
    assert_eq!(server.post("/v1/tasks", asked).status, 409);
    server.stop();
}

#[test]
fn a_submit_whose_answer_is_lost_says_under_which_id_to_ask() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hangs_up = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 1_000]);
    });
    let done = place.run(&["--server", &url, "submit", "scan"]);
    hangs_up.join().unwrap();
    assert_eq!(done.code, 5, "{done:?}");
    let (_, after) = done.stderr.split_once("`steadfast status ").expect("it says how to find out");
    let (id, _) = after.split_once('`').unwrap();
    assert_eq!(id.len(), 36, "{id}");
    assert!(done.stderr.contains(&format!("--id {id}")), "{done:?}");
}

#[test]
fn who_follows_a_task_ends_with_its_reader() {
    let place = Place::new();
    place.json(&["submit", "scan", "--id", "a"]);
    for args in [["watch", "a"].as_slice(), &["logs", "a", "--follow"]] {
        let mut command = place.command(args);
        let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        if args[0] == "watch" {
            process.first_line();
        }
        drop(process.0.stdout.take());
        assert_eq!(process.ended().code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_handler_asks_the_server_that_runs_it_whatever_store_the_environment_names() {
    let binary = env!("CARGO_BIN_EXE_steadfast");
    let exec =
        format!(r#"exec = ["sh", "-c", "'{binary}' status $STEADFAST_TASK_ID --json | grep -q running"]"#);
    let place = Place::with(&format!("[handlers.asks]\n{exec}\nattempts = 1\n"));
    let mut command = place.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
    command.env("STEADFAST_STORE", sqlite(&place));
    let server = Server::of(command);
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"asks","id":"a"}"#).status, 201);
    let task = server.get("/v1/tasks/a?wait=60s").json();
    assert_eq!(task["state"], "succeeded", "{task}");
    let pruned = server.post("/v1/prune", r#"["1d"]"#);
    assert_eq!((pruned.status, pruned.json()["pruned"].is_null()), (400, true), "{pruned:?}");
    assert_eq!(server.post("/v1/prune", "").json()["field"], "older");
    server.stop();
}
