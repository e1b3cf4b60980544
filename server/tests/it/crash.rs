//! A server that is killed again and again, while tasks come in.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;

use crate::attempts::{assert_no_overlaps, exclusive, marker, output, processes};
use crate::place::{Answer, Place, Server, agent, until};

const TASKS: usize = 200;
const KILLS: usize = 5;

#[test]
fn tasks_survive_a_server_that_is_killed_again_and_again() {
    let marker = marker("crash");
    let place = Place::with(&exclusive("work", &marker, "sleep 0.05"));
    let start = || Server::start(&place, &["--lease", "1s", "--concurrency", "8"]);
    let mut server = start();
    let url = Mutex::new(server.url.clone());
    let posted = AtomicUsize::new(0);
    let ids = std::thread::scope(|scope| {
        let client = scope.spawn(|| (0..TASKS).map(|number| post(&url, number, &posted)).collect::<Vec<_>>());
        for kill in 1..=KILLS {
            // Spread over the posting, and each while attempts run.
            until("tasks were posted", || {
                (posted.load(Ordering::SeqCst) >= kill * TASKS / (KILLS + 1)).then_some(())
            });
            until("an attempt runs", || (!processes(&marker).is_empty()).then_some(()));
            server.process.signal(Signal::KILL);
            server.process.ended();
            until("no process outlives its attempt", || processes(&marker).is_empty().then_some(()));
            server = start();
            *url.lock().unwrap_or_else(PoisonError::into_inner) = server.url.clone();
        }
        client.join().unwrap()
    });
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), TASKS);
    for id in &ids {
        let task = server.get(&format!("/v1/tasks/{id}?wait=60s")).json();
        assert_eq!(task["state"], "succeeded", "{task}");
        assert_eq!(task["id"], **id);
        assert_eq!(task["output_base64"], output(id));
    }
    assert_no_overlaps(&place);
    server.stop();
    assert_eq!(processes(&marker), [""; 0]);
}

/// Posts one task, under one key, until it is answered; says its id.
fn post(url: &Mutex<String>, number: usize, posted: &AtomicUsize) -> String {
    let id = until("the task is accepted", || {
        let url = url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let post = agent().post(format!("{url}/v1/tasks")).header("Idempotency-Key", format!("k{number}"));
        let answer = Answer::of(post.send(r#"{"kind":"work"}"#)).ok()?;
        // While it drains or the store is away it says so; killed, it says nothing.
        (answer.status < 500).then(|| answer.json()["id"].as_str().expect("it is accepted").to_owned())
    });
    posted.fetch_add(1, Ordering::SeqCst);
    id
}
