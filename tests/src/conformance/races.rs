//! Two calls at once, many rounds: exactly one of the two orders happened, and nobody was forgotten.

use std::time::Duration;

use futures_util::FutureExt;
use steadfast_core::step::{Outcome, States, Step};
use steadfast_core::storage::Storage;
use steadfast_core::task::{Cause, NewTask, OnParentFailure, State};

use super::bench::*;

super::cases! { "races", 4,
    "P10, B6" => two_parents_that_end_at_once_release_their_child,
    "P9, P10, B1" => a_child_added_while_its_parent_ends_is_not_forgotten,
    "P9, B1" => a_child_added_while_its_parent_fails_fails,
    "P9: policies cascade" => a_grandchild_added_while_a_failure_runs_down_fails,
    "P5: terminal absorbs, P9" => a_child_cancelled_while_its_parent_ends_stays_cancelled,
    "P3: the statement that writes checks again" => of_a_renewal_and_a_rescue_one_wins,
    "P3" => of_two_rescues_one_wins,
    "P15" => of_a_claim_and_a_cancel_one_wins,
    "P6" => of_two_settlings_one_wins,
    "P6" => the_same_settling_at_once_is_applied_once,
    "P11" => of_a_settling_and_a_replacing_one_wins,
    "P15" => a_cancel_during_a_retry_is_not_lost,
}

const ROUNDS: usize = 40;

/// Sends each batch by a client of its own, all at once.
async fn at_once<S: Storage, const N: usize>(bench: &Bench<S>, batches: [Vec<Step>; N]) -> [Outcome; N] {
    let parts = batches.into_iter().enumerate().map(|(number, steps)| {
        let store = bench.client(number);
        async move { persist_batch(&store, steps).await }.boxed()
    });
    bench.together(parts).await.try_into().expect("as many outcomes as batches")
}

fn is_applied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Applied(_))
}

async fn two_parents_that_end_at_once_release_their_child<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (left, right, child) = (format!("l{round}"), format!("r{round}"), format!("c{round}"));
        let leases = [
            bench.bring(&left, State::Running).await.expect("running"),
            bench.bring(&right, State::Running).await.expect("running"),
        ];
        bench.insert(dependent(&child, &[&left, &right])).await;
        let outcomes =
            at_once(bench, [vec![settle(&leases[0], done())], vec![settle(&leases[1], done())]]).await;
        assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
        let child = bench.task(&child).await;
        assert_eq!((child.state, child.parents_pending), (State::Ready, 0), "round {round}");
    }
}

async fn a_child_added_while_its_parent_ends_is_not_forgotten<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (parent, child) = (format!("p{round}"), format!("c{round}"));
        let lease = bench.bring(&parent, State::Running).await.expect("running");
        let mut calls = [vec![settle(&lease, done())], vec![put(&dependent(&child, &[&parent]))]];
        calls.rotate_left(round % 2);
        let outcomes = at_once(bench, calls).await;
        assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
        let child = bench.task(&child).await;
        assert_eq!((child.state, child.parents_pending), (State::Ready, 0), "round {round}");
    }
}

async fn a_child_added_while_its_parent_fails_fails<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (parent, fails, runs) = (format!("p{round}"), format!("f{round}"), format!("r{round}"));
        let lease = bench.bring(&parent, State::Running).await.expect("running");
        let parents = vec![after(&parent, OnParentFailure::Run)];
        let children = [
            vec![put(&dependent(&fails, &[&parent]))],
            vec![put(&NewTask { parents, ..in_own_queue(&runs) })],
        ];
        let [first, second] = children;
        let mut calls = [vec![settle(&lease, fail())], first, second];
        calls.rotate_left(round % 3);
        assert!(at_once(bench, calls).await.iter().all(is_applied));
        let child = bench.task(&fails).await;
        assert_eq!(
            (child.state, child.cause),
            (State::Failed, Some(Cause::DependencyFailed)),
            "round {round}"
        );
        assert_eq!(bench.state(&runs).await, State::Ready, "round {round}");
    }
}

async fn a_grandchild_added_while_a_failure_runs_down_fails<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (parent, child, late) = (format!("p{round}"), format!("c{round}"), format!("g{round}"));
        let lease = bench.bring(&parent, State::Running).await.expect("running");
        bench.insert(dependent(&child, &[&parent])).await;
        let mut calls = [vec![settle(&lease, fail())], vec![put(&dependent(&late, &[&child]))]];
        calls.rotate_left(round % 2);
        assert!(at_once(bench, calls).await.iter().all(is_applied));
        for name in [child, late] {
            assert_eq!(bench.state(&name).await, State::Failed, "{name}");
        }
    }
}

async fn a_child_cancelled_while_its_parent_ends_stays_cancelled<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (parent, child, sibling) = (format!("p{round}"), format!("c{round}"), format!("s{round}"));
        let lease = bench.bring(&parent, State::Running).await.expect("running");
        bench.insert(dependent(&child, &[&parent])).await;
        bench.insert(dependent(&sibling, &[&parent])).await;
        let mut calls = [vec![settle(&lease, done())], vec![cancel(&child, State::Blocked)]];
        calls.rotate_left(round % 2);
        assert!(at_once(bench, calls).await.iter().all(is_applied));
        let states = (bench.state(&child).await, bench.state(&sibling).await);
        assert_eq!(states, (State::Cancelled, State::Ready), "round {round}");
    }
}

async fn of_a_renewal_and_a_rescue_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let lease = bench.bring(&name, State::Running).await.expect("running");
        let lapsed = bench.let_lapse().await;
        let [rescue, renewal] = at_once(bench, [vec![reclaim(&lapsed)], vec![renew(&lease)]]).await;
        assert_ne!(is_applied(&rescue), is_applied(&renewal), "{rescue:?} and {renewal:?}");
        if is_applied(&renewal) {
            assert_eq!(stale(rescue).state, State::Running);
            bench.settle(&lease, done()).await;
        } else {
            assert_eq!(stale(renewal).state, State::Ready);
            assert_eq!(bench.task(&name).await.rescues, 1);
        }
    }
}

async fn of_two_rescues_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        bench.bring(&name, State::Running).await;
        let lapsed = bench.let_lapse().await;
        let outcomes = at_once(bench, [vec![reclaim(&lapsed)], vec![reclaim(&lapsed)]]).await;
        assert_eq!(outcomes.iter().filter(|outcome| is_applied(outcome)).count(), 1, "{outcomes:?}");
        let task = bench.task(&name).await;
        assert_eq!((task.rescues, task.attempt), (1, 0));
        assert_eq!(bench.attempts(&name).await.len(), 1);
    }
}

async fn of_a_claim_and_a_cancel_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        bench.insert(in_own_queue(&name)).await;
        let (claimer, canceller) = (bench.client(0), bench.client(1));
        let (from, steps) = (name.clone(), vec![cancel(&name, State::Ready)]);
        let claim = async move { Err(persist_claim(&claimer, &from, 1).await) };
        let cancel = async move { Ok(persist_batch(&canceller, steps).await) };
        let mut answers = bench.together([claim.boxed(), cancel.boxed()]).await;
        let cancelled = answers.pop().expect("two answers").expect("the cancel's");
        let leases = answers.pop().expect("two answers").expect_err("the claim's");
        assert_ne!(is_applied(&cancelled), leases.len() == 1, "{cancelled:?} and {leases:?}");
        let expected = if leases.is_empty() { State::Cancelled } else { State::Running };
        assert_eq!(bench.state(&name).await, expected);
    }
}

async fn of_two_settlings_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let lease = bench.bring(&name, State::Running).await.expect("running");
        let outcomes = at_once(bench, [vec![settle(&lease, done())], vec![settle(&lease, fail())]]).await;
        let [first, second] = outcomes;
        assert_ne!(is_applied(&first), is_applied(&second), "{first:?} and {second:?}");
        let (winner, loser, state) = if is_applied(&first) {
            (first, second, State::Succeeded)
        } else {
            (second, first, State::Failed)
        };
        let task = bench.task(&name).await;
        assert_eq!((task.state, moved(winner), stale(loser)), (state, head(&task), head(&task)));
    }
}

async fn the_same_settling_at_once_is_applied_once<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let lease = bench.bring(&name, State::Running).await.expect("running");
        let again = || vec![settle(&lease, retry(Duration::ZERO))];
        let outcomes = at_once(bench, [again(), again(), again()]).await;
        assert_eq!(outcomes.iter().filter(|outcome| is_applied(outcome)).count(), 1, "{outcomes:?}");
        for outcome in outcomes.into_iter().filter(|outcome| !is_applied(outcome)) {
            assert_eq!(moved_in(&already(outcome)), head(&bench.task(&name).await));
        }
        assert_eq!(bench.attempts(&name).await.len(), 1);
    }
}

async fn of_a_settling_and_a_replacing_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        let lease = bench.bring_task(slotted(&old, &old), State::Running).await.expect("running");
        let calls = [vec![settle(&lease, done())], vec![replace(&old, &new), put(&slotted(&new, &old))]];
        let [settled, replaced] = at_once(bench, calls).await;
        assert_ne!(is_applied(&settled), is_applied(&replaced), "{settled:?} and {replaced:?}");
        let expected = if is_applied(&settled) { State::Succeeded } else { State::Cancelled };
        assert_eq!(bench.state(&old).await, expected);
        assert_eq!(bench.find(&new).await.is_some(), is_applied(&replaced));
    }
}

async fn a_cancel_during_a_retry_is_not_lost<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let lease = bench.bring(&name, State::Running).await.expect("running");
        let calls = [vec![settle(&lease, retry(LONG))], vec![cancel(&name, State::Running)]];
        let [retried, cancelled] = at_once(bench, calls).await;
        assert_ne!(is_applied(&retried), is_applied(&cancelled), "{retried:?} and {cancelled:?}");
        let found = if is_applied(&retried) { stale(cancelled) } else { stale(retried) };
        let task = bench.task(&name).await;
        assert_eq!(found, head(&task));
        moved(bench.send(end(&name, States::UNFINISHED, State::Cancelled, Cause::Cancelled)).await);
    }
}
