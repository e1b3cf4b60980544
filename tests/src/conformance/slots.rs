//! Slots: at most one unfinished task in each.

use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::step::{Batch, Receipt, Refusal, States};
use steadfast_core::storage::{ErrorKind, Storage};
use steadfast_core::task::{Cause, NewTask, State};

use super::bench::*;

super::cases! { "slots", 1,
    "P11: one holder per slot" => a_slot_is_held_in_every_unfinished_state_and_in_no_other,
    "P11" => a_retry_a_snooze_and_a_rescue_keep_the_slot,
    "P11" => every_way_to_end_frees_the_slot,
    "P11: a replaced attempt can't commit" => a_newcomer_replaces_the_holder_in_one_commit,
    "P6, rule 7" => a_repeated_replacing_is_already,
    "P11" => a_replacing_that_comes_too_late_changes_nothing,
    "P11" => slots_do_not_mind_each_other,
    "P11" => two_tasks_of_one_batch_can_not_share_a_slot,
    "P11" => a_task_that_fails_as_it_is_stored_takes_no_slot,
    "the insert's guards" => a_task_that_would_fail_as_it_is_stored_is_refused_a_held_slot,
}

async fn a_slot_is_held_in_every_unfinished_state_and_in_no_other<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        let name = state.as_str();
        bench.bring_task(slotted(name, name), state).await;
        let holder = bench.task(name).await;
        let newcomer = format!("{name}-newcomer");
        let outcome = bench.send(put(&slotted(&newcomer, name))).await;
        if state.is_terminal() {
            inserted(outcome);
        } else {
            assert_eq!(why(outcome), Refusal::SlotTaken(id(name), head(&holder)), "{state}");
            assert_eq!(bench.find(&newcomer).await, None);
        }
        assert_eq!(bench.task(name).await, holder);
    }
}

async fn a_retry_a_snooze_and_a_rescue_keep_the_slot<S: Storage>(bench: &Bench<S>) {
    bench.insert(slotted("a", "s")).await;
    let keeps = async || {
        let refusal = why(bench.send(put(&slotted("b", "s"))).await);
        assert!(matches!(refusal, Refusal::SlotTaken(_, _)), "{refusal:?}");
    };
    bench.run("a", retry(Duration::ZERO)).await;
    keeps().await;
    bench.run("a", Verdict::Snooze { after: Duration::ZERO }).await;
    keeps().await;
    assert_eq!(bench.claim_in("a").await.slot, Some(slot("s")));
    let lapsed = bench.let_lapse().await;
    keeps().await;
    moved(bench.send(reclaim(&lapsed)).await);
    keeps().await;
}

async fn every_way_to_end_frees_the_slot<S: Storage>(bench: &Bench<S>) {
    bench.bring_task(slotted("by-cancel", "s1"), State::Scheduled).await;
    moved(bench.send(cancel("by-cancel", State::Scheduled)).await);
    bench.insert(in_own_queue("parent")).await;
    let fails = NewTask { slot: slotted("x", "s2").slot, ..dependent("by-parent", &["parent"]) };
    bench.insert(fails).await;
    bench.run("parent", fail()).await;
    bench.bring_task(NewTask { rescues_max: 0, ..slotted("by-loss", "s3") }, State::Running).await;
    let lapsed = bench.let_lapse().await;
    assert_eq!(moved(bench.send(reclaim(&lapsed)).await).state, State::Failed);
    for (ended, held) in [("by-cancel", "s1"), ("by-parent", "s2"), ("by-loss", "s3")] {
        assert!(bench.state(ended).await.is_terminal(), "{ended}");
        bench.insert(slotted(&format!("after-{ended}"), held)).await;
    }
}

async fn a_newcomer_replaces_the_holder_in_one_commit<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        let (old, new) = (state.as_str(), format!("{state}-new"));
        let lease = bench.bring_task(slotted(old, old), state).await;
        bench.insert(dependent(&format!("{state}-child"), &[old])).await;
        let steps = vec![replace(old, &new), put(&slotted(&new, old))];
        let receipts = applied(bench.send_batch(steps).await);
        let [Receipt::Moved(moved), Receipt::Inserted(task, found)] = &receipts[..] else {
            panic!("{receipts:?}")
        };
        let (replaced, newcomer) = (bench.task(old).await, bench.task(&new).await);
        assert_eq!((*moved, task, *found), (head(&replaced), &id(&new), head(&newcomer)));
        assert_eq!((replaced.state, replaced.cause), (State::Cancelled, Some(Cause::Replaced)), "{state}");
        assert_eq!(replaced.error, Some(format!("replaced by {new}")));
        assert_eq!((newcomer.state, newcomer.slot), (State::Ready, Some(slot(old))), "{state}");
        assert_eq!(bench.state(&format!("{state}-child")).await, State::Failed);
        if let Some(lease) = lease {
            for step in [settle(&lease, done()), settle(&lease, retry(LONG)), renew(&lease)] {
                assert_eq!(stale(bench.send(step).await), head(&replaced), "a replaced attempt can't write");
            }
        }
    }
}

async fn a_repeated_replacing_is_already<S: Storage>(bench: &Bench<S>) {
    bench.bring_task(slotted("old", "s"), State::Running).await;
    let steps = || vec![put(&slotted("new", "s")), replace("old", "new")];
    assert!(matches!(
        applied(bench.send_batch(steps()).await)[..],
        [Receipt::Inserted(..), Receipt::Moved(_)]
    ));
    let before = (bench.task("old").await, bench.task("new").await);
    assert!(matches!(
        already(bench.send_batch(steps()).await)[..],
        [Receipt::Inserted(..), Receipt::Moved(_)]
    ));
    assert_eq!((bench.task("old").await, bench.task("new").await), before);
    bench.run("new", done()).await;
    already(bench.send_batch(steps()).await);
    bench.insert(slotted("third", "s")).await;
    already(bench.send_batch(steps()).await);
}

async fn a_replacing_that_comes_too_late_changes_nothing<S: Storage>(bench: &Bench<S>) {
    bench.bring_task(slotted("old", "s"), State::Running).await;
    moved(bench.send(end("old", States::RUNNING, State::Succeeded, Cause::Done)).await);
    let steps = || vec![replace("old", "new"), put(&slotted("new", "s"))];
    let found = refused(bench.send_batch(steps()).await);
    assert_eq!((found.step, found.why), (0, Refusal::Stale(head(&bench.task("old").await))));
    assert_eq!(bench.find("new").await, None);
    bench.insert(slotted("other", "s")).await;
    bench.bring_task(slotted("elsewhere", "s2"), State::Running).await;
    let running = bench.task("elsewhere").await;
    let steps = vec![replace("elsewhere", "new"), put(&slotted("new", "s"))];
    let found = refused(bench.send_batch(steps).await);
    assert_eq!(
        (found.step, found.why),
        (1, Refusal::SlotTaken(id("other"), head(&bench.task("other").await)))
    );
    assert_eq!(bench.task("elsewhere").await, running, "it goes on");
}

async fn slots_do_not_mind_each_other<S: Storage>(bench: &Bench<S>) {
    for name in ["user 1", "user 10", "USER 1", "user 1 ", "üser 1"] {
        let number = name.bytes().map(usize::from).sum::<usize>();
        bench.insert(slotted(&format!("t{number}-{}", name.len()), name)).await;
    }
    for number in 0..3 {
        bench.insert(task(&format!("none-{number}"))).await;
    }
}

async fn two_tasks_of_one_batch_can_not_share_a_slot<S: Storage>(bench: &Bench<S>) {
    // Nobody has a use for such a batch: the contract leaves open whether it is refused, or rejected with its call.
    let batch = Batch { steps: vec![put(&slotted("a", "s")), put(&slotted("b", "s"))] };
    match bench.store().apply(&[batch]).await {
        Ok(mut outcomes) => {
            let found = refused(outcomes.remove(0));
            assert!(found.step == 1 && matches!(found.why, Refusal::SlotTaken(_, _)), "{found:?}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}"),
    }
    assert_eq!((bench.find("a").await, bench.find("b").await), (None, None));
    let calls = [put(&slotted("c", "s")), put(&slotted("d", "s"))].map(Batch::from);
    let mut outcomes = bench.send_all(&calls).await.into_iter();
    let (holder, receipt) = inserted(outcomes.next().expect("two outcomes"));
    assert_eq!(holder, id("c"));
    assert_eq!(why(outcomes.next().expect("two outcomes")), Refusal::SlotTaken(id("c"), receipt));
    assert_eq!(bench.find("d").await, None);
}

async fn a_task_that_fails_as_it_is_stored_takes_no_slot<S: Storage>(bench: &Bench<S>) {
    bench.bring("parent", State::Failed).await;
    let fails = NewTask { slot: slotted("x", "s").slot, ..dependent("a", &["parent"]) };
    assert_eq!(bench.insert(fails).await.state, State::Failed);
    bench.insert(slotted("b", "s")).await;
}

async fn a_task_that_would_fail_as_it_is_stored_is_refused_a_held_slot<S: Storage>(bench: &Bench<S>) {
    bench.bring("parent", State::Failed).await;
    let holder = bench.insert(slotted("holder", "s")).await;
    let fails = NewTask { slot: slotted("x", "s").slot, ..dependent("a", &["parent"]) };
    assert_eq!(why(bench.send(put(&fails)).await), Refusal::SlotTaken(id("holder"), holder));
    assert_eq!(bench.find("a").await, None);
}
