//! What handlers say while they run: lines of their log, and how far they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use steadfast::core::step::Outcome;
use steadfast::core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast::core::wake::Hints;
use steadfast::core::{Batch, Engine};
use steadfast::{AnyStorage, Error, Kind, NewTask, Storage, StoreId, StoreUrl, TokioClock};
use steadfast_server::service::Service;

use crate::place::{Answer, Place, Server, agent};

const CONFIG: &str = r#"
[handlers.slow]
exec = ["sh", "-c", "echo '::progress 40 half of it'; while [ ! -e go ]; do sleep 0.01; done"]
[handlers.fails]
exec = ["sh", "-c", "echo out; echo err >&2; exit 9"]
attempts = 1
[handlers.named]
exec = ["sh", "-c", "echo '::alias other'; echo said"]
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
fn logs_are_found_by_an_alias() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "named", "--id", "a", "--wait"]);
    let [own, other] = ["a", "other"].map(|id| server.get(&format!("/v1/tasks/{id}/log?wait=60s")).json());
    assert_eq!(own, other);
    assert_eq!((&own["complete"], &own["lines"][1]["text"]), (&true.into(), &"said".into()));
}

/// A store that counts the reads of whole tasks and those of lines.
#[derive(Debug, Clone)]
struct Counting {
    store: AnyStorage,
    tasks: Arc<AtomicU32>,
    looks: Arc<AtomicU32>,
}

impl Storage for Counting {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.store.claim(request).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.store.apply(batches).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let count = match query {
            Query::Task(_) | Query::Tasks(_) => Some(&self.tasks),
            Query::Log { .. } => Some(&self.looks),
            _ => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.store.read(query).await
    }

    fn hints(&self) -> Hints {
        self.store.hints()
    }
}

#[tokio::test]
async fn who_waits_for_lines_reads_no_whole_task_and_does_not_look_at_every_hint() {
    let store = AnyStorage::open(&StoreUrl::SqliteInMemory).await.unwrap();
    let counting = Counting { store, tasks: Arc::default(), looks: Arc::default() };
    let (engine, commits) = Engine::new(counting.clone(), TokioClock);
    tokio::spawn(commits);
    let service = Service { engine: engine.clone(), store: StoreId::trusted("counted") };
    let task = || NewTask::new(steadfast::task_id(), Kind::trusted("echo"), *b"{}");
    let followed = task();
    let id = followed.id.clone();
    engine.submit(followed).await.unwrap();
    // Each of them is a hint.
    let others = async {
        loop {
            engine.submit(task()).await.unwrap();
        }
    };
    let log = tokio::select! {
        log = service.log(&id, (0, 0), 10, Duration::from_millis(500)) => log.unwrap(),
        () = others => unreachable!("it goes on and on"),
    };
    assert!(log.lines.is_empty() && !log.complete, "{log:?}");
    // One at once, one each tenth of a second at most, and one at the end, which waits for nothing.
    let looks = counting.looks.load(Ordering::Relaxed);
    assert!(looks <= 7, "{looks}");
    assert_eq!(counting.tasks.load(Ordering::Relaxed), 0);
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
