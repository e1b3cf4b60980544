//! The calls of serial step programs, drawn over few names, so that they meet.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::decide;
use steadfast_core::name::{Key, Kind, Queue, Slot, TaskId, WorkerId};
use steadfast_core::step::{Batch, Beat, Prune, QueueLimit, QueuePause, Renewal, Report, Step};
use steadfast_core::storage::{ClaimRequest, Lease, Query, TaskFilter};
use steadfast_core::task::{
    Cause, Checkpoint, Due, LogLine, NewTask, OnConflict, OnParentFailure, Parent, Progress, State, Stream,
};

use super::{Call, STALE, START, STUCK, Seen, Style};
use crate::random::Random;

fn stands_alone(step: &Step) -> bool {
    match step {
        Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => true,
        Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Limit(_) => false,
    }
}

/// The engine's committers, by what comes to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Submits,
    Settles,
    Reports,
}

impl Lane {
    /// Whether a step of a batch of so many comes here.
    fn takes(self, step: &Step, count: usize) -> bool {
        self == match step {
            Step::Insert(_) => Lane::Submits,
            // Of several, the first replaces whoever the other comes for.
            Step::Transition(_) if count > 1 => Lane::Submits,
            Step::Transition(_)
            | Step::Renew(_)
            | Step::Limit(_)
            | Step::Pause(_)
            | Step::Beat(_)
            | Step::Prune(_) => Lane::Settles,
            Step::Report(_) => Lane::Reports,
        }
    }
}

/// Draws calls over few names, so that they meet.
pub(super) struct Generator {
    random: Random,
    pub(super) style: Style,
    pub(super) seen: Seen,
    sent: Vec<Vec<Batch>>,
}

const IDS: usize = 16;

impl Generator {
    pub(super) fn new(seed: u64, style: Style) -> Self {
        Self { random: Random::new(seed), style, seen: Seen::default(), sent: Vec::new() }
    }

    /// The next call, by what was seen so far.
    pub(super) fn call(&mut self) -> Call {
        match self.random.below(100) {
            0..15 => Call::Claim(self.claim()),
            15..25 => {
                let seconds = *self.random.pick(&[0, 1, 1, 5, 40, 200]);
                Call::Advance(Duration::from_micros(seconds * 1_000_000 + 7))
            }
            25..31 => Call::Read(Query::Lapsed { limit: 100 }),
            31..34 => Call::Read(Query::Overdue { limit: 100 }),
            34..42 => Call::Read(self.query()),
            // Alone in its call: what it finds depends on what came before.
            42..44 => Call::Apply(vec![Step::Prune(self.prune()).into()]),
            44..50 if !self.sent.is_empty() => Call::Apply(self.random.pick(&self.sent).clone()),
            _ => {
                let call = self.batches();
                self.sent.push(call.clone());
                Call::Apply(call)
            }
        }
    }

    fn claim(&mut self) -> ClaimRequest {
        let queues = match self.random.below(3) {
            0 => vec![Queue::trusted("q0")],
            1 => vec![Queue::trusted("q1"), Queue::trusted("q0")],
            _ => vec![Queue::trusted("q0"), Queue::trusted("q1")],
        };
        let both = vec![Kind::trusted("a"), Kind::trusted("b")];
        ClaimRequest {
            worker: WorkerId::trusted(format!("worker-{}", self.random.below(3))),
            queues,
            kinds: if self.random.chance(70) { both } else { vec![Kind::trusted("a")] },
            limit: *self.random.pick(&[1, 2, 5]),
            lease: Duration::from_secs(*self.random.pick(&[10, 30, 100])),
        }
    }

    fn query(&mut self) -> Query {
        match self.random.below(12) {
            0 => Query::Task(self.id()),
            1 => Query::Task(self.alias()),
            2 => Query::Attempts(self.id()),
            3 => Query::Parents(self.id()),
            4 => Query::Checkpoints(self.id()),
            5 => {
                let after = *self.random.pick(&[(0, 0), (1, 0), (1, 1), (2, 1)]);
                Query::Log { task: self.id(), after, limit: *self.random.pick(&[1, 2, 100]) }
            }
            6 => Query::Stats { stale: STALE, stuck: STUCK },
            7 => Query::Workers,
            8 => Query::Heads((0..4).map(|_| self.id()).collect::<BTreeSet<_>>().into_iter().collect()),
            _ => {
                let state = *self.random.pick(&State::ALL);
                let limit = *self.random.pick(&[1, 3, 100]);
                let queue = self.random.chance(30).then(|| Queue::trusted("q1"));
                let slot = self.random.chance(20).then(|| self.slot());
                let state = self.random.chance(70).then_some(state);
                Query::Tasks(TaskFilter { state, queue, slot, limit, ..TaskFilter::default() })
            }
        }
    }

    fn id(&mut self) -> TaskId {
        TaskId::trusted(format!("t{:02}", self.random.below(IDS)))
    }

    /// Another name, or one that is a task's own.
    fn alias(&mut self) -> TaskId {
        if self.random.chance(10) {
            self.id()
        } else {
            TaskId::trusted(format!("alias {}", self.random.below(4)))
        }
    }

    fn prune(&mut self) -> Prune {
        let mut kept = || Duration::from_secs(*self.random.pick(&[0, 5, 60, 400]));
        Prune { succeeded: kept(), otherwise: kept(), limit: 1_000 }
    }

    fn slot(&mut self) -> Slot {
        Slot::trusted(format!("slot {}", self.random.below(3)))
    }

    /// One call. It writes a task once at most.
    fn batches(&mut self) -> Vec<Batch> {
        if self.style == Style::Plain {
            let steps = self.steps();
            return if steps.is_empty() { Vec::new() } else { vec![Batch { steps }] };
        }
        if self.style == Style::Merged {
            return self.merged();
        }
        let mut written = BTreeSet::new();
        let mut limited = BTreeSet::new();
        let count = *self.random.pick(&[1, 1, 2, 3, 5]);
        let mut batches = Vec::new();
        for _ in 0..count {
            let mut steps = Vec::new();
            let mut slots = BTreeSet::new();
            for _ in 0..*self.random.pick(&[1, 1, 1, 2, 3]) {
                steps.extend(self.steps());
            }
            steps.retain(|step| match step {
                // The contract leaves open what becomes of two newcomers for one slot in one batch.
                Step::Insert(step) => {
                    step.task.slot.as_ref().is_none_or(|(slot, _)| slots.insert(slot.clone()))
                }
                Step::Transition(step) => written.insert(step.task.clone()),
                Step::Renew(step) => written.insert(step.task.clone()),
                Step::Limit(step) => limited.insert(step.queue.clone()),
                Step::Pause(step) => limited.insert(step.queue.clone()),
                Step::Report(step) => written.insert(step.task.clone()),
                Step::Beat(_) | Step::Prune(_) => true,
            });
            // Reports and what keeps house stand alone, but for limits, which did so from the first.
            let (alone, together): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(stands_alone);
            if !together.is_empty() {
                batches.push(Batch { steps: together });
            }
            batches.extend(alone.into_iter().map(Batch::from));
        }
        // Reports have a lane of their own, so no call of the engine has them beside anything else. (PostgreSQL writes
        // them last of all; what an insert that is refused is told of such a task would differ.)
        let reports = |batch: &Batch| matches!(batch.steps[..], [Step::Report(_)]);
        if batches.iter().any(reports) {
            batches.retain(reports);
        }
        batches
    }

    /// One call of a committer: what came to one lane meanwhile.
    fn merged(&mut self) -> Vec<Batch> {
        let lane =
            *self.random.pick(&[Lane::Submits, Lane::Submits, Lane::Settles, Lane::Settles, Lane::Reports]);
        let count = *self.random.pick(&[2, 3, 4, 6]);
        let mut written = BTreeSet::new();
        let mut batches = Vec::new();
        for _ in 0..count * 8 {
            let steps = self.steps();
            let named: Vec<TaskId> = steps.iter().filter_map(Step::guarded).cloned().collect();
            let fits = !steps.is_empty() && steps.iter().all(|step| lane.takes(step, steps.len()));
            // No call of a committer writes a task twice.
            if fits && named.iter().all(|task| !written.contains(task)) {
                written.extend(named);
                batches.push(Batch { steps });
            }
            if batches.len() == count {
                break;
            }
        }
        batches
    }

    fn steps(&mut self) -> Vec<Step> {
        match self.random.below(100) {
            0..40 => vec![Step::Insert(self.task().into())],
            40..62 => self.of_lease(),
            62..72 => {
                let task = self.id();
                let found =
                    *self.random.pick(&[State::Blocked, State::Scheduled, State::Ready, State::Running]);
                decide::cancel(&task, found, "not wanted").map(Step::Transition).into_iter().collect()
            }
            72..75 if !self.seen.overdue.is_empty() => {
                let task = self.random.pick(&self.seen.overdue);
                vec![Step::Transition(decide::expire(task))]
            }
            72..82 => {
                let (mut holder, mut slot, mut newcomer) = (self.id(), self.slot(), self.task());
                let seen: Vec<(&Slot, &TaskId)> = self.seen.slots.iter().collect();
                if !seen.is_empty() && self.random.chance(75) {
                    let (held, by) = *self.random.pick(&seen);
                    (slot, holder) = (held.clone(), by.clone());
                }
                newcomer.slot = Some((slot, OnConflict::Replace));
                let displace = decide::replace(&holder, &newcomer.id);
                vec![Step::Transition(displace), Step::Insert(newcomer.into())]
            }
            82..91 if !self.seen.lapsed.is_empty() => {
                let lapsed = self.random.pick(&self.seen.lapsed);
                vec![Step::Transition(decide::reclaim(lapsed))]
            }
            91..94 => {
                let task = self.id();
                vec![Step::Transition(decide::hasten(&task, *self.random.pick(&[0, 1, 2])))]
            }
            94..96 => {
                let queue = Queue::trusted(format!("q{}", self.random.below(2)));
                vec![Step::Pause(QueuePause { queue, paused: self.random.chance(40) })]
            }
            96..98 => vec![Step::Beat(self.beat())],
            _ => {
                let queue = Queue::trusted(format!("q{}", self.random.below(2)));
                let concurrency = *self.random.pick(&[None, None, Some(0), Some(1), Some(2), Some(4)]);
                vec![Step::Limit(QueueLimit { queue, concurrency })]
            }
        }
    }

    fn of_lease(&mut self) -> Vec<Step> {
        if self.seen.leases.is_empty() {
            return Vec::new();
        }
        // Mostly one of the last, which most likely is still held.
        let recent = self.seen.leases.len().saturating_sub(6);
        let from = if self.random.chance(80) { &self.seen.leases[recent..] } else { &self.seen.leases[..] };
        let lease = self.random.pick(from).clone();
        let entered = self.random.chance(50).then(|| Duration::from_millis(300));
        let error = || "it broke".to_owned();
        let after = |seconds| Some(Duration::from_secs(seconds));
        let verdict = match self.random.below(12) {
            9.. => return vec![Step::Report(self.report(&lease))],
            0..3 => Verdict::done(*b"42"),
            3 => Verdict::Retry { cause: Cause::Error, error: error(), after: after(0) },
            4 => Verdict::Retry { cause: Cause::Timeout, error: error(), after: after(3) },
            5 => Verdict::Fail { cause: Cause::Panic, error: error() },
            6 => Verdict::Snooze { after: Duration::from_secs(2) },
            7 => return vec![Step::Transition(decide::give_back(&lease, entered))],
            _ => {
                let long = Duration::from_secs(50);
                let renewal = Renewal { task: lease.task, fence: lease.fence, lease: long, entered };
                return vec![Step::Renew(renewal)];
            }
        };
        vec![Step::Transition(decide::settle(&lease, verdict, entered))]
    }

    fn report(&mut self, lease: &Lease) -> Report {
        let mut report = Report::new(lease.task.clone(), lease.fence);
        for _ in 0..self.random.below(3) {
            let stream = *self.random.pick(&[Stream::Log, Stream::Stdout, Stream::Stderr]);
            let (number, ago) = (1 + self.random.below(4), Duration::from_millis(20));
            let number = u32::try_from(number).expect("a small number");
            if report.lines.iter().all(|line| line.number != number) {
                report.lines.push(LogLine { number, ago, stream, text: format!("line {number}") });
            }
        }
        if self.random.chance(40) {
            let percent = *self.random.pick(&[0, 50, 100]);
            report.progress = Some(Progress { percent, message: "half\u{e9}".to_owned() });
        }
        if self.random.chance(40) {
            let name = (*self.random.pick(&["first", "second"])).to_owned();
            let value = Vec::from([u8::try_from(self.random.below(3)).expect("a small number")]);
            report.checkpoints.push(Checkpoint { name, value: value.into() });
        }
        if self.random.chance(30) {
            report.alias = Some(self.alias());
        }
        report
    }

    fn beat(&mut self) -> Beat {
        Beat {
            worker: WorkerId::trusted(format!("worker-{}", self.random.below(3))),
            queues: vec![Queue::trusted("q0"), Queue::trusted("q1")],
            kinds: vec![Kind::trusted("a")],
            concurrency: *self.random.pick(&[1, 8]),
            running: *self.random.pick(&[0, 1, 5]),
            gone: self.random.chance(20),
        }
    }

    fn task(&mut self) -> NewTask {
        let kind = Kind::trusted(*self.random.pick(&["a", "a", "b"]));
        let mut task = NewTask::new(self.id(), kind, *b"{}");
        task.queue = Queue::trusted(format!("q{}", self.random.below(2)));
        task.priority = i16::try_from(self.random.below(3)).expect("a small number") - 1;
        task.attempts_max = *self.random.pick(&[1, 3]);
        task.rescues_max = *self.random.pick(&[0, 1, 5]);
        if self.random.chance(25) {
            task.key = Some(Key::trusted(format!("key {}", self.random.below(3))));
        }
        if self.random.chance(25) {
            let policies = [
                OnConflict::Reject,
                OnConflict::Queue,
                OnConflict::Queue,
                OnConflict::Join,
                OnConflict::Replace,
            ];
            task.slot = Some((self.slot(), *self.random.pick(&policies)));
        }
        task.due = match self.random.below(8) {
            0 => Due::After(Duration::from_secs(3)),
            1 => Due::At(START + Duration::from_secs(30)),
            _ => Due::Now,
        };
        task.deadline = match self.random.below(6) {
            0 => Some(Due::After(Duration::from_secs(45))),
            1 => Some(Due::At(START + Duration::from_secs(100))),
            _ => None,
        };
        for _ in 0..*self.random.pick(&[0, 0, 0, 1, 1, 2]) {
            // Most of them exist.
            let known = self.seen.heads.len();
            let id = if known > 0 && self.random.chance(80) {
                self.random.pick(&self.seen.heads).0.clone()
            } else {
                self.id()
            };
            let policies = [OnParentFailure::Fail, OnParentFailure::Run];
            if id != task.id {
                task.parents.push(Parent { id, on_failure: *self.random.pick(&policies) });
            }
        }
        task
    }
}
