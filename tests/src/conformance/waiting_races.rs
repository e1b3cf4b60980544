//! Several calls at once about one slot, many rounds: never is it free while somebody waits for it, and never are
//! there two who have it.

use futures_util::FutureExt;
use steadfast_core::step::{Outcome, Step};
use steadfast_core::storage::{Storage, TaskFilter};
use steadfast_core::task::{Cause, NewTask, OnConflict, State};

use super::bench::*;

super::cases! { "waiting at once", 4,
    "P10, P11" => a_newcomer_that_comes_while_the_holder_ends_is_not_forgotten,
    "P11" => of_newcomers_that_come_at_once_to_a_free_slot_one_has_it,
    "P10, P11" => a_waiter_cancelled_while_the_holder_ends_is_passed_over,
    "P11" => of_two_ends_at_once_one_hands_the_slot_on,
    "P11" => of_a_settling_and_a_replacing_before_a_waiter_one_wins,
    "P9, P10, P11" => a_waiters_parent_may_end_while_its_slot_comes_free,
    "P9, P10, P11" => a_newcomer_that_comes_while_a_failure_ends_the_holder_is_not_forgotten,
    "P10, P11" => a_busy_slot_runs_everybody_once,
}

const ROUNDS: usize = 40;

/// Sends each batch by a client of its own, all at once; they begin in another order in each round.
async fn at_once<S: Storage, const N: usize>(
    bench: &Bench<S>,
    round: usize,
    batches: [Vec<Step>; N],
) -> [Outcome; N] {
    let parts = batches.into_iter().enumerate().map(|(number, steps)| {
        let store = bench.client(number + round);
        async move { persist_batch(&store, steps).await }.boxed()
    });
    bench.together(parts).await.try_into().expect("as many outcomes as batches")
}

fn is_applied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Applied(_))
}

/// Who has the slot, and who waits for it, in the order of arrival.
async fn around<S: Storage>(bench: &Bench<S>, held: &str) -> (Option<String>, Vec<String>) {
    let filter = TaskFilter { slot: Some(slot(held)), unfinished: true, limit: 99, ..TaskFilter::default() };
    let mut tasks = bench.list(filter).await;
    tasks.reverse();
    let (waiting, mut holding): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.slot_waiting);
    assert!(holding.len() <= 1, "two have one slot: {holding:?}");
    let holder = holding.pop().map(|task| task.id.to_string());
    assert!(holder.is_some() || waiting.is_empty(), "nobody has the slot that is waited for: {waiting:?}");
    (holder, waiting.into_iter().map(|task| task.id.to_string()).collect())
}

async fn a_newcomer_that_comes_while_the_holder_ends_is_not_forgotten<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (held, old) = (format!("s{round}"), format!("old{round}"));
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let lease = bench.bring_task(slotted(&old, &held), State::Running).await.expect("running");
        let mut calls =
            [vec![settle(&lease, done())], vec![put(&queued(&a, &held))], vec![put(&queued(&b, &held))]];
        calls.rotate_left(round % 3);
        let outcomes = at_once(bench, round, calls).await;
        assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
        let (holder, waiting) = around(bench, &held).await;
        let holder = holder.expect("somebody has it");
        assert_eq!(waiting.len(), 1, "round {round}");
        assert_eq!(bench.state(&holder).await, State::Ready);
        bench.run(&holder, done()).await;
        assert_eq!(around(bench, &held).await, (Some(waiting[0].clone()), vec![]));
        bench.run(&waiting[0], done()).await;
    }
}

async fn of_newcomers_that_come_at_once_to_a_free_slot_one_has_it<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let held = format!("s{round}");
        let names = [0, 1, 2, 3].map(|number| format!("t{round}-{number}"));
        let calls = names.each_ref().map(|name| vec![put(&queued(name, &held))]);
        assert!(at_once(bench, round, calls).await.iter().all(is_applied));
        for left in (0..4).rev() {
            let (holder, waiting) = around(bench, &held).await;
            let holder = holder.expect("somebody has it");
            assert_eq!((waiting.len(), bench.state(&holder).await), (left, State::Ready), "round {round}");
            bench.run(&holder, done()).await;
            let next = waiting.first().cloned();
            assert_eq!(around(bench, &held).await.0, next, "in the order of arrival");
        }
    }
}

async fn a_waiter_cancelled_while_the_holder_ends_is_passed_over<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (held, old) = (format!("s{round}"), format!("old{round}"));
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let lease = bench.bring_task(slotted(&old, &held), State::Running).await.expect("running");
        bench.insert(queued(&a, &held)).await;
        bench.insert(queued(&b, &held)).await;
        let mut calls = [vec![settle(&lease, done())], vec![cancel(&a, State::Blocked)]];
        calls.rotate_left(round % 2);
        let outcomes = at_once(bench, round, calls).await;
        assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
        assert_eq!(bench.state(&a).await, State::Cancelled);
        assert_eq!(around(bench, &held).await, (Some(b.clone()), vec![]), "round {round}");
        assert_eq!(bench.state(&b).await, State::Ready);
    }
}

async fn of_two_ends_at_once_one_hands_the_slot_on<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (held, old) = (format!("s{round}"), format!("old{round}"));
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let lease = bench.bring_task(slotted(&old, &held), State::Running).await.expect("running");
        bench.insert(queued(&a, &held)).await;
        bench.insert(queued(&b, &held)).await;
        let calls =
            [vec![settle(&lease, done())], vec![settle(&lease, fail())], vec![replace(&old, "nobody")]];
        let outcomes = at_once(bench, round, calls).await;
        assert_eq!(outcomes.iter().filter(|outcome| is_applied(outcome)).count(), 1, "{outcomes:?}");
        assert_eq!(around(bench, &held).await, (Some(a.clone()), vec![b]), "round {round}");
        assert_eq!(bench.task(&a).await.rev, 1, "handed on once");
    }
}

async fn of_a_settling_and_a_replacing_before_a_waiter_one_wins<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (held, old) = (format!("s{round}"), format!("old{round}"));
        let (new, a) = (format!("new{round}"), format!("a{round}"));
        let lease = bench.bring_task(slotted(&old, &held), State::Running).await.expect("running");
        bench.insert(queued(&a, &held)).await;
        let newcomer = NewTask { slot: Some((slot(&held), OnConflict::Replace)), ..in_own_queue(&new) };
        let mut calls = [vec![settle(&lease, done())], vec![replace(&old, &new), put(&newcomer)]];
        calls.rotate_left(round % 2);
        let outcomes = at_once(bench, round, calls).await;
        assert_ne!(is_applied(&outcomes[0]), is_applied(&outcomes[1]), "{outcomes:?}");
        let expected = match bench.task(&old).await.cause {
            Some(Cause::Replaced) => (Some(new.clone()), vec![a]),
            _ => (Some(a), vec![]),
        };
        assert_eq!(bench.find(&new).await.is_some(), expected.0.as_ref() == Some(&new));
        assert_eq!(around(bench, &held).await, expected, "round {round}");
    }
}

async fn a_waiters_parent_may_end_while_its_slot_comes_free<S: Storage>(bench: &Bench<S>) {
    for round in 0..ROUNDS {
        let (held, old) = (format!("s{round}"), format!("old{round}"));
        let (parent, child, b) = (format!("p{round}"), format!("c{round}"), format!("b{round}"));
        let lease = bench.bring_task(slotted(&old, &held), State::Running).await.expect("running");
        let running = bench.bring(&parent, State::Running).await.expect("running");
        bench.insert(NewTask { slot: queued("x", &held).slot, ..dependent(&child, &[&parent]) }).await;
        bench.insert(queued(&b, &held)).await;
        let is_well = round % 4 < 2;
        let verdict = if is_well { done() } else { fail() };
        let mut calls = [vec![settle(&lease, done())], vec![settle(&running, verdict)]];
        calls.rotate_left(round % 2);
        assert!(at_once(bench, round, calls).await.iter().all(is_applied));
        let task = bench.task(&child).await;
        if is_well {
            assert_eq!((task.state, task.parents_pending), (State::Ready, 0), "round {round}");
            assert_eq!(around(bench, &held).await, (Some(child), vec![b]));
        } else {
            assert_eq!((task.state, task.slot_waiting), (State::Failed, false), "round {round}");
            assert_eq!(around(bench, &held).await, (Some(b.clone()), vec![]));
            assert_eq!(bench.state(&b).await, State::Ready);
        }
    }
}

async fn a_newcomer_that_comes_while_a_failure_ends_the_holder_is_not_forgotten<S: Storage>(
    bench: &Bench<S>,
) {
    for round in 0..ROUNDS {
        let (held, parent) = (format!("s{round}"), format!("p{round}"));
        let (old, a) = (format!("old{round}"), format!("a{round}"));
        let running = bench.bring(&parent, State::Running).await.expect("running");
        bench.insert(NewTask { slot: slotted("x", &held).slot, ..dependent(&old, &[&parent]) }).await;
        let mut calls = [vec![settle(&running, fail())], vec![put(&queued(&a, &held))]];
        calls.rotate_left(round % 2);
        assert!(at_once(bench, round, calls).await.iter().all(is_applied));
        assert_eq!(bench.state(&old).await, State::Failed);
        assert_eq!(around(bench, &held).await, (Some(a.clone()), vec![]), "round {round}");
        assert_eq!(bench.state(&a).await, State::Ready);
    }
}

async fn a_busy_slot_runs_everybody_once<S: Storage>(bench: &Bench<S>) {
    const EACH: usize = 20;
    let parts = (0..4).map(|number| {
        let store = bench.client(number);
        let part = async move {
            for turn in 0..EACH {
                let name = format!("w{number}-{turn}");
                let newcomer = NewTask { queue: queue("default"), ..queued(&name, "s") };
                inserted(persist_batch(&store, vec![put(&newcomer)]).await);
                // Whoever has the slot, claimed by whoever comes.
                for lease in persist_claim(&store, "default", 2).await {
                    moved(persist_batch(&store, vec![settle(&lease, done())]).await);
                }
            }
        };
        part.boxed()
    });
    bench.together(parts).await;
    loop {
        let (holder, waiting) = around(bench, "s").await;
        let Some(holder) = holder else { break };
        let lease = bench.claim_in("default").await;
        assert_eq!(lease.task, id(&holder));
        bench.settle(&lease, done()).await;
        assert_eq!(around(bench, "s").await.0, waiting.first().cloned());
    }
    let all = bench.list(TaskFilter { limit: 1_000, ..TaskFilter::default() }).await;
    assert_eq!(all.len(), 4 * EACH);
    assert!(all.iter().all(|task| task.state == State::Succeeded && task.fence == 1));
}
