//! Rescuing tasks whose worker is gone, and only those.

use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::step::{Renewal, Step};
use steadfast_core::storage::{ClaimRequest, Lapsed, Lease, Storage};
use steadfast_core::task::{Cause, NewTask, State};

use super::bench::*;

super::cases! { "reclaim", 1,
    "P12: rescues ≤ their budget" => a_lost_attempt_is_given_back_and_counted,
    "P12: rescues ≤ their budget" => a_task_that_keeps_losing_its_worker_fails,
    "P3, rule 9" => a_live_lease_is_not_taken_away,
    "P3: the statement that writes checks again" => a_rescue_checks_the_lease_again,
    "P4" => a_rescue_checks_the_fence_again,
    "P6, rule 7" => a_repeated_rescue_is_already,
    "Query::Lapsed" => a_lapsed_lease_says_what_its_rescue_is_decided_by,
    "Query::Lapsed" => lapsed_leases_are_paged_longest_lapsed_first,
    "Query::Lapsed" => only_running_tasks_have_lapsed_leases,
    "P12: attempts" => a_rescue_takes_nothing_from_the_attempts,
}

async fn a_lost_attempt_is_given_back_and_counted<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let before = bench.task("a").await;
    let lapsed = bench.let_lapse().await;
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Ready);
    let after = bench.task("a").await;
    assert_eq!((after.state, after.rev), (State::Ready, before.rev + 1));
    assert_eq!((after.attempt, after.rescues, after.fence), (0, 1, 1));
    assert_eq!((after.cause, after.lease_expires_at), (Some(Cause::LeaseLapsed), None));
    assert_eq!((after.due_at, after.finished_at), (before.due_at, None));
    let attempts = bench.attempts("a").await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].fence, attempts[0].attempt, attempts[0].cause), (1, 1, Cause::LeaseLapsed));
    assert_eq!((attempts[0].claimed_at, attempts[0].ended_at), (START, bench.now()));
    let next = bench.claim_in("a").await;
    assert_eq!((next.attempt, next.fence), (lease.attempt, lease.fence + 1));
}

async fn a_task_that_keeps_losing_its_worker_fails<S: Storage>(bench: &Bench<S>) {
    for rescues_max in [0, 1, 3] {
        let name = format!("t{rescues_max}");
        bench.insert(NewTask { rescues_max, attempts_max: 1, ..in_own_queue(&name) }).await;
        for rescues in 0..rescues_max {
            assert_eq!(bench.claim_in(&name).await.attempt, 1);
            let lapsed = bench.let_lapse().await;
            assert_eq!((lapsed.rescues, lapsed.rescues_max), (rescues, rescues_max));
            assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Ready);
        }
        bench.claim_in(&name).await;
        let lapsed = bench.let_lapse().await;
        assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Failed);
        let task = bench.task(&name).await;
        assert_eq!((task.cause, task.rescues), (Some(Cause::RescuesUsedUp), rescues_max));
        assert_eq!((task.attempt, task.finished_at), (1, Some(bench.now())));
    }
}

/// What a sweeper with a wrong idea of a lease would send.
fn hasty(lease: &Lease) -> Step {
    reclaim(&Lapsed {
        task: lease.task.clone(),
        fence: lease.fence,
        worker: worker(),
        entered: true,
        rescues: 0,
        rescues_max: 5,
        cancel: None,
        since: Duration::ZERO,
    })
}

async fn a_live_lease_is_not_taken_away<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    bench.clock.advance(LEASE - Duration::from_micros(1));
    let running = bench.task("a").await;
    assert_eq!(bench.lapsed(10).await, []);
    assert_eq!(stale(bench.send(hasty(&lease)).await), head(&running));
    assert_eq!(bench.task("a").await, running);
    bench.clock.advance(Duration::from_micros(2));
    assert_eq!(bench.lapsed(10).await.len(), 1);
    assert_eq!(moved(bench.send(hasty(&lease)).await).state, State::Ready);
}

async fn a_rescue_checks_the_lease_again<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let lapsed = bench.let_lapse().await;
    renewed(bench.send(renew(&lease)).await);
    let running = bench.task("a").await;
    assert_eq!(stale(bench.send(reclaim(&lapsed)).await), head(&running));
    assert_eq!(bench.task("a").await, running, "it was renewed in between");
    bench.clock.advance(LONG);
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Ready);
}

async fn a_rescue_checks_the_fence_again<S: Storage>(bench: &Bench<S>) {
    let first = bench.bring("a", State::Running).await.expect("running");
    let lapsed = bench.let_lapse().await;
    bench.settle(&first, retry(Duration::ZERO)).await;
    assert_eq!(stale(bench.send(reclaim(&lapsed)).await).state, State::Ready);
    bench.claim_in("a").await;
    bench.clock.advance(LONG);
    let running = bench.task("a").await;
    assert_eq!(stale(bench.send(reclaim(&lapsed)).await), head(&running), "that is another attempt's lapse");
    assert_eq!(bench.task("a").await, running);
}

async fn a_repeated_rescue_is_already<S: Storage>(bench: &Bench<S>) {
    bench.bring("a", State::Running).await;
    let lapsed = bench.let_lapse().await;
    moved(bench.send(reclaim(&lapsed)).await);
    let ready = bench.task("a").await;
    already(bench.send(reclaim(&lapsed)).await);
    assert_eq!(bench.task("a").await, ready);
    bench.claim_in("a").await;
    let running = bench.task("a").await;
    already(bench.send(reclaim(&lapsed)).await);
    assert_eq!(bench.task("a").await, running);
}

async fn a_lapsed_lease_says_what_its_rescue_is_decided_by<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { rescues_max: 7, ..in_own_queue("a") }).await;
    bench.claim_in("a").await;
    let lapsed = bench.let_lapse().await;
    let expected = Lapsed {
        task: id("a"),
        fence: 1,
        worker: worker(),
        entered: false,
        rescues: 0,
        rescues_max: 7,
        cancel: None,
        since: LONG - LEASE,
    };
    assert_eq!(lapsed, expected);
    moved(bench.send(reclaim(&lapsed)).await);
    let other = steadfast_core::WorkerId::trusted("worker-2");
    let request =
        ClaimRequest { worker: other.clone(), lease: Duration::from_secs(5), ..claim_request("a", 1) };
    let lease = bench.ask(&request).await.tasks.remove(0);
    let renewal = Renewal { task: id("a"), fence: 2, lease: request.lease, entered: Some(Duration::ZERO) };
    renewed(bench.send(Step::Renew(renewal)).await);
    moved(bench.send(cancel("a", State::Running)).await);
    assert_eq!(lease.fence, 2);
    let expected = Lapsed {
        fence: 2,
        worker: other,
        entered: true,
        rescues: 1,
        cancel: Some("no longer needed".into()),
        since: LONG - Duration::from_secs(5),
        ..expected
    };
    assert_eq!(bench.let_lapse().await, expected);
}

async fn lapsed_leases_are_paged_longest_lapsed_first<S: Storage>(bench: &Bench<S>) {
    for (name, seconds) in [("c", 30), ("a", 50), ("e", 10), ("b", 40), ("d", 20), ("live", 500)] {
        bench.insert(in_own_queue(name)).await;
        let lease = Duration::from_secs(60 - seconds.min(59));
        let lease = if name == "live" { LONG } else { lease };
        bench.ask(&ClaimRequest { lease, ..claim_request(name, 1) }).await;
    }
    bench.clock.advance(Duration::from_secs(60));
    let mut seen = Vec::new();
    for _ in 0..3 {
        for lapsed in bench.lapsed(2).await {
            seen.push((lapsed.task.to_string(), lapsed.since.as_secs()));
            moved(bench.send(reclaim(&lapsed)).await);
        }
    }
    let expected = [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)].map(|(t, s)| (t.to_string(), s));
    assert_eq!(seen, expected);
    assert_eq!(bench.lapsed(2).await, []);
    assert_eq!(bench.state("live").await, State::Running);
}

async fn only_running_tasks_have_lapsed_leases<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        bench.bring(state.as_str(), state).await;
    }
    let lease = bench.bring("given-back", State::Running).await.expect("running");
    bench.settle(&lease, Verdict::Snooze { after: Duration::ZERO }).await;
    assert_eq!(bench.lapsed(10).await, [], "nothing has lapsed yet");
    bench.clock.advance(LONG);
    assert_eq!(bench.lapsed(10).await.remove(0).task, id("running"));
    assert_eq!(bench.lapsed(10).await.len(), 1);
    assert_eq!(bench.lapsed(0).await, []);
}

async fn a_rescue_takes_nothing_from_the_attempts<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { attempts_max: 2, ..in_own_queue("a") }).await;
    bench.run("a", retry(Duration::ZERO)).await;
    for _ in 0..3 {
        assert_eq!(bench.claim_in("a").await.attempt, 2);
        let lapsed = bench.let_lapse().await;
        moved(bench.send(reclaim(&lapsed)).await);
    }
    let last = bench.claim_in("a").await;
    assert_eq!((last.attempt, last.fence), (2, 5));
    assert_eq!(bench.settle(&last, retry(Duration::ZERO)).await.state, State::Failed);
    let task = bench.task("a").await;
    assert_eq!((task.attempt, task.rescues, task.cause), (2, 3, Some(Cause::Error)));
    let numbers: Vec<_> = bench.attempts("a").await.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1, 2, 2, 2]);
}
