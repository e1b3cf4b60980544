//! The host's clock set by an hour, forward and back, under everything that works on a store of SQLite: no lease is
//! granted or lost by it, nothing is due before its time, and tasks run on.
//!
//! libfaketime stands between the processes and the wall clock and reads from a file how far that is off, so that it
//! is set for all of them at one moment, while they run. What nobody can set on a host either, the time since boot, is
//! left alone.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;

use crate::attempts::entered_times;
use crate::place::{Done, Place, Server, time, until};

/// `slow` waits for a file `go`; `date` says what the wall clock is.
const CONFIG: &str = r#"
[handlers.slow]
exec = ["sh", "-c", "echo on >> entered; while [ ! -e go ]; do sleep 0.05; done"]
rescues = 0
[handlers.date]
exec = ["sh", "-c", "date +%s > $STEADFAST_OUTPUT"]
"#;

const LEASE: Duration = Duration::from_secs(3);
/// How far a time may be off that isn't off by an hour.
const NEAR: Duration = Duration::from_secs(120);

#[test]
fn a_clock_that_is_set_grants_and_takes_no_lease() {
    let place = Place::with(CONFIG);
    let Some(clock) = WallClock::of(&place, "a_clock_that_is_set_grants_and_takes_no_lease") else { return };
    let lease = format!("{}s", LEASE.as_secs());
    let server =
        Server::of(clock.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--lease", &lease]));
    let submit = |body: &str| assert_eq!(server.post("/v1/tasks", body).status, 201, "{body}");
    submit(r#"{"kind":"slow","id":"runs","deadline":"30m"}"#);
    submit(r#"{"kind":"date","id":"later","delay":"30m"}"#);
    entered_times(&place, 1);
    let task = || server.get("/v1/tasks/runs").json();
    until("it is known to have been entered", || task()["entered_at"].as_str().map(drop));
    let begun = task();
    for (number, offset) in [3600, -3600, 0].into_iter().enumerate() {
        clock.set(offset);
        // Whoever starts now looks for lapsed leases at once.
        let other = Server::of(clock.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--no-worker"]));
        let mut lease = task()["lease_expires_at"].clone();
        for _ in 0..3 {
            lease =
                until("it is renewed", || Some(task()["lease_expires_at"].clone()).filter(|at| *at != lease));
            let left = time(&lease).duration_since(time(&other.get("/v1/stats").json()["as_of"]));
            assert!(left.as_secs_f64() <= 1.1 * LEASE.as_secs_f64(), "no longer than it lasts: {left:#}");
        }
        let now = task();
        // A renewal is no revision: nothing else has happened to it.
        assert_eq!((&now["state"], &now["rev"]), (&begun["state"], &begun["rev"]), "{now}");
        assert_eq!(server.get("/v1/tasks/later").json()["state"], "scheduled");
        tasks_run_on(&server, &format!("date-{number}"), offset);
        if offset != 0 {
            let doctor = Done::of(&clock.command(&["doctor", "--json"]).output().unwrap());
            let said = doctor.stdout.lines().find(|line| line.contains(r#""clock""#)).unwrap();
            assert!(said.contains("WARN"), "{said}");
        }
        other.stop();
    }
    std::fs::write(place.path().join("go"), "").unwrap();
    let ended = server.get("/v1/tasks/runs?wait=60s").json();
    assert_eq!(
        (&ended["state"], &ended["attempt"], &ended["rescues"]),
        (&"succeeded".into(), &1.into(), &0.into())
    );
    entered_times(&place, 1);
    server.stop();
}

/// A task that is stored and run now, by a wall clock that is so many seconds off.
#[track_caller]
fn tasks_run_on(server: &Server, id: &str, offset: i64) {
    assert_eq!(server.post("/v1/tasks", &format!(r#"{{"kind":"date","id":"{id}"}}"#)).status, 201);
    let task = server.get(&format!("/v1/tasks/{id}?wait=60s")).json();
    let here = Timestamp::now().as_second();
    let off = |second: i64| Duration::from_secs(second.abs_diff(here));
    // The wall clock was set, or this shows nothing; and the store's wasn't.
    let wall = task["output"].as_i64().unwrap_or_else(|| panic!("{task}"));
    assert!(off(wall - offset) < NEAR, "the wall clock isn't {offset} s off: {task}");
    assert!(off(time(&task["submitted_at"]).as_second()) < NEAR, "the store's clock is off: {task}");
}

/// A wall clock that can be set, for the processes that are started with it.
struct WallClock<'a> {
    place: &'a Place,
    library: PathBuf,
}

impl<'a> WallClock<'a> {
    /// Without libfaketime it says which `test` is skipped.
    fn of(place: &'a Place, test: &str) -> Option<Self> {
        let Some(library) = library() else {
            let required = std::env::var("STEADFAST_REQUIRE_FAKETIME").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "{test} needs libfaketime, and none is installed (STEADFAST_REQUIRE_FAKETIME=1)"
            );
            eprintln!("skipped: {test} (libfaketime isn't installed)");
            return None;
        };
        let clock = Self { place, library };
        clock.set(0);
        Some(clock)
    }

    /// Sets it so many seconds off.
    fn set(&self, offset: i64) {
        let file = self.file();
        let new = file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        // At one moment: nobody reads half of it.
        std::fs::rename(new, file).unwrap();
    }

    /// The command, and all that it starts, by this clock.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.file());
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("wall-clock")
    }
}

/// Where Debian puts the library for programs with threads, and where its own installation does.
fn library() -> Option<PathBuf> {
    let mut directories = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")];
    let of_machines = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    directories.extend(of_machines.map(|entry| entry.path()));
    let mut libraries = directories.iter().map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists())
}
