//! A handler that hangs and a task that nobody claims: the operator sees both.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use steadfast::core::diagnose::{STALE, STUCK};

use crate::attempts::{entered_times, marker, processes};
use crate::health::{doctor, samples};
use crate::place::{Place, Server, Worker, postgres, sqlite, until};

/// It gives no sign, and doesn't listen.
const CONFIG: &str = r#"
[handlers.hangs]
exec = ["sh", "-c", "trap '' TERM; echo on >> entered; while :; do sleep 0.05; done", "MARKER"]
attempts = 1
[worker]
grace = "100ms"
"#;

/// Nobody waits for ten minutes here: rows are made older by this, as if they had been there so much longer.
const LATER: Duration = Duration::from_secs(3600);

#[test]
fn a_handler_that_hangs_and_a_task_that_waits_are_seen_on_sqlite() {
    let marker = marker("silent-on-sqlite");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    let store = sqlite(&place);
    let age = |id: &str| {
        let conn = rusqlite::Connection::open(place.path().join("steadfast.db")).unwrap();
        conn.busy_timeout(Duration::from_secs(60)).unwrap();
        for update in [
            "UPDATE request SET submitted_at = submitted_at - ?1 WHERE id = ?2",
            "UPDATE task SET due_at = due_at - ?1, claimed_at = claimed_at - ?1, entered_at = entered_at - ?1
             WHERE seq = (SELECT seq FROM request WHERE id = ?2)",
        ] {
            assert_eq!(conn.execute(update, (micros(LATER), id)).unwrap(), 1);
        }
    };
    both_are_seen(&place, &store, &marker, &age);
}

#[test]
fn a_handler_that_hangs_and_a_task_that_waits_are_seen_on_postgres() {
    let test = "a_handler_that_hangs_and_a_task_that_waits_are_seen_on_postgres";
    let Some(store) = postgres(test, "silent") else { return };
    let marker = marker("silent-on-postgres");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(&store, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(connection);
    let age = |id: &str| {
        let update = "UPDATE steadfast.task SET submitted_at = submitted_at - $1, due_at = due_at - $1,
                 claimed_at = claimed_at - $1, entered_at = entered_at - $1 WHERE id = $2";
        assert_eq!(runtime.block_on(client.execute(update, &[&micros(LATER), &id])).unwrap(), 1);
    };
    both_are_seen(&place, &store, &marker, &age);
}

fn micros(duration: Duration) -> i64 {
    assert!(duration > STUCK && duration > STALE);
    i64::try_from(duration.as_micros()).unwrap()
}

#[track_caller]
fn both_are_seen(place: &Place, store: &str, marker: &str, age: &dyn Fn(&str)) {
    let server = Server::start(place, &["--no-worker", "--store", store]);
    let submit = |body: &str| assert_eq!(server.post("/v1/tasks", body).status, 201, "{body}");
    let metric = |name: &str| samples(&server).get(name).copied();
    let finding = |id: &str| server.get(&format!("/v1/tasks/{id}/diagnosis")).json()["finding"].clone();
    let level = |check: &str| doctor(place, &["--store", store]).1[check]["level"].clone();

    let worker = Worker::start(place, &["--store", store, "--lease", "5s"]);
    submit(r#"{"kind":"hangs","id":"hangs"}"#);
    submit(r#"{"kind":"hangs","id":"times-out","timeout":"1s"}"#);
    entered_times(place, 2);
    let ended = server.get("/v1/tasks/times-out?wait=60s").json();
    assert_eq!((&ended["state"], &ended["cause"]), (&"failed".into(), &"timeout".into()), "{ended}");
    // Until then a renewal may still say that it was entered, and when.
    until("it is known to have been entered", || {
        server.get("/v1/tasks/hangs").json()["entered_at"].as_str().map(drop)
    });
    assert_eq!(finding("hangs"), "runs");
    age("hangs");
    assert_eq!(finding("hangs"), "stuck");
    until("it is in the metrics", || (metric("steadfast_stuck_running") == Some(1.0)).then_some(()));
    assert_eq!(level("stuck"), "WARN");
    assert_eq!(server.post("/v1/tasks/hangs/cancel", "").json()["cancel"], "requested");
    assert_eq!(server.get("/v1/tasks/hangs?wait=60s").json()["state"], "cancelled");
    until("its process is gone", || processes(marker).is_empty().then_some(()));
    until("it isn't stuck any more", || (metric("steadfast_stuck_running") == Some(0.0)).then_some(()));

    // One that has room, and hangs itself.
    worker.process.signal(Signal::STOP);
    submit(r#"{"kind":"hangs","id":"waits","timeout":"1s"}"#);
    assert_eq!(finding("waits"), "next_up");
    age("waits");
    assert_eq!(finding("waits"), "overlooked");
    until("it is in the metrics", || (metric("steadfast_stale_queued") == Some(1.0)).then_some(()));
    assert_eq!(level("stale"), "WARN");
    worker.process.signal(Signal::CONT);
    let ended = server.get("/v1/tasks/waits?wait=60s").json();
    assert_eq!(ended["cause"], Value::from("timeout"), "{ended}");
    until("it isn't stale any more", || (metric("steadfast_stale_queued") == Some(0.0)).then_some(()));
    worker.stop();
    server.stop();
}
