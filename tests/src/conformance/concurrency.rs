//! Many clients at once: what must hold however their calls fall together. Conflicts are sent again, as the engine
//! does; no other error may surface.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use steadfast_core::decide;
use steadfast_core::step::{Batch, Outcome, Refusal, Step};
use steadfast_core::storage::{Answer, ErrorKind, Lease, Query, Storage, TaskFilter};
use steadfast_core::task::{Cause, NewTask, State};

use super::bench::*;

super::cases! { "concurrency", 4,
    "P18, D6" => a_limit_of_one_holds_between_eight_claimers,
    "P18" => a_first_limit_or_pause_holds_once_it_is_answered,
    "P3, A1" => eight_claimers_lease_each_of_four_hundred_tasks_once,
    "P2, D9" => eight_submits_of_one_key_store_one_task,
    "P11" => ten_newcomers_that_replace_each_other_leave_one_holder,
    "rule 3: lock order" => calls_in_opposite_orders_end_in_nothing_worse_than_a_conflict,
    "P7: revisions never fall; P5" => a_reader_sees_a_task_only_go_forward,
    "Storage: futures may be dropped" => a_dropped_call_is_all_or_nothing_and_the_store_stays_usable,
    "P20: conservation" => a_busy_store_ends_with_every_task_ended,
}

const CLAIMERS: usize = 8;

async fn insert_many<S: Storage>(bench: &Bench<S>, count: usize) {
    let steps = (0..count).map(|number| put(&task(&format!("t{number}")))).collect();
    applied(bench.send_batch(steps).await);
}

async fn running(store: &impl Storage, of: &str) -> usize {
    let (state, of) = (Some(State::Running), Some(queue(of)));
    let filter = TaskFilter { state, queue: of, limit: 100, ..TaskFilter::default() };
    match store.read(&Query::Tasks(filter)).await.expect("answered").answer {
        Answer::Tasks(tasks) => tasks.len(),
        other => panic!("not a list: {other:?}"),
    }
}

async fn a_limit_of_one_holds_between_eight_claimers<S: Storage>(bench: &Bench<S>) {
    const TASKS: usize = 60;
    insert_many(bench, TASKS).await;
    applied(bench.send(limit("default", Some(1))).await);
    let settled = Arc::new(AtomicUsize::new(0));
    let claimers = (0..CLAIMERS).map(|number| {
        let (store, settled) = (bench.client(number), Arc::clone(&settled));
        let claimer = async move {
            loop {
                let claimed = persist_claim(&store, "default", 5).await;
                assert!(claimed.len() <= 1, "one call leased {}", claimed.len());
                for lease in claimed {
                    assert_eq!(running(&store, "default").await, 1, "tasks of a queue with a limit of 1 run");
                    moved(persist_batch(&store, vec![settle(&lease, done())]).await);
                    settled.fetch_add(1, Ordering::SeqCst);
                }
                if settled.load(Ordering::SeqCst) == TASKS {
                    return;
                }
            }
        };
        claimer.boxed()
    });
    bench.together(claimers).await;
}

/// Nothing is known of the queue before, so there is no row that a claim could have locked.
async fn a_first_limit_or_pause_holds_once_it_is_answered<S: Storage>(bench: &Bench<S>) {
    for round in 0..40 {
        let name = format!("q{round}");
        let tasks = (0..CLAIMERS).map(|number| format!("{name}.t{number}"));
        let steps = tasks.map(|id| put(&NewTask { queue: queue(&name), ..task(&id) }));
        applied(bench.send_batch(steps.collect()).await);
        let (step, most) = if round % 2 == 0 { (limit(&name, Some(1)), 1) } else { (pause(&name, true), 0) };
        let claims = (1..CLAIMERS).map(|number| {
            let (store, name) = (bench.client(number), name.clone());
            async move { persist_claim(&store, &name, 1).await.len() }.boxed()
        });
        let (store, holds) = (bench.client(0), name.clone());
        let hold = async move {
            persist_batch(&store, vec![step]).await;
            running(&store, &holds).await
        };
        let mut parts: Vec<_> = claims.collect();
        parts.insert(CLAIMERS / 2, hold.boxed());
        let mut counts = bench.together(parts).await;
        let then = counts.remove(CLAIMERS / 2);
        let in_the_end = running(&bench.client(0), &name).await;
        assert!(
            in_the_end <= most.max(then),
            "{then} ran when it was answered that {most} may, and {in_the_end} in the end, in round {round}"
        );
    }
}

async fn eight_claimers_lease_each_of_four_hundred_tasks_once<S: Storage>(bench: &Bench<S>) {
    const TASKS: usize = 400;
    insert_many(bench, TASKS).await;
    let leased = Arc::new(AtomicUsize::new(0));
    let claimers = (0..CLAIMERS).map(|number| {
        let (store, leased) = (bench.client(number), Arc::clone(&leased));
        let claimer = async move {
            let mut own: Vec<Lease> = Vec::new();
            loop {
                let claimed = persist_claim(&store, "default", 7).await;
                leased.fetch_add(claimed.len(), Ordering::SeqCst);
                own.extend(claimed);
                if leased.load(Ordering::SeqCst) >= TASKS {
                    break;
                }
            }
            own
        };
        claimer.boxed()
    });
    let leases: Vec<_> = bench.together(claimers).await.into_iter().flatten().collect();
    let mut names: Vec<_> = leases.iter().map(|lease| lease.task.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!((leases.len(), names.len()), (TASKS, TASKS), "each once");
    assert!(leases.iter().all(|lease| (lease.fence, lease.attempt) == (1, 1)));
    assert_eq!(bench.task("t7").await.rev, bench.task("t399").await.rev);
}

async fn eight_submits_of_one_key_store_one_task<S: Storage>(bench: &Bench<S>) {
    for round in 0..15 {
        let submits = (0..8).map(|number| {
            let store = bench.client(number);
            let same =
                NewTask { key: Some(key(&format!("k{round}"))), ..task(&format!("r{round}-{number}")) };
            async move { persist_batch(&store, vec![put(&same)]).await }.boxed()
        });
        let outcomes = bench.together(submits).await;
        let new = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Applied(_))).count();
        assert_eq!(new, 1, "one was stored: {outcomes:?}");
        let winner =
            outcomes.iter().find(|outcome| matches!(outcome, Outcome::Applied(_))).expect("one").clone();
        let (winner, _) = inserted(winner);
        for outcome in outcomes.into_iter().filter(|outcome| !matches!(outcome, Outcome::Applied(_))) {
            assert_eq!(inserted_in(&already(outcome)).0, winner);
        }
        let stored = bench.list(TaskFilter { limit: 1_000, ..TaskFilter::default() }).await;
        assert_eq!(stored.len(), round + 1);
    }
}

/// Takes the slot from whoever holds it, as often as it has to be tried.
async fn take_slot(store: &impl Storage, newcomer: NewTask) {
    let mut holder = None;
    loop {
        let steps = match &holder {
            None => vec![put(&newcomer)],
            Some(holder) => vec![Step::Transition(decide::replace(holder, &newcomer.id)), put(&newcomer)],
        };
        holder = match persist_batch(store, steps).await {
            Outcome::Applied(_) => return,
            Outcome::Refused(refused) => match refused.why {
                Refusal::SlotTaken(found, _) => Some(found),
                Refusal::Stale(found) if found.state.is_terminal() => None,
                other => panic!("not the slot's business: {other:?}"),
            },
            Outcome::Already(receipts) => panic!("nobody has done this before: {receipts:?}"),
        };
    }
}

async fn ten_newcomers_that_replace_each_other_leave_one_holder<S: Storage>(bench: &Bench<S>) {
    for round in 0..5 {
        let held = format!("slot {round}");
        let newcomers = (0..10).map(|number| {
            let (store, newcomer) = (bench.client(number), slotted(&format!("r{round}-{number}"), &held));
            async move { take_slot(&store, newcomer).await }.boxed()
        });
        bench.together(newcomers).await;
        let tasks =
            bench.list(TaskFilter { slot: Some(slot(&held)), limit: 100, ..TaskFilter::default() }).await;
        assert_eq!(tasks.len(), 10, "each came in once");
        let holders = tasks.iter().filter(|task| !task.state.is_terminal()).count();
        assert_eq!(holders, 1, "one holds the slot");
        let replaced = tasks.iter().filter(|task| task.cause == Some(Cause::Replaced)).count();
        assert_eq!(replaced, 9);
    }
}

async fn calls_in_opposite_orders_end_in_nothing_worse_than_a_conflict<S: Storage>(bench: &Bench<S>) {
    for round in 0..20 {
        let name = |number: usize| format!("r{round}-{number:02}");
        let mut leases = Vec::new();
        for number in 0..12 {
            bench.insert(in_own_queue(&name(number))).await;
            leases.push(bench.claim_in(&name(number)).await);
        }
        let parents: Vec<_> = (0..12).map(name).collect();
        let parents: Vec<_> = parents.iter().map(String::as_str).collect();
        for child in ["a", "b"] {
            bench.insert(dependent(&format!("r{round}-{child}"), &parents)).await;
        }
        let (even, odd): (Vec<_>, Vec<_>) =
            leases.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
        let settles =
            |of: &[(usize, Lease)]| of.iter().map(|(_, lease)| settle(lease, done())).collect::<Vec<_>>();
        let renewals = |of: &[(usize, Lease)]| of.iter().map(|(_, lease)| renew(lease)).collect::<Vec<_>>();
        let late = |child: &str| {
            let mut parents = parents.clone();
            if child == "d" {
                parents.reverse();
            }
            put(&dependent(&format!("r{round}-{child}"), &parents))
        };
        let mut calls = [
            settles(&even),
            settles(&odd),
            renewals(&even),
            renewals(&odd),
            vec![late("c")],
            vec![late("d")],
        ];
        calls[1].reverse();
        calls[2].reverse();
        let parts = calls.into_iter().enumerate().map(|(number, steps)| {
            let store = bench.client(number);
            let batches: Vec<_> = steps.into_iter().map(Batch::from).collect();
            async move {
                loop {
                    match store.apply(&batches).await {
                        Ok(outcomes) => return outcomes,
                        Err(error) => {
                            let harmless =
                                [ErrorKind::Conflict, ErrorKind::Contended].contains(&error.kind());
                            assert!(harmless, "{error:?}");
                        }
                    }
                }
            }
            .boxed()
        });
        for outcomes in bench.together(parts).await.into_iter().take(2) {
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))), "{outcomes:?}");
        }
        for child in ["a", "b", "c", "d"] {
            let child = bench.task(&format!("r{round}-{child}")).await;
            assert_eq!((child.state, child.parents_pending), (State::Ready, 0), "{}", child.id);
        }
    }
}

async fn a_reader_sees_a_task_only_go_forward<S: Storage>(bench: &Bench<S>) {
    bench.insert(NewTask { attempts_max: 1_000, ..in_own_queue("a") }).await;
    let (writer, over) = (bench.client(0), Arc::new(AtomicBool::new(false)));
    let writes = {
        let over = SetOnDrop(Arc::clone(&over));
        async move {
            for turn in 0..60 {
                let lease = persist_claim(&writer, "a", 1).await.remove(0);
                persist_batch(&writer, vec![renew(&lease)]).await;
                let verdict = if turn == 59 { done() } else { retry(Duration::ZERO) };
                moved(persist_batch(&writer, vec![settle(&lease, verdict)]).await);
            }
            drop(over);
        }
    };
    let mut parts = vec![writes.boxed()];
    for number in 1..4 {
        let (reader, over) = (bench.client(number), Arc::clone(&over));
        parts.push(async move { watch_forward(&reader, "a", &over).await }.boxed());
    }
    bench.together(parts).await;
}

/// Tells the readers that there is no more to see, also where the writer failed.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Reads a task again and again until its writer is done with it.
async fn watch_forward(reader: &impl Storage, name: &str, over: &AtomicBool) {
    let mut last: Option<steadfast_core::Task> = None;
    loop {
        let is_last = over.load(Ordering::SeqCst);
        let view = reader.read(&Query::Task(id(name))).await.expect("answered");
        let Answer::Task(Some(now)) = view.answer else { panic!("it is stored") };
        if let Some(last) = last {
            assert!(now.rev >= last.rev && now.fence >= last.fence, "{last:?} then {now:?}");
            let legal = now.rev != last.rev + 1 || decide::is_legal(last.state, now.state);
            assert!(legal, "{} then {}", last.state, now.state);
            assert!(now.rev != last.rev || now.state == last.state, "a change without a revision");
        }
        if is_last {
            assert_eq!(now.state, State::Succeeded, "an acknowledged end is seen");
            return;
        }
        last = Some(*now);
    }
}

/// Starts a call and drops it after some polls.
async fn drop_early<T>(call: impl Future<Output = T> + Send, polls: usize) {
    let mut call = Box::pin(call);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 || call.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn a_dropped_call_is_all_or_nothing_and_the_store_stays_usable<S: Storage>(bench: &Bench<S>) {
    for round in 0..40 {
        let (store, polls) = (bench.client(round / 2), [1, 2, 3, 5, 10, 50][round % 6]);
        let (parent, child) = (format!("p{round}"), format!("c{round}"));
        let batches =
            [Batch { steps: vec![put(&in_own_queue(&parent)), put(&dependent(&child, &[&parent]))] }];
        drop_early(store.apply(&batches), polls).await;
        drop_early(store.read(&Query::Task(id(&parent))), polls).await;
        let stored = bench.find(&parent).await.is_some();
        let again = persist(|| store.apply(&batches)).await.remove(0);
        assert!(!stored || matches!(again, Outcome::Already(_)), "{again:?}");
        assert_eq!(bench.state(&child).await, State::Blocked);
        drop_early(store.claim(&claim_request(&parent, 1)), polls).await;
        // The dropped claim may still hold the row, or give it back.
        let lease = loop {
            let lease = persist_claim(&store, &parent, 1).await.pop();
            if bench.state(&parent).await == State::Running {
                break lease;
            }
        };
        let task = bench.task(&parent).await;
        assert_eq!(
            (task.state, task.fence, task.attempt),
            (State::Running, 1, 1),
            "leased by one of the two"
        );
        if let Some(lease) = lease {
            let settles = [Batch::from(settle(&lease, done()))];
            drop_early(store.apply(&settles), polls).await;
            persist(|| store.apply(&settles)).await;
            assert_eq!(bench.state(&child).await, State::Ready);
        }
    }
}

async fn a_busy_store_ends_with_every_task_ended<S: Storage>(bench: &Bench<S>) {
    const EACH: usize = 25;
    let ended = Arc::new(AtomicUsize::new(0));
    let parts = (0..CLAIMERS).map(|number| {
        let (store, ended) = (bench.client(number), Arc::clone(&ended));
        let part = async move {
            for turn in 0..EACH {
                let name = format!("w{number}-{turn}");
                let child =
                    NewTask { queue: queue("default"), ..dependent(&format!("{name}-child"), &[&name]) };
                applied(persist_batch(&store, vec![put(&task(&name)), put(&child)]).await);
            }
            loop {
                let claimed = persist_claim(&store, "default", 3).await;
                let settles: Vec<_> =
                    claimed.iter().map(|lease| Batch::from(settle(lease, done()))).collect();
                for outcome in persist(|| store.apply(&settles)).await {
                    assert_eq!(moved(outcome).state, State::Succeeded);
                }
                if ended.fetch_add(claimed.len(), Ordering::SeqCst) + claimed.len() == 2 * EACH * CLAIMERS {
                    return;
                }
                if ended.load(Ordering::SeqCst) == 2 * EACH * CLAIMERS {
                    return;
                }
            }
        };
        part.boxed()
    });
    bench.together(parts).await;
    let all = bench.list(TaskFilter { limit: 1_000, ..TaskFilter::default() }).await;
    assert_eq!(all.len(), 2 * EACH * CLAIMERS);
    assert!(all.iter().all(|task| task.state == State::Succeeded && task.fence == 1));
}
