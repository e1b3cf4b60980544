//! A server and two workers in a storm: killed, stopped past their leases and continued, restarted, and the database
//! crashed under them, at moments from a seed, while tasks come in over HTTP. Each task is a real process.
//!
//! At the end every task that was acknowledged has ended once, under the id that was answered; no other task is there,
//! no attempts of one task ran at the same time, and no process is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use steadfast_tests::postgres_server::{Options, PostgresServer};
use steadfast_tests::random::Random;

use crate::attempts::{assert_no_overlaps, exclusive, output, processes};
use crate::place::{Answer, Place, Server, Worker, agent, until};

/// Of either store; another one is another storm.
const SEED: u64 = 7;
/// How often each kind of blow falls.
const ROUNDS: usize = 2;
/// The longest calm between two blows.
const CALM_MS_MAX: usize = 400;
const LEASE: &str = "1s";
/// How long something is stopped: past the lease in any case, and mostly past the sweep that follows.
const FROZEN_MS_MIN: usize = 1_050;
const FROZEN_MS_MAX: usize = 2_500;
/// Who posts, side by side.
const CLIENTS: usize = 2;
/// How many tasks each posts at most, and how often.
const POSTS_MAX: usize = 300;
const POST_EVERY: Duration = Duration::from_millis(60);
/// Tasks whose first attempt never ends by itself.
const HANGING: usize = 3;

/// `work` is soon done; the first attempt of `hang` never is. The marker is also the number of seconds for which it
/// sleeps, so that its child is found like itself.
fn config(marker: &str) -> String {
    let hang = format!("[ $STEADFAST_FENCE -gt 1 ] || sleep {marker}");
    exclusive("work", marker, "sleep 0.1") + &exclusive("hang", marker, &hang)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillWorker,
    FreezeWorker,
    KillServer,
    FreezeServer,
    RestartServer,
    CrashDatabase,
}

#[test]
fn acknowledged_tasks_end_once_in_a_storm_on_sqlite() {
    let marker = seconds(1);
    let place = Place::with(&config(&marker));
    let store = format!("sqlite:{}", place.path().join("steadfast.db").display());
    storm(&place, &store, &marker, None);
}

#[test]
fn acknowledged_tasks_end_once_in_a_storm_on_postgres() {
    let test = "acknowledged_tasks_end_once_in_a_storm_on_postgres";
    let Some(database) = PostgresServer::start_or_skip(test, Options { fsync: true, settings: &[] }) else {
        return;
    };
    let marker = seconds(2);
    let place = Place::with(&config(&marker));
    storm(&place, &database.create_database("storm").unwrap(), &marker, Some(&database));
}

/// A number of seconds that nobody else sleeps for.
fn seconds(number: u32) -> String {
    format!("{}", 1_000_000_000 + u64::from(std::process::id()) * 10 + u64::from(number))
}

fn storm(place: &Place, store: &str, marker: &str, database: Option<&PostgresServer>) {
    let mut random = Random::new(SEED);
    let mut crew = Crew::start(place, store);
    for number in 0..HANGING {
        let task = format!(r#"{{"kind":"hang","id":"hang-{number}"}}"#);
        assert_eq!(crew.server.post("/v1/tasks", &task).status, 201);
    }
    until("a first attempt hangs", || (!processes(marker).is_empty()).then_some(()));
    let over = AtomicBool::new(false);
    let url = Mutex::new(crew.server.url.clone());
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (url, over) = (&url, &over);
                scope.spawn(move || post_all(client, url, over))
            })
            .collect();
        for blow in blows(&mut random, database.is_some()) {
            std::thread::sleep(Duration::from_millis(random.below(CALM_MS_MAX) as u64));
            let frozen = FROZEN_MS_MIN + random.below(FROZEN_MS_MAX - FROZEN_MS_MIN);
            let frozen = Duration::from_millis(frozen as u64);
            crew.strike(blow, random.below(2), frozen, database);
            url.lock().unwrap().clone_from(&crew.server.url);
        }
        over.store(true, Ordering::SeqCst);
        let posted = clients.into_iter().flat_map(|client| client.join().unwrap());
        posted.chain((0..HANGING).map(|number| format!("hang-{number}"))).collect()
    });
    // Whatever hangs still, its worker dies now.
    for worker in 0..2 {
        crew.strike(Blow::KillWorker, worker, Duration::ZERO, None);
    }
    judge(&crew, &acknowledged);
    assert_no_overlaps(place);
    crew.stop();
    assert_eq!(processes(marker), [""; 0], "no process outlives its attempt");
}

/// Every kind of blow equally often, in an order from the seed.
fn blows(random: &mut Random, with_database: bool) -> Vec<Blow> {
    let mut kinds =
        vec![Blow::KillWorker, Blow::FreezeWorker, Blow::KillServer, Blow::FreezeServer, Blow::RestartServer];
    kinds.extend(with_database.then_some(Blow::CrashDatabase));
    let mut left = kinds.repeat(ROUNDS);
    let mut blows = Vec::new();
    while !left.is_empty() {
        blows.push(left.swap_remove(random.below(left.len())));
    }
    println!("seed {SEED}: {blows:?}");
    blows
}

fn judge(crew: &Crew<'_>, acknowledged: &BTreeSet<String>) {
    let mut ends = BTreeMap::new();
    for id in acknowledged {
        let task = crew.server.get(&format!("/v1/tasks/{id}?wait=60s")).json();
        assert_eq!((&task["id"], &task["state"]), (&id.as_str().into(), &"succeeded".into()), "{task}");
        assert_eq!(task["output_base64"], output(id), "{task}");
        if id.starts_with("hang-") {
            assert!(task["rescues"].as_u64() > Some(0), "its first worker died: {task}");
        }
        ends.insert(id.clone(), (task["rev"].clone(), task["finished_at"].clone()));
    }
    // Nothing ended twice, and no request was stored twice.
    let mut found = BTreeMap::new();
    for state in ["blocked", "scheduled", "ready", "running", "succeeded", "failed", "cancelled"] {
        let listed = crew.place.json(&["--store", crew.store, "list", "--state", state, "--limit", "1000"]);
        for task in listed.as_array().or_else(|| listed["tasks"].as_array()).unwrap() {
            let end = (task["rev"].clone(), task["finished_at"].clone());
            found.insert(task["id"].as_str().unwrap().to_owned(), end);
        }
    }
    assert_eq!(found, ends);
}

/// Posts tasks until the storm is over; says their ids. Every other one names its id, the rest have a key.
fn post_all(client: usize, url: &Mutex<String>, over: &AtomicBool) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < POSTS_MAX && !over.load(Ordering::SeqCst) {
        let name = format!("{client}-{}", ids.len());
        let has_id = ids.len() % 2 == 0;
        let body =
            if has_id { format!(r#"{{"kind":"work","id":"{name}"}}"#) } else { r#"{"kind":"work"}"#.into() };
        let task: Value = until("the task is accepted", || {
            let url = url.lock().unwrap().clone();
            let mut post = agent().post(format!("{url}/v1/tasks"));
            if !has_id {
                post = post.header("Idempotency-Key", &name);
            }
            let answer = Answer::of(post.send(&body)).ok()?;
            // While it drains or the store is away it says so; killed, it says nothing.
            (answer.status < 500).then(|| answer.json())
        });
        let id = task["id"].as_str().unwrap_or_else(|| panic!("{task}")).to_owned();
        assert!(!has_id || id == name, "the id that was asked for, not {id}");
        ids.push(id);
        std::thread::sleep(POST_EVERY);
    }
    ids
}

/// The server and the workers, each a process.
struct Crew<'a> {
    place: &'a Place,
    store: &'a str,
    server: Server,
    workers: [Worker; 2],
}

impl<'a> Crew<'a> {
    fn start(place: &'a Place, store: &'a str) -> Self {
        let server = server(place, store);
        Self { place, store, server, workers: [worker(place, store), worker(place, store)] }
    }

    fn strike(&mut self, blow: Blow, which: usize, frozen: Duration, database: Option<&PostgresServer>) {
        match blow {
            Blow::KillWorker => {
                self.workers[which].process.signal(Signal::KILL);
                self.workers[which].process.ended();
                self.workers[which] = worker(self.place, self.store);
            }
            Blow::FreezeWorker => {
                self.workers[which].process.signal(Signal::STOP);
                std::thread::sleep(frozen);
                self.workers[which].process.signal(Signal::CONT);
            }
            Blow::KillServer => {
                self.server.process.signal(Signal::KILL);
                self.server.process.ended();
                self.server = server(self.place, self.store);
            }
            Blow::FreezeServer => {
                self.server.process.signal(Signal::STOP);
                std::thread::sleep(frozen);
                self.server.process.signal(Signal::CONT);
            }
            Blow::RestartServer => {
                self.server.process.signal(Signal::TERM);
                assert_eq!(self.server.process.ended().code(), Some(0));
                self.server = server(self.place, self.store);
            }
            Blow::CrashDatabase => database.expect("only where there is one").crash_and_restart().unwrap(),
        }
    }

    fn stop(self) {
        self.workers.into_iter().for_each(Worker::stop);
        self.server.stop();
    }
}

fn server(place: &Place, store: &str) -> Server {
    Server::start(place, &["--no-worker", "--store", store])
}

fn worker(place: &Place, store: &str) -> Worker {
    Worker::start(place, &["--store", store, "--lease", LEASE, "--concurrency", "4"])
}
