//! Prolonging leases.

use std::time::Duration;

use steadfast_core::step::{Renewal, Step};
use steadfast_core::storage::{Lease, Storage};
use steadfast_core::task::State;

use super::bench::*;

super::cases! { "renew", 1,
    "rule 9, rule 10: never on renew" => a_renewal_prolongs_from_now_and_is_no_revision,
    "P3: one valid lease" => only_the_attempt_that_runs_is_renewed,
    "Renewal" => a_lapsed_lease_that_nobody_rescued_revives,
    "Renewal: entered" => the_moment_of_entering_is_kept_once,
    "rule 7: the same batch again is safe" => a_renewal_may_be_repeated,
    "P21, P14" => a_renewal_of_a_new_attempt_says_nothing_about_the_old_one,
}

async fn a_renewal_prolongs_from_now_and_is_no_revision<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let before = bench.task("a").await;
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(renewed(bench.send(renew(&lease)).await), None);
    let expected = steadfast_core::Task { lease_expires_at: Some(bench.now() + LEASE), ..before };
    assert_eq!(bench.task("a").await, expected, "nothing but the lease changed");
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(bench.lapsed(10).await, [], "40 s after the claim, 20 s after the renewal");
}

async fn only_the_attempt_that_runs_is_renewed<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        let name = state.as_str();
        let lease = bench.bring(name, state).await;
        let before = bench.task(name).await;
        let renewal = |fence| {
            Step::Renew(Renewal { task: id(name), fence, lease: LONG, entered: Some(Duration::ZERO) })
        };
        for fence in [before.fence.wrapping_sub(1) & 0xffff, before.fence + 1] {
            assert_eq!(stale(bench.send(renewal(fence)).await), head(&before), "{state}");
        }
        if lease.is_some() && state == State::Running {
            continue;
        }
        assert_eq!(stale(bench.send(renewal(before.fence)).await), head(&before), "{state}");
        assert_eq!(bench.task(name).await, before, "{state}: nothing changed");
    }
}

async fn a_lapsed_lease_that_nobody_rescued_revives<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let lapsed = bench.let_lapse().await;
    renewed(bench.send(renew(&lease)).await);
    assert_eq!(bench.lapsed(10).await, []);
    let running = bench.task("a").await;
    assert_eq!(stale(bench.send(reclaim(&lapsed)).await), head(&running), "the rescue comes too late");
    assert_eq!(bench.task("a").await, running);
    bench.settle(&lease, done()).await;
    bench.bring("b", State::Running).await;
    let lapsed = bench.let_lapse().await;
    let lost = Lease { task: id("b"), fence: lapsed.fence, ..lease };
    moved(bench.send(reclaim(&lapsed)).await);
    assert_eq!(stale(bench.send(renew(&lost)).await).state, State::Ready, "the renewal comes too late");
}

async fn the_moment_of_entering_is_kept_once<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let entered = |ago| {
        let entered = Some(Duration::from_millis(ago));
        Step::Renew(Renewal { task: id("a"), fence: lease.fence, lease: LEASE, entered })
    };
    bench.clock.advance(Duration::from_secs(5));
    renewed(bench.send(renew(&lease)).await);
    assert_eq!(bench.task("a").await.entered_at, None);
    renewed(bench.send(entered(4_000)).await);
    let entered_at = bench.now() - Duration::from_secs(4);
    assert_eq!(bench.task("a").await.entered_at, Some(entered_at));
    bench.clock.advance(Duration::from_secs(5));
    for step in [entered(10), entered(60_000), renew(&lease)] {
        renewed(bench.send(step).await);
        assert_eq!(bench.task("a").await.entered_at, Some(entered_at));
    }
}

async fn a_renewal_may_be_repeated<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    for _ in 0..3 {
        assert_eq!(renewed(bench.send(renew(&lease)).await), None);
    }
    moved(bench.send(cancel("a", State::Running)).await);
    for _ in 0..3 {
        assert_eq!(renewed(bench.send(renew(&lease)).await).as_deref(), Some("no longer needed"));
    }
}

async fn a_renewal_of_a_new_attempt_says_nothing_about_the_old_one<S: Storage>(bench: &Bench<S>) {
    let first = bench.bring("a", State::Running).await.expect("running");
    bench.clock.advance(Duration::from_secs(1));
    bench.settle(&first, retry(Duration::ZERO)).await;
    let second = bench.claim_in("a").await;
    let entered = Some(Duration::ZERO);
    let renewal = Renewal { task: id("a"), fence: second.fence, lease: LEASE, entered };
    renewed(bench.send(Step::Renew(renewal)).await);
    assert_eq!(bench.task("a").await.entered_at, Some(bench.now()));
    assert_eq!(bench.attempts("a").await[0].entered_at, None);
}
