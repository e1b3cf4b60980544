//! Storing tasks: what is kept, what counts as the same request, and in which order the guards are judged.

use std::time::Duration;

use steadfast_core::name::{Key, Slot};
use steadfast_core::step::{Batch, Outcome, Receipt, Refusal};
use steadfast_core::storage::{ErrorKind, Query, Storage, TaskFilter};
use steadfast_core::task::{
    Backoff, Due, NewTask, OnConflict, OnParentFailure, PAYLOAD_BYTES_MAX, Payload, State,
};
use steadfast_core::time::Timestamp;

use super::bench::*;

super::cases! { "insert", 1,
    "P13: the task is the request" => a_new_task_is_read_back_as_it_was_asked_for,
    "rule 10: byte for byte" => payloads_are_kept_byte_for_byte,
    "rule 10: byte for byte" => texts_are_kept_as_they_are,
    "the contract's types" => numbers_at_their_ends_are_kept,
    "rule 9: due by the store's clock" => a_task_is_due_by_the_stores_clock,
    "P2: one row for each id" => the_same_request_again_is_already,
    "P2: one row for each key" => a_key_stands_for_the_first_request,
    "P2: one row for each key" => a_key_outlives_the_end_of_its_task,
    "the insert's guards" => an_id_or_a_key_with_another_request_is_taken,
    "the insert's guards" => guards_are_judged_in_their_order,
    "ErrorKind::Rejected" => a_payload_over_64_mib_is_rejected_with_its_whole_call,
    "speed: batches everywhere" => a_thousand_tasks_fit_into_one_batch,
    "P2: one row for each key" => one_request_twice_in_one_call_is_stored_once,
}

async fn a_new_task_is_read_back_as_it_was_asked_for<S: Storage>(bench: &Bench<S>) {
    bench.clock.advance(Duration::from_micros(7));
    let asked = NewTask {
        slot: Some((slot("user:42"), OnConflict::Replace)),
        key: Some(key("order-7")),
        priority: -3,
        due: Due::After(Duration::from_micros(1_000_001)),
        attempts_max: 9,
        rescues_max: 2,
        timeout: Duration::from_micros(77),
        backoff: Backoff { min: Duration::from_millis(5), max: Duration::from_secs(6) },
        queue: queue("mail"),
        ..NewTask::new(id("a.b-c_D9"), kind("send"), *b"{\"to\": 7}")
    };
    let receipt = bench.insert(asked.clone()).await;
    let task = bench.task("a.b-c_D9").await;
    assert_eq!(head(&task), receipt);
    assert_eq!((task.id, task.kind, task.queue), (asked.id.clone(), asked.kind.clone(), asked.queue.clone()));
    assert_eq!((task.slot, task.key), (Some(slot("user:42")), Some(key("order-7"))));
    assert_eq!((task.priority, task.attempts_max, task.rescues_max), (-3, 9, 2));
    assert_eq!((task.timeout, task.backoff), (asked.timeout, asked.backoff));
    assert_eq!((&task.payload, task.output), (&asked.payload, None));
    assert_eq!((task.state, task.attempt, task.rescues, task.fence), (State::Scheduled, 0, 0, 0));
    assert_eq!(
        (task.submitted_at, task.due_at),
        (bench.now(), bench.now() + Duration::from_micros(1_000_001))
    );
    assert_eq!(
        (task.claimed_at, task.entered_at, task.finished_at, task.lease_expires_at),
        (None, None, None, None)
    );
    assert_eq!((task.cause, task.error, task.worker, task.cancel), (None, None, None, None));
    assert_eq!((task.parents_pending, task.digest), (0, asked.digest()));
}

async fn payloads_are_kept_byte_for_byte<S: Storage>(bench: &Bench<S>) {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1u32 << 20).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let payloads = [
        ("every-byte", all_bytes),
        ("empty", Vec::new()),
        ("one-mib", large),
        ("spaced", b"{ \"b\":1,  \"a\" :1.0, \"a\":2 }\r\n".to_vec()),
        ("not-utf8", vec![0xff, 0xfe, 0x00]),
        ("like-hex", b"\\xdeadbeef".to_vec()),
    ];
    for (name, payload) in payloads {
        let payload: Payload = payload.into();
        bench.insert(NewTask { payload: payload.clone(), ..in_own_queue(name) }).await;
        assert!(bench.task(name).await.payload == payload, "{name}: the payload");
        let lease = bench.claim_in(name).await;
        assert!(lease.payload == payload, "{name}: the lease's payload");
        bench.settle(&lease, steadfast_core::Verdict::Done(payload.clone())).await;
        assert!(bench.task(name).await.output == Some(payload), "{name}: the output");
    }
}

async fn texts_are_kept_as_they_are<S: Storage>(bench: &Bench<S>) {
    let texts = [
        "it's \"quoted\"",
        "back\\slash \\x41 \\",
        "größer ≥ 日本語 🦀",
        "{a,b} %s $1 ?1 :x ; -- /*",
        " spaces at both ends ",
        "NULL",
        "e\u{301} is not \u{e9}",
    ];
    for (number, text) in texts.into_iter().enumerate() {
        let name = format!("t{number}");
        let (held, of) = (Slot::new(text).expect("printable"), Key::new(text).expect("printable"));
        let slot = Some((held.clone(), OnConflict::Reject));
        bench.insert(NewTask { slot, key: Some(of.clone()), ..in_own_queue(&name) }).await;
        let lease = bench.claim_in(&name).await;
        assert_eq!(lease.slot, Some(held.clone()));
        let error = format!("{text}\n\t{text}");
        let retry = steadfast_core::Verdict::Retry {
            cause: steadfast_core::Cause::Error,
            error: error.clone(),
            after: Some(LONG),
        };
        bench.settle(&lease, retry).await;
        let task = bench.task(&name).await;
        assert_eq!((task.slot, task.key, task.error), (Some(held), Some(of), Some(error.clone())));
        assert_eq!(bench.attempts(&name).await[0].error, Some(error));
    }
}

async fn numbers_at_their_ends_are_kept<S: Storage>(bench: &Bench<S>) {
    let most = Duration::from_micros(i64::MAX.unsigned_abs());
    let backoff = Backoff { min: Duration::ZERO, max: most };
    for (name, priority, count) in [("low", i16::MIN, 0), ("high", i16::MAX, u32::MAX)] {
        let attempts_max = count.max(1);
        let asked = NewTask {
            priority,
            attempts_max,
            rescues_max: count,
            timeout: Duration::MAX,
            backoff: Backoff { max: Duration::MAX, ..backoff },
            ..in_own_queue(name)
        };
        bench.insert(asked.clone()).await;
        let task = bench.task(name).await;
        assert_eq!((task.priority, task.attempts_max, task.rescues_max), (priority, attempts_max, count));
        assert_eq!((task.timeout, task.backoff, task.digest), (most, backoff, asked.digest()));
        let lease = bench.ask(&claim_request(name, u32::MAX)).await.tasks.remove(0);
        assert_eq!((lease.timeout, lease.backoff, lease.attempts_max), (most, backoff, attempts_max));
    }
    bench.insert(NewTask { due: Due::After(Duration::MAX), ..in_own_queue("never") }).await;
    assert_eq!(bench.state("never").await, State::Scheduled);
    assert_eq!(bench.ask(&claim_request("never", 1)).await.tasks, []);
    assert_eq!(bench.list(TaskFilter { limit: u32::MAX, ..TaskFilter::default() }).await.len(), 3);
}

async fn a_task_is_due_by_the_stores_clock<S: Storage>(bench: &Bench<S>) {
    let now = bench.now();
    let second = Duration::from_secs(1);
    for (name, due, at, state) in [
        ("now", Due::Now, now, State::Ready),
        ("after-nothing", Due::After(Duration::ZERO), now, State::Ready),
        ("after", Due::After(second), now + second, State::Scheduled),
        ("at", Due::At(now + second), now + second, State::Scheduled),
        ("at-now", Due::At(now), now, State::Ready),
        ("at-past", Due::At(now - second), now - second, State::Ready),
        ("at-epoch", Due::At(Timestamp::from_micros(0)), Timestamp::from_micros(0), State::Ready),
    ] {
        let receipt = bench.insert(NewTask { due, ..in_own_queue(name) }).await;
        let task = bench.task(name).await;
        assert_eq!((task.state, task.due_at, receipt.state), (state, at, state), "{name}");
    }
}

async fn the_same_request_again_is_already<S: Storage>(bench: &Bench<S>) {
    let receipt = bench.insert(task("a")).await;
    let stored = bench.task("a").await;
    assert_eq!(inserted_in(&already(bench.send(put(&task("a"))).await)), (id("a"), receipt));
    assert_eq!(bench.task("a").await, stored, "nothing changed");
    let lease = bench.claim(1).await.remove(0);
    bench.settle(&lease, done()).await;
    let ended = bench.task("a").await;
    let (_, found) = inserted_in(&already(bench.send(put(&task("a"))).await));
    assert_eq!(found, head(&ended), "the receipt says how the task stands now");
    assert_eq!(bench.task("a").await, ended);
}

async fn a_key_stands_for_the_first_request<S: Storage>(bench: &Bench<S>) {
    let keyed = |name: &str| NewTask { key: Some(key("k")), ..task(name) };
    let receipt = bench.insert(keyed("first")).await;
    let again = already(bench.send(put(&keyed("second"))).await);
    assert_eq!(inserted_in(&again), (id("first"), receipt));
    assert_eq!(bench.find("second").await, None);
    let both = bench.send_batch(vec![put(&keyed("third")), put(&task("new"))]).await;
    let receipts = applied(both);
    assert!(matches!(&receipts[0], Receipt::Inserted(task, _) if task.as_str() == "first"), "{receipts:?}");
    assert!(matches!(&receipts[1], Receipt::Inserted(task, _) if task.as_str() == "new"), "{receipts:?}");
}

async fn a_key_outlives_the_end_of_its_task<S: Storage>(bench: &Bench<S>) {
    for state in [State::Succeeded, State::Failed, State::Cancelled] {
        let keyed = |name: &str| {
            NewTask { key: Some(key(state.as_str())), ..in_own_queue(state.as_str()) }.with_id(name)
        };
        bench.bring_task(keyed(&format!("{state}-1")), state).await;
        let (found, head) = inserted_in(&already(bench.send(put(&keyed(&format!("{state}-2")))).await));
        assert_eq!((found, head.state), (id(&format!("{state}-1")), state));
    }
}

async fn an_id_or_a_key_with_another_request_is_taken<S: Storage>(bench: &Bench<S>) {
    let keyed = NewTask { key: Some(key("k")), ..task("a") };
    let receipt = bench.insert(keyed.clone()).await;
    let stored = bench.task("a").await;
    let other = NewTask { payload: (*b"other").into(), ..keyed };
    assert_eq!(why(bench.send(put(&other)).await), Refusal::IdTaken(receipt));
    assert_eq!(why(bench.send(put(&task("a"))).await), Refusal::IdTaken(receipt), "without the key");
    let taken = why(bench.send(put(&other.with_id("b"))).await);
    assert_eq!(taken, Refusal::KeyTaken(id("a"), receipt));
    assert_eq!(bench.find("b").await, None);
    assert_eq!(bench.task("a").await, stored);
}

async fn guards_are_judged_in_their_order<S: Storage>(bench: &Bench<S>) {
    let holder = slotted("holder", "s");
    let held = bench.insert(holder.clone()).await;
    let keyed = bench.insert(NewTask { key: Some(key("k")), ..in_own_queue("keyed") }).await;
    let everything_wrong = NewTask {
        key: Some(key("k")),
        slot: Some((slot("s"), OnConflict::Reject)),
        parents: vec![after("nobody", OnParentFailure::Run)],
        ..in_own_queue("holder")
    };
    assert_eq!(why(bench.send(put(&everything_wrong)).await), Refusal::IdTaken(held));
    let new_id = everything_wrong.with_id("new");
    assert_eq!(why(bench.send(put(&new_id)).await), Refusal::KeyTaken(id("keyed"), keyed));
    let new_key = NewTask { key: None, ..new_id };
    assert_eq!(why(bench.send(put(&new_key)).await), Refusal::ParentMissing(id("nobody")));
    let parent_known = NewTask { parents: vec![after("keyed", OnParentFailure::Run)], ..new_key };
    assert_eq!(why(bench.send(put(&parent_known)).await), Refusal::SlotTaken(id("holder"), held));
    assert_eq!(bench.find("new").await, None);
}

async fn a_payload_over_64_mib_is_rejected_with_its_whole_call<S: Storage>(bench: &Bench<S>) {
    let too_large = NewTask { payload: vec![0; PAYLOAD_BYTES_MAX + 1].into(), ..task("large") };
    let batches = [Batch::from(put(&task("small"))), Batch::from(put(&too_large))];
    let error = bench.store().apply(&batches).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    for name in ["small", "large"] {
        assert_eq!(bench.find(name).await, None, "{name}");
    }
    bench.insert(task("small")).await;
}

async fn a_thousand_tasks_fit_into_one_batch<S: Storage>(bench: &Bench<S>) {
    let steps = (0..1_000).map(|number| put(&task(&format!("t{number}")))).collect();
    assert_eq!(applied(bench.send_batch(steps).await).len(), 1_000);
    let claimed: Vec<_> = bench.claim(2_000).await.into_iter().map(|lease| lease.task).collect();
    let expected: Vec<_> = (0..1_000).map(|number| id(&format!("t{number}"))).collect();
    assert_eq!(claimed, expected);
}

async fn one_request_twice_in_one_call_is_stored_once<S: Storage>(bench: &Bench<S>) {
    let keyed = |name: &str| NewTask { key: Some(key("k")), ..task(name) };
    let calls =
        [keyed("a"), keyed("b"), keyed("a"), task("c"), task("c")].map(|task| Batch::from(put(&task)));
    let outcomes = bench.send_all(&calls).await;
    let kinds: Vec<_> = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Applied(_))).collect();
    assert_eq!(kinds, [true, false, false, true, false], "{outcomes:?}");
    assert_eq!(inserted_in(&already(outcomes[1].clone())).0, id("a"));
    assert_eq!(inserted_in(&already(outcomes[2].clone())).0, id("a"));
    let everything = bench.view(Query::Tasks(TaskFilter { limit: 10, ..TaskFilter::default() })).await;
    let steadfast_core::storage::Answer::Tasks(tasks) = everything.answer else { panic!("tasks") };
    assert_eq!(tasks.len(), 2);
}
