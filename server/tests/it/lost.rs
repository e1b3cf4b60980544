//! A worker that is killed: what it ran runs again soon on another, or fails where it may not be run again.

use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;

use crate::attempts::{entered, entered_times, marker, processes};
use crate::place::{Place, Server, Worker, postgres, sqlite, time, until};

/// Each says that it was entered, and waits for a file `go`.
const CONFIG: &str = r#"
[handlers.again]
exec = ["sh", "-c", "echo $STEADFAST_TASK_ID >> entered; while [ ! -e go ]; do sleep 0.05; done", "MARKER"]
attempts = 1
rescues = 5
[handlers.once]
exec = ["sh", "-c", "echo $STEADFAST_TASK_ID >> entered; while [ ! -e go ]; do sleep 0.05; done", "MARKER"]
attempts = 1
rescues = 0
"#;

/// The killed worker's. It only has to be long enough that even a worker that rarely gets the processor renews it in
/// time; how soon the tasks run again is counted from its end.
const LEASE: &str = "4s";
/// How long after a lease has lapsed its task runs again, or has failed. Both times are the store's own, so that what
/// the test's own processes wait for doesn't count; and two sweepers look every second, so that at least half of this
/// is left for a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_killed_workers_tasks_run_again_or_fail_within_lease_and_two_seconds_on_sqlite() {
    let marker = marker("lost-on-sqlite");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    tasks_run_again_or_fail(&place, &sqlite(&place), &marker);
}

#[test]
fn a_killed_workers_tasks_run_again_or_fail_within_lease_and_two_seconds_on_postgres() {
    let test = "a_killed_workers_tasks_run_again_or_fail_within_lease_and_two_seconds_on_postgres";
    let Some(store) = postgres(test, "lost") else { return };
    let marker = marker("lost-on-postgres");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    tasks_run_again_or_fail(&place, &store, &marker);
}

#[track_caller]
fn tasks_run_again_or_fail(place: &Place, store: &str, marker: &str) {
    let server = Server::start(place, &["--no-worker", "--store", store]);
    let mut killed = Worker::start(place, &["--store", store, "--lease", LEASE]);
    let again = ["again-0", "again-1", "again-2"];
    for (kind, id) in again.map(|id| ("again", id)).into_iter().chain([("once", "once")]) {
        assert_eq!(server.post("/v1/tasks", &format!(r#"{{"kind":"{kind}","id":"{id}"}}"#)).status, 201);
    }
    entered_times(place, 4);
    // With the lease that it has by default.
    let heir = Worker::start(place, &["--store", store]);
    killed.process.signal(Signal::KILL);
    killed.process.ended();
    // Nobody renews them any more.
    let leases = again.map(|id| left_behind(&server, id, &killed.id));
    let lease_of_once = left_behind(&server, "once", &killed.id);
    until("no process outlives its attempt", || processes(marker).is_empty().then_some(()));

    let failed = server.get("/v1/tasks/once?wait=60s").json();
    assert_eq!(
        (&failed["state"], &failed["cause"]),
        (&"failed".into(), &"rescues_used_up".into()),
        "{failed}"
    );
    assert!(failed["error"].as_str().unwrap().contains("lease"), "it says why: {failed}");
    assert_soon(lease_of_once, time(&failed["finished_at"]));
    entered_times(place, 4 + again.len());
    for (id, lease) in again.into_iter().zip(leases) {
        let attempts = server.get(&format!("/v1/tasks/{id}/attempts")).json();
        let [lost, next] = attempts["attempts"].as_array().unwrap().as_slice() else { panic!("{attempts}") };
        assert_eq!((&lost["worker"], &lost["cause"]), (&killed.id.clone().into(), &"lease_lapsed".into()));
        assert_eq!(next["worker"], heir.id);
        assert_soon(lease, time(&next["claimed_at"]));
    }

    std::fs::write(place.path().join("go"), "").unwrap();
    for id in again {
        let task = server.get(&format!("/v1/tasks/{id}?wait=60s")).json();
        assert_eq!((&task["state"], &task["rescues"]), (&"succeeded".into(), &1.into()), "{task}");
    }
    heir.stop();
    server.stop();
    assert_eq!(entered(place).iter().filter(|id| *id == "once").count(), 1, "it isn't run again");
}

/// When the lease ends that a killed worker left behind.
#[track_caller]
fn left_behind(server: &Server, id: &str, worker: &str) -> Timestamp {
    let task = server.get(&format!("/v1/tasks/{id}")).json();
    assert_eq!((&task["state"], &task["worker"]), (&"running".into(), &worker.into()), "{task}");
    time(&task["lease_expires_at"])
}

/// Not before the lease has lapsed, and soon after.
#[track_caller]
fn assert_soon(lease: Timestamp, at: Timestamp) {
    let after = Duration::try_from(at.duration_since(lease));
    assert!(
        after.is_ok_and(|after| after <= SOON),
        "the lease ended at {lease}, and it was taken up at {at}"
    );
}
