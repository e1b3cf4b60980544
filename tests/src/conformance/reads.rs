//! Reading: where and when an answer comes from, what is listed, and that what was acknowledged is seen.

use std::time::Duration;

use steadfast_core::storage::{Answer, Query, Storage, TaskFilter};
use steadfast_core::task::{Due, NewTask, OnParentFailure, State};

use super::bench::*;

super::cases! { "reads", 2,
    "View: store" => every_answer_names_the_same_store,
    "View: as_of" => every_answer_says_when_by_the_stores_clock,
    "Query::Tasks" => tasks_are_listed_newest_first,
    "Query::Tasks" => a_list_holds_what_every_part_of_its_filter_lets_through,
    "TaskFilter::before" => a_list_is_read_in_pages,
    "TaskFilter::unfinished, in_slot" => a_list_may_be_of_unfinished_tasks_and_of_those_with_a_slot,
    "Query::Parents" => parents_are_listed_in_order_of_id_with_their_states,
    "Query::Tasks" => a_listed_task_is_the_same_as_one_asked_for_alone,
    "P8: read your writes" => what_was_acknowledged_is_seen_by_everybody_at_once,
    "Query::Task" => an_unknown_task_is_no_error,
    "P5: scheduled until it is claimed or promoted" => a_task_that_is_due_is_not_lost_from_sight,
}

fn queries() -> [Query; 10] {
    [
        Query::Task(id("a")),
        Query::Tasks(TaskFilter { limit: 1, ..TaskFilter::default() }),
        Query::Attempts(id("a")),
        Query::Lapsed { limit: 1 },
        Query::Parents(id("a")),
        Query::Log { task: id("a"), after: (0, 0), limit: 1 },
        Query::Checkpoints(id("a")),
        Query::Overdue { limit: 1 },
        Query::Stats { stale: LONG, stuck: LONG },
        Query::Workers,
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

async fn a_list_is_read_in_pages<S: Storage>(bench: &Bench<S>) {
    for number in 0..10 {
        // Neither the names nor the clock say who came first.
        let name = format!("t{}", (number * 7) % 10);
        let in_slot = NewTask { slot: slotted("x", &name).slot, ..task(&name) };
        bench.insert(if number % 2 == 0 { in_slot } else { task(&name) }).await;
    }
    bench.claim(3).await;
    let all = TaskFilter { limit: 100, ..TaskFilter::default() };
    let ready = TaskFilter { state: Some(State::Ready), ..all.clone() };
    let running = TaskFilter { state: Some(State::Running), ..all.clone() };
    let in_slot = TaskFilter { in_slot: true, unfinished: true, ..all.clone() };
    let in_queue = TaskFilter { queue: Some(queue("default")), kind: Some(kind("scan")), ..all.clone() };
    for (filter, count) in [(all, 10), (ready, 7), (running, 3), (in_slot, 5), (in_queue, 10)] {
        let whole = bench.list(filter.clone()).await;
        assert_eq!(whole.len(), count, "{filter:?}");
        for size in [1, 3] {
            let (mut read, mut before) = (Vec::new(), None);
            loop {
                let page = bench.list(TaskFilter { before, limit: size, ..filter.clone() }).await;
                assert!(page.len() <= usize::try_from(size).expect("small"), "{filter:?}");
                let Some(last) = page.last() else { break };
                before = Some(last.id.clone());
                read.extend(page);
            }
            assert_eq!(read, whole, "{filter:?} in pages of {size}");
        }
        let nowhere = TaskFilter { before: Some(id("nobody")), ..filter };
        assert_eq!(bench.list(nowhere).await, []);
    }
    // The place is kept by a task that the filter doesn't let through, too.
    let after =
        TaskFilter { before: Some(id("t7")), state: Some(State::Ready), limit: 9, ..TaskFilter::default() };
    assert_eq!(bench.list(after).await, [], "older ones run");
}

async fn a_list_may_be_of_unfinished_tasks_and_of_those_with_a_slot<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        let name = format!("slot-{state}");
        bench.bring_task(slotted(&name, &name), state).await;
        bench.bring(state.as_str(), state).await;
    }
    bench.insert(queued("waiter", "slot-running")).await;
    let all = || TaskFilter { limit: 100, ..TaskFilter::default() };
    let everything = bench.list(all()).await;
    for (unfinished, in_slot) in [(true, false), (false, true), (true, true)] {
        for held in [None, Some(slot("slot-running")), Some(slot("slot-failed"))] {
            for state in [None, Some(State::Blocked), Some(State::Running), Some(State::Failed)] {
                for limit in [100, 2] {
                    let filter =
                        TaskFilter { unfinished, in_slot, slot: held.clone(), state, limit, ..all() };
                    let expected: Vec<_> = everything
                        .iter()
                        .filter(|task| !unfinished || !task.state.is_terminal())
                        .filter(|task| !in_slot || task.slot.is_some())
                        .filter(|task| held.is_none() || task.slot == held)
                        .filter(|task| state.is_none_or(|state| task.state == state))
                        .take(usize::try_from(limit).expect("small"))
                        .cloned()
                        .collect();
                    assert_eq!(bench.list(filter.clone()).await, expected, "{filter:?}");
                }
            }
        }
    }
    let waiters = TaskFilter { in_slot: true, state: Some(State::Blocked), ..all() };
    assert!(names(&bench.list(waiters).await).contains(&"waiter"));
}

async fn parents_are_listed_in_order_of_id_with_their_states<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.parents("nobody").await, []);
    for (name, state) in [("z", State::Running), ("B", State::Succeeded), ("a", State::Ready)] {
        bench.bring(name, state).await;
    }
    bench.bring("failed", State::Failed).await;
    let edges = [
        after("z", OnParentFailure::Fail),
        after("failed", OnParentFailure::Run),
        after("B", OnParentFailure::Run),
        after("a", OnParentFailure::Fail),
    ];
    let [z, failed, b, a] = edges.clone();
    bench.insert(NewTask { parents: edges.to_vec(), ..in_own_queue("child") }).await;
    assert_eq!(bench.parents("a").await, [], "a parent has none");
    let expected = [
        (b, Some(State::Succeeded)),
        (a, Some(State::Ready)),
        (failed, Some(State::Failed)),
        (z, Some(State::Running)),
    ];
    assert_eq!(bench.parents("child").await, expected, "by its bytes, whatever the store's language is");
    bench.run("a", done()).await;
    assert_eq!(bench.parents("child").await[1].1, Some(State::Succeeded));
}

async fn a_listed_task_is_the_same_as_one_asked_for_alone<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        bench.bring_task(slotted(state.as_str(), state.as_str()), state).await;
    }
    moved(bench.send(cancel("running", State::Running)).await);
    bench.insert(by("dated", Due::After(LONG))).await;
    bench.insert(queued("waiter", "running")).await;
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
