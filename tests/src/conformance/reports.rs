//! What a handler says while it runs: progress, lines of log, checkpoints, an alias.

use std::time::Duration;

use steadfast_core::step::{Batch, Refusal, Report, Step};
use steadfast_core::storage::{ErrorKind, Lease, Storage, TaskFilter};
use steadfast_core::task::{LogEntry, LogLine, Progress, State, Stream};

use super::bench::*;

super::cases! { "reports", 1,
    "Report: progress" => progress_is_seen_and_raises_the_revision,
    "Report: no revision" => all_but_progress_raises_no_revision,
    "two signs of life" => a_report_of_nothing_is_a_sign_of_life,
    "P4: a stale fence changes nothing" => a_report_under_another_fence_is_refused_and_nothing_is_kept,
    "P4" => a_report_of_a_task_that_does_not_run_is_refused,
    "P15" => an_attempt_that_should_stop_may_still_report,
    "the lease says that the worker lives" => a_report_does_not_prolong_the_lease,
    "rule 7: the same batch again is safe" => a_repeated_report_changes_nothing,
    "LogLine::number" => lines_are_known_by_their_number,
    "LogLine::ago" => a_line_is_dated_by_the_stores_clock,
    "Query::Log" => a_log_is_read_in_pages_by_fence_and_number,
    "texts are kept as they are" => every_text_and_stream_comes_back,
    "Report::checkpoints" => checkpoints_are_replaced_by_name_and_read_in_order,
    "Report::checkpoints" => checkpoints_outlive_their_attempt,
    "Report::alias" => a_task_is_found_by_its_alias,
    "Report::alias" => an_id_is_stronger_than_an_alias,
    "Refusal::AliasTaken" => an_alias_that_is_taken_is_refused_and_nothing_is_kept,
    "Task::progress" => the_next_claim_clears_what_the_last_attempt_said,
    "Task::progress" => an_end_keeps_what_the_attempt_said,
    "apply: neighbours are unaffected" => a_refused_report_does_not_mind_its_neighbours,
    "ErrorKind::Rejected" => what_can_not_be_stored_is_rejected,
}

const TICK: Duration = Duration::from_secs(7);

fn progress(percent: u8, message: &str) -> Option<Progress> {
    Some(Progress { percent, message: message.into() })
}

async fn running<S: Storage>(bench: &Bench<S>, task: &str) -> Lease {
    bench.bring(task, State::Running).await.expect("running")
}

async fn progress_is_seen_and_raises_the_revision<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let before = bench.task("a").await;
    assert_eq!((before.progress.clone(), before.reported_at), (None, None));
    let mut rev = before.rev;
    for (percent, message) in [(0, ""), (40, "halfway, nearly"), (40, "halfway, nearly"), (100, "tidying up")]
    {
        bench.clock.advance(Duration::from_secs(1));
        bench.report(Report { progress: progress(percent, message), ..report(&lease) }).await;
        rev += 1;
        let task = bench.task("a").await;
        assert_eq!((task.progress.clone(), task.rev), (progress(percent, message), rev));
        assert_eq!(task.reported_at, Some(bench.now()));
        let listed = bench.list(TaskFilter { limit: 9, ..TaskFilter::default() }).await;
        assert_eq!(listed, std::slice::from_ref(&task), "the list and the task agree");
        let expected = steadfast_core::Task {
            progress: before.progress.clone(),
            reported_at: None,
            rev: before.rev,
            ..task
        };
        assert_eq!(expected, before, "nothing else changes");
    }
}

async fn all_but_progress_raises_no_revision<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let before = bench.task("a").await;
    bench.clock.advance(TICK);
    let said = Report {
        lines: vec![line(1, "one")],
        checkpoints: vec![checkpoint("step", b"1")],
        alias: Some(id("alias")),
        ..report(&lease)
    };
    bench.report(said).await;
    let after = bench.task("a").await;
    assert_eq!(after, steadfast_core::Task { reported_at: Some(bench.now()), ..before });
}

async fn a_report_of_nothing_is_a_sign_of_life<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    bench.report(Report { progress: progress(1, "one"), ..report(&lease) }).await;
    let before = bench.task("a").await;
    bench.clock.advance(TICK);
    bench.report(report(&lease)).await;
    let after = bench.task("a").await;
    assert_eq!(after, steadfast_core::Task { reported_at: Some(bench.now()), ..before });
}

/// Everything at once.
fn much(lease: &Lease) -> Report {
    Report {
        progress: progress(99, "never"),
        lines: vec![line(1, "never")],
        checkpoints: vec![checkpoint("never", b"1")],
        alias: Some(id("never")),
        ..report(lease)
    }
}

async fn nothing_was_kept<S: Storage>(bench: &Bench<S>, task: &str) {
    assert_eq!(bench.log(task).await, [""; 0]);
    assert_eq!(bench.checkpoints(task).await, []);
    assert_eq!(bench.find("never").await, None);
}

async fn a_report_under_another_fence_is_refused_and_nothing_is_kept<S: Storage>(bench: &Bench<S>) {
    let first = running(bench, "a").await;
    bench.settle(&first, retry(Duration::ZERO)).await;
    let second = bench.claim_in("a").await;
    let before = bench.task("a").await;
    for fence in [first.fence, second.fence + 1, 0] {
        let said = Report { fence, ..much(&second) };
        assert_eq!(stale(bench.send(Step::Report(said)).await), head(&before), "{fence}");
        assert_eq!(bench.task("a").await, before);
        nothing_was_kept(bench, "a").await;
    }
    let nobody = Report { task: id("nobody"), ..much(&second) };
    assert_eq!(why(bench.send(Step::Report(nobody)).await), Refusal::NotFound);
    nothing_was_kept(bench, "nobody").await;
}

async fn a_report_of_a_task_that_does_not_run_is_refused<S: Storage>(bench: &Bench<S>) {
    for state in State::ALL.into_iter().filter(|state| *state != State::Running) {
        let name = state.as_str();
        let lease = bench.bring(name, state).await;
        let before = bench.task(name).await;
        let fence = lease.map_or(before.fence, |lease| lease.fence);
        let said = Report { task: id(name), fence, ..much(&running(bench, &format!("{name}-other")).await) };
        assert_eq!(stale(bench.send(Step::Report(said)).await), head(&before), "{state}");
        assert_eq!(bench.task(name).await, before);
        nothing_was_kept(bench, name).await;
    }
}

async fn an_attempt_that_should_stop_may_still_report<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    moved(bench.send(cancel("a", State::Running)).await);
    bench.report(Report { lines: vec![line(1, "tidying up")], ..report(&lease) }).await;
    assert_eq!(bench.log("a").await, ["tidying up"]);
}

async fn a_report_does_not_prolong_the_lease<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let until = bench.task("a").await.lease_expires_at;
    bench.clock.advance(TICK);
    bench.report(Report { progress: progress(1, ""), ..report(&lease) }).await;
    assert_eq!(bench.task("a").await.lease_expires_at, until);
    bench.clock.advance(LEASE);
    assert_eq!(bench.lapsed(9).await.len(), 1);
    bench.report(Report { progress: progress(2, ""), ..report(&lease) }).await;
    assert_eq!(bench.lapsed(9).await.len(), 1, "nobody has rescued it, and it may go on");
}

async fn a_repeated_report_changes_nothing<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let said = Report {
        progress: progress(5, "five"),
        lines: vec![line(1, "one"), line(2, "two")],
        checkpoints: vec![checkpoint("a", b"1"), checkpoint("b", b"2")],
        alias: Some(id("alias")),
        ..report(&lease)
    };
    for _ in 0..3 {
        bench.report(said.clone()).await;
        assert_eq!(bench.log("a").await, ["one", "two"]);
        assert_eq!(bench.checkpoints("a").await, said.checkpoints);
        let task = bench.task("alias").await;
        assert_eq!((task.id, task.progress), (id("a"), said.progress.clone()));
    }
}

async fn lines_are_known_by_their_number<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let say = async |lines: Vec<LogLine>| bench.report(Report { lines, ..report(&lease) }).await;
    say(vec![line(1, "one"), line(2, "two")]).await;
    let first = bench.log_after("a", (0, 0), 9).await;
    bench.clock.advance(TICK);
    say(vec![line(2, "another two"), line(3, "three")]).await;
    assert_eq!(bench.log("a").await, ["one", "two", "three"]);
    assert_eq!(bench.log_after("a", (0, 0), 2).await, first, "known lines stay as they were");
    say(vec![line(9, "nine"), line(7, "seven")]).await;
    assert_eq!(bench.log("a").await, ["one", "two", "three", "seven", "nine"], "by number, gaps and all");
}

async fn a_line_is_dated_by_the_stores_clock<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    bench.clock.advance(TICK);
    let ago = Duration::from_micros(1_500_001);
    bench
        .report(Report { lines: vec![LogLine { ago, ..line(1, "x") }, line(2, "y")], ..report(&lease) })
        .await;
    let expected = |number, text: &str, at| LogEntry {
        fence: lease.fence,
        number,
        at,
        stream: Stream::Log,
        text: text.into(),
    };
    let now = bench.now();
    assert_eq!(bench.log_after("a", (0, 0), 9).await, [expected(1, "x", now - ago), expected(2, "y", now)]);
}

async fn a_log_is_read_in_pages_by_fence_and_number<S: Storage>(bench: &Bench<S>) {
    bench.insert(in_own_queue("a")).await;
    bench.insert(in_own_queue("b")).await;
    let other = bench.claim_in("b").await;
    bench.report(Report { lines: vec![line(1, "of b")], ..report(&other) }).await;
    let mut places = Vec::new();
    for _ in 0..3 {
        let lease = bench.claim_in("a").await;
        for number in 1..=4 {
            let text = format!("{}.{number}", lease.fence);
            bench.report(Report { lines: vec![line(number, &text)], ..report(&lease) }).await;
            places.push((lease.fence, number));
        }
        // Another attempt follows for as long as the handler likes.
        bench.settle(&lease, steadfast_core::Verdict::Snooze { after: Duration::ZERO }).await;
    }
    let place = |entry: &LogEntry| (entry.fence, entry.number);
    let all = bench.log_after("a", (0, 0), 100).await;
    assert_eq!(all.iter().map(place).collect::<Vec<_>>(), places);
    assert!(all.iter().all(|entry| entry.text == format!("{}.{}", entry.fence, entry.number)));
    for size in [1, 3, 5] {
        let (mut read, mut after) = (Vec::new(), (0, 0));
        loop {
            let page = bench.log_after("a", after, size).await;
            assert!(page.len() <= usize::try_from(size).expect("small"));
            let Some(last) = page.last() else { break };
            after = place(last);
            read.extend(page);
        }
        assert_eq!(read, all, "in pages of {size}");
    }
    assert_eq!(bench.log_after("a", places[2], 1).await, all[3..4], "within a fence");
    assert_eq!(bench.log_after("a", places[3], 1).await, all[4..5], "over the end of one");
    assert_eq!(bench.log_after("a", (0, 0), 0).await, []);
    assert_eq!(bench.log_after("a", places[11], 9).await, []);
    assert_eq!(bench.log("nobody").await, [""; 0]);
}

async fn every_text_and_stream_comes_back<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    let texts = ["", " ", "tab\there", "\u{1b}[31mred\u{1b}[0m", "'; drop table log; --", "grüße 🦀", "\r"];
    let lines: Vec<_> = texts
        .into_iter()
        .zip(Stream::ALL.iter().copied().cycle())
        .zip(1..)
        .map(|((text, stream), number)| LogLine { stream, ..line(number, text) })
        .collect();
    bench.report(Report { lines: lines.clone(), ..report(&lease) }).await;
    let read = bench.log_after("a", (0, 0), 99).await;
    assert_eq!(read.len(), lines.len());
    for (read, line) in read.iter().zip(lines) {
        assert_eq!((&read.text, read.stream), (&line.text, line.stream));
    }
    let message = texts.join("|");
    bench.report(Report { progress: progress(7, &message), ..report(&lease) }).await;
    assert_eq!(bench.task("a").await.progress, progress(7, &message));
    let long = "x".repeat(steadfast_core::task::LOG_LINE_BYTES_MAX);
    bench.report(Report { lines: vec![line(99, &long)], ..report(&lease) }).await;
    assert_eq!(bench.log("a").await.pop(), Some(long));
    let every_byte: Vec<u8> = (0..=255).collect();
    let values = vec![checkpoint("a b/ü", &every_byte), checkpoint("none", b"")];
    bench.report(Report { checkpoints: values.clone(), ..report(&lease) }).await;
    assert_eq!(bench.checkpoints("a").await, values);
}

async fn checkpoints_are_replaced_by_name_and_read_in_order<S: Storage>(bench: &Bench<S>) {
    let (a, b) = (running(bench, "a").await, running(bench, "b").await);
    let say = async |checkpoints| bench.report(Report { checkpoints, ..report(&a) }).await;
    say(vec![checkpoint("two", b"2"), checkpoint("one", b"1")]).await;
    say(vec![checkpoint("One", b"I"), checkpoint("10", b"x")]).await;
    say(vec![checkpoint("two", b"zwei")]).await;
    bench.report(Report { checkpoints: vec![checkpoint("one", b"of b")], ..report(&b) }).await;
    // In order of their bytes, whatever the store's language is.
    let expected = [
        checkpoint("10", b"x"),
        checkpoint("One", b"I"),
        checkpoint("one", b"1"),
        checkpoint("two", b"zwei"),
    ];
    assert_eq!(bench.checkpoints("a").await, expected);
    assert_eq!(bench.checkpoints("b").await, [checkpoint("one", b"of b")]);
    assert_eq!(bench.checkpoints("nobody").await, []);
}

async fn checkpoints_outlive_their_attempt<S: Storage>(bench: &Bench<S>) {
    let first = running(bench, "a").await;
    bench.report(Report { checkpoints: vec![checkpoint("x", b"1")], ..report(&first) }).await;
    bench.settle(&first, retry(Duration::ZERO)).await;
    assert_eq!(bench.checkpoints("a").await, [checkpoint("x", b"1")]);
    let second = bench.claim_in("a").await;
    let late = Report { checkpoints: vec![checkpoint("x", b"late")], ..report(&first) };
    stale(bench.send(Step::Report(late)).await);
    assert_eq!(bench.checkpoints("a").await, [checkpoint("x", b"1")]);
    bench.report(Report { checkpoints: vec![checkpoint("x", b"2")], ..report(&second) }).await;
    bench.settle(&second, done()).await;
    assert_eq!(bench.checkpoints("a").await, [checkpoint("x", b"2")]);
}

async fn a_task_is_found_by_its_alias<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    bench.report(Report { alias: Some(id("first")), ..report(&lease) }).await;
    bench.report(Report { alias: Some(id("second")), ..report(&lease) }).await;
    let task = bench.task("a").await;
    assert_eq!((bench.task("first").await, bench.task("second").await), (task.clone(), task));
    bench.settle(&lease, done()).await;
    assert_eq!(bench.task("first").await.state, State::Succeeded);
}

async fn an_id_is_stronger_than_an_alias<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    bench.report(Report { alias: Some(id("later")), ..report(&lease) }).await;
    bench.insert(in_own_queue("later")).await;
    assert_eq!(bench.task("later").await.id, id("later"));
}

async fn an_alias_that_is_taken_is_refused_and_nothing_is_kept<S: Storage>(bench: &Bench<S>) {
    let (a, b) = (running(bench, "a").await, running(bench, "b").await);
    bench.report(Report { alias: Some(id("alias")), ..report(&a) }).await;
    bench.clock.advance(TICK);
    let before = bench.task("b").await;
    // Its own id is no other name for it.
    bench.report(Report { alias: Some(id("a")), ..report(&a) }).await;
    for (alias, owner) in [("alias", "a"), ("a", "a")] {
        let said = Report { alias: Some(id(alias)), ..much(&b) };
        assert_eq!(why(bench.send(Step::Report(said)).await), Refusal::AliasTaken(id(owner)), "{alias}");
        assert_eq!(bench.task("b").await, before);
        nothing_was_kept(bench, "b").await;
        assert_eq!(bench.task(alias).await.id, id(owner));
    }
    bench.report(Report { alias: Some(id("alias")), ..report(&a) }).await;
}

async fn the_next_claim_clears_what_the_last_attempt_said<S: Storage>(bench: &Bench<S>) {
    let first = running(bench, "a").await;
    bench
        .report(Report { progress: progress(50, "half"), lines: vec![line(1, "x")], ..report(&first) })
        .await;
    let reported_at = Some(bench.now());
    bench.clock.advance(TICK);
    bench.settle(&first, retry(Duration::ZERO)).await;
    let between = bench.task("a").await;
    assert_eq!((between.progress, between.reported_at), (progress(50, "half"), reported_at));
    let second = bench.claim_in("a").await;
    let task = bench.task("a").await;
    assert_eq!((task.progress, task.reported_at), (None, None));
    assert_eq!(bench.log("a").await, ["x"], "the log stays");
    bench.report(report(&second)).await;
    let task = bench.task("a").await;
    assert_eq!((task.progress, task.reported_at), (None, Some(bench.now())), "the first one's stays cleared");
}

async fn an_end_keeps_what_the_attempt_said<S: Storage>(bench: &Bench<S>) {
    let lease = running(bench, "a").await;
    bench.report(Report { progress: progress(50, "half"), ..report(&lease) }).await;
    let reported_at = Some(bench.now());
    bench.clock.advance(TICK);
    bench.settle(&lease, fail()).await;
    let task = bench.task("a").await;
    assert_eq!((task.progress, task.reported_at), (progress(50, "half"), reported_at));
}

async fn a_refused_report_does_not_mind_its_neighbours<S: Storage>(bench: &Bench<S>) {
    let (a, b, c) = (running(bench, "a").await, running(bench, "b").await, running(bench, "c").await);
    let lost = Report { fence: b.fence + 1, ..much(&b) };
    let kept = Report { lines: vec![line(1, "kept")], ..report(&a) };
    let calls = [Step::Report(kept), Step::Report(lost), settle(&c, done()), put(&in_own_queue("d"))];
    let mut outcomes = bench.send_all(&calls.map(Batch::from)).await.into_iter();
    let mut next = || outcomes.next().expect("four outcomes");
    applied(next());
    stale(next());
    assert_eq!(moved(next()).state, State::Succeeded);
    inserted(next());
    assert_eq!(bench.log("a").await, ["kept"]);
    nothing_was_kept(bench, "b").await;
}

async fn what_can_not_be_stored_is_rejected<S: Storage>(bench: &Bench<S>) {
    let (a, b) = (running(bench, "a").await, running(bench, "b").await);
    let neighbour = Report { lines: vec![line(1, "neighbour")], ..report(&b) };
    for culprit in [
        Report { lines: vec![line(1, "a\0b")], ..report(&a) },
        Report { progress: progress(1, "\0"), ..report(&a) },
        Report { checkpoints: vec![checkpoint("\0", b"1")], ..report(&a) },
    ] {
        let call = [Step::Report(neighbour.clone()), Step::Report(culprit)].map(Batch::from);
        let error = bench.store().apply(&call).await.expect_err("a NUL byte can't be stored everywhere");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
        assert_eq!(bench.log("b").await, [""; 0], "the whole call is void");
    }
}
