//! What handlers say, as it reaches a store.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::fake::{Bench, lease};
use crate::handler::{Context, Handlers, StopReason, Verdict};
use crate::name::Kind;
use crate::storage::ErrorKind;
use crate::task::State;

const HALF: Duration = Duration::from_millis(500);

fn work<F>(handler: impl Fn(Context) -> F + Send + Sync + 'static) -> Handlers
where
    F: Future<Output = Verdict> + Send + 'static,
{
    Handlers::new().with(Kind::trusted("work"), handler)
}

/// Says what `say` says, then waits until it is told to stop.
fn says(say: impl Fn(&Context) + Send + Sync + 'static) -> Handlers {
    work(move |context: Context| {
        say(&context);
        async move { Verdict::error(context.stopped().await) }
    })
}

#[test]
fn an_attempt_that_says_nothing_costs_no_call_but_its_settling() {
    let bench = Bench::new(work(|_| async { Verdict::done(*b"") }), vec![lease("a")]);
    assert_eq!((bench.store.report_calls(), bench.store.settled().len()), (0, 1));
    assert_eq!(bench.store.lock().steps_read, 0);
    assert_eq!(bench.store.lock().calls.len(), 2, "the settling and the sign of life");
}

#[test]
fn of_many_reports_the_last_is_sent_and_all_attempts_share_the_call() {
    let handlers = says(|context| (0..=40).for_each(|percent| context.progress(percent, "on the way")));
    let mut bench = Bench::new(handlers, (0..10).map(|n| lease(&format!("t{n}"))).collect());
    assert_eq!(bench.store.report_calls(), 0, "they wait for the round");
    bench.pass(HALF);
    let reports = bench.store.reports();
    assert_eq!((reports.len(), bench.store.report_calls()), (10, 1));
    assert!(reports.iter().all(|report| report.progress.as_ref().is_some_and(|said| said.percent == 40)));
    bench.pass(HALF * 4);
    assert_eq!(bench.store.report_calls(), 1, "what was said is said once");
}

#[test]
fn attempts_that_speak_at_different_times_share_the_call_too() {
    let clock = crate::fake::FakeClock::default();
    let bench_clock = clock.clone();
    let handlers = work(move |context: Context| {
        let clock = clock.clone();
        async move {
            let wait = if context.task_id().as_str() == "a" { 100 } else { 300 };
            crate::Clock::sleep(&clock, Duration::from_millis(wait)).await;
            context.log("here");
            Verdict::error(context.stopped().await)
        }
    });
    let mut bench = Bench::on(bench_clock, handlers, vec![lease("a"), lease("b")]);
    bench.pass(HALF * 3);
    assert_eq!((bench.store.reports().len(), bench.store.report_calls()), (2, 1));
}

#[test]
fn what_is_left_at_the_end_is_sent_before_the_settling() {
    let handlers = work(|context: Context| async move {
        context.log("first\r\nsecond");
        context.progress(250, "done \0");
        Verdict::Fail { cause: crate::Cause::Error, error: "bad \0 byte".into() }
    });
    let bench = Bench::new(handlers, vec![lease("a")]);
    let steps: Vec<String> = bench
        .store
        .lock()
        .calls
        .iter()
        .flatten()
        .map(|batch| format!("{:?}", batch.steps[0]).chars().take(6).collect())
        .collect();
    assert_eq!(steps, ["Beat(B", "Report", "Transi"]);
    let report = bench.store.reports().remove(0);
    assert_eq!(report.progress, Some(Progress { percent: 100, message: "done \u{fffd}".into() }));
    let lines: Vec<_> = report.lines.iter().map(|line| (line.number, line.text.as_str())).collect();
    assert_eq!(lines, [(1, "first"), (2, "second")]);
    assert_eq!(bench.store.settled()[0].error.as_deref(), Some("bad \u{fffd} byte"));
}

#[test]
fn a_line_knows_how_long_ago_it_was_written() {
    let handlers = says(|context| context.log("at once"));
    let mut bench = Bench::new(handlers, vec![lease("a")]);
    bench.pass(HALF);
    let report = bench.store.reports().remove(0);
    assert_eq!((report.lines[0].ago, report.lines[0].number), (HALF, 1));
}

#[test]
fn a_log_is_bounded_and_its_last_line_says_what_is_missing() {
    let handlers = work(|context: Context| async move {
        for _ in 0..100 {
            context.log("é".repeat(LOG_LINE_BYTES_MAX));
        }
        context.log("short, but after the first that was dropped");
        Verdict::done(*b"")
    });
    let bench = Bench::new(handlers, vec![lease("a")]);
    let lines = bench.store.reports().remove(0).lines;
    let bytes: usize = lines.iter().map(|line| line.text.len() + LOG_LINE_COST).sum();
    assert!(lines.iter().all(|line| line.text.len() <= LOG_LINE_BYTES_MAX));
    assert!(bytes > LOG_BYTES_MAX / 2 && bytes < LOG_BYTES_MAX + 200, "{bytes}");
    let kept = lines.len() - 1;
    let dropped = (100 - kept) * LOG_LINE_BYTES_MAX + 43;
    let expected = format!(
        "{} more lines of {dropped} bytes were dropped: a log holds 1048576 bytes an attempt",
        101 - kept
    );
    assert_eq!(lines[kept].text, expected);
    assert_eq!(lines[kept].number as usize, kept + 1);
}

#[test]
fn a_log_is_bounded_as_it_is_kept() {
    let handlers = work(|context: Context| async move {
        for _ in 0..200 {
            // Each NUL is kept as three bytes.
            context.log("\0".repeat(2_800));
        }
        Verdict::done(*b"")
    });
    let bench = Bench::new(handlers, vec![lease("a")]);
    let lines = bench.store.reports().remove(0).lines;
    let (last, kept) = lines.split_last().expect("there are lines");
    let bytes: usize = kept.iter().map(|line| line.text.len() + LOG_LINE_COST).sum();
    assert_eq!(bytes, 124 * (3 * 2_800 + LOG_LINE_COST), "and one more would be too much");
    assert!(last.text.starts_with("76 more lines of 212800 bytes were dropped"), "{}", last.text);
}

#[test]
fn empty_lines_are_bounded_too() {
    let handlers = work(|context: Context| async move {
        context.log("\n".repeat(2 * LOG_BYTES_MAX));
        Verdict::done(*b"")
    });
    let bench = Bench::new(handlers, vec![lease("a")]);
    let reports = bench.store.reports();
    assert!(reports.iter().all(|report| report.lines.len() <= REPORT_LINES_MAX), "a flood goes in several");
    let numbers: Vec<_> =
        reports.iter().flat_map(|report| &report.lines).map(|line| line.number as usize).collect();
    assert_eq!(numbers, (1..=LOG_BYTES_MAX / LOG_LINE_COST + 1).collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_is_stored_when_it_returns_and_takes_along_what_waited() {
    let (stored, was_stored) = std::sync::mpsc::channel();
    let handlers = work(move |context: Context| {
        let stored = stored.clone();
        async move {
            context.progress(10, "fetching");
            stored.send(context.checkpoint("fetch", *b"1").await).unwrap();
            Verdict::error(context.stopped().await)
        }
    });
    let bench = Bench::new(handlers, vec![lease("a")]);
    assert!(was_stored.try_recv().unwrap().is_ok(), "at once, not with the next round");
    let report = bench.store.reports().remove(0);
    assert_eq!(report.checkpoints, [Checkpoint { name: "fetch".into(), value: (*b"1").into() }]);
    assert!(report.progress.is_some() && report.fence == 1);
}

#[test]
fn a_refused_checkpoint_means_that_the_lease_is_lost() {
    let told = Arc::new(StdMutex::new(None));
    let tells = told.clone();
    let handlers = work(move |context: Context| {
        let tells = tells.clone();
        async move {
            let error = context.checkpoint("fetch", *b"1").await.unwrap_err();
            let reason = context.stopped().await;
            // Nobody takes it any more.
            let late = context.alias(TaskId::trusted("late")).await.unwrap_err();
            *tells.lock().unwrap() = Some((error, reason, late));
            Verdict::error("lost")
        }
    });
    let head = crate::step::Head { state: State::Running, rev: 9, fence: 2, cancel_requested: false };
    let mut bench = Bench::new(handlers, Vec::new());
    bench.store.lock().refuses_reports = Some(crate::step::Refusal::Stale(head));
    bench.store.lock().leases = vec![lease("a")];
    bench.pass(Duration::from_secs(1));
    let (error, reason, late) = told.lock().unwrap().take().unwrap();
    assert!(matches!(error, ReportError::LeaseLost), "{error}");
    assert_eq!(reason, StopReason::LeaseLost);
    assert!(matches!(late, ReportError::LeaseLost), "{late}");
    assert!(bench.store.settled().is_empty(), "whatever it says is void");
    assert_eq!(bench.store.report_calls(), 1, "and isn't sent");
}

#[test]
fn a_taken_alias_is_told_and_costs_nothing_else() {
    let told = Arc::new(StdMutex::new(None));
    let tells = told.clone();
    let handlers = work(move |context: Context| {
        let tells = tells.clone();
        async move {
            context.log("before");
            context.progress(7, "begun");
            let refused = context.alias(TaskId::trusted("theirs")).await;
            *tells.lock().unwrap() = Some(refused);
            Verdict::done(*b"")
        }
    });
    let mut bench = Bench::new(handlers, Vec::new());
    let other = TaskId::trusted("other");
    bench.store.lock().refuses_reports = Some(crate::step::Refusal::AliasTaken(other.clone()));
    bench.store.lock().leases = vec![lease("a")];
    bench.pass(Duration::from_secs(1));
    match told.lock().unwrap().take().unwrap() {
        Err(ReportError::AliasTaken(by)) => assert_eq!(by, other),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.store.settled()[0].to, State::Succeeded);
    // A report is kept or refused as a whole.
    let with_alias: Vec<_> =
        bench.store.reports().into_iter().filter(|report| report.alias.is_some()).collect();
    assert!(!with_alias.is_empty());
    for report in with_alias {
        assert!(
            report.lines.is_empty() && report.progress.is_none(),
            "they would be refused with it: {report:?}"
        );
    }
}

#[test]
fn a_report_is_repeated_while_the_store_is_away_and_nothing_is_lost_or_doubled() {
    let handlers = says(|context| context.log("hello"));
    let mut bench = Bench::new(handlers, vec![lease("a")]);
    bench.store.lock().report_errors = [ErrorKind::Unavailable; 3].into();
    bench.pass(HALF * 6);
    let reports = bench.store.reports();
    assert_eq!(reports.len(), 4, "three failed");
    assert!(reports.iter().all(|report| report.lines == reports[0].lines));
}

#[test]
fn a_report_that_cannot_be_stored_does_not_hold_up_the_outcome() {
    let done = || {
        work(|context: Context| async move {
            context.log("hello");
            Verdict::done(*b"")
        })
    };
    let mut bench = Bench::new(done(), Vec::new());
    bench.store.lock().report_errors = [ErrorKind::Rejected].into();
    bench.store.lock().leases = vec![lease("a")];
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.store.settled()[0].to, State::Succeeded);
    let mut bench = Bench::new(done(), Vec::new());
    bench.store.lock().report_errors = [ErrorKind::Unavailable; 1_000].into();
    bench.store.lock().leases = vec![lease("a")];
    bench.pass(Duration::from_secs(1));
    assert!(bench.store.settled().is_empty());
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.store.settled()[0].to, State::Succeeded);
}

/// Steps `a` and `b`, and how often each was done.
fn two_steps(done: Arc<StdMutex<Vec<&'static str>>>) -> Handlers {
    work(move |context: Context| {
        let done = done.clone();
        async move {
            let step = |name: &'static str| {
                let (context, done) = (context.clone(), done.clone());
                async move {
                    let work = async || -> Result<Vec<u8>, Verdict> {
                        done.lock().unwrap().push(name);
                        Ok(name.as_bytes().to_vec())
                    };
                    context.step(name, work).await
                }
            };
            let result = async { Ok::<_, Verdict>([step("a").await?, step("b").await?].concat()) };
            result.await.map_or_else(|verdict| verdict, Verdict::done)
        }
    })
}

#[test]
fn a_finished_step_is_not_done_again() {
    let done = Arc::new(StdMutex::new(Vec::new()));
    let mut later = lease("t");
    (later.fence, later.attempt) = (2, 2);
    let mut bench = Bench::new(two_steps(done.clone()), Vec::new());
    bench.store.lock().steps = vec![Checkpoint { name: "a".into(), value: (*b"then:").into() }];
    bench.store.lock().leases = vec![later];
    bench.pass(Duration::from_secs(1));
    assert_eq!(*done.lock().unwrap(), ["b"]);
    assert_eq!(bench.store.lock().steps_read, 1);
    assert_eq!(bench.store.settled()[0].output.as_deref(), Some(&b"then:b"[..]));
}

#[test]
fn a_first_attempt_reads_no_steps_and_stores_each() {
    let done = Arc::new(StdMutex::new(Vec::new()));
    let bench = Bench::new(two_steps(done.clone()), vec![lease("t")]);
    assert_eq!((*done.lock().unwrap()).len(), 2);
    assert_eq!(bench.store.lock().steps_read, 0);
    let names: Vec<_> = bench.store.reports().into_iter().flat_map(|report| report.checkpoints).collect();
    assert_eq!(names.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn the_error_of_a_step_passes_through_and_stores_nothing() {
    let handlers = work(|context: Context| async move {
        let failed: Result<Payload, Verdict> =
            context.step("a", async || Err::<Vec<u8>, _>(Verdict::fail("no way"))).await;
        failed.unwrap_err()
    });
    let bench = Bench::new(handlers, vec![lease("t")]);
    assert!(bench.store.reports().is_empty());
    assert_eq!(bench.store.settled()[0].error.as_deref(), Some("no way"));
}

#[test]
fn a_handler_can_be_tested_without_a_worker() {
    let orders = crate::handler::Orders { stop: None, lease_until: Moment::from_origin(Duration::ZERO) };
    let (_sender, orders) = tokio::sync::watch::channel(orders);
    let finished = Checkpoint { name: "a".into(), value: (*b"1").into() };
    let context = Context::new(Arc::new(lease("t")), orders).with_checkpoints([finished]);
    let says = context.clone();
    let run = crate::fake::Run::new(async move {
        says.progress(10, "going");
        says.log("a line");
        says.alias(TaskId::trusted("mine")).await.unwrap();
        let a = says.step("a", async || -> Result<Vec<u8>, Verdict> { panic!("it is finished") }).await;
        assert_eq!(&*a.unwrap(), b"1");
        says.checkpoint("b", *b"2").await.unwrap();
        assert!(says.checkpoint("bad\nname", *b"").await.is_err());
    });
    run.end();
    let reported = context.reported();
    assert_eq!(reported.progress.unwrap().message, "going");
    assert_eq!(reported.lines[0].text, "a line");
    assert_eq!(reported.alias, Some(TaskId::trusted("mine")));
    assert_eq!(reported.checkpoints.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}
