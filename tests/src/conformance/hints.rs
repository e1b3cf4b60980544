//! Wake-ups. They may be lost in trouble; in a healthy store they come.

use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::storage::Storage;
use steadfast_core::task::State;
use steadfast_core::wake::{Hint, Hints};

use super::bench::*;

super::cases! { "hints", 2,
    "hints wake an idle worker" => a_new_task_is_hinted_at,
    "hints wake an idle worker" => a_released_child_is_hinted_at,
    "hints wake an idle worker" => an_attempt_given_back_is_hinted_at,
    "P15: the handler is told" => a_request_to_cancel_is_hinted_at,
    "a waiter learns of the end" => an_end_is_hinted_at,
    "P18: room is made use of" => room_in_a_limited_queue_is_hinted_at,
    "several processes on one store" => other_clients_are_hinted_at,
}

/// The longest that a hint may take. It is lossy by contract, but not while nothing is wrong.
const HINT_LIMIT: Duration = Duration::from_secs(10);
/// How often another client is given something to hear of. It may have begun to listen only after the first.
const CHANGES_MAX: usize = 10;

async fn hear<S: Storage>(bench: &Bench<S>, hints: &mut Hints, wanted: impl Fn(Hint) -> bool) {
    assert!(heard_within(bench, hints, wanted, HINT_LIMIT).await, "no hint within {HINT_LIMIT:?}");
}

/// Waits for the hint that a task may have become ready.
pub(super) async fn hear_ready<S: Storage>(bench: &Bench<S>, hints: &mut Hints) {
    hear(bench, hints, |hint| hint.ready).await;
}

async fn heard_within<S: Storage>(
    bench: &Bench<S>,
    hints: &mut Hints,
    wanted: impl Fn(Hint) -> bool,
    limit: Duration,
) -> bool {
    let heard = Box::pin(async { while !wanted(hints.wait().await) {} });
    matches!(select(heard, bench.host.sleep(limit)).await, Either::Left(_))
}

async fn a_new_task_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    let mut hints = bench.store().hints();
    bench.insert(task("a")).await;
    hear(bench, &mut hints, |hint| hint.ready).await;
}

async fn a_released_child_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("parent", State::Running).await.expect("running");
    bench.insert(dependent("child", &["parent"])).await;
    let mut hints = bench.store().hints();
    bench.settle(&lease, done()).await;
    hear(bench, &mut hints, |hint| hint.ready).await;
}

async fn an_attempt_given_back_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let mut hints = bench.store().hints();
    bench.settle(&lease, retry(Duration::ZERO)).await;
    hear(bench, &mut hints, |hint| hint.ready).await;
}

async fn a_request_to_cancel_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    bench.bring("a", State::Running).await;
    let mut hints = bench.store().hints();
    moved(bench.send(cancel("a", State::Running)).await);
    hear(bench, &mut hints, |hint| hint.changed).await;
}

async fn an_end_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("a", State::Running).await.expect("running");
    let mut hints = bench.store().hints();
    bench.settle(&lease, done()).await;
    hear(bench, &mut hints, |hint| hint.changed).await;
}

async fn room_in_a_limited_queue_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    applied(bench.send(limit("default", Some(1))).await);
    applied(bench.send_batch(vec![put(&task("a")), put(&task("b"))]).await);
    // The claimer wanted more, and got one: it knows of no other that it could have.
    let leases = bench.claim(5).await;
    let mut hints = bench.store().hints();
    bench.settle(&leases[0], done()).await;
    hear(bench, &mut hints, |hint| hint.ready).await;
}

async fn other_clients_are_hinted_at<S: Storage>(bench: &Bench<S>) {
    let mut hints = bench.clients[1].hints();
    let patience = HINT_LIMIT / u32::try_from(CHANGES_MAX).expect("few");
    for number in 0..CHANGES_MAX {
        bench.insert(task(&format!("t{number}"))).await;
        if heard_within(bench, &mut hints, |hint| hint.ready, patience).await {
            break;
        }
        assert!(number + 1 < CHANGES_MAX, "not one hint of {CHANGES_MAX} changes within {HINT_LIMIT:?}");
    }
    let leases = bench.claim(1).await;
    let mut hints = bench.clients[1].hints();
    moved(bench.send(cancel(leases[0].task.as_str(), State::Running)).await);
    hear(bench, &mut hints, |hint| hint.changed).await;
}
