//! Queues: pauses, and how their tasks are doing.

use std::time::Duration;

use steadfast_core::step::{Receipt, Report, States, Step};
use steadfast_core::storage::{ClaimRequest, QueueStats, Storage};
use steadfast_core::task::{Cause, Due, NewTask, State};

use super::bench::*;
use super::hints::hear_ready;

super::cases! { "queues", 1,
    "QueuePause" => nothing_is_claimed_from_a_paused_queue,
    "QueuePause" => what_runs_goes_on_while_its_queue_is_paused,
    "QueuePause" => a_paused_queue_does_not_hold_up_the_others,
    "QueuePause" => a_pause_and_a_limit_do_not_mind_each_other,
    "rule 7: the same batch again is safe" => a_pause_may_be_repeated,
    "a worker must not spin" => a_paused_queue_is_not_announced_as_due,
    "hints wake an idle worker" => a_resumed_queue_is_hinted_at,
    "Query::Stats" => tasks_are_counted_by_queue_and_state,
    "Query::Stats" => a_queue_is_listed_for_a_task_a_limit_or_a_pause,
    "QueueStats::oldest_ready" => the_longest_wait_of_a_ready_task_is_told,
    "QueueStats::stuck" => a_handler_that_gives_no_sign_is_stuck,
}

const MINUTE: Duration = Duration::from_secs(60);

async fn set<S: Storage>(bench: &Bench<S>, of: &str, paused: bool) {
    assert_eq!(applied(bench.send(pause(of, paused)).await), [Receipt::Paused]);
}

async fn fill<S: Storage>(bench: &Bench<S>, of: &str, count: usize) {
    for number in 0..count {
        bench.insert(NewTask { queue: queue(of), ..task(&format!("{of}-{number}")) }).await;
    }
}

async fn nothing_is_claimed_from_a_paused_queue<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 2).await;
    set(bench, "default", true).await;
    assert_eq!(bench.claim(9).await, []);
    fill(bench, "default-2", 1).await;
    bench.insert(task("late")).await;
    assert_eq!(bench.claim(9).await, [], "new tasks wait too");
    assert_eq!(bench.state("late").await, State::Ready);
    set(bench, "default", false).await;
    assert_eq!(bench.claim(9).await.len(), 3);
}

async fn what_runs_goes_on_while_its_queue_is_paused<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 2).await;
    let leases = bench.claim(2).await;
    set(bench, "default", true).await;
    renewed(bench.send(renew(&leases[0])).await);
    bench.settle(&leases[0], done()).await;
    bench.settle(&leases[1], retry(Duration::ZERO)).await;
    assert_eq!(bench.claim(9).await, [], "another attempt waits");
    set(bench, "default", false).await;
    assert_eq!(bench.claim(9).await.len(), 1);
}

async fn a_paused_queue_does_not_hold_up_the_others<S: Storage>(bench: &Bench<S>) {
    fill(bench, "paused", 3).await;
    fill(bench, "free", 2).await;
    set(bench, "paused", true).await;
    let both = ClaimRequest { queues: ["paused", "free"].map(queue).to_vec(), ..claim_request("free", 9) };
    let from: Vec<_> = bench.ask(&both).await.tasks.into_iter().map(|lease| lease.queue).collect();
    assert_eq!(from, [queue("free"), queue("free")]);
}

async fn a_pause_and_a_limit_do_not_mind_each_other<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 5).await;
    let set_limit =
        async |to| assert_eq!(applied(bench.send(limit("default", to)).await), [Receipt::Limited]);
    set_limit(Some(2)).await;
    set(bench, "default", true).await;
    assert_eq!(bench.claim(9).await, []);
    set_limit(Some(3)).await;
    assert_eq!(bench.claim(9).await, [], "a new limit is no resumption");
    set(bench, "default", false).await;
    assert_eq!(bench.claim(9).await.len(), 3, "the limit is kept");
    set(bench, "default", true).await;
    set_limit(None).await;
    assert_eq!(bench.claim(9).await, [], "nor is a lifted one");
    set(bench, "default", false).await;
    assert_eq!(bench.claim(9).await.len(), 2);
}

async fn a_pause_may_be_repeated<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 1).await;
    set(bench, "default", false).await;
    for paused in [true, true, false, false] {
        set(bench, "default", paused).await;
    }
    assert_eq!(bench.claim(9).await.len(), 1);
}

async fn a_paused_queue_is_not_announced_as_due<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { due: Due::After(MINUTE), ..task("soon") }).await;
    bench.insert(NewTask { due: Due::After(MINUTE * 5), ..task("later") }).await;
    set(bench, "default", true).await;
    bench.clock.advance(MINUTE * 2);
    for _ in 0..2 {
        let claimed = bench.ask(&claim_request("default", 9)).await;
        assert_eq!(claimed.tasks, []);
        assert_ne!(claimed.next_due, Some(Duration::ZERO), "its worker would ask again at once, for ever");
    }
    set(bench, "default", false).await;
    assert_eq!(bench.claim(9).await[0].task, id("soon"));
}

async fn a_resumed_queue_is_hinted_at<S: Storage>(bench: &Bench<S>) {
    fill(bench, "default", 1).await;
    set(bench, "default", true).await;
    let mut hints = bench.store().hints();
    set(bench, "default", false).await;
    hear_ready(bench, &mut hints).await;
}

/// What there is to say of a queue without tasks.
fn empty(of: &str) -> QueueStats {
    QueueStats {
        queue: queue(of),
        concurrency: None,
        paused: false,
        tasks: [0; 7],
        oldest_ready: None,
        stale: 0,
        stuck: 0,
    }
}

async fn tasks_are_counted_by_queue_and_state<S: Storage>(bench: &Bench<S>) {
    for (number, state) in State::ALL.into_iter().enumerate() {
        for copy in 0..=number {
            let name = format!("{state}-{copy}");
            // Into the queue that is looked at, by way of one of its own.
            bench.bring(&name, state).await;
        }
        for copy in 0..number {
            bench.insert(NewTask { queue: queue("Other"), ..task(&format!("other-{number}-{copy}")) }).await;
        }
    }
    let found = bench.stats(LONG, LONG).await;
    let names: Vec<_> = found.iter().map(|stats| stats.queue.to_string()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(names, sorted, "in order of their names' bytes, each once");
    for state in State::ALL {
        for copy in 0..=usize::from(state.code()) {
            let name = format!("{state}-{copy}");
            let stats = found.iter().find(|stats| stats.queue.as_str() == name).expect("listed");
            let mut tasks = [0; 7];
            tasks[usize::from(state.code())] = 1;
            assert_eq!(stats.tasks, tasks, "{name}");
        }
    }
    let other = found.iter().find(|stats| stats.queue.as_str() == "Other").expect("listed");
    assert_eq!(other.tasks, [0, 0, 21, 0, 0, 0, 0]);
}

async fn a_queue_is_listed_for_a_task_a_limit_or_a_pause<S: Storage>(bench: &Bench<S>) {
    assert_eq!(bench.stats(LONG, LONG).await, []);
    applied(bench.send(limit("limited", Some(0))).await);
    set(bench, "paused", true).await;
    applied(bench.send(limit("both", Some(7))).await);
    set(bench, "both", true).await;
    let expected = [
        QueueStats { concurrency: Some(7), paused: true, ..empty("both") },
        QueueStats { concurrency: Some(0), ..empty("limited") },
        QueueStats { paused: true, ..empty("paused") },
    ];
    assert_eq!(bench.stats(LONG, LONG).await, expected);
    applied(bench.send(limit("both", None)).await);
    applied(bench.send(limit("limited", None)).await);
    set(bench, "paused", false).await;
    assert_eq!(bench.stats(LONG, LONG).await, [QueueStats { paused: true, ..empty("both") }]);
    bench.insert(in_own_queue("both")).await;
    moved(bench.send(cancel("both", State::Ready)).await);
    set(bench, "both", false).await;
    let mut ended = empty("both");
    ended.tasks[usize::from(State::Cancelled.code())] = 1;
    assert_eq!(bench.stats(LONG, LONG).await, [ended]);
}

async fn the_longest_wait_of_a_ready_task_is_told<S: Storage>(bench: &Bench<S>) {
    let look = async |stale| {
        let stats = bench.stats(stale, LONG).await.remove(0);
        (stats.oldest_ready, stats.stale)
    };
    bench.insert(NewTask { due: Due::After(MINUTE), ..task("scheduled") }).await;
    assert_eq!(look(MINUTE).await, (None, 0));
    bench.clock.advance(Duration::from_secs(30));
    bench.insert(task("first")).await;
    assert_eq!(look(MINUTE).await, (Some(Duration::ZERO), 0));
    bench.clock.advance(Duration::from_secs(20));
    bench.insert(NewTask { due: Due::At(bench.now() - MINUTE * 10), ..task("long-due") }).await;
    bench.insert(task("last")).await;
    assert_eq!(look(MINUTE).await, (Some(MINUTE * 10), 1), "it is the due time that counts");
    assert_eq!(look(Duration::from_secs(5)).await, (Some(MINUTE * 10), 2));
    moved(bench.send(end("long-due", States::UNFINISHED, State::Failed, Cause::Error)).await);
    assert_eq!(look(Duration::from_secs(5)).await, (Some(Duration::from_secs(20)), 1));
    let leases = bench.claim(1).await;
    assert_eq!(leases[0].task, id("first"));
    assert_eq!(look(Duration::from_secs(5)).await, (Some(Duration::ZERO), 0), "one that runs isn't ready");
}

async fn a_handler_that_gives_no_sign_is_stuck<S: Storage>(bench: &Bench<S>) {
    let stuck = async |of: &str| {
        let found = bench.stats(LONG, MINUTE).await;
        found.into_iter().find(|stats| stats.queue.as_str() == of).expect("listed").stuck
    };
    let tick = Duration::from_secs(50);
    for name in ["silent", "entered", "reporting"] {
        bench.bring(name, State::Running).await;
    }
    bench.clock.advance(tick);
    let held =
        |name: &str| steadfast_core::step::Renewal { task: id(name), fence: 1, lease: LONG, entered: None };
    let entered = Some(Duration::from_secs(5));
    applied(bench.send(Step::Renew(held("silent"))).await);
    applied(bench.send(Step::Renew(steadfast_core::step::Renewal { entered, ..held("entered") })).await);
    bench.report(Report::new(id("reporting"), 1)).await;
    bench.clock.advance(tick);
    assert_eq!(stuck("silent").await, 1, "a renewal is the worker's sign, not the handler's");
    assert_eq!((stuck("entered").await, stuck("reporting").await), (0, 0));
    bench.clock.advance(tick);
    assert_eq!((stuck("entered").await, stuck("reporting").await), (1, 1));
    bench.report(Report { lines: vec![line(1, "x")], ..Report::new(id("entered"), 1) }).await;
    assert_eq!((stuck("entered").await, stuck("reporting").await), (0, 1));
    moved(bench.send(end("silent", States::RUNNING, State::Failed, Cause::Error)).await);
    assert_eq!(stuck("silent").await, 0, "one that has ended isn't stuck");
    moved(bench.send(end("entered", States::RUNNING, State::Ready, Cause::Error)).await);
    bench.clock.advance(LONG);
    bench.claim_in("entered").await;
    assert_eq!(stuck("entered").await, 0, "a new attempt begins anew");
}
