//! Reading: where and when an answer comes from, what is listed, and that what was acknowledged is seen.

use std::time::Duration;

use steadfast_core::storage::{Answer, Query, Storage, TaskFilter};
use steadfast_core::task::{Due, NewTask, State};

use super::bench::*;

super::cases! { "reads", 2,
    "View: store" => every_answer_names_the_same_store,
    "View: as_of" => every_answer_says_when_by_the_stores_clock,
    "Query::Tasks" => tasks_are_listed_newest_first,
    "Query::Tasks" => a_list_holds_what_every_part_of_its_filter_lets_through,
    "Query::Tasks" => a_listed_task_is_the_same_as_one_asked_for_alone,
    "P8: read your writes" => what_was_acknowledged_is_seen_by_everybody_at_once,
    "Query::Task" => an_unknown_task_is_no_error,
    "P5: scheduled until it is claimed or promoted" => a_task_that_is_due_is_not_lost_from_sight,
}

fn queries() -> [Query; 4] {
    [
        Query::Task(id("a")),
        Query::Tasks(TaskFilter { limit: 1, ..TaskFilter::default() }),
        Query::Attempts(id("a")),
        Query::Lapsed { limit: 1 },
    ]
}

async fn every_answer_names_the_same_store<S: Storage>(bench: &Bench<S>) {
    let store = bench.view(queries()[0].clone()).await.store;
    assert!(!store.as_str().is_empty());
    for client in &bench.clients {
        for query in queries() {
            assert_eq!(client.read(&query).await.expect("answered").store, store, "{query:?}");
        }
    }
    bench.insert(task("a")).await;
    assert_eq!(bench.view(queries()[0].clone()).await.store, store);
}

async fn every_answer_says_when_by_the_stores_clock<S: Storage>(bench: &Bench<S>) {
    for ahead in [Duration::ZERO, Duration::from_micros(1), LONG] {
        bench.clock.advance(ahead);
        for query in queries() {
            assert_eq!(bench.view(query.clone()).await.as_of, bench.now(), "{query:?}");
        }
    }
}

fn names(tasks: &[steadfast_core::Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.id.as_str()).collect()
}

async fn tasks_are_listed_newest_first<S: Storage>(bench: &Bench<S>) {
    let limit = |limit| TaskFilter { limit, ..TaskFilter::default() };
    assert_eq!(bench.list(limit(5)).await, []);
    for name in ["m", "z", "a", "k"] {
        bench.insert(task(name)).await;
        bench.clock.advance(Duration::from_micros(1));
    }
    assert_eq!(names(&bench.list(limit(3)).await), ["k", "a", "z"]);
    assert_eq!(names(&bench.list(limit(100)).await), ["k", "a", "z", "m"]);
    assert_eq!(bench.list(limit(0)).await, []);
    bench.claim(1).await;
    assert_eq!(names(&bench.list(limit(100)).await), ["k", "a", "z", "m"], "changes don't move a task");
}

async fn a_list_holds_what_every_part_of_its_filter_lets_through<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        let name = format!("in-{state}");
        bench.bring_task(NewTask { queue: queue(&name), ..slotted(&name, "s") }, state).await;
        if !state.is_terminal() {
            moved(
                bench
                    .send(end(
                        &name,
                        steadfast_core::step::States::UNFINISHED,
                        State::Failed,
                        steadfast_core::Cause::Error,
                    ))
                    .await,
            );
        }
    }
    for state in State::ALL {
        bench.bring_task(in_own_queue(state.as_str()), state).await;
        bench.clock.advance(Duration::from_micros(1));
    }
    bench.insert(NewTask { kind: kind("other"), ..in_own_queue("ready-other") }).await;
    let all = || TaskFilter { limit: 100, ..TaskFilter::default() };
    for state in State::ALL {
        let found = bench.list(TaskFilter { state: Some(state), ..all() }).await;
        assert!(found.iter().all(|task| task.state == state), "{state}");
        assert!(found.iter().any(|task| task.id.as_str() == state.as_str()), "{state}");
    }
    let everything = bench.list(all()).await;
    let in_slot = bench.list(TaskFilter { slot: Some(slot("s")), ..all() }).await;
    assert_eq!(in_slot.len(), 7, "also those that ended");
    let others = bench.list(TaskFilter { kind: Some(kind("other")), ..all() }).await;
    assert_eq!(names(&others), ["ready-other"]);
    let in_queue = bench.list(TaskFilter { queue: Some(queue("running")), ..all() }).await;
    assert_eq!(names(&in_queue), ["running"]);
    for filter in [
        TaskFilter {
            state: Some(State::Running),
            queue: Some(queue("running")),
            kind: Some(kind("scan")),
            ..all()
        },
        TaskFilter { state: Some(State::Ready), queue: Some(queue("running")), ..all() },
        TaskFilter { state: Some(State::Succeeded), slot: Some(slot("s")), ..all() },
        TaskFilter { kind: Some(kind("other")), slot: Some(slot("s")), ..all() },
    ] {
        let expected: Vec<_> = everything
            .iter()
            .filter(|task| filter.state.is_none_or(|state| task.state == state))
            .filter(|task| filter.queue.as_ref().is_none_or(|queue| task.queue == *queue))
            .filter(|task| filter.slot.is_none() || task.slot == filter.slot)
            .filter(|task| filter.kind.as_ref().is_none_or(|kind| task.kind == *kind))
            .cloned()
            .collect();
        assert_eq!(bench.list(filter.clone()).await, expected, "{filter:?}");
    }
}

async fn a_listed_task_is_the_same_as_one_asked_for_alone<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        bench.bring_task(slotted(state.as_str(), state.as_str()), state).await;
    }
    moved(bench.send(cancel("running", State::Running)).await);
    for listed in bench.list(TaskFilter { limit: 100, ..TaskFilter::default() }).await {
        assert_eq!(bench.task(listed.id.as_str()).await, listed);
    }
}

async fn what_was_acknowledged_is_seen_by_everybody_at_once<S: Storage>(bench: &Bench<S>) {
    for number in 0..20 {
        let name = format!("t{number}");
        bench.insert(in_own_queue(&name)).await;
        let lease = bench.claim_in(&name).await;
        let mut rev = 0;
        for step in [None, Some(renew(&lease)), Some(settle(&lease, done()))] {
            if let Some(step) = step {
                applied(bench.send(step).await);
            }
            let own = bench.task(&name).await;
            for client in &bench.clients {
                let view = client.read(&Query::Task(id(&name))).await.expect("answered");
                assert_eq!(view.answer, Answer::Task(Some(Box::new(own.clone()))));
            }
            assert!(own.rev >= rev, "a revision never falls");
            rev = own.rev;
        }
        assert_eq!(bench.state(&name).await, State::Succeeded);
    }
}

async fn an_unknown_task_is_no_error<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.find("nobody").await, None);
    assert_eq!(bench.attempts("nobody").await, []);
    let nowhere = TaskFilter { queue: Some(queue("nowhere")), limit: 5, ..TaskFilter::default() };
    assert_eq!(bench.list(nowhere).await, []);
}

async fn a_task_that_is_due_is_not_lost_from_sight<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { due: Due::After(LEASE), ..task("a") }).await;
    bench.clock.advance(LONG);
    let found = bench.state("a").await;
    assert!(matches!(found, State::Scheduled | State::Ready), "{found}");
    let listed = bench.list(TaskFilter { state: Some(found), limit: 5, ..TaskFilter::default() }).await;
    assert_eq!(names(&listed), ["a"], "the list and the task agree");
    assert_eq!(moved(bench.send(cancel("a", found)).await).state, State::Cancelled);
}
