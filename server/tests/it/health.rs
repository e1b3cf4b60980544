//! What an operator looks at: metrics, readiness, the doctor.

use std::collections::BTreeMap;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::place::{Answer, Place, Process, Server, agent, until};

const CONFIG: &str = r#"
[handlers.echo]
exec = ["sh", "-c", "cat > $STEADFAST_OUTPUT"]
[handlers.fails]
exec = ["sh", "-c", "exit 9"]
attempts = 1
"#;

/// The samples of a page of metrics, by name and labels.
pub(crate) fn samples(server: &Server) -> BTreeMap<String, f64> {
    let page = server.get("/metrics");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/plain"), "{page:?}");
    let lines = page.text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.into(), value.parse().unwrap())).unwrap())
        .collect()
}

#[test]
fn metrics_have_the_names_of_the_interface() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "echo", "--id", "a", "--wait"]);
    place.run(&["submit", "fails", "--id", "b", "--wait"]);
    place.json(&["submit", "echo", "--id", "c", "--delay", "1h"]);
    let has = |samples: &BTreeMap<String, f64>, name: &str, value: f64| {
        samples.get(name).is_some_and(|found| *found >= value)
    };
    let wanted = [
        (r#"steadfast_tasks{queue="default",state="succeeded"}"#, 1.0),
        (r#"steadfast_tasks{queue="default",state="failed"}"#, 1.0),
        (r#"steadfast_tasks{queue="default",state="scheduled"}"#, 1.0),
        (r#"steadfast_tasks{queue="default",state="running"}"#, 0.0),
        ("steadfast_task_execution_delay_seconds_count", 2.0),
        ("steadfast_queue_wait_seconds_count", 2.0),
        ("steadfast_run_seconds_count", 2.0),
        ("steadfast_run_seconds_sum", 0.0001),
        (r#"steadfast_attempts_total{outcome="done"}"#, 1.0),
        (r#"steadfast_attempts_total{outcome="exit_code"}"#, 1.0),
        ("steadfast_stale_queued", 0.0),
        ("steadfast_stuck_running", 0.0),
        ("steadfast_lease_lost_total", 0.0),
        (r#"steadfast_workers{queue="default"}"#, 1.0),
        (r#"steadfast_store_seconds_count{op="claim"}"#, 1.0),
        (r#"steadfast_store_seconds_count{op="apply"}"#, 1.0),
        (r#"steadfast_store_seconds_count{op="read"}"#, 1.0),
    ];
    // The store's figures are a few seconds old.
    until("the metrics are there", || {
        let samples = samples(&server);
        let missing: Vec<_> = wanted.iter().filter(|(name, value)| !has(&samples, name, *value)).collect();
        missing.is_empty().then_some(())
    });
    let samples = samples(&server);
    assert_eq!(samples[r#"steadfast_attempts_total{outcome="done"}"#], 1.0);
    assert_eq!(samples["steadfast_run_seconds_count"], 2.0);
    // A second is plenty for these.
    assert!(samples["steadfast_task_execution_delay_seconds_sum"] < 60.0, "{samples:?}");
}

#[test]
fn the_workers_of_single_commands_are_one_series() {
    let place = Place::new();
    let server = Server::start(&place, &["--no-worker"]);
    let run = |_| Process(place.command(&["run", "--", "sleep", "1000"]).spawn().unwrap());
    let running: Vec<Process> = (0..2).map(run).collect();
    until("both are counted", || {
        (samples(&server).get(r#"steadfast_workers{queue="_run.*"}"#) == Some(&2.0)).then_some(())
    });
    assert!(!samples(&server).keys().any(|name| name.contains("_run.") && !name.contains("_run.*")));
    drop(running);
}

#[test]
fn a_lost_lease_is_counted() {
    let place = Place::with("[handlers.slow]\nexec = [\"sleep\", \"1000\"]\n");
    let server = Server::start(&place, &[]);
    place.json(&["submit", "slow", "--id", "a", "--slot", "s"]);
    until("it runs", || (place.json(&["status", "a"])["state"] == "running").then_some(()));
    place.json(&["submit", "slow", "--id", "b", "--slot", "s", "--on-conflict", "replace"]);
    until("the loss is counted", || (samples(&server)["steadfast_lease_lost_total"] >= 1.0).then_some(()));
}

#[test]
fn a_server_says_whether_it_is_ready_and_asks_for_a_token_for_its_metrics() {
    let place = Place::with(CONFIG);
    let mut command = place.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--token", "secret"]);
    command.stdin(Stdio::null());
    let server = Server::of(command);
    assert_eq!((server.get("/healthz").status, server.get("/readyz").status), (200, 200));
    assert_eq!(server.get("/readyz").json()["ready"], true);
    assert_eq!((server.get("/metrics").status, server.get("/v1/stats").status), (401, 401));
    let get = agent().get(format!("{}/metrics", server.url)).header("authorization", "Bearer secret");
    assert_eq!(Answer::of(get.call()).unwrap().status, 200);
}

#[test]
fn stats_and_workers_are_shown() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "echo", "--id", "a", "--wait"]);
    let worker = until("the worker has been seen", || {
        server.get("/v1/workers").json()["workers"].as_array().unwrap().first().cloned()
    });
    assert_eq!((&worker["alive"], &worker["gone"]), (&true.into(), &false.into()));
    assert_eq!(worker["kinds"], serde_json::json!(["echo", "fails"]));
    let stats = server.get("/v1/stats").json();
    assert_eq!((&stats["tasks"]["succeeded"], &stats["workers_alive"]), (&1.into(), &1.into()));
    assert_eq!(stats["store"], server.get("/v1/tasks/a").json()["store"]);
    server.stop();
    let server = Server::start(&place, &["--no-worker"]);
    let workers = server.get("/v1/workers").json();
    assert_eq!(
        (&workers["workers"][0]["gone"], &workers["workers"][0]["alive"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn a_kind_that_a_worker_has_registered_is_known() {
    let place = Place::with(CONFIG);
    std::fs::write(place.path().join("server.toml"), "").unwrap();
    let server = Server::start(&place, &["--config", "server.toml"]);
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"echo"}"#).status, 422);
    let mut worker = Process(place.command(&["worker"]).stderr(Stdio::null()).spawn().unwrap());
    until("the kind is known", || {
        (server.post("/v1/tasks", r#"{"kind":"echo"}"#).status == 201).then_some(())
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().code(), Some(0));
    // Ever registered is enough: it may come back.
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"echo"}"#).status, 201);
    let unknown = server.post("/v1/tasks", r#"{"kind":"nope"}"#);
    assert_eq!(unknown.status, 422);
    assert!(unknown.text.contains("these are: echo, fails"), "{unknown:?}");
}

/// What the doctor says, by what it looked at.
pub(crate) fn doctor(place: &Place, args: &[&str]) -> (i32, BTreeMap<String, Value>) {
    let done = place.run(&[args, &["doctor", "--json"]].concat());
    let checks = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (done.code, checks.map(|check| (check["check"].as_str().unwrap().to_owned(), check)).collect())
}

#[test]
fn the_doctor_tells_what_is_well_and_what_is_not() {
    let place = Place::with(CONFIG);
    let (code, checks) = doctor(&place, &[]);
    assert_eq!((code, &checks["store"]["level"]), (1, &"FAIL".into()), "{checks:?}");
    place.json(&["submit", "echo", "--id", "a"]);
    let (code, checks) = doctor(&place, &[]);
    assert_eq!(code, 1);
    for check in ["store", "schema", "durability", "clock", "stale", "stuck", "paused"] {
        assert_eq!(checks[check]["level"], "PASS", "{checks:?}");
    }
    let workers = &checks["workers"];
    assert_eq!(workers["level"], "FAIL");
    assert!(
        workers["detail"].as_str().unwrap().contains("kind echo in queue default, where 1 tasks"),
        "{workers}"
    );

    let server = Server::start(&place, &[]);
    place.json(&["wait", "a"]);
    place.json(&["queue", "pause", "later"]);
    let both = ["--store", "sqlite:steadfast.db", "--server", &server.url];
    for (args, also) in [(&[][..], &[][..]), (&both[2..], &["server"]), (&both, &["server", "same store"])] {
        let (code, checks) = doctor(&place, args);
        assert_eq!(code, 0, "{checks:?}");
        assert_eq!(
            (&checks["paused"]["level"], &checks["workers"]["level"]),
            (&"WARN".into(), &"PASS".into())
        );
        for check in also {
            assert_eq!(checks[*check]["level"], "PASS", "{checks:?}");
        }
    }
    // Another store than the server's, and no server.
    place.json(&["--store", "sqlite:other.db", "migrate"]);
    let (code, checks) = doctor(&place, &["--store", "sqlite:other.db", "--server", &server.url]);
    assert_eq!((code, &checks["same store"]["level"]), (1, &"FAIL".into()), "{checks:?}");
    let (code, checks) = doctor(&place, &["--server", "http://127.0.0.1:1"]);
    assert_eq!((code, &checks["server"]["level"]), (1, &"FAIL".into()), "{checks:?}");
    let page = place.run(&["doctor"]);
    assert!(
        page.stdout
            .lines()
            .all(|line| ["PASS  ", "WARN  ", "FAIL  "].iter().any(|word| line.starts_with(word))),
        "{page:?}"
    );
}
