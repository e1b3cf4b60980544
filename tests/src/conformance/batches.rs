//! Calls of many batches: each is applied whole or not at all, and none minds its neighbours.

use std::time::Duration;

use steadfast_core::step::{Batch, Outcome, Receipt, Refusal, States, Step};
use steadfast_core::storage::{Lease, Storage, TaskFilter};
use steadfast_core::task::{Cause, NewTask, OnParentFailure, State};

use super::bench::*;

super::cases! { "batches", 1,
    "rule 2: which items were refused" => of_five_hundred_settlings_only_the_stale_ones_are_refused,
    "apply: a refused batch changes nothing" => a_refused_batch_changes_nothing_and_its_neighbours_are_applied,
    "rule 1: later steps of a refused batch" => a_refused_batch_releases_nobody_and_frees_nothing,
    "apply: a refused batch changes nothing" => a_refused_batch_takes_all_kinds_of_steps_with_it,
    "apply: a refused batch changes nothing" => a_graph_with_an_orphan_is_not_stored,
    "Refused::step" => the_first_failing_step_is_named_whatever_the_ids,
    "Outcome::Applied" => a_batch_done_in_part_before_is_completed,
    "Outcome::Applied" => a_batch_done_in_part_before_is_still_refused_for_the_rest,
    "Outcome: receipts" => receipts_stand_in_the_order_of_the_steps,
    "apply" => a_call_without_batches_is_answered,
    "speed: batches everywhere" => a_thousand_batches_fit_into_one_call,
    "Outcome" => outcomes_stand_in_the_order_of_the_batches,
    "Batch: transitions come before inserts" => a_batch_may_submit_children_of_what_it_ends,
}

async fn of_five_hundred_settlings_only_the_stale_ones_are_refused<S: Storage>(bench: &Bench<S>) {
    let steps = (0..500).map(|number| put(&task(&format!("t{number}")))).collect();
    applied(bench.send_batch(steps).await);
    let leases = bench.claim(500).await;
    assert_eq!(leases.len(), 500);
    let is_stale = |number: usize| number % 71 == 3 && number < 497;
    let has_child = |number: usize| number.is_multiple_of(10);
    let child = |number: usize| format!("child-{number}");
    let (mut children, mut ends) = (Vec::new(), Vec::new());
    for (number, lease) in leases.iter().enumerate() {
        if has_child(number) {
            children.push(put(&dependent(&child(number), &[lease.task.as_str()])));
        }
        if is_stale(number) {
            ends.push(Batch::from(replace(lease.task.as_str(), "somebody")));
        }
    }
    assert_eq!((children.len(), ends.len()), (50, 7));
    applied(bench.send_batch(children).await);
    assert!(bench.send_all(&ends).await.into_iter().all(|outcome| applied(outcome).len() == 1));
    let settles: Vec<_> = leases.iter().map(|lease| Batch::from(settle(lease, done()))).collect();
    for again in [false, true] {
        for (number, outcome) in bench.send_all(&settles).await.into_iter().enumerate() {
            match (is_stale(number), again) {
                (true, _) => assert_eq!(stale(outcome).state, State::Cancelled, "{number}"),
                (false, false) => assert_eq!(moved(outcome).state, State::Succeeded, "{number}"),
                (false, true) => assert_eq!(moved_in(&already(outcome)).state, State::Succeeded, "{number}"),
            }
        }
    }
    for number in (0..500).filter(|&number| has_child(number)) {
        let expected = if is_stale(number) { State::Failed } else { State::Ready };
        assert_eq!(bench.state(&child(number)).await, expected, "{number}");
    }
}

async fn a_refused_batch_changes_nothing_and_its_neighbours_are_applied<S: Storage>(bench: &Bench<S>) {
    let good = bench.bring("good", State::Running).await.expect("running");
    let bad = bench.bring("bad", State::Running).await.expect("running");
    let before = bench.task("bad").await;
    let wrong_fence = Lease { fence: 9, ..good.clone() };
    let outcomes = bench
        .send_all(&[
            Batch::from(put(&task("before"))),
            Batch {
                steps: vec![settle(&bad, done()), put(&task("orphan")), put(&dependent("x", &["nobody"]))],
            },
            Batch::from(settle(&good, done())),
            Batch { steps: vec![put(&task("y")), put(&NewTask { priority: 1, ..task("before") })] },
            Batch::from(put(&task("after"))),
        ])
        .await;
    let [first, second, third, fourth, fifth] = <[Outcome; 5]>::try_from(outcomes).expect("five outcomes");
    for outcome in [first, fifth] {
        inserted(outcome);
    }
    assert_eq!(moved(third).state, State::Succeeded);
    assert_eq!(refused(second).why, Refusal::ParentMissing(id("nobody")));
    let found = refused(fourth);
    assert!(found.step == 1 && matches!(found.why, Refusal::IdTaken(_)), "{found:?}");
    assert_eq!(bench.task("bad").await, before);
    for (name, stored) in [("before", true), ("after", true), ("orphan", false), ("x", false), ("y", false)] {
        assert_eq!(bench.find(name).await.is_some(), stored, "{name}");
    }
    assert!(matches!(why(bench.send(settle(&wrong_fence, fail())).await), Refusal::Stale(_)));
    bench.settle(&bad, done()).await;
}

async fn a_refused_batch_releases_nobody_and_frees_nothing<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring_task(slotted("parent", "s"), State::Running).await.expect("running");
    bench.insert(dependent("child", &["parent"])).await;
    let before = (bench.task("parent").await, bench.task("child").await);
    let outcomes = bench
        .send_all(&[
            Batch { steps: vec![settle(&lease, done()), put(&dependent("x", &["nobody"]))] },
            Batch::from(put(&slotted("newcomer", "s"))),
            Batch::from(put(&dependent("second-child", &["parent"]))),
        ])
        .await;
    assert_eq!(refused(outcomes[0].clone()).step, 1);
    assert_eq!(why(outcomes[1].clone()), Refusal::SlotTaken(id("parent"), head(&before.0)));
    assert_eq!(inserted(outcomes[2].clone()).1.state, State::Blocked);
    assert_eq!((bench.task("parent").await, bench.task("child").await), before);
    bench.settle(&lease, done()).await;
    assert_eq!(bench.state("child").await, State::Ready);
    assert_eq!(bench.state("second-child").await, State::Ready);
}

async fn a_refused_batch_takes_all_kinds_of_steps_with_it<S: Storage>(bench: &Bench<S>) {
    let renews = bench.bring("renews", State::Running).await.expect("running");
    let settles = bench.bring("settles", State::Running).await.expect("running");
    bench.bring("ended", State::Succeeded).await;
    bench.clock.advance(Duration::from_secs(1));
    let before = (bench.task("renews").await, bench.task("settles").await);
    let steps = vec![
        limit("default", Some(0)),
        renew(&renews),
        settle(&settles, retry(Duration::ZERO)),
        put(&task("new")),
        cancel("ended", State::Ready),
    ];
    let found = refused(bench.send_batch(steps).await);
    assert!(found.step == 4 && matches!(found.why, Refusal::Stale(_)), "{found:?}");
    assert_eq!((bench.task("renews").await, bench.task("settles").await), before);
    assert_eq!((bench.find("new").await, bench.attempts("settles").await.len()), (None, 0));
    bench.insert(task("free")).await;
    assert_eq!(bench.claim(1).await.len(), 1, "the limit was not set");
}

async fn a_graph_with_an_orphan_is_not_stored<S: Storage>(bench: &Bench<S>) {
    let mut graph = vec![
        put(&NewTask { key: Some(key("k")), ..slotted("p", "s") }),
        put(&dependent("c", &["p"])),
        put(&dependent("orphan", &["c", "nobody"])),
    ];
    let found = refused(bench.send_batch(graph.clone()).await);
    assert_eq!((found.step, found.why), (2, Refusal::ParentMissing(id("nobody"))));
    assert_eq!(bench.list(TaskFilter { limit: 10, ..TaskFilter::default() }).await, []);
    graph.pop();
    applied(bench.send_batch(graph).await);
    assert_eq!(bench.task("c").await.parents_pending, 1);
    bench.run("p", done()).await;
    assert_eq!(bench.state("c").await, State::Ready);
}

async fn the_first_failing_step_is_named_whatever_the_ids<S: Storage>(bench: &Bench<S>) {
    bench.bring("m", State::Ready).await;
    for name in ["z", "a"] {
        bench.bring(name, State::Succeeded).await;
    }
    let before = bench.task("m").await;
    for (order, step, failed) in
        [(["m", "z", "a"], 1, "z"), (["a", "m", "z"], 0, "a"), (["z", "a", "m"], 0, "z")]
    {
        let steps = order.map(|name| cancel(name, State::Ready)).to_vec();
        let found = refused(bench.send_batch(steps).await);
        let expected = Refusal::Stale(head(&bench.task(failed).await));
        assert_eq!((found.step, found.why), (step, expected), "{order:?}");
    }
    let unknown = vec![cancel("m", State::Ready), cancel("nobody", State::Ready), cancel("a", State::Ready)];
    let found = refused(bench.send_batch(unknown).await);
    assert_eq!((found.step, found.why), (1, Refusal::NotFound));
    let inserts = vec![put(&task("new")), put(&dependent("z2", &["x2"])), put(&dependent("a2", &["x1"]))];
    let found = refused(bench.send_batch(inserts).await);
    assert_eq!((found.step, found.why), (1, Refusal::ParentMissing(id("x2"))));
    assert_eq!(bench.task("m").await, before);
}

async fn a_batch_done_in_part_before_is_completed<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("old", State::Running).await.expect("running");
    bench.settle(&lease, done()).await;
    bench.insert(task("stored")).await;
    let steps = || vec![put(&task("stored")), settle(&lease, done()), put(&task("new"))];
    let receipts = applied(bench.send_batch(steps()).await);
    let [Receipt::Inserted(first, _), Receipt::Moved(second), Receipt::Inserted(third, _)] = &receipts[..]
    else {
        panic!("{receipts:?}")
    };
    assert_eq!((first, second.state, third), (&id("stored"), State::Succeeded, &id("new")));
    assert_eq!(already(bench.send_batch(steps()).await), receipts);
}

async fn a_batch_done_in_part_before_is_still_refused_for_the_rest<S: Storage>(bench: &Bench<S>) {
    let lease = bench.bring("old", State::Running).await.expect("running");
    bench.settle(&lease, done()).await;
    bench.bring("ended", State::Failed).await;
    let steps = vec![settle(&lease, done()), put(&task("new")), cancel("ended", State::Ready)];
    let found = refused(bench.send_batch(steps).await);
    assert!(found.step == 2 && matches!(found.why, Refusal::Stale(_)), "{found:?}");
    assert_eq!(bench.find("new").await, None);
}

async fn receipts_stand_in_the_order_of_the_steps<S: Storage>(bench: &Bench<S>) {
    let renews = bench.bring("z-renews", State::Running).await.expect("running");
    let settles = bench.bring("a-settles", State::Running).await.expect("running");
    moved(bench.send(cancel("z-renews", State::Running)).await);
    let steps = vec![
        put(&task("z-new")),
        renew(&renews),
        put(&task("a-new")),
        limit("default", Some(7)),
        settle(&settles, done()),
    ];
    let receipts = applied(bench.send_batch(steps).await);
    let expected = vec![
        Receipt::Inserted(id("z-new"), head(&bench.task("z-new").await)),
        Receipt::Renewed { cancel: Some("no longer needed".into()) },
        Receipt::Inserted(id("a-new"), head(&bench.task("a-new").await)),
        Receipt::Limited,
        Receipt::Moved(head(&bench.task("a-settles").await)),
    ];
    assert_eq!(receipts, expected);
}

async fn a_call_without_batches_is_answered<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.send_all(&[]).await, []);
}

async fn a_thousand_batches_fit_into_one_call<S: Storage>(bench: &Bench<S>) {
    let calls: Vec<_> = (0..1_000).map(|number| Batch::from(put(&task(&format!("t{number}"))))).collect();
    for (number, outcome) in bench.send_all(&calls).await.into_iter().enumerate() {
        assert_eq!(inserted(outcome).0, id(&format!("t{number}")));
    }
    let leases = bench.claim(1_000).await;
    let names: Vec<_> = leases.iter().map(|lease| lease.task.to_string()).collect();
    assert_eq!(names, (0..1_000).map(|number| format!("t{number}")).collect::<Vec<_>>());
    let renewals: Vec<_> = leases.iter().map(|lease| Batch::from(renew(lease))).collect();
    for outcome in bench.send_all(&renewals).await {
        assert_eq!(renewed(outcome), None);
    }
}

async fn outcomes_stand_in_the_order_of_the_batches<S: Storage>(bench: &Bench<S>) {
    let z = bench.bring("z", State::Running).await.expect("running");
    let a = bench.bring("a", State::Running).await.expect("running");
    let m = bench.bring("m", State::Running).await.expect("running");
    bench.settle(&m, done()).await;
    let calls = [
        settle(&z, fail()),
        put(&task("y")),
        settle(&m, done()),
        settle(&a, done()),
        cancel("nobody", State::Ready),
        put(&task("b")),
        limit("default", None),
    ]
    .map(Batch::from);
    let outcomes = bench.send_all(&calls).await;
    assert_eq!(moved(outcomes[0].clone()), head(&bench.task("z").await));
    assert_eq!(inserted(outcomes[1].clone()).0, id("y"));
    assert_eq!(moved_in(&already(outcomes[2].clone())), head(&bench.task("m").await));
    assert_eq!(moved(outcomes[3].clone()), head(&bench.task("a").await));
    assert_eq!(why(outcomes[4].clone()), Refusal::NotFound);
    assert_eq!(inserted(outcomes[5].clone()).0, id("b"));
    assert_eq!(outcomes[6], Outcome::Applied(vec![Receipt::Limited]));
}

async fn a_batch_may_submit_children_of_what_it_ends<S: Storage>(bench: &Bench<S>) {
    for (to, policy, expected) in [
        (State::Succeeded, OnParentFailure::Fail, State::Ready),
        (State::Failed, OnParentFailure::Fail, State::Failed),
        (State::Failed, OnParentFailure::Run, State::Ready),
    ] {
        let parent = format!("parent-{to}-{policy}");
        bench.bring(&parent, State::Running).await;
        let child = |name: &str| {
            let parents = vec![after(&parent, policy)];
            put(&NewTask { parents, ..in_own_queue(&format!("{name}-{parent}")) })
        };
        let ends = || -> Step { end(&parent, States::RUNNING, to, Cause::Error) };
        let steps = || vec![child("first"), ends(), child("second")];
        applied(bench.send_batch(steps()).await);
        for name in ["first", "second"] {
            assert_eq!(bench.state(&format!("{name}-{parent}")).await, expected, "{name} {parent}");
        }
        already(bench.send_batch(steps()).await);
    }
}
