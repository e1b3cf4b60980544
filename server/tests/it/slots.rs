//! A slot whose holder doesn't listen: who replaces it runs at once. Those who may not, wait or join.

use std::time::Duration;

use serde_json::{Value, json};

use crate::attempts::{entered, entered_times, marker, processes};
use crate::place::{Place, Server, postgres, sqlite, time, until};

/// Nothing but a kill ends it before there is a file `go.SLOT`. One at a time: who isn't held up has its room, too.
const CONFIG: &str = r#"
[handlers.deaf]
exec = ["sh", "-c", """
trap '' TERM INT HUP
echo $STEADFAST_TASK_ID >> entered
while [ ! -e go.$STEADFAST_SLOT ]; do sleep 0.05; done
""", "MARKER"]
attempts = 1
[worker]
concurrency = 1
grace = "1h"
lease = "10m"
"#;

/// Far less than the grace and the lease for which a deaf holder could hold up others, and much more than it takes.
const AT_ONCE: Duration = Duration::from_secs(5);
const NEWCOMERS: usize = 10;

#[test]
fn the_newest_in_a_slot_runs_at_once_whoever_holds_it_on_sqlite() {
    let marker = marker("slots-on-sqlite");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    the_newest_runs_at_once(&place, &sqlite(&place), &marker);
}

#[test]
fn the_newest_in_a_slot_runs_at_once_whoever_holds_it_on_postgres() {
    let test = "the_newest_in_a_slot_runs_at_once_whoever_holds_it_on_postgres";
    let Some(store) = postgres(test, "slots") else { return };
    let marker = marker("slots-on-postgres");
    let place = Place::with(&CONFIG.replace("MARKER", &marker));
    the_newest_runs_at_once(&place, &store, &marker);
}

#[track_caller]
fn the_newest_runs_at_once(place: &Place, store: &str, marker: &str) {
    let server = Server::start(place, &["--store", store]);
    for way in [Way::Http(&server), Way::Store(place, store)] {
        let slot = way.name();
        let ids: Vec<String> = (0..NEWCOMERS).map(|number| format!("{slot}-{number}")).collect();
        let (newest, replaced) = ids.split_last().unwrap();
        let before = entered(place).len();
        for (number, id) in ids.iter().enumerate() {
            let answer = way.submit(slot, &["replace", id]).expect("it takes the slot");
            assert_eq!(answer["replaced"], json!(number.checked_sub(1).map(|before| &ids[before])));
            if number == 0 {
                // It is deaf by now, and the others come while it runs.
                assert_eq!(entered_times(place, before + 1).last(), Some(id));
            }
        }
        until("the newest was entered", || entered(place).contains(newest).then_some(()));
        let task = server.get(&format!("/v1/tasks/{newest}")).json();
        // A claim reads the clock when it begins, and may find what was submitted a moment later.
        let waited = time(&task["claimed_at"]).duration_since(time(&task["submitted_at"]));
        assert!(waited <= AT_ONCE.try_into().unwrap(), "{waited:#}: {task}");
        for id in replaced {
            let task = server.get(&format!("/v1/tasks/{id}")).json();
            let end = (&task["state"], &task["cause"]);
            assert_eq!(end, (&"cancelled".into(), &"replaced".into()), "{task}");
        }
        // Those who were entered and don't listen were killed.
        until("the newest runs alone", || (processes(marker).len() == 1).then_some(()));
        others_wait_or_join(&way, slot, newest, &server, place);
    }
    server.stop();
}

/// Who doesn't replace the holder, which goes on until all have come.
#[track_caller]
fn others_wait_or_join(way: &Way<'_>, slot: &str, holder: &str, server: &Server, place: &Place) {
    let refused = way.submit(slot, &["reject"]).expect_err("the slot is held");
    assert!(refused.contains(holder), "{refused}");
    let joined = way.submit(slot, &["join"]).expect("it joins");
    assert_eq!(
        (&joined["id"], &joined["joined"], &joined["new"]),
        (&holder.into(), &true.into(), &false.into())
    );
    let waiting = ["a", "b", "c"].map(|name| format!("{slot}-{name}"));
    for id in &waiting {
        assert_eq!(way.submit(slot, &["queue", id]).expect("it waits")["state"], "blocked");
    }
    let shown = server.get(&format!("/v1/slots/{slot}")).json();
    assert_eq!((&shown["holder"]["id"], &shown["waiting"]), (&holder.into(), &json!(waiting)));
    let before = entered(place).len();
    std::fs::write(place.path().join(format!("go.{slot}")), "").unwrap();
    // In the order of arrival, and nobody else.
    assert_eq!(entered_times(place, before + waiting.len())[before..], waiting);
    for id in [&waiting[..], &[holder.to_owned()]].concat() {
        assert_eq!(server.get(&format!("/v1/tasks/{id}?wait=60s")).json()["state"], "succeeded", "{id}");
    }
    assert_eq!(server.get(&format!("/v1/slots/{slot}")).status, 404, "it is free");
}

/// How a task is submitted.
enum Way<'a> {
    Http(&'a Server),
    /// The command line, on the store on which the server works.
    Store(&'a Place, &'a str),
}

impl Way<'_> {
    fn name(&self) -> &'static str {
        match self {
            Way::Http(_) => "http",
            Way::Store(..) => "store",
        }
    }

    /// Submits to the slot with this policy, and perhaps an id; or says why it was refused.
    #[track_caller]
    fn submit(&self, slot: &str, policy_and_id: &[&str]) -> Result<Value, String> {
        let (policy, id) = (policy_and_id[0], policy_and_id.get(1));
        match self {
            Way::Http(server) => {
                let mut body = json!({ "kind": "deaf", "slot": slot, "on_conflict": policy });
                if let Some(id) = id {
                    body["id"] = json!(id);
                }
                let answer = server.post("/v1/tasks", &body.to_string());
                if answer.status == 409 { Err(answer.text) } else { Ok(answer.json()) }
            }
            Way::Store(place, store) => {
                let mut args =
                    vec!["--store", store, "submit", "deaf", "--slot", slot, "--on-conflict", policy];
                args.extend(id.iter().flat_map(|id| ["--id", *id]));
                let done = place.run(&[&args[..], &["--json"]].concat());
                match done.code {
                    0 => Ok(serde_json::from_str(&done.stdout).unwrap()),
                    4 => Err(done.stderr),
                    _ => panic!("{args:?}: {done:?}"),
                }
            }
        }
    }
}
