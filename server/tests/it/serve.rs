//! The server, and the command line beside it and through it.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::place::{Answer, Place, Process, Server, agent, until};

/// `echo` gives its payload back; `slow` waits for a file `go`, and says that it was entered by a file `entered`.
const CONFIG: &str = r#"
[handlers.echo]
exec = ["sh", "-c", "cat > $STEADFAST_OUTPUT"]
[handlers.slow]
exec = ["sh", "-c", "echo $STEADFAST_TASK_ID > entered; while [ ! -e go ]; do sleep 0.01; done"]
queue = "slow"
timeout = "5m"
attempts = 7
rescues = 0
[handlers.fails]
exec = ["sh", "-c", "echo no luck >&2; exit 9"]
attempts = 1
[queues.slow]
concurrency = 1
"#;

#[test]
fn serve_submit_and_status_go_round() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    let through = ["--server", &server.url];
    let submitted = place.json(&[&through[..], &["submit", "echo", "--payload", r#"{"a": 1}"#]].concat());
    let id = submitted["id"].as_str().unwrap();
    let waited = place.json(&[&through[..], &["wait", id]].concat());
    assert_eq!((&waited["state"], &waited["output"]), (&"succeeded".into(), &json!({"a": 1})));
    // The same task, through the server and on the store.
    let on_server = place.json(&[&through[..], &["status", id]].concat());
    let on_store = place.json(&["status", id]);
    assert_eq!(on_server, on_store);
    assert_eq!(on_server["store"], submitted["store"]);
    let names: Vec<&str> = on_store.as_object().unwrap().keys().map(String::as_str).collect();
    for name in
        "id kind queue state cause rev attempt attempts_max slot key priority payload output error progress \
                 submitted_at due_at claimed_at entered_at finished_at lease_expires_at worker parents store"
            .split_whitespace()
    {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    let listed = place.json(&[&through[..], &["list", "--state", "succeeded", "--limit", "1"]].concat());
    assert_eq!(listed[0]["id"], id);
    server.stop();
}

#[test]
fn a_submit_on_the_store_reaches_a_worker_with_the_handlers_defaults() {
    let place = Place::with(CONFIG);
    let task = place.json(&["submit", "slow", "--id", "s"]);
    assert_eq!(task["state"], "ready");
    let task = place.json(&["status", "s"]);
    assert_eq!(
        (&task["queue"], &task["attempts_max"], &task["rescues_max"]),
        (&"slow".into(), &7.into(), &0.into())
    );
    let mut command = place.command(&["worker"]);
    let mut worker = Process(command.stderr(Stdio::null()).spawn().unwrap());
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(place.json(&["wait", "s"])["state"], "succeeded");
    let done = place.run(&["submit", "fails", "--wait"]);
    assert_eq!(done.code, 1);
    assert!(done.stdout.contains("exit code 9; its last words: no luck"), "{done:?}");
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().code(), Some(0));
}

#[test]
fn payloads_stay_byte_for_byte() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    for payload in [
        "12345678901234567890123",
        r#"{"b" :  [1 ,2.50],"a":"\u00e9é"}"#,
        r#"{"a": 12345678901234567890123,  "a" :2}"#,
        "null",
        "-0.0",
    ] {
        let body = format!(r#"{{"kind":"echo", "payload":{payload} }}"#);
        let id = server.post("/v1/tasks", &body).json()["id"].as_str().unwrap().to_owned();
        let task = server.get(&format!("/v1/tasks/{id}?wait=60s"));
        assert!(task.text.contains(&format!(r#""payload":{payload},"output":{payload},"#)), "{task:?}");
        for way in [&["--server", &server.url][..], &[]] {
            let submit = ["submit", "echo", "--payload", payload, "--wait", "--json"];
            let done = place.run(&[way, &submit].concat());
            assert!(done.stdout.contains(&format!(r#""payload":{payload},"output":{payload},"#)), "{done:?}");
        }
    }
    // Bytes that are no JSON, and a file with a newline at its end.
    std::fs::write(place.path().join("bytes"), b"\xff\x00").unwrap();
    std::fs::write(place.path().join("file"), b"[1]\n").unwrap();
    let through = ["--server", &server.url, "submit", "echo", "--wait", "--payload"];
    let task = place.json(&[&through[..], &["@bytes"]].concat());
    assert_eq!((&task["output"], &task["output_base64"]), (&Value::Null, &"/wA=".into()));
    let task = place.json(&["submit", "echo", "--wait", "--payload", "@file"]);
    assert_eq!(task["output"], json!([1]));
}

#[test]
fn answers_are_as_the_interface_says() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    let new = server.post("/v1/tasks", r#"{"kind":"slow","id":"a","slot":"s","payload":1}"#);
    assert_eq!((new.status, new.header("location")), (201, "/v1/tasks/a"));
    assert!(!new.header("x-steadfast-store").is_empty());
    let again = server.post("/v1/tasks", r#"{"payload":1,"slot":"s","id":"a","kind":"slow"}"#);
    assert_eq!((again.status, &again.json()["new"]), (200, &false.into()));
    let other = server.post("/v1/tasks", r#"{"kind":"slow","id":"a","payload":2}"#);
    assert_eq!((other.status, &other.json()["type"]), (409, &"urn:steadfast:id_taken".into()));
    assert_eq!(other.header("content-type"), "application/problem+json");
    let slot = server.post("/v1/tasks", r#"{"kind":"slow","slot":"s"}"#);
    assert_eq!((slot.status, &slot.json()["task"]), (409, &"a".into()));

    until("the handler was entered", || place.path().join("entered").exists().then_some(()));
    let running = server.get("/v1/tasks/a");
    let rev = running.json()["rev"].as_u64().unwrap();
    assert_eq!(running.header("etag"), format!("\"{rev}\""));
    // A waiter is answered when the task changes.
    let waiter = std::thread::spawn({
        let url = format!("{}/v1/tasks/a?wait=60s&after={rev}", server.url);
        move || Answer::of(agent().get(url).call()).unwrap()
    });
    let replacing =
        server.post("/v1/tasks", r#"{"kind":"echo","id":"b","slot":"s","on_conflict":"replace"}"#);
    assert_eq!((replacing.status, &replacing.json()["replaced"]), (201, &"a".into()));
    let changed = waiter.join().unwrap().json();
    assert_eq!((&changed["state"], &changed["cause"]), (&"cancelled".into(), &"replaced".into()));
    assert_eq!(server.get("/v1/tasks/b?wait=60s").json()["state"], "succeeded");

    assert_eq!(server.get("/v1/tasks/nobody").status, 404);
    assert_eq!(server.get("/nothing/here").status, 404);
    assert_eq!(server.post("/healthz", "").status, 405);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.post("/v1/tasks/b/cancel", "").status, 409);
    assert_eq!(server.post("/v1/tasks/a/cancel", r#"{"reason":"x"}"#).json()["cancel"], "had_ended");
    let scheduled = server.post("/v1/tasks", r#"{"kind":"echo","id":"c","delay":"1h"}"#);
    assert_eq!(scheduled.json()["state"], "scheduled");
    assert_eq!(server.post("/v1/tasks/c/cancel", "").json()["cancel"], "ended");
    assert_eq!(server.get("/v1/tasks?state=cancelled&limit=1").json()["tasks"][0]["id"], "c");
    assert_eq!(server.get("/v1/tasks?slot=s").json()["tasks"].as_array().unwrap().len(), 2);
}

#[test]
fn a_key_stands_for_one_request() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    let post = |body: &str| {
        let post = agent().post(format!("{}/v1/tasks", server.url)).header("Idempotency-Key", "k 1");
        Answer::of(post.send(body)).unwrap()
    };
    let first = post(r#"{"kind":"echo","payload":1}"#);
    let second = post(r#"{"kind":"echo","payload":1}"#);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(post(r#"{"kind":"echo","payload":2}"#).status, 409);
    assert_eq!(post(r#"{"kind":"echo","payload":1,"key":"x"}"#).status, 400);
    assert_eq!(post(r#"[{"kind":"echo"}]"#).status, 400);
}

#[test]
fn an_array_is_answered_item_by_item_and_may_name_its_own() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    let body = r#"[{"kind":"echo","id":"a"}, {"kind":"echo","id":"b","after":["a"]}, {"kind":"nope"}, 7,
                   {"kind":"echo","id":"a","payload":1}, {"kind":"echo","id":"d","after":["nobody"]}]"#;
    let answer = server.post("/v1/tasks", body);
    let items = answer.json();
    let of = |name: &str| items.as_array().unwrap().iter().map(|item| item[name].clone()).collect::<Vec<_>>();
    assert_eq!(
        (answer.status, of("status")),
        (200, vec![201.into(), 201.into(), 422.into(), 400.into(), 409.into(), 400.into()])
    );
    assert_eq!(server.get("/v1/tasks/b?wait=60s").json()["state"], "succeeded");
    assert_eq!(server.get("/v1/tasks").json()["tasks"].as_array().unwrap().len(), 2);
}

#[test]
fn tokens_are_asked_for_where_there_are_any() {
    let place = Place::with("[server]\ntokens = [\"env:MY_TOKEN\"]\n");
    let mut command = place.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
    command.env("MY_TOKEN", "secret");
    let server = Server::of(command);
    assert_eq!(server.get("/healthz").status, 200);
    for (token, status) in
        [(None, 401), (Some("Bearer wrong"), 401), (Some("secret"), 401), (Some("Bearer secret"), 200)]
    {
        let mut get = agent().get(format!("{}/v1/tasks", server.url));
        if let Some(token) = token {
            get = get.header("authorization", token);
        }
        assert_eq!(Answer::of(get.call()).unwrap().status, status, "{token:?}");
    }
    let refused = place.run(&["--server", &server.url, "list"]);
    assert_eq!(refused.code, 4);
    assert!(refused.stderr.contains("--token"), "{refused:?}");
    assert_eq!(place.run(&["--server", &server.url, "--token", "secret", "list"]).code, 0);
    let unset = place.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(unset.code, 2);
    assert!(unset.stderr.contains("MY_TOKEN isn't set"), "{unset:?}");
}

#[test]
fn others_than_this_machine_are_let_in_only_with_a_token() {
    let place = Place::new();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let done = place.run(&["serve", "--listen", listen]);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(
            done.stderr.contains("no token is set") && done.stderr.contains("STEADFAST_TOKEN"),
            "{done:?}"
        );
    }
    let mut command = place.command(&["serve", "--json", "--listen", "0.0.0.0:0", "--token", "secret"]);
    command.stdin(Stdio::null());
    let server = Server::of(command);
    assert_eq!(server.get("/v1/tasks").status, 401);
}

#[test]
fn pages_of_other_sites_are_kept_out() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", server.url.as_str(), 201),
        ("host", "evil.example:7878", 403),
    ] {
        let post = agent().post(format!("{}/v1/tasks", server.url)).header(header, value);
        let answer = Answer::of(post.send(r#"{"kind":"echo"}"#)).unwrap();
        assert_eq!(answer.status, status, "{header}: {value}");
    }
}

#[test]
fn a_server_without_handlers_says_what_to_do() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut process = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = std::io::BufReader::new(process.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("submit") {
        assert_ne!(std::io::BufRead::read_line(&mut stderr, &mut said).unwrap(), 0, "{said}");
    }
    // As it was called: it needn't be installed.
    let command = format!("{} --server http://127.0.0.1:", env!("CARGO_BIN_EXE_steadfast"));
    for part in
        ["listening on http://127.0.0.1:", "sqlite:steadfast.db", "no handlers", "[handlers.hello]", &command]
    {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn ctrl_c_drains_and_gives_running_tasks_back() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "slow", "--id", "s"]);
    until("the handler was entered", || place.path().join("entered").exists().then_some(()));
    let waiter = std::thread::spawn({
        let url = format!("{}/v1/tasks/s?wait=60s", server.url);
        move || Answer::of(agent().get(url).call()).unwrap()
    });
    until("the waiter is there", || {
        // It shows by nothing but its connection.
        let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X} ", server.url.rsplit(':').next().unwrap().parse::<u16>().unwrap());
        (tcp.lines().filter(|line| line.contains(&port) && line.contains(" 01 ")).count() > 0).then_some(())
    });
    server.stop();
    assert_eq!(waiter.join().unwrap().status, 200);
    let task = place.json(&["status", "s"]);
    assert_eq!(
        (&task["state"], &task["cause"], &task["attempt"]),
        (&"ready".into(), &"drained".into(), &0.into())
    );
}
