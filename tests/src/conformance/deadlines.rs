//! Deadlines: by when a task must have ended, and what happens when it hasn't.

use std::time::Duration;

use steadfast_core::step::Report;
use steadfast_core::storage::Storage;
use steadfast_core::task::{Cause, Due, NewTask, State};

use super::bench::*;

super::cases! { "deadlines", 1,
    "NewTask::deadline" => a_deadline_counts_from_when_the_task_is_stored,
    "Lease::deadline" => a_lease_says_how_long_is_left,
    "Query::Overdue" => overdue_tasks_are_listed_longest_overdue_first,
    "Query::Overdue" => a_task_that_has_ended_is_not_overdue,
    "Guard::overdue" => a_task_expires_at_its_deadline_and_not_before,
    "Guard::overdue" => a_task_without_a_deadline_does_not_expire,
    "P6, rule 7" => a_repeated_expiry_is_already,
    "P4" => an_expired_attempt_can_not_write,
    "P9, P11" => an_expiry_releases_children_and_the_slot,
    "NewTask::deadline" => attempts_do_not_move_the_deadline,
}

const MINUTE: Duration = Duration::from_secs(60);

fn within(name: &str, limit: Duration) -> NewTask {
    by(name, Due::After(limit))
}

async fn a_deadline_counts_from_when_the_task_is_stored<S: Storage>(bench: &Bench<S>) {
    bench.clock.advance(MINUTE);
    bench.insert(within("after", MINUTE)).await;
    bench.insert(by("at", Due::At(bench.now() + MINUTE * 2))).await;
    bench.insert(in_own_queue("none")).await;
    bench.insert(by("past", Due::At(bench.now() - MINUTE))).await;
    bench.insert(NewTask { due: Due::After(MINUTE), ..within("later", MINUTE) }).await;
    let now = bench.now();
    bench.clock.advance(MINUTE * 3);
    for (name, expected) in [
        ("after", Some(now + MINUTE)),
        ("at", Some(now + MINUTE * 2)),
        ("none", None),
        ("past", Some(now - MINUTE)),
        ("later", Some(now + MINUTE)),
    ] {
        assert_eq!(bench.task(name).await.deadline_at, expected, "{name}");
    }
}

async fn a_lease_says_how_long_is_left<S: Storage>(bench: &Bench<S>) {
    for name in ["early", "late"] {
        bench.insert(within(name, MINUTE)).await;
    }
    bench.insert(in_own_queue("none")).await;
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(bench.claim_in("early").await.deadline, Some(Duration::from_secs(40)));
    bench.clock.advance(MINUTE);
    assert_eq!(bench.claim_in("late").await.deadline, Some(Duration::ZERO));
    assert_eq!(bench.claim_in("none").await.deadline, None);
}

async fn overdue_tasks_are_listed_longest_overdue_first<S: Storage>(bench: &Bench<S>) {
    let mut expected = Vec::new();
    for (seconds, state) in
        [(40, State::Ready), (10, State::Running), (30, State::Blocked), (20, State::Scheduled)]
    {
        let name = state.as_str();
        bench.bring_task(within(name, Duration::from_secs(seconds)), state).await;
        // What runs is its worker's, which gives it a grace.
        if state != State::Running {
            expected.push((seconds, id(name)));
        }
    }
    bench.insert(in_own_queue("none")).await;
    bench.insert(within("far", LONG)).await;
    expected.sort();
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
    assert_eq!(bench.overdue(9).await, []);
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(bench.overdue(9).await, expected[..1], "a deadline has passed when its time has come");
    bench.clock.advance(MINUTE);
    assert_eq!(bench.overdue(9).await, expected);
    assert_eq!(bench.overdue(2).await, expected[..2]);
    assert_eq!(bench.overdue(0).await, []);
}

async fn a_task_that_has_ended_is_not_overdue<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        bench.bring_task(within(state.as_str(), MINUTE), state).await;
    }
    bench.insert(within("cancelled-early", MINUTE)).await;
    moved(bench.send(cancel("cancelled-early", State::Ready)).await);
    bench.insert(in_own_queue("parent")).await;
    bench.insert(NewTask { deadline: Some(Due::After(MINUTE)), ..dependent("child", &["parent"]) }).await;
    bench.run("parent", fail()).await;
    bench.insert(NewTask { deadline: Some(Due::After(MINUTE)), ..dependent("stillborn", &["parent"]) }).await;
    bench.clock.advance(LONG);
    assert_eq!(bench.overdue(9).await, []);
    for name in ["succeeded", "cancelled-early", "child", "stillborn"] {
        assert_eq!(stale(bench.send(expire(name)).await), head(&bench.task(name).await), "an end is final");
    }
}

async fn a_task_expires_at_its_deadline_and_not_before<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        let name = state.as_str();
        bench.bring_task(within(name, MINUTE), state).await;
        let before = bench.task(name).await;
        bench.clock.advance(MINUTE - Duration::from_micros(1));
        assert_eq!(stale(bench.send(expire(name)).await), head(&before), "{state}, a moment too early");
        assert_eq!(bench.task(name).await, before);
        bench.clock.advance(Duration::from_micros(1));
        let receipt = moved(bench.send(expire(name)).await);
        let task = bench.task(name).await;
        assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::Deadline)), "{state}");
        assert!(task.error.is_some_and(|error| error.contains("deadline")), "{state}");
        assert_eq!((receipt.rev, task.rev), (before.rev + 1, before.rev + 1));
        assert_eq!((task.finished_at, task.lease_expires_at), (Some(bench.now()), None));
        assert_eq!(bench.ask(&claim_request(name, 9)).await.tasks, []);
    }
}

async fn a_task_without_a_deadline_does_not_expire<S: Storage>(bench: &Bench<S>) {
    bench.insert(task("a")).await;
    bench.clock.advance(LONG);
    let before = bench.task("a").await;
    assert_eq!(stale(bench.send(expire("a")).await), head(&before));
    assert_eq!(bench.task("a").await, before);
}

async fn a_repeated_expiry_is_already<S: Storage>(bench: &Bench<S>) {
    bench.bring_task(within("a", MINUTE), State::Running).await;
    bench.clock.advance(MINUTE);
    moved(bench.send(expire("a")).await);
    let after = bench.task("a").await;
    assert_eq!(moved_in(&already(bench.send(expire("a")).await)), head(&after));
    assert_eq!(bench.task("a").await, after);
}

async fn an_expired_attempt_can_not_write<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring_task(within("a", MINUTE), State::Running).await.expect("running");
    bench.clock.advance(MINUTE);
    moved(bench.send(expire("a")).await);
    let task = bench.task("a").await;
    let said = steadfast_core::step::Step::Report(Report { lines: vec![line(1, "x")], ..report(&lease) });
    for step in [settle(&lease, done()), settle(&lease, retry(LONG)), renew(&lease), said] {
        assert_eq!(stale(bench.send(step).await), head(&task));
    }
    assert_eq!(bench.task("a").await, task);
}

async fn an_expiry_releases_children_and_the_slot<S: Storage>(bench: &Bench<S>) {
    let held = NewTask { slot: slotted("x", "s").slot, ..within("a", MINUTE) };
    bench.bring_task(held, State::Running).await;
    bench.insert(dependent("fails", &["a"])).await;
    let parents = vec![after("a", steadfast_core::task::OnParentFailure::Run)];
    bench.insert(NewTask { parents, ..in_own_queue("runs") }).await;
    bench.clock.advance(MINUTE);
    moved(bench.send(expire("a")).await);
    let failed = bench.task("fails").await;
    assert_eq!((failed.state, failed.cause), (State::Failed, Some(Cause::DependencyFailed)));
    assert_eq!(bench.state("runs").await, State::Ready);
    bench.insert(slotted("next", "s")).await;
}

async fn attempts_do_not_move_the_deadline<S: Storage>(bench: &Bench<S>) {
    bench.insert(within("a", MINUTE)).await;
    let deadline = Some(bench.now() + MINUTE);
    bench.clock.advance(Duration::from_secs(10));
    bench.run("a", retry(Duration::from_secs(10))).await;
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(bench.claim_in("a").await.deadline, Some(Duration::from_secs(40)));
    bench.clock.advance(MINUTE);
    let lapsed = bench.lapsed(1).await.remove(0);
    moved(bench.send(reclaim(&lapsed)).await);
    let task = bench.task("a").await;
    assert_eq!((task.state, task.deadline_at), (State::Ready, deadline));
    assert_eq!(moved(bench.send(expire("a")).await).state, State::Failed);
}
