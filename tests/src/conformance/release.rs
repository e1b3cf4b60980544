//! Tasks that wait for tasks: how edges are judged when a child is stored and when its parents end.

use std::time::Duration;

use steadfast_core::decide::{self, EdgeOutcome};
use steadfast_core::step::{Batch, Outcome, Refusal, States};
use steadfast_core::storage::Storage;
use steadfast_core::task::{Cause, Due, NewTask, OnParentFailure, PARENTS_MAX, State};

use super::bench::*;

super::cases! { "release", 1,
    "P9: a failed parent's policy is applied" => an_edge_to_any_parent_is_judged_when_the_child_is_stored,
    "P9, P10" => an_edge_is_judged_when_its_parent_ends,
    "P9: a failed edge decides" => one_failed_parent_fails_the_child_though_others_are_unfinished,
    "rule 4: a counter on the child" => a_child_of_many_parents_waits_for_the_last,
    "rule 4: a counter on the child" => parents_that_end_in_one_call_or_one_batch_are_all_counted,
    "P10" => every_child_of_a_parent_is_released,
    "P9, P10" => a_diamond_runs_in_order,
    "P9: policies cascade" => a_failure_runs_down_a_chain,
    "P9: policies cascade" => a_failure_stops_where_an_edge_says_run,
    "P9: policies cascade" => a_child_stored_under_a_failed_one_fails_too,
    "P9" => of_several_failed_parents_the_first_named_is_blamed,
    "P9" => a_parent_named_twice_counts_as_one,
    "P9: the strictest edge decides" => of_two_edges_to_one_parent_the_stricter_decides,
    "Refusal::ParentMissing" => a_parent_must_exist_before_its_child,
    "Batch: parents in the same batch" => a_whole_graph_fits_into_one_batch,
    "rule 9" => a_released_child_waits_until_it_is_due,
    "P9" => a_parent_that_goes_on_releases_nobody,
    "P10" => a_child_added_in_the_call_that_ends_its_parent_is_not_forgotten,
    "P9, P10" => a_grandchild_added_in_the_call_that_fails_its_parent_fails_too,
    "P5: terminal absorbs" => a_child_that_ended_before_its_parent_stays_as_it_is,
    "PARENTS_MAX" => a_thousand_parents_release_one_child,
    "P6" => a_repeated_end_releases_nobody_twice,
}

/// How a task of this name may be ended in each terminal state.
const ENDS: [State; 3] = [State::Succeeded, State::Failed, State::Cancelled];

fn child_of(name: &str, parent: &str, on_failure: OnParentFailure) -> NewTask {
    NewTask { parents: vec![after(parent, on_failure)], ..in_own_queue(name) }
}

async fn end_as<S: Storage>(bench: &Bench<S>, task: &str, to: State) {
    moved(bench.send(end(task, States::UNFINISHED, to, Cause::Error)).await);
}

async fn an_edge_to_any_parent_is_judged_when_the_child_is_stored<S: Storage>(bench: &Bench<S>) {
    for parent in State::ALL {
        bench.bring(parent.as_str(), parent).await;
        for &policy in OnParentFailure::ALL {
            let name = format!("child-{parent}-{policy}");
            let receipt = bench.insert(child_of(&name, parent.as_str(), policy)).await;
            let child = bench.task(&name).await;
            assert_eq!(receipt, head(&child), "{name}");
            let (state, pending) = match decide::edge(parent, policy) {
                None => (State::Blocked, 1),
                Some(EdgeOutcome::Satisfied) => (State::Ready, 0),
                Some(EdgeOutcome::Fails) => {
                    assert_eq!(child.cause, Some(Cause::DependencyFailed), "{name}");
                    assert_eq!(child.finished_at, Some(bench.now()), "{name}");
                    (State::Failed, child.parents_pending)
                }
            };
            assert_eq!((child.state, child.parents_pending), (state, pending), "{name}");
            let claimable = bench.ask(&claim_request(&name, 1)).await.tasks.len();
            assert_eq!(claimable, usize::from(state == State::Ready), "{name}");
        }
    }
}

async fn an_edge_is_judged_when_its_parent_ends<S: Storage>(bench: &Bench<S>) {
    for found in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        for to in ENDS {
            let parent = format!("{found}-{to}");
            bench.bring(&parent, found).await;
            for &policy in OnParentFailure::ALL {
                bench.insert(child_of(&format!("{parent}-{policy}"), &parent, policy)).await;
            }
            bench.clock.advance(Duration::from_secs(1));
            end_as(bench, &parent, to).await;
            for &policy in OnParentFailure::ALL {
                let child = bench.task(&format!("{parent}-{policy}")).await;
                let expected = match decide::edge(to, policy).expect("it has ended") {
                    EdgeOutcome::Satisfied => (State::Ready, None, None),
                    EdgeOutcome::Fails => (State::Failed, Some(Cause::DependencyFailed), Some(bench.now())),
                };
                assert_eq!((child.state, child.cause, child.finished_at), expected, "{parent} {policy}");
                assert_eq!(child.rev, rev_of_new(bench).await + 1, "{parent} {policy}");
            }
        }
    }
}

/// The revision that a task is stored with.
async fn rev_of_new<S: Storage>(bench: &Bench<S>) -> u64 {
    match bench.find("new").await {
        Some(task) => task.rev,
        None => bench.insert(in_own_queue("new")).await.rev,
    }
}

async fn one_failed_parent_fails_the_child_though_others_are_unfinished<S: Storage>(bench: &Bench<S>) {
    for name in ["a", "b", "c"] {
        bench.insert(in_own_queue(name)).await;
    }
    bench.insert(dependent("early", &["a", "b", "c"])).await;
    end_as(bench, "b", State::Failed).await;
    assert_eq!(bench.state("early").await, State::Failed);
    bench.insert(dependent("late", &["a", "b", "c"])).await;
    let (early, late) = (bench.task("early").await, bench.task("late").await);
    assert_eq!((late.state, late.cause), (State::Failed, Some(Cause::DependencyFailed)));
    end_as(bench, "a", State::Succeeded).await;
    end_as(bench, "c", State::Failed).await;
    for before in [early, late] {
        let after = bench.task(before.id.as_str()).await;
        assert_eq!((after.state, after.cause), (before.state, before.cause), "terminal absorbs");
        assert_eq!(after.finished_at, before.finished_at);
    }
}

async fn a_child_of_many_parents_waits_for_the_last<S: Storage>(bench: &Bench<S>) {
    let parents = ["p1", "p2", "p3", "p4"];
    for name in parents {
        bench.insert(in_own_queue(name)).await;
    }
    end_as(bench, "p3", State::Succeeded).await;
    bench.insert(dependent("child", &parents)).await;
    for (ended, pending) in [("p2", 2), ("p4", 1), ("p1", 0)] {
        let child = bench.task("child").await;
        assert_eq!((child.state, child.parents_pending), (State::Blocked, pending + 1));
        bench.run(ended, done()).await;
    }
    let child = bench.task("child").await;
    assert_eq!((child.state, child.parents_pending), (State::Ready, 0));
    assert_eq!(bench.claim_in("child").await.task, id("child"));
}

async fn parents_that_end_in_one_call_or_one_batch_are_all_counted<S: Storage>(bench: &Bench<S>) {
    for (child, together) in [("one-call", false), ("one-batch", true)] {
        let parents: Vec<_> = ["z", "a", "m"].map(|name| format!("{child}-{name}")).to_vec();
        for parent in &parents {
            bench.insert(in_own_queue(parent)).await;
        }
        let names: Vec<_> = parents.iter().map(String::as_str).collect();
        bench.insert(dependent(child, &names)).await;
        let ends = names.iter().map(|name| end(name, States::UNFINISHED, State::Succeeded, Cause::Done));
        let batches: Vec<Batch> =
            if together { vec![Batch { steps: ends.collect() }] } else { ends.map(Batch::from).collect() };
        for outcome in bench.send_all(&batches).await {
            applied(outcome);
        }
        let task = bench.task(child).await;
        assert_eq!((task.state, task.parents_pending), (State::Ready, 0), "{child}");
    }
}

async fn every_child_of_a_parent_is_released<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("parent")).await;
    let children: Vec<_> = (0..100).map(|number| format!("child-{number}")).collect();
    let steps = children.iter().map(|name| put(&child_of(name, "parent", OnParentFailure::Fail))).collect();
    applied(bench.send_batch(steps).await);
    bench.run("parent", done()).await;
    for name in &children {
        assert_eq!(bench.state(name).await, State::Ready, "{name}");
    }
}

async fn a_diamond_runs_in_order<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("top")).await;
    bench.insert(dependent("left", &["top"])).await;
    bench.insert(dependent("right", &["top"])).await;
    bench.insert(dependent("bottom", &["left", "right"])).await;
    for (runs, waits) in
        [("top", vec!["left", "right", "bottom"]), ("right", vec!["bottom"]), ("left", vec!["bottom"])]
    {
        for name in waits {
            assert_eq!(bench.state(name).await, State::Blocked, "{name} before {runs}");
        }
        bench.run(runs, done()).await;
    }
    bench.run("bottom", done()).await;
    assert_eq!(bench.state("bottom").await, State::Succeeded);
}

async fn a_failure_runs_down_a_chain<S: Storage>(bench: &Bench<S>) {
    const LENGTH: usize = 30;
    bench.insert(in_own_queue("t0")).await;
    for number in 1..LENGTH {
        bench.insert(dependent(&format!("t{number}"), &[&format!("t{}", number - 1)])).await;
    }
    bench.run("t0", fail()).await;
    for number in 1..LENGTH {
        let task = bench.task(&format!("t{number}")).await;
        assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::DependencyFailed)), "t{number}");
        assert_eq!(task.finished_at, Some(bench.now()));
    }
}

async fn a_failure_stops_where_an_edge_says_run<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    bench.insert(dependent("b", &["a"])).await;
    bench.insert(child_of("c", "b", OnParentFailure::Run)).await;
    bench.insert(dependent("d", &["c"])).await;
    // It hangs on the failed one twice: by one edge that bears the failure and through one that doesn't.
    let parents = vec![after("a", OnParentFailure::Run), after("c", OnParentFailure::Fail)];
    bench.insert(NewTask { parents, ..in_own_queue("e") }).await;
    moved(bench.send(cancel("a", State::Ready)).await);
    let mut states = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        states.push(bench.state(name).await);
    }
    use State::{Blocked, Cancelled, Failed, Ready};
    assert_eq!(states, [Cancelled, Failed, Ready, Blocked, Blocked]);
    assert_eq!(bench.task("e").await.parents_pending, 1);
    bench.run("c", done()).await;
    assert_eq!((bench.state("d").await, bench.state("e").await), (Ready, Ready));
}

async fn a_child_stored_under_a_failed_one_fails_too<S: Storage>(bench: &Bench<S>) {
    bench.bring("a", State::Failed).await;
    let steps = vec![
        put(&dependent("b", &["a"])),
        put(&dependent("c", &["b"])),
        put(&child_of("d", "c", OnParentFailure::Run)),
        put(&dependent("e", &["d"])),
    ];
    applied(bench.send_batch(steps).await);
    for (name, state) in
        [("b", State::Failed), ("c", State::Failed), ("d", State::Ready), ("e", State::Blocked)]
    {
        assert_eq!(bench.state(name).await, state, "{name}");
    }
}

async fn of_several_failed_parents_the_first_named_is_blamed<S: Storage>(bench: &Bench<S>) {
    for parent in ["a", "b", "c"] {
        bench.bring(parent, State::Failed).await;
    }
    for (name, parents) in [("d", ["c", "a", "b"]), ("e", ["b", "c", "a"])] {
        bench.insert(dependent(name, &parents)).await;
        assert_eq!(bench.task(name).await.error, Some(format!("parent {} failed", parents[0])), "{name}");
    }
}

async fn a_parent_named_twice_counts_as_one<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    bench.insert(dependent("child", &["a", "a"])).await;
    assert_eq!(bench.state("child").await, State::Blocked);
    bench.run("a", done()).await;
    let child = bench.task("child").await;
    assert_eq!((child.state, child.parents_pending), (State::Ready, 0));
    bench.insert(dependent("late", &["a", "a"])).await;
    assert_eq!(bench.state("late").await, State::Ready);
}

async fn of_two_edges_to_one_parent_the_stricter_decides<S: Storage>(bench: &Bench<S>) {
    use OnParentFailure::{Fail, Run};
    for (order, policies) in [("fail-run", [Fail, Run]), ("run-fail", [Run, Fail])] {
        let parent = format!("parent-{order}");
        bench.insert(in_own_queue(&parent)).await;
        let child = |name: &str| {
            let parents = policies.map(|policy| after(&parent, policy)).to_vec();
            NewTask { parents, ..in_own_queue(&format!("{name}-{order}")) }
        };
        bench.insert(child("early")).await;
        bench.run(&parent, fail()).await;
        bench.insert(child("late")).await;
        for name in ["early", "late"] {
            assert_eq!(bench.state(&format!("{name}-{order}")).await, State::Failed, "{name} {order}");
        }
    }
}

async fn a_parent_must_exist_before_its_child<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("known")).await;
    for (name, parents, missing) in [
        ("orphan", vec!["nobody"], "nobody"),
        ("self", vec!["self"], "self"),
        ("half", vec!["known", "nobody"], "nobody"),
    ] {
        let refusal = why(bench.send(put(&dependent(name, &parents))).await);
        assert_eq!(refusal, Refusal::ParentMissing(id(missing)), "{name}");
        assert_eq!(bench.find(name).await, None);
    }
    let backwards = vec![put(&dependent("child", &["parent"])), put(&in_own_queue("parent"))];
    let found = refused(bench.send_batch(backwards).await);
    assert_eq!((found.step, found.why), (0, Refusal::ParentMissing(id("parent"))));
    assert_eq!(bench.find("parent").await, None);
    bench.run("known", done()).await;
}

async fn a_whole_graph_fits_into_one_batch<S: Storage>(bench: &Bench<S>) {
    let graph = vec![
        put(&in_own_queue("z-top")),
        put(&dependent("m-left", &["z-top"])),
        put(&dependent("n-right", &["z-top"])),
        put(&dependent("a-bottom", &["n-right", "m-left"])),
    ];
    assert_eq!(applied(bench.send_batch(graph.clone()).await).len(), 4);
    assert_eq!(bench.task("a-bottom").await.parents_pending, 2);
    for name in ["z-top", "m-left", "n-right"] {
        assert_eq!(bench.state("a-bottom").await, State::Blocked);
        bench.run(name, done()).await;
    }
    assert_eq!(bench.state("a-bottom").await, State::Ready);
    assert_eq!(already(bench.send_batch(graph).await).len(), 4);
}

async fn a_released_child_waits_until_it_is_due<S: Storage>(bench: &Bench<S>) {
    let due = Due::After(Duration::from_secs(60));
    bench.insert(in_own_queue("parent")).await;
    bench.insert(NewTask { due, ..dependent("early", &["parent"]) }).await;
    let due_at = bench.now() + Duration::from_secs(60);
    assert_eq!(bench.state("early").await, State::Blocked);
    bench.clock.advance(Duration::from_secs(10));
    let next = bench.ask(&claim_request("early", 1)).await;
    assert_eq!((next.tasks.len(), next.next_due), (0, None), "a blocked task is not scheduled");
    bench.run("parent", done()).await;
    let child = bench.task("early").await;
    assert_eq!((child.state, child.due_at), (State::Scheduled, due_at));
    let next = bench.ask(&claim_request("early", 1)).await.next_due;
    assert_eq!(next, Some(Duration::from_secs(50)));
    bench.insert(NewTask { due, ..dependent("stored-late", &["parent"]) }).await;
    assert_eq!(bench.state("stored-late").await, State::Scheduled);
    bench.insert(in_own_queue("slow")).await;
    bench.insert(NewTask { due, ..dependent("overdue", &["slow"]) }).await;
    bench.clock.advance(LONG);
    bench.run("slow", done()).await;
    assert_eq!(bench.state("overdue").await, State::Ready);
    assert_eq!(bench.claim_in("early").await.task, id("early"));
}

async fn a_parent_that_goes_on_releases_nobody<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("parent")).await;
    bench.insert(dependent("child", &["parent"])).await;
    let before = bench.task("child").await;
    bench.run("parent", retry(Duration::ZERO)).await;
    bench.claim_in("parent").await;
    moved(bench.send(cancel("parent", State::Running)).await);
    assert_eq!(bench.task("child").await, before);
    let lapsed = bench.let_lapse().await;
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Cancelled, "and here it ends");
    let child = bench.task("child").await;
    assert_eq!((child.state, child.cause), (State::Failed, Some(Cause::DependencyFailed)));
}

async fn a_child_added_in_the_call_that_ends_its_parent_is_not_forgotten<S: Storage>(bench: &Bench<S>) {
    for (name, child_first, in_one_batch) in
        [("a", false, false), ("b", true, false), ("c", false, true), ("d", true, true)]
    {
        let child = format!("{name}-child");
        let lease = bench.bring(name, State::Running).await.expect("running");
        let mut steps = vec![settle(&lease, done()), put(&dependent(&child, &[name]))];
        if child_first {
            steps.reverse();
        }
        let batches: Vec<Batch> =
            if in_one_batch { vec![Batch { steps }] } else { steps.into_iter().map(Batch::from).collect() };
        for outcome in bench.send_all(&batches).await {
            applied(outcome);
        }
        let task = bench.task(&child).await;
        assert_eq!((task.state, task.parents_pending), (State::Ready, 0), "{name}");
    }
}

async fn a_grandchild_added_in_the_call_that_fails_its_parent_fails_too<S: Storage>(bench: &Bench<S>) {
    for (name, policy, expected) in
        [("f", OnParentFailure::Fail, State::Failed), ("r", OnParentFailure::Run, State::Blocked)]
    {
        for (order, late_first, in_one_batch) in
            [("1", false, false), ("2", true, false), ("3", false, true), ("4", true, true)]
        {
            let [top, child, late] = ["top", "child", "late"].map(|who| format!("{who}-{name}{order}"));
            bench.insert(in_own_queue(&top)).await;
            bench.insert(child_of(&child, &top, policy)).await;
            let mut steps = vec![
                end(&top, States::UNFINISHED, State::Failed, Cause::Error),
                put(&dependent(&late, &[&child])),
            ];
            if late_first {
                steps.reverse();
            }
            let batches: Vec<Batch> = if in_one_batch {
                vec![Batch { steps }]
            } else {
                steps.into_iter().map(Batch::from).collect()
            };
            for outcome in bench.send_all(&batches).await {
                applied(outcome);
            }
            assert_eq!(bench.state(&late).await, expected, "{late}");
        }
    }
}

async fn a_child_that_ended_before_its_parent_stays_as_it_is<S: Storage>(bench: &Bench<S>) {
    for to in ENDS {
        for is_alone in [true, false] {
            let [parent, child, sibling] =
                ["parent", "child", "sibling"].map(|who| format!("{who}-{to}-{is_alone}"));
            bench.insert(in_own_queue(&parent)).await;
            bench.insert(dependent(&child, &[&parent])).await;
            if !is_alone {
                bench.insert(dependent(&sibling, &[&parent])).await;
            }
            moved(bench.send(cancel(&child, State::Blocked)).await);
            let before = bench.task(&child).await;
            end_as(bench, &parent, to).await;
            let after = bench.task(&child).await;
            assert_eq!(
                (after.state, after.cause, after.rev),
                (before.state, before.cause, before.rev),
                "{to}"
            );
            let released = if to == State::Succeeded { State::Ready } else { State::Failed };
            assert!(is_alone || bench.state(&sibling).await == released, "{to}");
        }
    }
}

async fn a_thousand_parents_release_one_child<S: Storage>(bench: &Bench<S>) {
    let names: Vec<_> = (0..PARENTS_MAX).map(|number| format!("p{number}")).collect();
    let parents: Vec<_> = names.iter().map(|name| put(&task(name))).collect();
    applied(bench.send_batch(parents).await);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    bench.insert(dependent("child", &names)).await;
    let leases = bench.claim(2_000).await;
    let (last, first) = leases.split_last().expect("a thousand leases");
    let settles: Vec<_> = first.iter().map(|lease| Batch::from(settle(lease, done()))).collect();
    assert!(bench.send_all(&settles).await.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))));
    let child = bench.task("child").await;
    assert_eq!((child.state, child.parents_pending), (State::Blocked, 1));
    bench.settle(last, done()).await;
    assert_eq!(bench.state("child").await, State::Ready);
}

async fn a_repeated_end_releases_nobody_twice<S: Storage>(bench: &Bench<S>) {
    let first = bench.bring("first", State::Running).await.expect("running");
    bench.insert(in_own_queue("second")).await;
    bench.insert(dependent("child", &["first", "second"])).await;
    bench.settle(&first, done()).await;
    for _ in 0..3 {
        already(bench.send(settle(&first, done())).await);
    }
    let child = bench.task("child").await;
    assert_eq!((child.state, child.parents_pending), (State::Blocked, 1));
}
