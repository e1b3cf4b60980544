//! Calls that change something: each is dropped, looked for, and made again.

use std::time::Duration;

use steadfast_core::engine::{Cancelled, Retried};
use steadfast_core::name::{Key, Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Beat, Prune, QueueLimit, QueuePause};
use steadfast_core::task::{Due, NewTask, OnConflict, OnParentFailure, Parent, Task};
use steadfast_core::{Cause, State};
use steadfast_sim::history::Event;
use steadfast_sim::scenario::RETENTION;

use super::Operation;
use super::bench::{Bench, LEASE, SECOND, in_slot, story, task};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "`submit`: a new task",
        holds: "the same submit again is accepted; it runs once",
        story: submit,
    },
    Operation {
        name: "`submit`: with a key",
        holds: "a submit with that key, under another id, stands for the one task there is",
        story: submit_with_a_key,
    },
    Operation {
        name: "`submit`: a child of a running task",
        holds: "the same submit again is accepted; it runs after its parent",
        story: submit_a_child,
    },
    Operation {
        name: "`submit`: replaces a slot's holder",
        holds: "the holder is replaced with the newcomer stored, or neither; the same submit again is accepted",
        story: replace,
    },
    Operation {
        name: "`submit`: waits for a slot",
        holds: "the same submit again is accepted; it runs when the holder has ended",
        story: queue_for_a_slot,
    },
    Operation {
        name: "`submit`: joins a slot's holder",
        holds: "nothing is stored; the same submit again is answered with the holder",
        story: join,
    },
    Operation {
        name: "`cancel`: a waiting task",
        holds: "the same cancel again ends it, or finds it ended; it never runs",
        story: cancel_waiting,
    },
    Operation {
        name: "`cancel`: a running task",
        holds: "the same cancel again is acknowledged; its handler is told, and it ends as cancelled",
        story: cancel_running,
    },
    Operation {
        name: "`retry`: a failed task",
        holds: "the same retry again is answered with the one new task",
        story: retry_failed,
    },
    Operation {
        name: "`retry`: a scheduled task",
        holds: "after the same retry again it runs at once",
        story: retry_scheduled,
    },
    Operation { name: "`limit`", holds: "the same limit again is set; it holds", story: limit },
    Operation { name: "`pause`", holds: "the same pause again is set; nothing is claimed", story: pause },
    Operation { name: "`pause`: resumes", holds: "resumed again, its task runs", story: resume },
    Operation {
        name: "`beat`",
        holds: "the same beat again is known; the worker is there once",
        story: beat,
    },
    Operation { name: "`prune`", holds: "pruned again, it is gone, and stays so", story: prune },
    Operation {
        name: "`reclaim_lapsed`",
        holds: "reclaimed again, the task runs under the next fence; it was rescued once",
        story: reclaim,
    },
    Operation {
        name: "`expire_overdue`",
        holds: "expired again, the task has failed; it never runs",
        story: expire,
    },
];

/// Submits as the operation.
async fn submit_once(bench: &Bench, task: NewTask) {
    let id = task.id.clone();
    bench.announce(&[id.as_str()]);
    match bench.trial.operate(bench.engine.submit(task)).await {
        Some(answer) => drop(bench.told(&id, answer.ok())),
        None => bench.unheard(id.as_str()),
    }
    bench.quiet().await;
}

/// Submits as the operation, then again; says how the first was found.
async fn submit_twice(bench: &Bench, task: NewTask) -> &'static str {
    let id = task.id.clone();
    submit_once(bench, task.clone()).await;
    let found = if bench.find(id.as_str()).await.is_some() { "stored" } else { "not stored" };
    let accepted = bench.submit(task).await;
    assert_eq!((accepted.id, accepted.is_new), (id, found == "not stored"));
    found
}

story!(submit, |bench| {
    let _worker = bench.work("w");
    let found = submit_twice(&bench, task("a", "quick")).await;
    bench.rest().await;
    let ended = bench.find("a").await.expect("it is stored");
    assert_eq!((ended.state, ended.fence), (State::Succeeded, 1));
    found
});

story!(submit_with_a_key, |bench| {
    let _worker = bench.work("w");
    let keyed =
        |id| NewTask { key: Some(Key::trusted("k")), payload: (*b"key k").into(), ..task(id, "quick") };
    submit_once(&bench, keyed("a")).await;
    let found = if bench.find("a").await.is_some() { "stored" } else { "not stored" };
    let accepted = bench.submit(keyed("b")).await;
    assert_eq!(accepted.id.as_str(), if found == "stored" { "a" } else { "b" });
    bench.rest().await;
    found
});

story!(submit_a_child, |bench| {
    let _worker = bench.work("w");
    bench.submit(task("parent", "steady")).await;
    bench.reach("parent", State::Running).await;
    let parent = Parent { id: TaskId::trusted("parent"), on_failure: OnParentFailure::Fail };
    let found = submit_twice(&bench, NewTask { parents: vec![parent], ..task("a", "quick") }).await;
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    found
});

story!(replace, |bench| {
    let _worker = bench.work("w");
    bench.submit(in_slot("holder", "steady", OnConflict::Reject)).await;
    bench.reach("holder", State::Running).await;
    let newcomer = in_slot("a", "quick", OnConflict::Replace);
    submit_once(&bench, newcomer.clone()).await;
    let holder = bench.find("holder").await.expect("it is stored");
    let found = match (bench.find("a").await.is_some(), holder.state, holder.cause) {
        (true, State::Cancelled, Some(Cause::Replaced)) => "replaced",
        (false, State::Running, None) => "not replaced",
        (stored, state, cause) => {
            panic!("the newcomer is stored: {stored}, the holder is {state}, {cause:?}")
        }
    };
    bench.submit(newcomer).await;
    bench.rest().await;
    assert_eq!((bench.state("a").await, bench.state("holder").await), (State::Succeeded, State::Cancelled));
    found
});

story!(queue_for_a_slot, |bench| {
    let _worker = bench.work("w");
    bench.submit(in_slot("holder", "steady", OnConflict::Reject)).await;
    bench.reach("holder", State::Running).await;
    let found = submit_twice(&bench, in_slot("a", "quick", OnConflict::Queue)).await;
    bench.rest().await;
    let (holder, waiter) = (bench.find("holder").await, bench.find("a").await);
    let ended = holder.and_then(|holder| holder.finished_at);
    assert!(ended <= waiter.and_then(|waiter| waiter.claimed_at) && ended.is_some());
    found
});

story!(join, |bench| {
    let _worker = bench.work("w");
    bench.submit(in_slot("holder", "steady", OnConflict::Reject)).await;
    bench.reach("holder", State::Running).await;
    let joiner = in_slot("a", "steady", OnConflict::Join);
    submit_once(&bench, joiner.clone()).await;
    let accepted = bench.submit(joiner).await;
    assert_eq!((accepted.id.as_str(), accepted.joined), ("holder", true));
    bench.rest().await;
    assert!(bench.find("a").await.is_none());
    "nothing to find"
});

/// Cancels as the operation, then again; answers how the task was in between.
async fn cancel_twice(bench: &Bench) -> Task {
    let id = TaskId::trusted("a");
    let record = |cancelled: Cancelled| {
        let acknowledged = matches!(cancelled, Cancelled::Ended | Cancelled::Requested);
        bench.node.record(Event::Cancelled { task: id.clone(), acknowledged });
    };
    if let Some(answer) = bench.trial.operate(bench.engine.cancel(&id, "enough")).await {
        record(answer.expect("nothing disturbs it"));
    }
    bench.quiet().await;
    let found = bench.find("a").await.expect("it is stored");
    record(bench.engine.cancel(&id, "enough").await.expect("nothing disturbs it"));
    found
}

story!(cancel_waiting, |bench| {
    bench.submit(task("a", "quick")).await;
    let found = match cancel_twice(&bench).await.state {
        State::Cancelled => "cancelled",
        State::Ready => "not cancelled",
        other => panic!("it is {other}"),
    };
    let _worker = bench.work("w");
    bench.rest().await;
    let task = bench.find("a").await.expect("it is stored");
    assert_eq!((task.state, task.fence), (State::Cancelled, 0));
    found
});

story!(cancel_running, |bench| {
    let _worker = bench.work("w");
    bench.submit(task("a", "steady")).await;
    bench.reach("a", State::Running).await;
    let between = cancel_twice(&bench).await;
    let asked = between.state == State::Cancelled || between.cancel.is_some();
    let found = if asked { "asked for" } else { "not asked for" };
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Cancelled);
    found
});

story!(retry_failed, |bench| {
    let _worker = bench.work("w");
    // The new task has the same payload; the oracle knows it by its slot.
    bench.submit(in_slot("a", "fail", OnConflict::Reject)).await;
    bench.reach("a", State::Failed).await;
    bench.announce(&["a.retry", "a.retry2"]);
    // So that the retried task is still there when it is retried again.
    let paused = QueuePause { queue: Queue::default_queue(), paused: true };
    bench.engine.pause(paused.clone()).await.expect("nothing disturbs it");
    let id = TaskId::trusted("a");
    bench.trial.operate(bench.engine.retry(&id)).await;
    bench.quiet().await;
    let found = if bench.find("a.retry").await.is_some() { "stored" } else { "not stored" };
    let again = bench.engine.retry(&id).await.expect("nothing disturbs it");
    let Retried::Anew(accepted) = again else { panic!("{again:?}") };
    assert_eq!((accepted.id.as_str(), accepted.is_new), ("a.retry", found == "not stored"));
    bench.engine.pause(QueuePause { paused: false, ..paused }).await.expect("nothing disturbs it");
    bench.rest().await;
    assert!(bench.find("a.retry2").await.is_none());
    found
});

story!(retry_scheduled, |bench| {
    bench.submit(NewTask { due: Due::After(Duration::from_secs(600)), ..task("a", "quick") }).await;
    let id = TaskId::trusted("a");
    bench.trial.operate(bench.engine.retry(&id)).await;
    bench.quiet().await;
    let found = match bench.state("a").await {
        State::Ready => "due",
        State::Scheduled => "not due",
        other => panic!("it is {other}"),
    };
    let again = bench.engine.retry(&id).await.expect("nothing disturbs it");
    let expected = if found == "due" { Retried::Unfinished(State::Ready) } else { Retried::Due };
    assert_eq!(again, expected);
    let _worker = bench.work("w");
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    found
});

async fn queue_is(bench: &Bench, concurrency: Option<u32>, paused: bool) -> bool {
    let stats = bench.engine.stats(SECOND, SECOND).await.expect("nothing disturbs it");
    let other = stats.queues.into_iter().find(|queue| queue.queue.as_str() == "other");
    other.map_or((None, false), |queue| (queue.concurrency, queue.paused)) == (concurrency, paused)
}

fn other(id: &str, kind: &str) -> NewTask {
    NewTask { queue: Queue::trusted("other"), ..task(id, kind) }
}

story!(limit, |bench| {
    let limit = QueueLimit { queue: Queue::trusted("other"), concurrency: Some(1) };
    bench.trial.operate(bench.engine.limit(limit.clone())).await;
    bench.quiet().await;
    let found = if queue_is(&bench, Some(1), false).await { "set" } else { "not set" };
    bench.engine.limit(limit).await.expect("nothing disturbs it");
    assert!(queue_is(&bench, Some(1), false).await);
    let _worker = bench.work("w");
    bench.submit(other("a", "steady")).await;
    bench.submit(other("b", "steady")).await;
    bench.rest().await;
    found
});

story!(pause, |bench| {
    let _worker = bench.work("w");
    let pause = QueuePause { queue: Queue::trusted("other"), paused: true };
    bench.trial.operate(bench.engine.pause(pause.clone())).await;
    bench.quiet().await;
    let found = if queue_is(&bench, None, true).await { "paused" } else { "not paused" };
    bench.engine.pause(pause.clone()).await.expect("nothing disturbs it");
    bench.submit(other("a", "quick")).await;
    tokio::time::sleep(SECOND * 3).await;
    assert_eq!(bench.state("a").await, State::Ready, "its queue is paused");
    bench.engine.pause(QueuePause { paused: false, ..pause }).await.expect("nothing disturbs it");
    bench.rest().await;
    found
});

story!(resume, |bench| {
    let _worker = bench.work("w");
    let pause = |paused| QueuePause { queue: Queue::trusted("other"), paused };
    bench.engine.pause(pause(true)).await.expect("nothing disturbs it");
    bench.submit(other("a", "quick")).await;
    bench.trial.operate(bench.engine.pause(pause(false))).await;
    bench.quiet().await;
    let found = if queue_is(&bench, None, false).await { "resumed" } else { "not resumed" };
    bench.engine.pause(pause(false)).await.expect("nothing disturbs it");
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    found
});

story!(beat, |bench| {
    let beat = Beat {
        worker: WorkerId::trusted("someone"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("quick")],
        concurrency: 1,
        running: 0,
        gone: false,
    };
    bench.trial.operate(bench.engine.beat(beat.clone())).await;
    bench.quiet().await;
    let count = async || bench.engine.workers().await.expect("nothing disturbs it").len();
    let found = if count().await == 1 { "known" } else { "not known" };
    bench.engine.beat(beat).await.expect("nothing disturbs it");
    assert_eq!(count().await, 1);
    let _worker = bench.work("w");
    bench.rest().await;
    found
});

story!(prune, |bench| {
    let worker = bench.work("w");
    bench.submit(task("a", "quick")).await;
    bench.reach("a", State::Succeeded).await;
    tokio::time::sleep(RETENTION + SECOND).await;
    let prune = Prune { succeeded: RETENTION, otherwise: RETENTION, limit: 5 };
    bench.trial.operate(bench.engine.prune(prune.clone())).await;
    bench.quiet().await;
    let found = if bench.find("a").await.is_none() { "gone" } else { "not gone" };
    let count = bench.engine.prune(prune).await.expect("nothing disturbs it");
    assert_eq!((count, bench.find("a").await), (u32::from(found == "not gone"), None));
    bench.rest().await;
    worker.drain();
    found
});

story!(reclaim, |bench| {
    let lost = bench.process("lost");
    let (supervisor, _drain) = lost.supervisor(lost.handlers());
    lost.node.spawn("supervisor", supervisor.run());
    bench.submit(task("a", "steady")).await;
    bench.reach("a", State::Running).await;
    lost.node.crash();
    tokio::time::sleep(LEASE * 2).await;
    bench.trial.operate(bench.engine.reclaim_lapsed(10, 10)).await;
    bench.quiet().await;
    let found = match bench.state("a").await {
        State::Ready => "reclaimed",
        State::Running => "not reclaimed",
        other => panic!("it is {other}"),
    };
    let count = bench.engine.reclaim_lapsed(10, 10).await.expect("nothing disturbs it");
    assert_eq!(count, u32::from(found == "not reclaimed"));
    let _worker = bench.work("w");
    bench.rest().await;
    let task = bench.find("a").await.expect("it is stored");
    assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
    found
});

story!(expire, |bench| {
    bench.submit(NewTask { deadline: Some(Due::After(SECOND)), ..task("a", "quick") }).await;
    tokio::time::sleep(SECOND * 2).await;
    bench.trial.operate(bench.engine.expire_overdue(10, 10)).await;
    bench.quiet().await;
    let found = if bench.state("a").await == State::Failed { "ended" } else { "not ended" };
    let count = bench.engine.expire_overdue(10, 10).await.expect("nothing disturbs it");
    assert_eq!(count, u32::from(found == "not ended"));
    let _worker = bench.work("w");
    bench.rest().await;
    let task = bench.find("a").await.expect("it is stored");
    assert_eq!((task.state, task.fence), (State::Failed, 0));
    found
});
