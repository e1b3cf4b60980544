//! Pruning: what ended long ago is forgotten with all that belongs to it, and nothing else is.

use std::time::Duration;

use steadfast_core::name::WorkerId;
use steadfast_core::step::{Batch, Beat, Prune, Receipt, Refusal, Report, Step};
use steadfast_core::storage::{ClaimRequest, Storage, TaskFilter};
use steadfast_core::task::{Due, KEY_KEPT, NewTask, OnParentFailure, State};

use super::bench::*;

super::cases! { "prune", 1,
    "Prune" => tasks_are_forgotten_at_their_age_and_not_before,
    "Prune" => each_outcome_has_an_age_of_its_own,
    "P1, Prune" => an_unfinished_task_is_never_forgotten,
    "P1, Prune" => a_task_that_a_refused_batch_would_have_ended_is_not_forgotten,
    "Prune::limit" => those_that_ended_first_are_forgotten_first,
    "KEY_KEPT" => a_key_is_kept_however_eagerly_tasks_are_pruned,
    "Prune: all that belongs to them" => nothing_of_a_forgotten_task_is_left,
    "Query::Parents" => a_forgotten_parent_is_still_known_by_name,
    "P9, Prune" => a_forgotten_parent_does_not_hold_up_its_child,
    "P11, Prune" => a_slot_is_not_disturbed,
    "Prune: workers" => workers_that_were_not_seen_for_long_are_forgotten,
    "apply: neighbours are unaffected" => pruning_stands_beside_others_in_a_call,
}

const HOUR: Duration = Duration::from_secs(3_600);
const NEVER: Duration = Duration::from_secs(1_000_000_000);

fn prune(succeeded: Duration, otherwise: Duration, limit: u32) -> Step {
    Step::Prune(Prune { succeeded, otherwise, limit })
}

#[track_caller]
fn pruned(outcome: steadfast_core::step::Outcome) -> u32 {
    match applied(outcome)[..] {
        [Receipt::Pruned(count)] => count,
        ref other => panic!("not the receipt of pruning: {other:?}"),
    }
}

/// Forgets everything that it may.
async fn prune_all<S: Storage>(bench: &Bench<S>) -> u32 {
    pruned(bench.send(prune(Duration::ZERO, Duration::ZERO, 1_000)).await)
}

async fn names<S: Storage>(bench: &Bench<S>) -> Vec<String> {
    let all = bench.list(TaskFilter { limit: 1_000, ..TaskFilter::default() }).await;
    all.into_iter().rev().map(|task| task.id.to_string()).collect()
}

async fn tasks_are_forgotten_at_their_age_and_not_before<S: Storage>(bench: &Bench<S>) {
    assert_eq!(prune_all(bench).await, 0);
    bench.insert(in_own_queue("a")).await;
    bench.clock.advance(HOUR * 9);
    bench.run("a", done()).await;
    bench.clock.advance(HOUR - Duration::from_micros(1));
    assert_eq!(pruned(bench.send(prune(HOUR, HOUR, 9)).await), 0, "it is the end that counts");
    assert_eq!(bench.state("a").await, State::Succeeded);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(pruned(bench.send(prune(HOUR, HOUR, 9)).await), 1);
    assert_eq!(bench.find("a").await, None);
    assert_eq!(pruned(bench.send(prune(HOUR, HOUR, 9)).await), 0);
}

async fn each_outcome_has_an_age_of_its_own<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        bench.bring(state.as_str(), state).await;
    }
    bench.clock.advance(HOUR * 2);
    assert_eq!(pruned(bench.send(prune(HOUR, HOUR * 3, 9)).await), 1);
    assert_eq!(names(bench).await, ["failed", "cancelled"]);
    bench.bring("another", State::Succeeded).await;
    bench.clock.advance(HOUR * 2);
    assert_eq!(pruned(bench.send(prune(NEVER, HOUR * 3, 9)).await), 2);
    assert_eq!(names(bench).await, ["another"]);
}

async fn an_unfinished_task_is_never_forgotten<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        bench.bring(state.as_str(), state).await;
    }
    bench.insert(slotted("holder", "s")).await;
    bench.insert(queued("waiter", "s")).await;
    // One that has an attempt behind it.
    bench.insert(in_own_queue("retried")).await;
    bench.run("retried", retry(Duration::ZERO)).await;
    bench.clock.advance(NEVER);
    let before = bench.list(TaskFilter { limit: 100, ..TaskFilter::default() }).await;
    assert_eq!(prune_all(bench).await, 0);
    assert_eq!(bench.list(TaskFilter { limit: 100, ..TaskFilter::default() }).await, before);
    assert_eq!(bench.attempts("retried").await.len(), 1);
}

async fn a_task_that_a_refused_batch_would_have_ended_is_not_forgotten<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    let lease = bench.claim_in("a").await;
    let batch = vec![settle(&lease, done()), put(&dependent("orphan", &["nobody"]))];
    refused(bench.send_batch(batch).await);
    bench.clock.advance(HOUR);
    assert_eq!(prune_all(bench).await, 0);
    assert_eq!(bench.state("a").await, State::Running);
    bench.settle(&lease, done()).await;
    assert_eq!((prune_all(bench).await, prune_all(bench).await), (1, 0));
}

async fn those_that_ended_first_are_forgotten_first<S: Storage>(bench: &Bench<S>) {
    for name in ["a", "b", "c", "d", "e"] {
        bench.insert(in_own_queue(name)).await;
    }
    for (name, verdict) in [("d", fail()), ("a", done()), ("e", done()), ("b", fail()), ("c", done())] {
        bench.clock.advance(Duration::from_secs(1));
        bench.run(name, verdict).await;
    }
    bench.clock.advance(HOUR);
    for (limit, left) in [
        (0, &["a", "b", "c", "d", "e"][..]),
        (1, &["a", "b", "c", "e"]),
        (2, &["b", "c"]),
        (1, &["c"]),
        (9, &[]),
        (9, &[]),
    ] {
        let before = names(bench).await.len();
        let count = pruned(bench.send(prune(Duration::ZERO, Duration::ZERO, limit)).await);
        assert_eq!(names(bench).await, left);
        assert_eq!(usize::try_from(count).expect("few"), before - left.len());
    }
}

async fn a_key_is_kept_however_eagerly_tasks_are_pruned<S: Storage>(bench: &Bench<S>) {
    let request = NewTask { key: Some(key("k")), ..in_own_queue("a") };
    bench.insert(request.clone()).await;
    bench.insert(in_own_queue("b")).await;
    bench.run("a", done()).await;
    bench.run("b", done()).await;
    bench.clock.advance(KEY_KEPT - Duration::from_micros(1));
    assert_eq!(prune_all(bench).await, 1);
    assert_eq!(names(bench).await, ["a"]);
    let again = request.with_id("again");
    already(bench.send(put(&again)).await);
    bench.clock.advance(Duration::from_micros(1));
    let longer = KEY_KEPT * 2;
    assert_eq!(pruned(bench.send(prune(longer, longer, 9)).await), 0, "a longer age counts for it too");
    assert_eq!(prune_all(bench).await, 1);
    bench.insert(again).await;
}

async fn nothing_of_a_forgotten_task_is_left<S: Storage>(bench: &Bench<S>) {
    let rich = || NewTask {
        deadline: Some(Due::After(NEVER)),
        slot: slotted("x", "s").slot,
        ..dependent("a", &["parent"])
    };
    for round in 0..2 {
        bench.insert(in_own_queue("parent")).await;
        bench.run("parent", done()).await;
        bench.insert(rich()).await;
        for number in 0..3 {
            let lease = bench.claim_in("a").await;
            assert_eq!(lease.fence, number + 1, "round {round}: it begins anew");
            assert_eq!(bench.attempts("a").await.len(), usize::try_from(number).expect("few"));
            assert_eq!(bench.checkpoints("a").await.len(), usize::from(number > 0));
            bench
                .report(Report {
                    progress: Some(steadfast_core::task::Progress { percent: 5, message: "m".into() }),
                    lines: vec![line(1, "one")],
                    checkpoints: vec![checkpoint("step", b"1")],
                    alias: Some(id("alias")),
                    ..report(&lease)
                })
                .await;
            assert_eq!(bench.log("a").await.len(), usize::try_from(lease.fence).expect("few"));
            bench.settle(&lease, if number < 2 { retry(Duration::ZERO) } else { done() }).await;
        }
        bench.clock.advance(HOUR);
        assert_eq!(pruned(bench.send(prune(HOUR, HOUR, 9)).await), 2);
        assert_eq!((bench.find("a").await, bench.find("alias").await), (None, None));
        assert_eq!((bench.log("a").await.len(), bench.checkpoints("a").await.len()), (0, 0));
        assert_eq!((bench.attempts("a").await.len(), bench.parents("a").await.len()), (0, 0));
    }
    let other = bench.bring("other", State::Running).await.expect("running");
    bench.report(Report { alias: Some(id("alias")), ..report(&other) }).await;
    assert_eq!(bench.task("alias").await.id, id("other"), "the alias is free");
    assert_eq!(bench.overdue(9).await, []);
}

async fn a_forgotten_parent_is_still_known_by_name<S: Storage>(bench: &Bench<S>) {
    for name in ["p1", "p2", "p3"] {
        bench.insert(in_own_queue(name)).await;
    }
    let parents = vec![
        after("p3", OnParentFailure::Run),
        after("p1", OnParentFailure::Fail),
        after("p2", OnParentFailure::Run),
    ];
    bench.insert(NewTask { parents, ..in_own_queue("child") }).await;
    bench.run("p2", fail()).await;
    bench.run("p1", done()).await;
    assert_eq!(prune_all(bench).await, 2);
    // A new one takes neither the place of a forgotten one nor its children.
    bench.insert(in_own_queue("stranger")).await;
    let expected = [
        (after("p1", OnParentFailure::Fail), None),
        (after("p2", OnParentFailure::Run), None),
        (after("p3", OnParentFailure::Run), Some(State::Ready)),
    ];
    assert_eq!(bench.parents("child").await, expected);
    assert_eq!(why(bench.send(put(&dependent("late", &["p1"]))).await), Refusal::ParentMissing(id("p1")));
    bench.run("stranger", fail()).await;
    bench.run("p3", done()).await;
    assert_eq!(bench.state("child").await, State::Ready);
    assert_eq!(prune_all(bench).await, 2);
    assert_eq!(bench.parents("child").await.iter().filter(|(_, state)| state.is_none()).count(), 3);
    bench.run("child", done()).await;
    assert_eq!(prune_all(bench).await, 1);
    assert_eq!(bench.parents("child").await, []);
}

async fn a_forgotten_parent_does_not_hold_up_its_child<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("ends")).await;
    bench.insert(in_own_queue("goes-on")).await;
    bench.insert(dependent("child", &["ends", "goes-on"])).await;
    bench.run("ends", done()).await;
    assert_eq!(prune_all(bench).await, 1);
    // Newcomers, one of which a store could take for the forgotten one.
    for name in ["n1", "n2", "n3"] {
        bench.bring(name, State::Failed).await;
    }
    let child = bench.task("child").await;
    assert_eq!((child.state, child.parents_pending), (State::Blocked, 1));
    bench.run("goes-on", done()).await;
    assert_eq!(bench.state("child").await, State::Ready);
}

async fn a_slot_is_not_disturbed<S: Storage>(bench: &Bench<S>) {
    bench.bring_task(slotted("old", "s"), State::Succeeded).await;
    bench.insert(slotted("holder", "s")).await;
    bench.insert(queued("a", "s")).await;
    bench.insert(queued("b", "s")).await;
    moved(bench.send(cancel("a", State::Blocked)).await);
    assert_eq!(prune_all(bench).await, 2);
    let refusal = why(bench.send(put(&slotted("late", "s"))).await);
    assert!(matches!(&refusal, Refusal::SlotTaken(holder, _) if *holder == id("holder")), "{refusal:?}");
    bench.run("holder", done()).await;
    assert_eq!(prune_all(bench).await, 1);
    let b = bench.task("b").await;
    assert_eq!((b.state, b.slot_waiting), (State::Ready, false));
}

async fn workers_that_were_not_seen_for_long_are_forgotten<S: Storage>(bench: &Bench<S>) {
    let beat = async |name: &str| {
        let worker = WorkerId::new(name).expect("valid");
        let said = Beat { worker, queues: vec![], kinds: vec![], concurrency: 1, running: 0, gone: false };
        assert_eq!(applied(bench.send(Step::Beat(said)).await), [Receipt::Seen]);
    };
    let left = async || {
        let workers = bench.workers().await;
        workers.into_iter().map(|worker| worker.id.to_string()).collect::<Vec<_>>()
    };
    for name in ["busy", "idle", "lively"] {
        beat(name).await;
    }
    bench.insert(in_own_queue("a")).await;
    let by_busy = ClaimRequest { worker: WorkerId::trusted("busy"), ..claim_request("a", 1) };
    let lease = bench.ask(&by_busy).await.tasks.remove(0);
    bench.clock.advance(HOUR);
    beat("lively").await;
    bench.clock.advance(HOUR - Duration::from_micros(1));
    assert_eq!(pruned(bench.send(prune(Duration::ZERO, HOUR * 2, 9)).await), 0);
    assert_eq!(left().await, ["busy", "idle", "lively"]);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(
        pruned(bench.send(prune(Duration::ZERO, HOUR * 2, 9)).await),
        0,
        "tasks are counted, not workers"
    );
    assert_eq!(left().await, ["busy", "lively"], "one holds a running task, however late it is");
    bench.settle(&lease, done()).await;
    pruned(bench.send(prune(NEVER, HOUR * 2, 9)).await);
    assert_eq!(left().await, ["lively"]);
}

async fn pruning_stands_beside_others_in_a_call<S: Storage>(bench: &Bench<S>) {
    bench.bring("old", State::Succeeded).await;
    let lease = bench.bring("a", State::Running).await.expect("running");
    bench.clock.advance(HOUR);
    let calls = [
        put(&in_own_queue("new")),
        prune(HOUR, HOUR, 9),
        settle(&lease, done()),
        put(&dependent("orphan", &["nobody"])),
    ];
    let mut outcomes = bench.send_all(&calls.map(Batch::from)).await.into_iter();
    let mut next = || outcomes.next().expect("four outcomes");
    inserted(next());
    assert_eq!(pruned(next()), 1);
    moved(next());
    refused(next());
    assert_eq!(names(bench).await, ["a", "new"]);
}
