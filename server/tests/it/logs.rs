//! What handlers say while they run: lines of their log, and how far they are.

use serde_json::Value;

use crate::place::{Answer, Place, Server, agent};

const CONFIG: &str = r#"
[handlers.slow]
exec = ["sh", "-c", "echo '::progress 40 half of it'; while [ ! -e go ]; do sleep 0.01; done"]
[handlers.fails]
exec = ["sh", "-c", "echo out; echo err >&2; exit 9"]
attempts = 1
"#;

#[test]
fn logs_are_shown_and_followed() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.run(&["submit", "fails", "--id", "a", "--wait"]);
    for way in [vec![], vec!["--server", &server.url]] {
        let logs = place.run(&[&way[..], &["logs", "a"]].concat());
        let mut lines: Vec<&str> = logs.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!((logs.code, lines), (0, vec!["err", "out"]), "{logs:?}");
        let followed = place.run(&[&way[..], &["logs", "a", "--follow", "--json"]].concat());
        let lines: Vec<Value> =
            followed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{followed:?}");
        assert!(lines.iter().any(|line| line["stream"] == "stderr" && line["text"] == "err"), "{lines:?}");
    }
    let first = server.get("/v1/tasks/a/log?limit=1").json();
    assert_eq!(first["lines"].as_array().unwrap().len(), 1);
    let rest = server.get(&format!("/v1/tasks/a/log?after={}", first["next"].as_str().unwrap())).json();
    assert_eq!((rest["lines"].as_array().unwrap().len(), &rest["complete"]), (1, &true.into()));
    // Of one that never ran there is nothing, and following it ends with it.
    place.json(&["submit", "slow", "--id", "b", "--delay", "1h"]);
    let follower = std::thread::scope(|scope| {
        let follower = scope.spawn(|| place.run(&["--server", &server.url, "logs", "b", "-f"]));
        place.json(&["cancel", "b"]);
        follower.join().unwrap()
    });
    assert_eq!((follower.code, &*follower.stdout), (0, ""), "{follower:?}");
    assert_eq!(place.run(&["logs", "nobody"]).code, 3);
}

#[test]
fn progress_is_an_event_and_stands_in_the_task() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "slow", "--id", "a"]);
    let progress = serde_json::json!({ "percent": 40, "message": "half of it" });
    let mut rev = 0;
    let task = loop {
        let task = server.get(&format!("/v1/tasks/a?wait=60s&after={rev}")).json();
        assert_eq!(task["finished_at"], Value::Null, "{task}");
        if task["progress"] != Value::Null {
            break task;
        }
        rev = task["rev"].as_u64().unwrap();
    };
    assert_eq!(task["progress"], progress);
    let get = agent().get(format!("{}/v1/tasks/a/events", server.url)).header("accept", "application/json");
    let event = Answer::of(get.call()).unwrap().json()["events"][0].clone();
    assert_eq!((&event["event"], &event["message"]), (&"task_progress".into(), &"40 % half of it".into()));
    std::fs::write(place.path().join("go"), "").unwrap();
    let page = place.run(&["status", "a"]);
    assert!(page.stdout.contains("40 % half of it"), "{page:?}");
}
