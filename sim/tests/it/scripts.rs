//! Known races as scripts: who does what and when, with no other faults. They were bugs once, and keep their meaning when
//! seeds lose theirs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join;
use steadfast_core::engine::Cancelled;
use steadfast_core::handler::StopReason;
use steadfast_core::name::{Kind, TaskId};
use steadfast_core::step::{Batch, Step};
use steadfast_core::storage::{ErrorKind, Query};
use steadfast_core::task::NewTask;
use steadfast_core::{Cause, Context, Handlers, State, Verdict};
use steadfast_sim::embed::{Call, Client, Deed, TestWorld, Workers};
use steadfast_sim::world::Profile;
use steadfast_sim::{Check, Failed, Task, script, sleep};

const LEASE: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);

/// `quick` is done at once, `steady` after half a minute unless it is told to stop, and `deaf` hears nothing.
fn handlers() -> Handlers {
    let quick = |_: Context| async { Verdict::done(*b"") };
    let steady = |context: Context| async move {
        let nap = std::pin::pin!(sleep(SECOND * 30));
        let stopped = std::pin::pin!(context.stopped());
        match futures_util::future::select(stopped, nap).await {
            futures_util::future::Either::Left((reason, _)) => Verdict::error(reason),
            futures_util::future::Either::Right(_) => Verdict::done(*b""),
        }
    };
    let deaf = |_: Context| async {
        sleep(SECOND * 300).await;
        Verdict::done(*b"")
    };
    Handlers::new()
        .with(Kind::trusted("quick"), quick)
        .with(Kind::trusted("steady"), steady)
        .with(Kind::trusted("deaf"), deaf)
}

fn worker(world: &TestWorld, concurrency: usize) -> Workers {
    let workers = world.workers(1);
    workers.handlers(handlers()).configure(move |config| {
        config.concurrency = concurrency;
        config.lease = LEASE;
    });
    workers
}

async fn submit(client: &Client, id: &str, kind: &str) -> Result<TaskId, Failed> {
    Ok(client.submit(Task::new(kind).id(id)).await?.id)
}

#[test]
fn a_timed_out_attempt_in_its_grace_holds_nobody_up() {
    script("a_timed_out_attempt_in_its_grace_holds_nobody_up", |world| async move {
        worker(&world, 1);
        let client = world.client();
        let deaf = Task::new("deaf").id("a");
        client.submit(deaf.with(|task| (task.timeout, task.attempts_max) = (SECOND * 5, 1))).await?;
        sleep(SECOND).await;
        let quick = submit(&client, "b", "quick").await?;
        let second = client.wait(quick).await?;
        let first = client.wait(TaskId::trusted("a")).await?;
        assert_eq!((first.cause, second.cause), (Some(Cause::Timeout), Some(Cause::Done)));
        let claimed = second.claimed_at.expect("it ran").since(first.claimed_at.expect("it ran"));
        assert!(claimed < SECOND * 7, "it waited {claimed:?} for an attempt whose time was over after 5 s");
        Ok(())
    });
}

/// However long its attempts last, and however often they are renewed.
#[test]
fn a_worker_has_no_more_attempts_than_its_concurrency() {
    script("a_worker_has_no_more_attempts_than_its_concurrency", |world| async move {
        worker(&world, 1);
        let client = world.client();
        let (first, second) = (submit(&client, "a", "steady").await?, submit(&client, "b", "quick").await?);
        sleep(SECOND * 5).await;
        let waits = client.engine().task(&second).await?.expect("it is stored");
        assert_eq!((waits.state, waits.fence), (State::Ready, 0));
        let (first, second) = (client.wait(first).await?, client.wait(second).await?);
        assert!(second.claimed_at >= first.finished_at, "{:?} {:?}", second.claimed_at, first.finished_at);
        Ok(())
    });
}

/// Everybody else can reach the store, and takes its tasks when their leases have lapsed.
#[test]
fn a_worker_that_is_cut_off_tells_its_handlers_before_others_take_their_tasks() {
    let name = "a_worker_that_is_cut_off_tells_its_handlers_before_others_take_their_tasks";
    script(name, |world| async move {
        let told = Arc::new(Mutex::new(Vec::new()));
        let cut_off = Arc::new(AtomicBool::new(false));
        let group = |is_cut_off: Arc<AtomicBool>| {
            let workers = world.workers(1);
            let (told, clock) = (told.clone(), world.clone());
            workers.handle("work", move |context: Context| {
                let (told, clock) = (told.clone(), clock.clone());
                async move {
                    let nap = std::pin::pin!(sleep(SECOND * 20));
                    let stopped = std::pin::pin!(context.stopped());
                    match futures_util::future::select(stopped, nap).await {
                        futures_util::future::Either::Left((reason, _)) => {
                            told.lock().expect("not poisoned").push((clock.now(), reason.clone()));
                            Verdict::error(reason)
                        }
                        futures_util::future::Either::Right(_) => Verdict::done(*b""),
                    }
                }
            });
            workers.configure(|config| config.lease = LEASE);
            workers.on_call(move |_| match is_cut_off.load(Ordering::Relaxed) {
                true => Deed::Fail(ErrorKind::Unavailable),
                false => Deed::Fine,
            });
        };
        group(cut_off.clone());
        let client = world.client();
        let task = submit(&client, "a", "work").await?;
        sleep(SECOND * 3).await;
        cut_off.store(true, Ordering::Relaxed);
        group(Arc::default());
        let task = client.wait(task).await?;
        assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
        let told = told.lock().expect("not poisoned").clone();
        let [(when, StopReason::LeaseLost)] = &told[..] else { panic!("{told:?}") };
        assert!(Some(*when) <= task.claimed_at, "told at {when:?}, claimed at {:?}", task.claimed_at);
        Ok(())
    });
}

/// At whatever moment of a lease and of a sweep the worker is killed.
#[test]
fn a_killed_workers_task_runs_again_within_its_lease_and_two_seconds() {
    for moment in 0..24 {
        script(
            "a_killed_workers_task_runs_again_within_its_lease_and_two_seconds",
            move |world| async move {
                let killed = worker(&world, 1);
                let client = world.client();
                let task = submit(&client, "a", "steady").await?;
                sleep(SECOND * 3 + SECOND / 4 * moment).await;
                worker(&world, 1);
                sleep(SECOND / 3).await;
                let when = world.now();
                killed.worker(0).crash();
                let task = client.wait(task).await?;
                let away = task.claimed_at.expect("it ran").since(when);
                assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
                assert!(
                    away <= LEASE + SECOND * 2,
                    "killed {moment} quarters later, it was away for {away:?}"
                );
                Ok(())
            },
        );
    }
}

/// The stranger holds the row for longer than a lease. (SQLite has one lock, for all rows.)
#[test]
fn who_holds_one_row_lets_no_other_lease_lapse() {
    let check = Check::new("who_holds_one_row_lets_no_other_lease_lapse").profiles([Profile::Postgres]);
    let held = check.script().run(|world| async move {
        worker(&world, 8);
        let client = world.client();
        for name in ["a", "b", "c", "d", "e"] {
            submit(&client, name, "steady").await?;
        }
        sleep(SECOND * 4).await;
        let held = TaskId::trusted("c");
        // A stranger's: no worker shares the client's connection.
        client.engine().storage().hold(&held, LEASE * 2).await?;
        let held = client.wait(held).await?;
        assert!(held.rescues > 0, "its own lease lapses: {held:?}");
        for name in ["a", "b", "d", "e"] {
            let task = client.wait(TaskId::trusted(name)).await?;
            assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 1, 0), "{name}");
        }
        Ok(())
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The stranger holds the row of a lapsed task; those who sweep have others to look after.
#[test]
fn who_holds_the_row_of_a_lapsed_task_keeps_no_other_from_its_rescue() {
    let name = "who_holds_the_row_of_a_lapsed_task_keeps_no_other_from_its_rescue";
    let check = Check::new(name).profiles([Profile::Postgres]);
    let held = check.script().run(|world| async move {
        let first = worker(&world, 1);
        let (client, stranger) = (world.client(), world.client());
        let held = submit(&client, "held", "steady").await?;
        sleep(SECOND * 4).await;
        let holding = stranger.engine().storage().hold(&held, LEASE * 9);
        let sweeping = async {
            first.worker(0).crash();
            let second = worker(&world, 8);
            let lost = submit(&client, "lost", "steady").await?;
            sleep(LEASE + SECOND * 3).await;
            worker(&world, 8);
            sleep(SECOND / 3).await;
            let when = world.now();
            second.worker(0).crash();
            Ok::<_, Failed>((client.wait(lost).await?, when))
        };
        let (held, swept) = join(holding, sweeping).await;
        held?;
        let (lost, when) = swept?;
        let away = lost.claimed_at.expect("it ran").since(when);
        assert_eq!((lost.state, lost.fence, lost.rescues), (State::Succeeded, 2, 1));
        assert!(away <= LEASE + SECOND * 2, "it was away for {away:?}");
        Ok(())
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

fn is_rescue(batch: &Batch) -> bool {
    batch.steps.iter().any(|step| matches!(step, Step::Transition(one) if one.change.rescue))
}

#[test]
fn a_cancel_finds_a_task_by_its_alias() {
    script("a_cancel_finds_a_task_by_its_alias", |world| async move {
        world.workers(1).handle("named", |context: Context| async move {
            context.alias(TaskId::trusted("run-7")).await.expect("nobody else has it");
            std::future::pending().await
        });
        let client = world.client();
        let task = submit(&client, "a", "named").await?;
        sleep(SECOND * 2).await;
        let cancelled = client.engine().cancel(&TaskId::trusted("run-7"), "not wanted").await?;
        assert_eq!(cancelled, Cancelled::Requested);
        assert_eq!(client.wait(task).await?.state, State::Cancelled);
        Ok(())
    });
}

#[test]
fn the_sweeper_does_not_stop_the_successor_of_a_lost_attempt() {
    script("the_sweeper_does_not_stop_the_successor_of_a_lost_attempt", |world| async move {
        // The rescue is answered when its successor runs already.
        let workers = worker(&world, 8);
        workers.on_call(|call| match call {
            Call::Apply(batches) if batches.iter().any(is_rescue) => Deed::LateAnswer(SECOND * 2),
            Call::Claim | Call::Apply(_) | Call::Read(_) => Deed::Fine,
        });
        let client = world.client();
        let task = submit(&client, "a", "steady").await?;
        sleep(SECOND * 3).await;
        workers.worker(0).freeze();
        sleep(LEASE * 2).await;
        workers.worker(0).thaw();
        let task = client.wait(task).await?;
        assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
        Ok(())
    });
}

#[test]
fn an_old_answer_to_a_check_does_not_stop_the_successor_of_a_lost_attempt() {
    let name = "an_old_answer_to_a_check_does_not_stop_the_successor_of_a_lost_attempt";
    script(name, |world| async move {
        // Sweeps, and runs nothing of ours.
        world.workers(1).handle("other", |_: Context| async { Verdict::done(*b"") });
        // The worker asks how its attempts stand, claims the next one, and then hears how they stood.
        let thawed = Arc::new(AtomicBool::new(false));
        let is_slow = thawed.clone();
        let workers = worker(&world, 8);
        workers.on_call(move |call| match call {
            Call::Read(Query::Heads(_)) if is_slow.load(Ordering::Relaxed) => Deed::LateAnswer(SECOND * 2),
            Call::Claim if is_slow.load(Ordering::Relaxed) => Deed::Late(SECOND / 4),
            Call::Claim | Call::Apply(_) | Call::Read(_) => Deed::Fine,
        });
        // The lost attempt is in its grace when the next one begins.
        let client = world.client();
        let deaf = Task::new("deaf").id("a");
        client.submit(deaf.with(|task| (task.timeout, task.attempts_max) = (SECOND * 20, 1))).await?;
        sleep(SECOND * 3).await;
        workers.worker(0).freeze();
        sleep(LEASE * 2).await;
        thawed.store(true, Ordering::Relaxed);
        workers.worker(0).thaw();
        let task = client.wait(TaskId::trusted("a")).await?;
        assert_eq!((task.cause, task.fence, task.rescues), (Some(Cause::Timeout), 2, 1));
        Ok(())
    });
}

/// After a lost answer only what says that the batch can't be stored at all is definite.
#[test]
fn an_error_after_a_lost_answer_is_not_definite() {
    use ErrorKind::{Broken, Conflict, Contended, Rejected, Unavailable, Unknown};
    for (kind, after_lost) in [
        (Conflict, Unknown),
        (Contended, Unknown),
        (Unavailable, Unknown),
        (Broken, Unknown),
        (Rejected, Rejected),
    ] {
        for (lost, expected) in [(true, after_lost), (false, kind)] {
            script("an_error_after_a_lost_answer_is_not_definite", move |world| async move {
                let workers = worker(&world, 1);
                let mut first = lost;
                let is_insert = |batch: &Batch| matches!(batch.steps.as_slice(), [Step::Insert(_)]);
                workers.on_call(move |call| match call {
                    Call::Apply(batches) if batches.iter().any(is_insert) => {
                        if std::mem::take(&mut first) {
                            Deed::LoseAnswer
                        } else {
                            Deed::Fail(kind)
                        }
                    }
                    Call::Claim | Call::Apply(_) | Call::Read(_) => Deed::Fine,
                });
                let process = workers.worker(0).process().expect("it runs");
                let task = NewTask::new(TaskId::trusted("a"), Kind::trusted("quick"), *b"");
                let error = process.engine().submit(task).await.expect_err("nothing else is answered");
                assert_eq!(error.kind(), expected, "{kind:?} after a lost answer: {lost}");
                let stored = process.engine().task(&TaskId::trusted("a")).await?.is_some();
                assert_eq!(stored, lost);
                Ok(())
            });
        }
    }
}
