//! Slots that are waited for: who comes while a slot is held, and says so, gets it in turn.

use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::step::{Batch, Receipt, Refusal, States};
use steadfast_core::storage::Storage;
use steadfast_core::task::{Cause, Due, NewTask, OnConflict, OnParentFailure, State};

use super::bench::*;
use super::hints::hear_ready;

super::cases! { "waiting", 1,
    "OnConflict::Queue" => who_queues_for_a_held_slot_waits,
    "OnConflict::Queue" => who_queues_for_a_free_slot_has_it_at_once,
    "P11: the others wait in order" => a_slot_is_handed_on_in_the_order_of_arrival,
    "P11" => every_way_to_end_hands_the_slot_on,
    "P11" => a_retry_a_snooze_and_a_rescue_hand_nothing_on,
    "P11" => who_gets_the_slot_goes_on_as_if_it_were_new,
    "P11, P9" => who_waits_for_a_slot_waits_for_parents_too,
    "P11" => a_waiter_that_ends_wakes_nobody_and_is_passed_over,
    "P11: the newcomer enters in bounded time" => who_replaces_comes_before_those_who_wait,
    "P11" => only_the_holder_is_in_the_way,
    "P9" => a_waiter_whose_parent_failed_fails,
    "P11, P9" => a_failure_that_ends_holder_and_waiter_reaches_the_next,
    "P11" => several_slots_are_handed_on_in_one_call,
    "P11" => holder_and_first_waiter_may_end_in_one_call,
    "P11: the others wait in order" => who_queues_in_the_call_that_ends_the_holder_overtakes_nobody,
    "P11" => who_queues_beside_another_waits_for_it,
    "P11" => who_queues_beside_a_replacing_waits_for_the_newcomer,
    "P11, P2" => who_queues_beside_one_that_loses_its_key_waits_for_nobody,
    "apply: a refused batch changes nothing" => a_refused_batch_hands_nothing_on,
    "rule 7: the same batch again is safe" => a_repeated_insert_of_a_waiter_is_already,
    "hints wake an idle worker" => a_slot_handed_on_is_hinted_at,
}

const MINUTE: Duration = Duration::from_secs(60);

/// How a task stands towards its slot.
async fn stands<S: Storage>(bench: &Bench<S>, name: &str) -> (State, bool) {
    let task = bench.task(name).await;
    assert!(!task.slot_waiting || task.state == State::Blocked, "{task:?}");
    (task.state, task.slot_waiting)
}

const WAITS: (State, bool) = (State::Blocked, true);
const HAS_IT: (State, bool) = (State::Ready, false);

/// Stores a holder that runs and tasks that wait for its slot, each in a queue of its own name.
async fn line_up<S: Storage>(bench: &Bench<S>, held: &str, names: &[&str]) -> steadfast_core::storage::Lease {
    let lease = bench.bring_task(slotted(names[0], held), State::Running).await.expect("running");
    for name in &names[1..] {
        bench.insert(queued(name, held)).await;
        assert_eq!(stands(bench, name).await, WAITS, "{name}");
    }
    lease
}

async fn who_queues_for_a_held_slot_waits<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        let (holder, name) = (state.as_str(), format!("after-{state}"));
        bench.bring_task(slotted(holder, holder), state).await;
        let before = bench.task(holder).await;
        let receipt = bench.insert(queued(&name, holder)).await;
        let task = bench.task(&name).await;
        assert_eq!(receipt, head(&task));
        assert_eq!((task.state, task.rev, task.slot_waiting), (State::Blocked, 0, true), "{state}");
        assert_eq!((task.slot, task.parents_pending), (Some(slot(holder)), 0));
        assert_eq!(bench.ask(&claim_request(&name, 9)).await.tasks, []);
        let after = bench.task(holder).await;
        assert_eq!((after.slot_waiting, &after), (false, &before), "the holder notices nothing");
    }
}

async fn who_queues_for_a_free_slot_has_it_at_once<S: Storage>(bench: &Bench<S>) {
    let holder = bench.insert(queued("a", "s")).await;
    assert_eq!(stands(bench, "a").await, HAS_IT);
    assert_eq!(why(bench.send(put(&slotted("b", "s"))).await), Refusal::SlotTaken(id("a"), holder));
    assert_eq!(bench.claim_in("a").await.slot, Some(slot("s")));
    bench.bring_task(slotted("ended", "other"), State::Succeeded).await;
    bench.insert(queued("c", "other")).await;
    assert_eq!(stands(bench, "c").await, HAS_IT);
}

async fn a_slot_is_handed_on_in_the_order_of_arrival<S: Storage>(bench: &Bench<S>) {
    // Neither names, nor priorities, nor the clock have a say.
    let mut lease = line_up(bench, "s", &["holder", "z", "m"]).await;
    bench.insert(NewTask { priority: -9, ..queued("a", "s") }).await;
    bench.clock.advance(MINUTE);
    bench.insert(queued("k", "s")).await;
    line_up(bench, "other", &["elsewhere", "n"]).await;
    let mut left = vec!["z", "m", "a", "k"];
    while !left.is_empty() {
        let next = left.remove(0);
        let rev = bench.task(next).await.rev;
        bench.settle(&lease, done()).await;
        let task = bench.task(next).await;
        assert_eq!((task.state, task.slot_waiting, task.rev), (State::Ready, false, rev + 1), "{next}");
        assert_eq!(task.due_at, task.submitted_at, "due when it said");
        for name in &left {
            assert_eq!(stands(bench, name).await, WAITS, "{name}");
        }
        lease = bench.claim_in(next).await;
        assert_eq!(lease.slot, Some(slot("s")));
    }
    bench.settle(&lease, done()).await;
    bench.insert(slotted("last", "s")).await;
    assert_eq!(stands(bench, "n").await, WAITS, "the other slot is another matter");
}

async fn every_way_to_end_hands_the_slot_on<S: Storage>(bench: &Bench<S>) {
    let cancelled = Verdict::Cancel { reason: "no".into() };
    for (name, verdict) in [("done", done()), ("failed", fail()), ("gave-up", cancelled)] {
        let lease = line_up(bench, name, &[name, &format!("{name}-next")]).await;
        bench.settle(&lease, verdict).await;
    }
    for state in State::ALL.into_iter().filter(|state| state.is_waiting()) {
        let (name, next) = (format!("cancelled-{state}"), format!("cancelled-{state}-next"));
        bench.bring_task(slotted(&name, &name), state).await;
        bench.insert(queued(&next, &name)).await;
        moved(bench.send(cancel(&name, state)).await);
    }
    bench.insert(in_own_queue("parent")).await;
    bench.insert(NewTask { slot: slotted("x", "orphan").slot, ..dependent("orphan", &["parent"]) }).await;
    bench.insert(queued("orphan-next", "orphan")).await;
    bench.run("parent", fail()).await;
    let late = NewTask { deadline: Some(Due::After(MINUTE)), ..slotted("expired", "expired") };
    bench.bring_task(late, State::Running).await;
    bench.insert(queued("expired-next", "expired")).await;
    bench.clock.advance(MINUTE);
    moved(bench.send(expire("expired")).await);
    let lossy = NewTask { rescues_max: 0, ..slotted("lost", "lost") };
    bench.bring_task(lossy, State::Running).await;
    bench.insert(queued("lost-next", "lost")).await;
    let lapsed = bench.let_lapse().await;
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Failed);
    let ways = ["done", "failed", "gave-up", "cancelled-blocked", "cancelled-scheduled", "cancelled-ready"];
    for name in ways.into_iter().chain(["orphan", "expired", "lost"]) {
        assert!(bench.state(name).await.is_terminal(), "{name}");
        let next = format!("{name}-next");
        assert_eq!(stands(bench, &next).await, HAS_IT, "{name}");
        assert_eq!(bench.claim_in(&next).await.slot, Some(slot(name)));
    }
}

async fn a_retry_a_snooze_and_a_rescue_hand_nothing_on<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["a", "b"]).await;
    bench.settle(&lease, retry(Duration::ZERO)).await;
    assert_eq!(stands(bench, "b").await, WAITS);
    bench.run("a", Verdict::Snooze { after: Duration::ZERO }).await;
    assert_eq!(stands(bench, "b").await, WAITS);
    bench.claim_in("a").await;
    moved(bench.send(cancel("a", State::Running)).await);
    assert_eq!(stands(bench, "b").await, WAITS, "it has been asked to stop, and may take its time");
    bench.insert(slotted("c", "other")).await;
    bench.insert(queued("d", "other")).await;
    bench.claim_in("c").await;
    bench.clock.advance(LONG);
    for lapsed in bench.lapsed(9).await {
        let is_c = lapsed.task == id("c");
        moved(bench.send(reclaim(&lapsed)).await);
        assert_eq!(stands(bench, "d").await, WAITS);
        assert!(is_c || stands(bench, "b").await == HAS_IT, "one that was to be cancelled has ended");
    }
}

async fn who_gets_the_slot_goes_on_as_if_it_were_new<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s1", &["a"]).await;
    bench.insert(NewTask { due: Due::After(MINUTE), ..queued("later", "s1") }).await;
    assert_eq!(stands(bench, "later").await, WAITS);
    bench.settle(&lease, done()).await;
    assert_eq!(stands(bench, "later").await, (State::Scheduled, false));
    assert_eq!(bench.ask(&claim_request("later", 1)).await.next_due, Some(MINUTE));

    let lease = line_up(bench, "s2", &["b"]).await;
    bench.insert(NewTask { due: Due::After(MINUTE), ..queued("due-by-then", "s2") }).await;
    bench.clock.advance(MINUTE);
    bench.settle(&lease, done()).await;
    assert_eq!(stands(bench, "due-by-then").await, HAS_IT);

    let lease = line_up(bench, "s3", &["c"]).await;
    bench.insert(in_own_queue("parent")).await;
    bench.insert(NewTask { slot: queued("x", "s3").slot, ..dependent("child", &["parent"]) }).await;
    bench.settle(&lease, done()).await;
    assert_eq!(
        stands(bench, "child").await,
        (State::Blocked, false),
        "it has the slot, and waits for its parent"
    );
    let refusal = why(bench.send(put(&slotted("d", "s3"))).await);
    assert_eq!(refusal, Refusal::SlotTaken(id("child"), head(&bench.task("child").await)));
    bench.run("parent", done()).await;
    assert_eq!(stands(bench, "child").await, HAS_IT);
    bench.claim_in("child").await;
}

async fn who_waits_for_a_slot_waits_for_parents_too<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder"]).await;
    for name in ["p1", "p2"] {
        bench.insert(in_own_queue(name)).await;
    }
    let waits = NewTask { slot: queued("x", "s").slot, ..dependent("child", &["p1", "p2"]) };
    bench.insert(NewTask { due: Due::After(MINUTE), ..waits }).await;
    for (parent, pending) in [("p1", 1), ("p2", 0)] {
        let rev = bench.task("child").await.rev;
        bench.run(parent, done()).await;
        let child = bench.task("child").await;
        assert_eq!((child.state, child.slot_waiting), WAITS, "the slot isn't free");
        assert_eq!((child.parents_pending, child.rev), (pending, rev + 1));
    }
    bench.settle(&lease, done()).await;
    assert_eq!(stands(bench, "child").await, (State::Scheduled, false));
}

async fn a_waiter_that_ends_wakes_nobody_and_is_passed_over<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder", "a", "b", "c", "d"]).await;
    bench.insert(NewTask { deadline: Some(Due::After(MINUTE)), ..queued("e", "s") }).await;
    let before = bench.task("holder").await;
    moved(bench.send(cancel("a", State::Blocked)).await);
    moved(bench.send(cancel("c", State::Blocked)).await);
    bench.clock.advance(MINUTE);
    moved(bench.send(expire("e")).await);
    for (name, expected) in [("a", State::Cancelled), ("c", State::Cancelled), ("e", State::Failed)] {
        let task = bench.task(name).await;
        assert_eq!((task.state, task.slot_waiting, task.slot), (expected, false, Some(slot("s"))));
    }
    assert_eq!(bench.task("holder").await, before);
    for name in ["b", "d"] {
        assert_eq!(stands(bench, name).await, WAITS, "{name}");
    }
    bench.settle(&lease, done()).await;
    assert_eq!((stands(bench, "b").await, stands(bench, "d").await), (HAS_IT, WAITS));
    bench.run("b", done()).await;
    assert_eq!(stands(bench, "d").await, HAS_IT);
    bench.run("d", done()).await;
    bench.insert(slotted("next", "s")).await;
}

async fn who_replaces_comes_before_those_who_wait<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["old", "a", "b"]).await;
    let newcomer = NewTask { slot: Some((slot("s"), OnConflict::Replace)), ..in_own_queue("new") };
    let before = (bench.task("a").await, bench.task("b").await);
    applied(bench.send_batch(vec![replace("old", "new"), put(&newcomer)]).await);
    assert_eq!((stands(bench, "new").await, bench.task("new").await.rev), (HAS_IT, 0));
    assert_eq!(bench.task("old").await.cause, Some(Cause::Replaced));
    stale(bench.send(settle(&lease, done())).await);
    assert_eq!((bench.task("a").await, bench.task("b").await), before, "they notice nothing");
    bench.run("new", done()).await;
    assert_eq!((stands(bench, "a").await, stands(bench, "b").await), (HAS_IT, WAITS));
}

async fn only_the_holder_is_in_the_way<S: Storage>(bench: &Bench<S>) {
    line_up(bench, "s", &["holder", "a", "b"]).await;
    let holder = head(&bench.task("holder").await);
    for policy in [OnConflict::Reject, OnConflict::Replace, OnConflict::Join] {
        let newcomer = NewTask { slot: Some((slot("s"), policy)), ..in_own_queue("new") };
        assert_eq!(
            why(bench.send(put(&newcomer)).await),
            Refusal::SlotTaken(id("holder"), holder),
            "{policy}"
        );
    }
    assert_eq!(bench.find("new").await, None);
    // Ended, it is the next who is in the way.
    moved(bench.send(end("holder", States::RUNNING, State::Succeeded, Cause::Done)).await);
    let holder = head(&bench.task("a").await);
    assert_eq!(why(bench.send(put(&slotted("new", "s"))).await), Refusal::SlotTaken(id("a"), holder));
}

async fn a_waiter_whose_parent_failed_fails<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder"]).await;
    bench.bring("failed", State::Failed).await;
    let stillborn = NewTask { slot: queued("x", "s").slot, ..dependent("stillborn", &["failed"]) };
    assert_eq!(bench.insert(stillborn).await.state, State::Failed);
    assert!(!bench.task("stillborn").await.slot_waiting);
    let parents = vec![after("failed", OnParentFailure::Run)];
    bench.insert(NewTask { parents, ..queued("runs", "s") }).await;
    bench.insert(in_own_queue("parent")).await;
    bench.insert(NewTask { slot: queued("x", "s").slot, ..dependent("child", &["parent"]) }).await;
    bench.insert(dependent("grandchild", &["child"])).await;
    bench.insert(queued("last", "s")).await;
    let holder = bench.task("holder").await;
    bench.run("parent", fail()).await;
    let child = bench.task("child").await;
    assert_eq!(
        (child.state, child.cause, child.slot_waiting),
        (State::Failed, Some(Cause::DependencyFailed), false)
    );
    assert_eq!(bench.state("grandchild").await, State::Failed);
    assert_eq!(bench.task("holder").await, holder);
    bench.settle(&lease, done()).await;
    assert_eq!((stands(bench, "runs").await, stands(bench, "last").await), (HAS_IT, WAITS));
    bench.run("runs", done()).await;
    assert_eq!(stands(bench, "last").await, HAS_IT, "those that failed are passed over");
}

async fn a_failure_that_ends_holder_and_waiter_reaches_the_next<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("parent")).await;
    for name in ["holder", "a"] {
        bench.insert(NewTask { slot: queued("x", "s").slot, ..dependent(name, &["parent"]) }).await;
    }
    bench.insert(queued("b", "s")).await;
    bench.insert(queued("c", "s")).await;
    assert_eq!(stands(bench, "holder").await, (State::Blocked, false));
    assert_eq!(stands(bench, "a").await, WAITS);
    bench.run("parent", fail()).await;
    for name in ["holder", "a"] {
        assert_eq!(stands(bench, name).await, (State::Failed, false), "{name}");
    }
    assert_eq!((stands(bench, "b").await, stands(bench, "c").await), (HAS_IT, WAITS));
}

async fn several_slots_are_handed_on_in_one_call<S: Storage>(bench: &Bench<S>) {
    let mut leases = Vec::new();
    for number in [3, 1, 4, 2, 5] {
        let names = [format!("h{number}"), format!("a{number}"), format!("b{number}")];
        leases.push(line_up(bench, &format!("s{number}"), &names.each_ref().map(String::as_str)).await);
    }
    let (own, shared) = leases.split_at(2);
    let mut batches: Vec<_> = own.iter().map(|lease| Batch::from(settle(lease, done()))).collect();
    batches.push(Batch { steps: shared.iter().map(|lease| settle(lease, fail())).collect() });
    for outcome in bench.send_all(&batches).await {
        applied(outcome);
    }
    for number in 1..=5 {
        assert_eq!(stands(bench, &format!("a{number}")).await, HAS_IT, "{number}");
        assert_eq!(stands(bench, &format!("b{number}")).await, WAITS, "{number}");
    }
}

async fn holder_and_first_waiter_may_end_in_one_call<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s1", &["h1", "a1", "b1", "c1"]).await;
    let calls = [settle(&lease, done()), cancel("a1", State::Blocked)].map(Batch::from);
    for outcome in bench.send_all(&calls).await {
        applied(outcome);
    }
    let lease = line_up(bench, "s2", &["h2", "a2", "b2", "c2"]).await;
    applied(bench.send_batch(vec![cancel("a2", State::Blocked), settle(&lease, done())]).await);
    for number in 1..=2 {
        assert_eq!(bench.state(&format!("a{number}")).await, State::Cancelled, "{number}");
        assert_eq!(stands(bench, &format!("b{number}")).await, HAS_IT, "{number}");
        assert_eq!(stands(bench, &format!("c{number}")).await, WAITS, "{number}");
    }
    // All of them at once leave the slot free.
    let lease = line_up(bench, "s3", &["h3", "a3", "b3"]).await;
    let all = [cancel("b3", State::Blocked), settle(&lease, done()), cancel("a3", State::Blocked)];
    for outcome in bench.send_all(&all.map(Batch::from)).await {
        applied(outcome);
    }
    bench.insert(slotted("next", "s3")).await;
}

async fn who_queues_in_the_call_that_ends_the_holder_overtakes_nobody<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s1", &["h1", "a1"]).await;
    let calls = [settle(&lease, done()), put(&queued("late1", "s1"))].map(Batch::from);
    for outcome in bench.send_all(&calls).await {
        applied(outcome);
    }
    let lease = line_up(bench, "s2", &["h2", "a2"]).await;
    applied(bench.send_batch(vec![put(&queued("late2", "s2")), settle(&lease, done())]).await);
    for number in 1..=2 {
        assert_eq!(stands(bench, &format!("a{number}")).await, HAS_IT, "{number}");
        assert_eq!(stands(bench, &format!("late{number}")).await, WAITS, "{number}");
    }
    // Where nobody waits, the newcomer has the slot when the call is over, whichever way it came to it.
    for (number, ends_first) in [(3, true), (4, false)] {
        let lease = line_up(bench, &format!("s{number}"), &[&format!("h{number}")]).await;
        let name = format!("late{number}");
        let mut calls = [settle(&lease, done()), put(&queued(&name, &format!("s{number}")))].map(Batch::from);
        if !ends_first {
            calls.reverse();
        }
        for outcome in bench.send_all(&calls).await {
            applied(outcome);
        }
        assert_eq!(stands(bench, &name).await, HAS_IT, "{name}");
    }
}

async fn who_queues_beside_another_waits_for_it<S: Storage>(bench: &Bench<S>) {
    let calls = ["a", "b", "c"].map(|name| Batch::from(put(&queued(name, "s"))));
    for outcome in bench.send_all(&calls).await {
        inserted(outcome);
    }
    assert_eq!(stands(bench, "a").await, HAS_IT);
    for (ends, next) in [("a", "b"), ("b", "c")] {
        assert_eq!(stands(bench, next).await, WAITS);
        bench.run(ends, done()).await;
        assert_eq!(stands(bench, next).await, HAS_IT);
    }
}

async fn who_queues_beside_a_replacing_waits_for_the_newcomer<S: Storage>(bench: &Bench<S>) {
    // Somebody waits already, or nobody does; the replacing comes first, or last.
    for (number, (waiters, replaces_first)) in
        [(0, true), (0, false), (1, true), (1, false)].into_iter().enumerate()
    {
        let named = |name: &str| format!("{name}{number}");
        let (held, new, late, before) = (named("s"), named("new"), named("late"), named("before"));
        line_up(bench, &held, &[&*named("old"), &*before][..=waiters]).await;
        let replacing = vec![replace(&named("old"), &new), put(&slotted(&new, &held))];
        let mut calls = [Batch::from(replacing), Batch::from(put(&queued(&late, &held)))];
        if !replaces_first {
            calls.reverse();
        }
        for outcome in bench.send_all(&calls).await {
            applied(outcome);
        }
        assert_eq!(stands(bench, &new).await, HAS_IT, "{new}");
        assert_eq!(stands(bench, &late).await, WAITS, "{late}");
        bench.run(&new, done()).await;
        if waiters > 0 {
            assert_eq!(stands(bench, &before).await, HAS_IT, "{before}");
            bench.run(&before, done()).await;
        }
        assert_eq!(stands(bench, &late).await, HAS_IT, "{late}");
    }
}

async fn who_queues_beside_one_that_loses_its_key_waits_for_nobody<S: Storage>(bench: &Bench<S>) {
    for policy in [OnConflict::Reject, OnConflict::Queue] {
        let named = |name: &str| format!("{name}-{policy}");
        let (first, loser, last) = (named("first"), named("loser"), named("last"));
        let with_key = |task: NewTask| NewTask { key: Some(key(&named("key"))), ..task };
        let slotted = NewTask { slot: Some((slot(&named("s")), policy)), ..in_own_queue(&loser) };
        let calls = [with_key(in_own_queue(&first)), with_key(slotted), queued(&last, &named("s"))]
            .map(|task| Batch::from(put(&task)));
        let [won, lost, came_last] = bench.send_all(&calls).await.try_into().expect("three answers");
        applied(won);
        assert!(matches!(refused(lost).why, Refusal::KeyTaken(holder, _) if holder == id(&first)));
        applied(came_last);
        assert_eq!(stands(bench, &last).await, HAS_IT, "{last}");
    }
}

async fn a_refused_batch_hands_nothing_on<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder", "a"]).await;
    let before = (bench.task("holder").await, bench.task("a").await);
    let stranger = NewTask { payload: (*b"other").into(), ..in_own_queue("a") };
    let refusal = refused(bench.send_batch(vec![settle(&lease, done()), put(&stranger)]).await);
    assert!(refusal.step == 1 && matches!(refusal.why, Refusal::IdTaken(_)), "{refusal:?}");
    assert_eq!((bench.task("holder").await, bench.task("a").await), before);
    let refusal = refused(bench.send_batch(vec![put(&queued("b", "s")), put(&stranger)]).await);
    assert_eq!(refusal.step, 1);
    assert_eq!(bench.find("b").await, None);
    bench.settle(&lease, done()).await;
    assert_eq!(stands(bench, "a").await, HAS_IT);
    bench.run("a", done()).await;
    bench.insert(slotted("next", "s")).await;
}

async fn a_repeated_insert_of_a_waiter_is_already<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder", "a"]).await;
    let before = bench.task("a").await;
    let again = async || match &already(bench.send(put(&queued("a", "s"))).await)[..] {
        [Receipt::Inserted(task, found)] => (task.clone(), *found),
        other => panic!("not the receipt of one insert: {other:?}"),
    };
    assert_eq!(again().await, (id("a"), head(&before)));
    assert_eq!(bench.task("a").await, before);
    bench.settle(&lease, done()).await;
    assert_eq!(again().await, (id("a"), head(&bench.task("a").await)));
    assert_eq!(stands(bench, "a").await, HAS_IT);
}

async fn a_slot_handed_on_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    let lease = line_up(bench, "s", &["holder", "a"]).await;
    let mut hints = bench.store().hints();
    bench.settle(&lease, done()).await;
    hear_ready(bench, &mut hints).await;
}
