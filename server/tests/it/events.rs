//! Events: each observed revision once, in order, and exactly one terminal event, wherever the client begins.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::place::{Answer, Place, Server, agent, until};

const CONFIG: &str = r#"
[handlers.slow]
exec = ["sh", "-c", """
touch entered.$STEADFAST_TASK_ID
for step in 1 2 3 4 5 6 7 8; do echo "::progress ${step}0 step $step"; sleep 0.15; done
while [ ! -e go ]; do sleep 0.01; done
"""]
[handlers.fails]
exec = ["sh", "-c", "exit 9"]
attempts = 1
"#;

/// An event as it came.
#[derive(Debug)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

impl Event {
    fn is_terminal(&self) -> bool {
        ["task_succeeded", "task_failed", "task_cancelled"].contains(&self.name.as_str())
    }
}

/// A stream of events.
struct Stream(BufReader<Box<dyn std::io::Read + Send>>);

impl Stream {
    fn open(server: &Server, id: &str, last_seen: Option<u64>) -> Self {
        let mut get =
            agent().get(format!("{}/v1/tasks/{id}/events", server.url)).header("accept", "text/event-stream");
        if let Some(last_seen) = last_seen {
            get = get.header("last-event-id", last_seen.to_string());
        }
        let response = get.call().unwrap();
        assert!(response.status().is_success(), "{response:?}");
        Self(BufReader::new(Box::new(response.into_body().into_reader())))
    }

    /// The next event; none at the end of the stream.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut name, mut data) = (None, String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end_matches('\n');
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.parse().unwrap());
            } else if let Some(text) = line.strip_prefix("event: ") {
                name = text.into();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data.push_str(text);
                data.push('\n');
            } else if let (true, Some(id)) = (line.is_empty(), id) {
                return Some(Event { id, name, data: serde_json::from_str(&data).unwrap() });
            }
        }
    }

    fn rest(mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

#[track_caller]
fn check(events: &[Event], last_seen: Option<u64>) {
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids.first() > last_seen.as_ref(), "{ids:?} after {last_seen:?}");
    let terminal: Vec<bool> = events.iter().map(Event::is_terminal).collect();
    let (last, others) = terminal.split_last().unwrap();
    assert!(*last && !others.contains(&true), "{events:?}");
    for event in events {
        assert_eq!(event.data["rev"], event.id);
        assert_eq!(event.data["event"], *event.name);
    }
}

#[test]
fn a_client_that_comes_back_anywhere_sees_each_event_once_and_one_end() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    server.post(
        "/v1/tasks",
        r#"{"kind":"slow","id":"a","payload":[1,
        2]}"#,
    );
    let mut stream = Stream::open(&server, "a", None);
    // This one goes away and comes back after each event.
    let comes_back = std::thread::scope(|scope| {
        let back = scope.spawn(|| {
            let mut seen: Vec<Event> = Vec::new();
            while !seen.last().is_some_and(Event::is_terminal) {
                let last_seen = seen.last().map(|event| event.id);
                seen.extend(Stream::open(&server, "a", last_seen).next());
            }
            seen
        });
        let first = stream.next().unwrap();
        assert!(["task_queued", "task_started"].contains(&first.name.as_str()), "{first:?}");
        until("the handler was entered", || place.path().join("entered.a").exists().then_some(()));
        std::fs::write(place.path().join("go"), "").unwrap();
        back.join().unwrap()
    });
    check(&comes_back, None);
    let rest = stream.rest();
    check(&rest, None);
    assert_eq!(rest.last().unwrap().name, "task_succeeded");
    assert_eq!(rest.last().unwrap().data["payload"], serde_json::json!([1, 2]));
    // Whatever revision it has seen last, also one that nobody was told.
    let end = rest.last().unwrap().id;
    for last_seen in (0..end).map(Some).chain([None]) {
        let events = Stream::open(&server, "a", last_seen).rest();
        check(&events, last_seen);
        assert_eq!(events.len(), 1, "{events:?}");
    }
    assert_eq!(Stream::open(&server, "a", Some(end)).rest().len(), 0);
    let over = Answer::of(
        agent()
            .get(format!("{}/v1/tasks/a/events", server.url))
            .header("last-event-id", end.to_string())
            .call(),
    );
    assert_eq!(over.unwrap().status, 204);
}

#[test]
fn a_task_that_never_runs_has_its_end_told_as_well() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker"]);
    for (id, body) in [
        ("a", r#"{"kind":"slow","id":"a","delay":"1h"}"#),
        ("b", r#"{"kind":"slow","id":"b","after":["a"]}"#),
    ] {
        assert_eq!(server.post("/v1/tasks", body).status, 201, "{id}");
    }
    let mut streams = ["a", "b"].map(|id| Stream::open(&server, id, None));
    let names = streams.each_mut().map(|stream| stream.next().unwrap().name);
    assert_eq!(names, ["task_scheduled", "task_blocked"]);
    server.post("/v1/tasks/a/cancel", r#"{"reason":"not wanted"}"#);
    let [a, b] = streams.map(Stream::rest);
    check(&a, Some(0));
    check(&b, Some(0));
    assert_eq!((&*a[0].name, &*b[0].name), ("task_cancelled", "task_failed"));
    assert!(b[0].data["message"].as_str().unwrap().starts_with("dependency_failed"), "{b:?}");
}

#[test]
fn events_are_json_for_whoever_wants_that() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.run(&["submit", "fails", "--id", "a", "--wait"]);
    let get = |last_seen: &str| {
        let get =
            agent().get(format!("{}/v1/tasks/a/events", server.url)).header("accept", "application/json");
        Answer::of(get.header("last-event-id", last_seen).call()).unwrap()
    };
    let events = get("").json();
    let event = &events["events"][0];
    assert_eq!(
        (&event["event"], &event["id"], &event["kind"]),
        (&"task_failed".into(), &"a".into(), &"fails".into())
    );
    assert!(event["message"].as_str().unwrap().starts_with("exit_code: exit code 9"), "{event}");
    let end = event["rev"].to_string();
    assert_eq!(get(&end).json(), serde_json::json!({ "events": [] }));
    let wrong = get("yesterday");
    assert_eq!((wrong.status, &wrong.json()["field"]), (400, &"Last-Event-ID".into()));
}

#[test]
fn a_stream_ends_with_its_server() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker"]);
    server.post("/v1/tasks", r#"{"kind":"slow","id":"a"}"#);
    let mut stream = Stream::open(&server, "a", None);
    assert_eq!(stream.next().unwrap().name, "task_queued");
    server.stop();
    assert!(stream.next().is_none());
}

#[test]
fn watch_shows_what_becomes_of_a_task() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    // A line break in a payload makes no second line.
    place.json(&["submit", "slow", "--id", "a", "--payload", "[1,\n2]"]);
    std::fs::write(place.path().join("go"), "").unwrap();
    let watched = std::thread::scope(|scope| {
        let ways = [vec![], vec!["--server", &server.url]];
        let watchers = ways.map(|way| {
            let place = &place;
            scope.spawn(move || place.run(&[&way[..], &["watch", "a", "--json"]].concat()))
        });
        watchers.map(|watcher| watcher.join().unwrap())
    });
    for done in watched {
        assert_eq!(done.code, 0, "{done:?}");
        let events: Vec<Value> =
            done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.last().unwrap()["event"], "task_succeeded");
    }
    let failed = place.json(&["submit", "fails"]);
    let done = place.run(&["watch", failed["id"].as_str().unwrap()]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.lines().last().unwrap().contains("exit code 9"), "{done:?}");
}
