//! Claiming: which tasks, in which order, what a lease says, and how the worker learns when to come again.

use std::time::Duration;

use steadfast_core::storage::{ClaimRequest, Lease, Storage};
use steadfast_core::task::{Backoff, Due, NewTask, OnConflict, State};

use super::bench::*;

super::cases! { "claim", 1,
    "ClaimRequest: order" => smaller_priorities_come_first_then_the_order_of_arrival,
    "ClaimRequest: order" => queues_are_emptied_in_the_order_asked_for,
    "ClaimRequest: kinds" => other_kinds_are_left_alone,
    "ClaimRequest: limit" => no_more_than_the_limit_are_leased_in_all,
    "ClaimRequest: limit" => nothing_is_leased_where_nothing_is_asked_for,
    "Lease" => a_lease_says_what_its_handler_needs,
    "rule 9, P5" => a_claim_is_written_into_the_task,
    "P5: running only from ready" => only_ready_tasks_are_leased,
    "P3: one lease" => a_task_is_leased_once_even_when_its_lease_has_lapsed,
    "P4: the fence rises for ever" => the_fence_rises_with_every_claim,
    "rule 9: due by the store's clock" => a_scheduled_task_is_leased_once_it_is_due,
    "Claimed: next_due" => a_claim_says_when_the_next_task_is_due,
    "ClaimRequest: order" => a_promoted_task_keeps_its_priority,
    "P3: one lease" => a_queue_asked_for_twice_leases_each_task_once,
    "rule 9" => each_attempt_is_claimed_anew,
    "P1: no task waits for ever" => a_flood_of_due_tasks_is_leased_to_the_last,
    "Claimed: next_due" => a_due_task_that_can_not_be_leased_is_nothing_to_wake_for,
}

fn names(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| lease.task.as_str()).collect()
}

async fn smaller_priorities_come_first_then_the_order_of_arrival<S: Storage>(bench: &Bench<S>) {
    for (name, priority) in
        [("z1", 0), ("z2", 0), ("last", i16::MAX), ("a5", 5), ("m-1", -1), ("y0", 0), ("first", i16::MIN)]
    {
        bench.insert(NewTask { priority, ..task(name) }).await;
    }
    assert_eq!(names(&bench.claim(3).await), ["first", "m-1", "z1"]);
    bench.insert(NewTask { priority: 0, ..task("b0") }).await;
    assert_eq!(names(&bench.claim(100).await), ["z2", "y0", "b0", "a5", "last"]);
}

async fn queues_are_emptied_in_the_order_asked_for<S: Storage>(bench: &Bench<S>) {
    for (name, of, priority) in
        [("a1", "a", 9), ("b1", "b", -9), ("c1", "c", 0), ("a2", "a", 0), ("b2", "b", 0)]
    {
        bench.insert(NewTask { queue: queue(of), priority, ..task(name) }).await;
    }
    let request = ClaimRequest { queues: ["c", "a", "b"].map(queue).to_vec(), ..claim_request("c", 4) };
    let leases = bench.ask(&request).await.tasks;
    assert_eq!(names(&leases), ["c1", "a2", "a1", "b1"]);
    assert_eq!(leases.iter().map(|lease| lease.queue.as_str()).collect::<Vec<_>>(), ["c", "a", "a", "b"]);
    assert_eq!(names(&bench.ask(&request).await.tasks), ["b2"]);
}

async fn other_kinds_are_left_alone<S: Storage>(bench: &Bench<S>) {
    for (name, of) in [("a", "send"), ("b", "scan"), ("c", "scan2"), ("d", "sca"), ("e", "send")] {
        bench.insert(NewTask { kind: kind(of), ..task(name) }).await;
    }
    assert_eq!(names(&bench.claim(10).await), ["b"]);
    let request =
        ClaimRequest { kinds: ["send", "sca", "none"].map(kind).to_vec(), ..claim_request("default", 10) };
    assert_eq!(names(&bench.ask(&request).await.tasks), ["a", "d", "e"]);
    assert_eq!(bench.state("c").await, State::Ready);
}

async fn no_more_than_the_limit_are_leased_in_all<S: Storage>(bench: &Bench<S>) {
    for number in 0..10 {
        bench.insert(NewTask { queue: queue(["a", "b"][number % 2]), ..task(&format!("t{number}")) }).await;
    }
    let request = ClaimRequest { queues: ["a", "b"].map(queue).to_vec(), ..claim_request("a", 7) };
    assert_eq!(names(&bench.ask(&request).await.tasks), ["t0", "t2", "t4", "t6", "t8", "t1", "t3"]);
    assert_eq!(names(&bench.ask(&request).await.tasks), ["t5", "t7", "t9"]);
    assert_eq!(bench.ask(&request).await.tasks, []);
}

async fn nothing_is_leased_where_nothing_is_asked_for<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.claim(10).await, [], "an empty store");
    bench.insert(task("a")).await;
    let stored = bench.task("a").await;
    let all = claim_request("default", 10);
    for request in [
        ClaimRequest { queues: Vec::new(), ..all.clone() },
        ClaimRequest { kinds: Vec::new(), ..all.clone() },
        ClaimRequest { limit: 0, ..all.clone() },
        ClaimRequest { queues: vec![queue("nobody")], ..all },
    ] {
        assert_eq!(bench.ask(&request).await.tasks, [], "{request:?}");
    }
    assert_eq!(bench.task("a").await, stored);
}

async fn a_lease_says_what_its_handler_needs<S: Storage>(bench: &Bench<S>) {
    let asked = NewTask {
        slot: Some((slot("user 7"), OnConflict::Reject)),
        payload: (*b"\x00\xff").into(),
        attempts_max: 4,
        timeout: Duration::from_micros(5),
        backoff: Backoff { min: Duration::from_micros(3), max: Duration::from_micros(4) },
        ..task("a")
    };
    bench.insert(asked.clone()).await;
    let lease = bench.claim(1).await.remove(0);
    let expected = Lease {
        task: asked.id,
        fence: 1,
        kind: asked.kind,
        queue: asked.queue,
        slot: Some(slot("user 7")),
        payload: asked.payload,
        attempt: 1,
        attempts_max: 4,
        timeout: asked.timeout,
        backoff: asked.backoff,
        deadline: None,
    };
    assert_eq!(lease, expected);
}

async fn a_claim_is_written_into_the_task<S: Storage>(bench: &Bench<S>) {
    bench.insert(task("a")).await;
    let before = bench.task("a").await;
    bench.clock.advance(Duration::from_secs(3));
    bench.claim(1).await;
    let after = bench.task("a").await;
    assert_eq!((after.state, after.rev, after.fence, after.attempt), (State::Running, before.rev + 1, 1, 1));
    assert_eq!((after.claimed_at, after.lease_expires_at), (Some(bench.now()), Some(bench.now() + LEASE)));
    assert_eq!((after.worker.clone(), after.entered_at), (Some(worker()), None));
    let unchanged = steadfast_core::Task {
        state: after.state,
        rev: after.rev,
        fence: after.fence,
        attempt: after.attempt,
        claimed_at: after.claimed_at,
        lease_expires_at: after.lease_expires_at,
        worker: after.worker.clone(),
        ..before
    };
    assert_eq!(after, unchanged, "nothing else changed");
}

async fn only_ready_tasks_are_leased<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL {
        bench.bring(state.as_str(), state).await;
        let leased = bench.ask(&claim_request(state.as_str(), 10)).await.tasks.len();
        assert_eq!(leased, usize::from(state == State::Ready), "{state}");
    }
}

async fn a_task_is_leased_once_even_when_its_lease_has_lapsed<S: Storage>(bench: &Bench<S>) {
    bench.insert(task("a")).await;
    assert_eq!(bench.claim(10).await.len(), 1);
    assert_eq!(bench.claim(10).await, []);
    bench.clock.advance(LONG);
    assert_eq!(bench.claim(10).await, [], "only a rescue takes a lease away");
}

async fn the_fence_rises_with_every_claim<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { attempts_max: 2, ..in_own_queue("a") }).await;
    let snooze = || steadfast_core::Verdict::Snooze { after: Duration::ZERO };
    for fence in 1..=3 {
        let lease = bench.run("a", snooze()).await;
        assert_eq!((lease.fence, lease.attempt), (fence, 1), "a snoozed attempt is given back");
    }
    let lease = bench.run("a", retry(Duration::ZERO)).await;
    assert_eq!((lease.fence, lease.attempt), (4, 1));
    bench.claim_in("a").await;
    let lapsed = bench.let_lapse().await;
    moved(bench.send(reclaim(&lapsed)).await);
    let lease = bench.claim_in("a").await;
    assert_eq!((lease.fence, lease.attempt), (6, 2), "a rescued attempt is given back");
    assert_eq!(bench.task("a").await.fence, 6);
}

async fn a_scheduled_task_is_leased_once_it_is_due<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { due: Due::After(Duration::from_secs(10)), ..task("a") }).await;
    let before = bench.task("a").await;
    bench.clock.advance(Duration::from_micros(9_999_999));
    assert_eq!(bench.claim(1).await, []);
    assert_eq!(bench.task("a").await, before);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(names(&bench.claim(1).await), ["a"]);
    let after = bench.task("a").await;
    assert_eq!((after.state, after.due_at), (State::Running, before.due_at));
    assert!(after.rev > before.rev);
}

async fn a_claim_says_when_the_next_task_is_due<S: Storage>(bench: &Bench<S>) {
    let seconds = Duration::from_secs;
    assert_eq!(bench.ask(&claim_request("default", 5)).await.next_due, None, "nothing is scheduled");
    for (name, of, due) in [("a", "default", 20), ("b", "default", 10), ("c", "other", 5)] {
        bench.insert(NewTask { queue: queue(of), due: Due::After(seconds(due)), ..task(name) }).await;
    }
    bench.insert(task("ready")).await;
    let full = bench.ask(&claim_request("default", 1)).await;
    assert_eq!((full.tasks.len(), full.next_due), (1, None), "the worker comes again anyway");
    assert_eq!(bench.ask(&claim_request("default", 5)).await.next_due, Some(seconds(10)));
    let both = ClaimRequest { queues: ["default", "other"].map(queue).to_vec(), ..claim_request("other", 5) };
    assert_eq!(bench.ask(&both).await.next_due, Some(seconds(5)));
    bench.clock.advance(seconds(4));
    assert_eq!(bench.ask(&both).await.next_due, Some(seconds(1)));
    bench.clock.advance(seconds(1));
    let claimed = bench.ask(&both).await;
    assert_eq!((names(&claimed.tasks), claimed.next_due), (vec!["c"], Some(seconds(5))));
    bench.clock.advance(seconds(15));
    let claimed = bench.ask(&both).await;
    assert_eq!((claimed.tasks.len(), claimed.next_due), (2, None), "nothing is scheduled any more");
}

async fn a_promoted_task_keeps_its_priority<S: Storage>(bench: &Bench<S>) {
    let due = Due::After(Duration::from_secs(1));
    bench.insert(NewTask { priority: 3, ..task("ready-3") }).await;
    bench.insert(NewTask { priority: 2, due, ..task("later-2") }).await;
    bench.insert(NewTask { priority: 1, ..task("ready-1") }).await;
    bench.insert(NewTask { priority: 4, due, ..task("later-4") }).await;
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(names(&bench.claim(2).await), ["ready-1", "later-2"]);
    assert_eq!(names(&bench.claim(2).await), ["ready-3", "later-4"]);
}

async fn a_queue_asked_for_twice_leases_each_task_once<S: Storage>(bench: &Bench<S>) {
    bench.insert(task("a")).await;
    bench.insert(task("b")).await;
    let twice = ["default", "default"].map(queue).to_vec();
    let leases = bench.ask(&ClaimRequest { queues: twice, ..claim_request("default", 10) }).await.tasks;
    assert_eq!(names(&leases), ["a", "b"]);
    assert_eq!(bench.task("a").await.fence, 1);
}

async fn each_attempt_is_claimed_anew<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    let first = bench.claim_in("a").await;
    let settled = steadfast_core::decide::settle(&first, retry(Duration::from_secs(5)), Some(Duration::ZERO));
    moved(bench.send(steadfast_core::Step::Transition(settled)).await);
    assert_eq!(bench.ask(&claim_request("a", 1)).await.next_due, Some(Duration::from_secs(5)));
    bench.clock.advance(Duration::from_secs(5));
    let second = bench.claim_in("a").await;
    assert_eq!((second.attempt, second.fence), (2, 2));
    let task = bench.task("a").await;
    assert_eq!((task.claimed_at, task.lease_expires_at), (Some(bench.now()), Some(bench.now() + LEASE)));
    assert_eq!(task.entered_at, None, "nobody has entered this attempt yet");
    assert_eq!(task.finished_at, None);
}

/// Claims as a worker does: again at once after each lease, and while a task is said to be due now.
async fn claim_until_idle<S: Storage>(bench: &Bench<S>, request: &ClaimRequest) -> usize {
    let mut leased = 0;
    for _ in 0..20 {
        let claimed = bench.ask(request).await;
        leased += claimed.tasks.len();
        if claimed.tasks.is_empty() && claimed.next_due != Some(Duration::ZERO) {
            return leased;
        }
    }
    panic!("the worker never comes to rest")
}

async fn a_flood_of_due_tasks_is_leased_to_the_last<S: Storage>(bench: &Bench<S>) {
    let later = |number: usize, of: &str| {
        let due = Due::After(Duration::from_secs(1));
        put(&NewTask { due, kind: kind(of), ..task(&format!("{of}-{number}")) })
    };
    for of in ["other", "scan"] {
        applied(bench.send_batch((0..2_500).map(|number| later(number, of)).collect()).await);
    }
    bench.clock.advance(LONG);
    assert_eq!(claim_until_idle(bench, &claim_request("default", 1_000)).await, 2_500);
}

async fn a_due_task_that_can_not_be_leased_is_nothing_to_wake_for<S: Storage>(bench: &Bench<S>) {
    let due = Due::After(Duration::from_secs(1));
    bench.insert(NewTask { due, kind: kind("other"), ..in_own_queue("kinds") }).await;
    bench.insert(task("running")).await;
    bench.insert(NewTask { due, ..task("full") }).await;
    applied(bench.send(limit("default", Some(1))).await);
    bench.clock.advance(LONG);
    assert_eq!(claim_until_idle(bench, &claim_request("kinds", 5)).await, 0);
    assert_eq!(claim_until_idle(bench, &claim_request("default", 5)).await, 1);
}
