//! One page for every state and every reason, as a person sees it; and what holds for all of them.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::name::{Key, Kind, Queue, Slot, WorkerId};
use crate::task::{Backoff, Cause, OnParentFailure, Progress};

/// The store's clock in all these tests.
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many seconds before now.
fn past(ago: u64) -> Timestamp {
    NOW - seconds(ago)
}

fn task(state: State) -> Task {
    Task {
        id: TaskId::trusted("t-1"),
        kind: Kind::trusted("scan"),
        queue: Queue::trusted("scans"),
        state,
        cause: None,
        error: None,
        rev: 0,
        attempt: 0,
        attempts_max: 3,
        rescues: 0,
        rescues_max: 5,
        fence: 0,
        slot: None,
        slot_waiting: false,
        key: None,
        priority: 0,
        payload: (*b"{}").into(),
        output: None,
        submitted_at: past(100),
        due_at: past(100),
        deadline_at: None,
        claimed_at: None,
        entered_at: None,
        progress: None,
        reported_at: None,
        finished_at: None,
        lease_expires_at: None,
        worker: None,
        timeout: seconds(3600),
        backoff: Backoff::default(),
        cancel: None,
        parents_pending: 0,
        digest: 0,
        mark: 0,
    }
}

fn facts(task: Task) -> Facts {
    Facts {
        store: StoreId::trusted("store-1"),
        now: NOW,
        task,
        attempts: Vec::new(),
        parents: Vec::new(),
        holder: None,
        queue: None,
        workers: vec![worker("w-1")],
    }
}

fn worker(id: &str) -> Worker {
    Worker {
        id: WorkerId::trusted(id),
        queues: vec![Queue::trusted("scans"), Queue::default_queue()],
        kinds: vec![Kind::trusted("echo"), Kind::trusted("scan")],
        concurrency: 16,
        running: 0,
        gone: false,
        started_at: past(5_000),
        seen_at: past(3),
    }
}

fn queue(concurrency: Option<u32>, paused: bool, running: u64) -> QueueStats {
    QueueStats {
        queue: Queue::trusted("scans"),
        concurrency,
        paused,
        tasks: [0, 0, 1, running, 0, 0, 0],
        oldest_ready: Some(seconds(100)),
        stale: 0,
        stuck: 0,
    }
}

/// Claimed 20 s ago, entered, renewed.
fn running() -> Task {
    Task {
        rev: 1,
        attempt: 1,
        fence: 1,
        claimed_at: Some(past(20)),
        entered_at: Some(past(20)),
        lease_expires_at: Some(NOW + seconds(25)),
        worker: Some(WorkerId::trusted("w-1")),
        ..task(State::Running)
    }
}

fn earlier(fence: Fence, cause: Cause, error: &str) -> Attempt {
    Attempt {
        fence,
        attempt: 1,
        worker: WorkerId::trusted("w-0"),
        claimed_at: past(90),
        entered_at: (fence % 2 == 1).then(|| past(89)),
        ended_at: past(60),
        cause,
        error: Some(error.into()),
    }
}

fn ended(state: State, cause: Cause, error: Option<&str>) -> Task {
    Task {
        rev: 2,
        cause: Some(cause),
        error: error.map(str::to_owned),
        lease_expires_at: None,
        finished_at: Some(past(5)),
        state,
        ..running()
    }
}

fn parent(id: &str, on_failure: OnParentFailure, state: Option<State>) -> (Parent, Option<State>) {
    (Parent { id: TaskId::trusted(id), on_failure }, state)
}

#[derive(Default)]
struct Pages(String);

impl Pages {
    fn add(&mut self, about: &str, facts: &Facts) {
        let diagnosis = diagnose(facts);
        let time = |at: Timestamp| format!("T{:+}s", at.as_micros() / 1_000_000 - 1_000_000);
        let rule = "-".repeat(8);
        let found = diagnosis.finding.as_str();
        let page = diagnosis.page(time);
        writeln!(self.0, "{rule} {about}: {found} {rule}\n{page}").unwrap();
    }
}

#[test]
fn blocked() {
    let mut pages = Pages::default();
    let mut one =
        facts(Task { parents_pending: 2, deadline_at: Some(NOW + seconds(60)), ..task(State::Blocked) });
    one.parents = vec![
        parent("a", OnParentFailure::Fail, Some(State::Running)),
        parent("b", OnParentFailure::Run, Some(State::Ready)),
        parent("c", OnParentFailure::Fail, Some(State::Succeeded)),
        parent("d", OnParentFailure::Run, None),
    ];
    pages.add("two of its parents haven't ended", &one);
    one.parents =
        (0..7).map(|n| parent(&format!("p{n}"), OnParentFailure::Run, Some(State::Ready))).collect();
    pages.add("many parents", &one);
    let slot = Some(Slot::trusted("user:42"));
    let mut two = facts(Task { slot, slot_waiting: true, ..task(State::Blocked) });
    two.holder = Some(Holder { id: TaskId::trusted("h"), state: State::Running, ahead: 0 });
    pages.add("its slot is held", &two);
    two.holder = Some(Holder { id: TaskId::trusted("h"), state: State::Ready, ahead: 3 });
    pages.add("its slot is held and others came first", &two);
    pages.add("nothing blocks it", &facts(task(State::Blocked)));
    insta::assert_snapshot!(pages.0);
}

#[test]
fn scheduled() {
    let mut pages = Pages::default();
    let due_at = NOW + seconds(240);
    pages.add("due later", &facts(Task { due_at, ..task(State::Scheduled) }));
    let retried = |cause, error: &str| Task {
        rev: 2,
        attempt: 1,
        fence: 1,
        due_at: NOW + seconds(3),
        claimed_at: Some(past(90)),
        worker: Some(WorkerId::trusted("w-0")),
        cause: Some(cause),
        error: Some(error.into()),
        ..task(State::Scheduled)
    };
    let mut one = facts(retried(Cause::Error, "connection refused"));
    one.attempts = vec![earlier(1, Cause::Error, "connection refused")];
    pages.add("before another attempt", &one);
    let mut two = facts(Task { attempt: 0, ..retried(Cause::Snoozed, "") });
    two.attempts = vec![earlier(1, Cause::Snoozed, "not yet")];
    pages.add("snoozed", &two);
    pages.add("due, and not yet promoted", &facts(Task { due_at: past(1), ..task(State::Scheduled) }));
    insta::assert_snapshot!(pages.0);
}

#[test]
fn ready() {
    let mut pages = Pages::default();
    let key = Some(Key::trusted("order 7"));
    let mut one = facts(Task { key, ..task(State::Ready) });
    pages.add("a worker can claim it", &one);
    one.queue = Some(queue(Some(4), true, 4));
    pages.add("its queue is paused", &one);
    one.queue = Some(queue(Some(4), false, 4));
    pages.add("its queue is at its limit", &one);
    one.queue = Some(queue(Some(0), false, 0));
    pages.add("its queue's limit lets none run", &one);
    one.queue = Some(queue(None, false, 9));
    one.workers = vec![Worker { running: 16, ..worker("w-1") }, Worker { running: 17, ..worker("w-2") }];
    pages.add("the workers are busy", &one);
    one.workers.push(worker("w-3"));
    one.task.submitted_at = past(301);
    one.task.due_at = past(301);
    pages.add("nobody takes it", &one);
    one.task.rescues = 1;
    one.task.fence = 2;
    one.attempts =
        vec![earlier(1, Cause::Error, "no luck"), earlier(2, Cause::LeaseLapsed, "worker w-0 let it lapse")];
    pages.add("it was rescued a minute ago", &one);
    let mut two = facts(Task { slot: Some(Slot::trusted("user:42")), ..task(State::Ready) });
    two.parents = vec![parent("a", OnParentFailure::Fail, Some(State::Succeeded))];
    two.workers.push(worker("w-2"));
    pages.add("its parent has ended", &two);
    insta::assert_snapshot!(pages.0);
}

#[test]
fn ready_without_a_worker() {
    let mut pages = Pages::default();
    let mut one = facts(task(State::Ready));
    one.workers.clear();
    pages.add("there was never one", &one);
    one.workers = vec![
        Worker { seen_at: past(300), ..worker("w-0") },
        Worker { seen_at: past(61), ..worker("w-1") },
        Worker { kinds: vec![Kind::trusted("echo")], ..worker("w-2") },
    ];
    pages.add("the last was seen a minute ago", &one);
    one.workers[1].gone = true;
    pages.add("the last was drained", &one);
    one.workers = vec![Worker { queues: vec![Queue::default_queue()], ..worker("w-1") }];
    pages.add("none for its queue", &one);
    one.workers = vec![Worker { kinds: vec![Kind::trusted("echo"), Kind::trusted("mail")], ..worker("w-1") }];
    pages.add("none for its kind", &one);
    insta::assert_snapshot!(pages.0);
}

#[test]
fn while_it_runs() {
    let mut pages = Pages::default();
    pages.add("entered", &facts(running()));
    let progress = Some(Progress { percent: 40, message: "page 4 of 10".into() });
    let reported = Task { progress, reported_at: Some(past(2)), attempt: 3, ..running() };
    let mut one = facts(reported.clone());
    one.attempts = vec![earlier(1, Cause::Timeout, "too slow")];
    one.task.fence = 2;
    pages.add("it reports", &one);
    let logged = Task { progress: None, deadline_at: Some(NOW + seconds(9)), ..reported };
    pages.add("it has said something else", &facts(logged));
    // A report that is older than the claim is the last attempt's.
    let silent = Task { entered_at: None, reported_at: Some(past(30)), ..running() };
    pages.add("not known to be entered", &facts(silent.clone()));
    let hangs = Task { claimed_at: Some(past(725)), entered_at: Some(past(720)), ..running() };
    pages.add("its handler hangs", &facts(hangs));
    let never_said = Task { claimed_at: Some(past(601)), reported_at: None, ..silent.clone() };
    pages.add("its worker lives and never said that it entered", &facts(never_said));
    let cancel = Some("enough".to_owned());
    pages.add("asked to stop", &facts(Task { cancel: cancel.clone(), ..running() }));
    let lapsed = |task| Task { lease_expires_at: Some(past(3)), ..task };
    pages.add("its lease has lapsed", &facts(lapsed(running())));
    pages.add("lapsed before it was known to be entered", &facts(lapsed(silent)));
    pages.add("lapsed too often", &facts(lapsed(Task { rescues: 5, ..running() })));
    pages.add("lapsed after a cancel", &facts(lapsed(Task { cancel, ..running() })));
    let late = Task { lease_expires_at: Some(past(10)), claimed_at: Some(past(90)), ..running() };
    pages.add("lapsed, and a sweep may still come", &facts(late));
    let long_lapsed = Task { lease_expires_at: Some(past(11)), claimed_at: Some(past(90)), ..running() };
    pages.add("lapsed and nobody sweeps", &facts(long_lapsed));
    insta::assert_snapshot!(pages.0);
}

#[test]
fn once_it_has_ended() {
    let mut pages = Pages::default();
    pages.add("well", &facts(ended(State::Succeeded, Cause::Done, None)));
    let cancelled = |cause, error| facts(ended(State::Cancelled, cause, Some(error)));
    pages.add("cancelled while it ran", &cancelled(Cause::Cancelled, "enough"));
    pages.add("replaced while it ran", &cancelled(Cause::Replaced, "replaced by t-2"));
    let mut unsaid =
        facts(ended(State::Failed, Cause::RescuesUsedUp, Some("worker w-1 let its lease lapse")));
    unsaid.task.entered_at = None;
    pages.add("lost", &unsaid);
    let waiting = |cause, task: Task| {
        let finished_at = Some(past(5));
        facts(Task { state: State::Cancelled, cause: Some(cause), finished_at, ..task })
    };
    pages.add("cancelled while it was ready", &waiting(Cause::Cancelled, task(State::Ready)));
    let later = Task { due_at: NOW + seconds(9), ..task(State::Scheduled) };
    pages.add("cancelled before it was due", &waiting(Cause::Cancelled, later));
    let blocked = Task { parents_pending: 1, ..task(State::Blocked) };
    pages.add("cancelled while it was blocked", &waiting(Cause::Cancelled, blocked));
    let slot = Some(Slot::trusted("user:42"));
    let slotless = Task { slot, slot_waiting: true, ..task(State::Blocked) };
    pages.add("cancelled while it waited for its slot", &waiting(Cause::Cancelled, slotless));
    let error = Some("parent a failed".to_owned());
    let mut orphan = waiting(Cause::DependencyFailed, Task { error, ..task(State::Failed) });
    orphan.task.state = State::Failed;
    pages.add("a parent failed", &orphan);
    let mut between = facts(Task { fence: 1, ..ended(State::Cancelled, Cause::Cancelled, Some("enough")) });
    between.attempts = vec![earlier(1, Cause::Error, "no luck")];
    pages.add("cancelled between two attempts", &between);
    insta::assert_snapshot!(pages.0);
}

#[test]
fn every_cause_has_its_sentence() {
    let mut sentences = String::new();
    for cause in Cause::ALL.iter().copied() {
        let state = match cause {
            Cause::Done => State::Succeeded,
            Cause::Cancelled | Cause::Replaced => State::Cancelled,
            Cause::Error
            | Cause::Panic
            | Cause::Timeout
            | Cause::ExitCode
            | Cause::Signal
            | Cause::NotStarted
            | Cause::LeaseLapsed
            | Cause::RescuesUsedUp
            | Cause::DependencyFailed
            | Cause::Deadline
            | Cause::Snoozed
            | Cause::Drained
            | Cause::Unrecordable => State::Failed,
        };
        let verdict = diagnose(&facts(ended(state, cause, Some("what went wrong")))).verdict;
        writeln!(sentences, "{verdict}").unwrap();
    }
    insta::assert_snapshot!(sentences);
}

/// Any row that a store might have, also those that make little sense.
fn any_facts() -> impl Strategy<Value = Facts> {
    let moment =
        || proptest::option::of((0_i64..2_000_000).prop_map(|s| Timestamp::from_micros(s * 1_000_000)));
    let moments = (moment(), moment(), moment(), moment(), moment(), moment());
    let numbers = (0_u32..5, 0_u32..5, 0_u32..3, 0_u64..4, 0_u32..3);
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (0_usize..State::ALL.len(), moments, numbers, switches).prop_map(|(state, moments, numbers, switches)| {
        let (due, claimed, entered, reported, finished, lease) = moments;
        let (attempt, rescues, pending, fence, kept) = numbers;
        let (slot, slot_waiting, cancel, worker) = switches;
        let mut facts = facts(Task {
            due_at: due.unwrap_or(NOW),
            claimed_at: claimed,
            entered_at: entered,
            reported_at: reported,
            finished_at: finished,
            lease_expires_at: lease,
            attempt,
            rescues,
            parents_pending: pending,
            fence,
            slot: slot.then(|| Slot::trusted("s")),
            slot_waiting,
            cancel: cancel.then(|| "enough".into()),
            worker: worker.then(|| WorkerId::trusted("w-1")),
            ..task(State::ALL[state])
        });
        facts.attempts = (0..kept).map(|fence| earlier(u64::from(fence), Cause::Error, "no")).collect();
        facts
    })
}

proptest! {
    #[test]
    fn a_diagnosis_is_whole_and_does_not_contradict_itself(facts in any_facts()) {
        let diagnosis = diagnose(&facts);
        let stages: Vec<Stage> = diagnosis.hops.iter().map(|hop| hop.stage).collect();
        prop_assert_eq!(stages, Stage::ALL);
        let passed = |stage: Stage| {
            let hop = diagnosis.hops.iter().find(|hop| hop.stage == stage).expect("all are there");
            matches!(hop.passed, Passed::Yes { .. })
        };
        let is_over = facts.task.state.is_terminal();
        prop_assert_eq!(passed(Stage::Settled), is_over);
        prop_assert_eq!(matches!(diagnosis.finding, Finding::Ended(_)), is_over);
        // Whoever waits has no attempt under way.
        prop_assert!(!(facts.task.state.is_waiting() && passed(Stage::Claimed)));
        prop_assert!(passed(Stage::Claimed) || facts.current().is_some() || !passed(Stage::Entered));
        prop_assert!(!diagnosis.next.is_empty(), "something follows, or it is said that nothing does");
        let times: Vec<_> = diagnosis.next.iter().map(|next| next.at).collect();
        prop_assert!(times.is_sorted());
        prop_assert!(!diagnosis.verdict.is_empty());
    }
}
