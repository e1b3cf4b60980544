//! Workers: when each was first and last seen, and what it said of itself.

use std::time::Duration;

use steadfast_core::name::WorkerId;
use steadfast_core::step::{Batch, Beat, Receipt, Step};
use steadfast_core::storage::{Storage, Worker};

use super::bench::*;

super::cases! { "workers", 2,
    "Beat" => a_beat_says_that_a_worker_lives,
    "Beat" => the_last_beat_counts_and_the_first_time_stays,
    "Query::Workers" => workers_are_listed_in_order_of_id,
    "Beat::gone" => a_drained_worker_stays_in_sight,
    "apply: neighbours are unaffected" => beats_are_applied_beside_others,
}

fn beat(worker: &str) -> Beat {
    Beat {
        worker: WorkerId::new(worker).expect("the cases' workers are valid"),
        queues: vec![queue("mail"), queue("default")],
        kinds: vec![kind("scan"), kind("a.b-c_d")],
        concurrency: 10,
        running: 3,
        gone: false,
    }
}

async fn seen<S: Storage>(bench: &Bench<S>, beat: Beat) {
    assert_eq!(applied(bench.send(Step::Beat(beat)).await), [Receipt::Seen]);
}

async fn a_beat_says_that_a_worker_lives<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.workers().await, []);
    let said = beat("w");
    seen(bench, said.clone()).await;
    let expected = Worker {
        id: said.worker,
        queues: said.queues,
        kinds: said.kinds,
        concurrency: 10,
        running: 3,
        gone: false,
        started_at: bench.now(),
        seen_at: bench.now(),
    };
    assert_eq!(bench.workers().await, std::slice::from_ref(&expected));
    match bench.clients[1].read(&steadfast_core::storage::Query::Workers).await.expect("answered").answer {
        steadfast_core::storage::Answer::Workers(workers) => assert_eq!(workers, [expected]),
        other => panic!("not the answer to a question for workers: {other:?}"),
    }
}

async fn the_last_beat_counts_and_the_first_time_stays<S: Storage>(bench: &Bench<S>) {
    let started_at = bench.now();
    seen(bench, beat("w")).await;
    for round in 1..4 {
        bench.clock.advance(Duration::from_secs(5));
        let said =
            Beat { queues: vec![], kinds: vec![kind("k")], concurrency: round, running: 0, ..beat("w") };
        seen(bench, said.clone()).await;
        seen(bench, said).await;
        let workers = bench.workers().await;
        let [worker] = &workers[..] else { panic!("{workers:?}") };
        assert_eq!((worker.started_at, worker.seen_at), (started_at, bench.now()));
        assert_eq!((&worker.queues[..], &worker.kinds[..]), (&[][..], &[kind("k")][..]));
        assert_eq!((worker.concurrency, worker.running), (round, 0));
    }
}

async fn workers_are_listed_in_order_of_id<S: Storage>(bench: &Bench<S>) {
    for name in ["host-2", "Host", "host-10", "a"] {
        seen(bench, beat(name)).await;
    }
    let names: Vec<_> = bench.workers().await.into_iter().map(|worker| worker.id.to_string()).collect();
    assert_eq!(names, ["Host", "a", "host-10", "host-2"], "by its bytes, whatever the store's language is");
}

async fn a_drained_worker_stays_in_sight<S: Storage>(bench: &Bench<S>) {
    seen(bench, beat("w")).await;
    seen(bench, Beat { gone: true, running: 0, ..beat("w") }).await;
    let workers = bench.workers().await;
    assert!(workers.len() == 1 && workers[0].gone, "{workers:?}");
    // A late beat that overtook the last one is put right by whoever sends it.
    seen(bench, beat("w")).await;
    assert!(!bench.workers().await[0].gone);
}

async fn beats_are_applied_beside_others<S: Storage>(bench: &Bench<S>) {
    let calls = [Step::Beat(beat("v")), put(&task("a")), Step::Beat(beat("w")), put(&task("a").with_id("b"))];
    for outcome in bench.send_all(&calls.map(Batch::from)).await {
        applied(outcome);
    }
    assert_eq!(bench.workers().await.len(), 2);
    assert_eq!(bench.claim(9).await.len(), 2);
}
