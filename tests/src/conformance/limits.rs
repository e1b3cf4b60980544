//! Limits of queues: the number of running tasks, counted in the claim itself.

use std::time::Duration;

use steadfast_core::step::Receipt;
use steadfast_core::storage::{ClaimRequest, Storage};
use steadfast_core::task::{Due, NewTask};

use super::bench::*;

super::cases! { "limits", 1,
    "P18" => no_more_than_the_limit_run_at_once,
    "P18" => every_end_of_an_attempt_makes_room,
    "P18" => a_limit_of_zero_lets_none_run,
    "P18" => a_limit_may_be_raised_lowered_and_lifted,
    "P18" => each_queue_has_its_own_limit,
    "P18, saturated groups come first" => a_full_queue_does_not_hold_up_the_others,
    "P18" => a_lapsed_lease_counts_until_its_rescue,
    "ClaimRequest: order" => a_limited_queue_is_claimed_in_order,
    "rule 7: the same batch again is safe" => a_limit_may_be_set_again,
}

async fn fill<S: Storage>(bench: &Bench<S>, of: &str, count: usize) {
    for number in 0..count {
        bench.insert(NewTask { queue: queue(of), ..task(&format!("{of}-{number}")) }).await;
    }
}

async fn set<S: Storage>(bench: &Bench<S>, of: &str, concurrency: Option<u32>) {
    assert_eq!(applied(bench.send(limit(of, concurrency)).await), [Receipt::Limited]);
}

async fn no_more_than_the_limit_run_at_once<S: Storage>(bench: &Bench<S>) {
    set(bench, "default", Some(3)).await;
    fill(bench, "default", 10).await;
    let first = bench.claim(2).await;
    assert_eq!(first.len(), 2);
    assert_eq!(bench.claim(5).await.len(), 1);
    assert_eq!(bench.claim(5).await, []);
    bench.settle(&first[0], done()).await;
    bench.settle(&first[1], done()).await;
    assert_eq!(bench.claim(5).await.len(), 2);
}

async fn every_end_of_an_attempt_makes_room<S: Storage>(bench: &Bench<S>) {
    set(bench, "default", Some(1)).await;
    fill(bench, "default", 6).await;
    let cancelled = steadfast_core::Verdict::Cancel { reason: "no".into() };
    let snooze = steadfast_core::Verdict::Snooze { after: LONG };
    for verdict in [done(), fail(), retry(LONG), cancelled, snooze] {
        let lease = bench.claim_in("default").await;
        assert_eq!(bench.claim(5).await, []);
        bench.settle(&lease, verdict).await;
    }
    assert_eq!(bench.claim(5).await.len(), 1);
}

async fn a_limit_of_zero_lets_none_run<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 2).await;
    set(bench, "default", Some(0)).await;
    assert_eq!(bench.claim(5).await, []);
    set(bench, "default", None).await;
    assert_eq!(bench.claim(5).await.len(), 2);
}

async fn a_limit_may_be_raised_lowered_and_lifted<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 20).await;
    let mut running = bench.claim(4).await;
    set(bench, "default", Some(2)).await;
    assert_eq!(bench.claim(9).await, [], "those that run go on, and none is added");
    for _ in 0..3 {
        bench.settle(&running.remove(0), done()).await;
    }
    assert_eq!(bench.claim(9).await.len(), 1);
    set(bench, "default", Some(5)).await;
    assert_eq!(bench.claim(9).await.len(), 3);
    set(bench, "default", Some(u32::MAX)).await;
    assert_eq!(bench.claim(2).await.len(), 2);
    set(bench, "default", None).await;
    assert_eq!(bench.claim(99).await.len(), 10);
}

async fn each_queue_has_its_own_limit<S: Storage>(bench: &Bench<S>) {
    for (of, concurrency) in [("a", Some(1)), ("b", None), ("c", Some(2))] {
        fill(bench, of, 4).await;
        set(bench, of, concurrency).await;
    }
    let all = ClaimRequest { queues: ["c", "b", "a"].map(queue).to_vec(), ..claim_request("a", 100) };
    let leases = bench.ask(&all).await.tasks;
    let from: Vec<_> = leases.iter().map(|lease| lease.queue.as_str()).collect();
    assert_eq!(from, ["c", "c", "b", "b", "b", "b", "a"]);
    assert_eq!(bench.ask(&all).await.tasks, []);
}

async fn a_full_queue_does_not_hold_up_the_others<S: Storage>(bench: &Bench<S>) {
    fill(bench, "full", 50).await;
    fill(bench, "free", 3).await;
    set(bench, "full", Some(1)).await;
    let both = ClaimRequest { queues: ["full", "free"].map(queue).to_vec(), ..claim_request("full", 3) };
    let names = |leases: &[steadfast_core::storage::Lease]| {
        leases.iter().map(|lease| lease.task.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&bench.ask(&both).await.tasks), ["full-0", "free-0", "free-1"]);
    assert_eq!(names(&bench.ask(&both).await.tasks), ["free-2"]);
}

async fn a_lapsed_lease_counts_until_its_rescue<S: Storage>(bench: &Bench<S>) {
    set(bench, "default", Some(1)).await;
    fill(bench, "default", 2).await;
    assert_eq!(bench.claim(5).await.len(), 1);
    let lapsed = bench.let_lapse().await;
    assert_eq!(bench.claim(5).await, [], "its worker may be alive, and may renew");
    moved(bench.send(reclaim(&lapsed)).await);
    assert_eq!(bench.claim(5).await.len(), 1);
}

async fn a_limited_queue_is_claimed_in_order<S: Storage>(bench: &Bench<S>) {
    set(bench, "default", Some(3)).await;
    for (name, priority) in [("d", 1), ("c", 0), ("b", 0), ("a", -1)] {
        bench.insert(NewTask { priority, ..task(name) }).await;
    }
    bench.insert(NewTask { kind: kind("other"), priority: -9, ..task("other") }).await;
    bench.insert(NewTask { due: Due::After(LEASE), priority: -9, ..task("later") }).await;
    let claimed = bench.claim(9).await;
    assert_eq!(claimed.iter().map(|lease| lease.task.as_str()).collect::<Vec<_>>(), ["a", "c", "b"]);
    for lease in claimed {
        bench.settle(&lease, done()).await;
    }
    let claimed = bench.ask(&claim_request("default", 2)).await;
    assert_eq!((claimed.tasks.len(), claimed.next_due), (1, Some(LEASE)));
    bench.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(bench.claim(9).await[0].task, id("later"), "a task that is due counts like any other");
}

async fn a_limit_may_be_set_again<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 5).await;
    for _ in 0..3 {
        set(bench, "default", Some(2)).await;
    }
    assert_eq!(bench.claim(9).await.len(), 2);
    set(bench, "unused", None).await;
}
