//! Step programs, one call after the other: what claims, applies and reads answer, and what they leave behind, must
//! be the same on every storage, simulated or real.
//!
//! A program is drawn while one storage plays it, because many calls are about what earlier ones answered: leases,
//! fences, what has lapsed. The others play the very same calls.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use steadfast_core::decide;
use steadfast_core::name::{Key, Kind, Queue, Slot, TaskId, WorkerId};
use steadfast_core::step::{Batch, Head, Outcome, QueueLimit, Receipt, Refusal, Renewal, Step};
use steadfast_core::storage::{Answer, ClaimRequest, Lapsed, Lease, Query, Storage, TaskFilter};
use steadfast_core::task::{Cause, Due, NewTask, OnConflict, OnParentFailure, Parent, State};
use steadfast_core::time::{ManualClock, Timestamp};
use steadfast_core::{Error, Verdict};

use crate::random::Random;

/// What the store's clock shows when a program begins.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// How many calls a program has.
pub const CALLS: usize = 60;

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Call {
    /// A claim.
    Claim(ClaimRequest),
    /// Batches in one transaction.
    Apply(Vec<Batch>),
    /// A question.
    Read(Query),
    /// The store's clock moves.
    Advance(Duration),
}

/// How large the calls of a program are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One batch, as the engine makes them: a step, or a replacing. What they leave behind is the same on all stores.
    Plain,
    /// Several batches of several steps. A store that applies them one by one changes a child twice where another
    /// does so once, and has new tasks arrive in another order; its own double must do as it does.
    Rich,
}

/// What a call answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The outcome of each batch.
    Outcomes(Vec<Outcome>),
    /// Anything else, and errors by their kind.
    Text(String),
}

/// A program and what it showed.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// Its calls and the answer to each.
    pub calls: Vec<(Call, Answered)>,
    /// The rows at the end.
    pub rows: Vec<String>,
    /// The same without what nobody decides by: which of several failed parents a task that failed with them names,
    /// and how many parents one that has ended was still waiting for.
    pub rows_in_outcomes: Vec<String>,
}

/// Draws a program while this storage plays it.
pub async fn draw(seed: u64, style: Style, store: &impl Storage, clock: &ManualClock) -> Played {
    let mut generator = Generator::new(seed, style);
    let mut played = Played::default();
    for _ in 0..CALLS {
        let call = generator.call();
        let answer = play(store, clock, &call, &mut generator.seen).await;
        played.calls.push((call, answer));
    }
    (played.rows, played.rows_in_outcomes) = rows(store).await;
    played
}

/// Plays the same calls on another storage.
pub async fn replay(program: &Played, store: &impl Storage, clock: &ManualClock) -> Played {
    let mut played = Played::default();
    let mut seen = Seen::default();
    for (call, _) in &program.calls {
        played.calls.push((call.clone(), play(store, clock, call, &mut seen).await));
    }
    (played.rows, played.rows_in_outcomes) = rows(store).await;
    played
}

/// How exactly two storages must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// In everything.
    Exactly,
    /// A storage that applies a call step by step and one that does so set by set may differ in what they tell beside
    /// the outcome: how a task was found while other steps of the call were moving it, and which of several reasons a
    /// batch of several steps was refused for.
    InOutcomes,
}

/// How two storages compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// They agree.
    Same,
    /// They do up to a batch one of whose steps changes, by the release of children, what the guard of another is
    /// about: a child's slot, a child's state. A store that looks at all guards of a batch first refuses it for a slot
    /// that is about to be free, or finds out too late and asks for the call again.
    Open,
    /// They don't: the calls up to that point, and both answers.
    Differ(String),
}

/// Compares what two storages showed.
#[must_use]
pub fn compare(one: &Played, other: &Played, measure: Measure) -> Compared {
    let mut story = String::new();
    for (number, ((call, answer), (_, others))) in one.calls.iter().zip(&other.calls).enumerate() {
        writeln!(story, "{number}. {call:?}\n     {answer:?}").expect("a string takes all");
        if shown(call, answer, measure) != shown(call, others, measure) {
            let is_open = measure == Measure::InOutcomes && is_open(call, answer, others);
            let story = format!("{story}     {others:?}");
            return if is_open { Compared::Open } else { Compared::Differ(story) };
        }
    }
    let (rows, others) = match measure {
        Measure::Exactly => (&one.rows, &other.rows),
        Measure::InOutcomes => (&one.rows_in_outcomes, &other.rows_in_outcomes),
    };
    if rows == others {
        return Compared::Same;
    }
    let missing: Vec<_> = rows.iter().filter(|row| !others.contains(row)).collect();
    let extra: Vec<_> = others.iter().filter(|row| !rows.contains(row)).collect();
    Compared::Differ(format!("{story}at the end {missing:#?}\n  and {extra:#?}"))
}

/// Whether the difference is one of those that [`Compared::Open`] allows.
fn is_open(call: &Call, answer: &Answered, others: &Answered) -> bool {
    let Call::Apply(batches) = call else { return false };
    let several = || batches.iter().map(|batch| batch.steps.len() > 1);
    match (answer, others) {
        (_, Answered::Outcomes(outcomes)) => several().zip(outcomes).any(|(several, outcome)| {
            let Outcome::Refused(refused) = outcome else { return false };
            several && matches!(&refused.why, Refusal::SlotTaken(_, head) if head.state == State::Blocked)
        }),
        (Answered::Outcomes(outcomes), Answered::Text(error)) => {
            let is_refused = |(several, outcome)| several && matches!(outcome, &Outcome::Refused(_));
            error == "error Conflict" && several().zip(outcomes).any(is_refused)
        }
        (Answered::Text(_), Answered::Text(_)) => false,
    }
}

fn shown(call: &Call, answer: &Answered, measure: Measure) -> String {
    let (Call::Apply(batches), Answered::Outcomes(outcomes), Measure::InOutcomes) = (call, answer, measure)
    else {
        return format!("{answer:?}");
    };
    if let [batch] = batches.as_slice()
        && batch.steps.len() == 1
    {
        return format!("{answer:?}");
    }
    let show = |(batch, outcome): (&Batch, &Outcome)| match outcome {
        Outcome::Applied(receipts) => format!("applied {}", receipts.len()),
        Outcome::Already(receipts) => format!("already {}", receipts.len()),
        Outcome::Refused(_) if batch.steps.len() > 1 => "refused".to_owned(),
        Outcome::Refused(refused) => match &refused.why {
            Refusal::NotFound => "not found".to_owned(),
            Refusal::Stale(_) => "stale".to_owned(),
            Refusal::IdTaken(_) => "id taken".to_owned(),
            Refusal::KeyTaken(holder, _) => format!("key taken by {holder}"),
            Refusal::SlotTaken(holder, _) => format!("slot taken by {holder}"),
            Refusal::ParentMissing(parent) => format!("no parent {parent}"),
            Refusal::AliasTaken(holder) => format!("alias taken by {holder}"),
        },
    };
    batches.iter().zip(outcomes).map(show).collect::<Vec<_>>().join(", ")
}

/// What later calls are about.
#[derive(Debug, Default)]
struct Seen {
    leases: Vec<Lease>,
    lapsed: Vec<Lapsed>,
    heads: Vec<(TaskId, Head)>,
}

async fn play(store: &impl Storage, clock: &ManualClock, call: &Call, seen: &mut Seen) -> Answered {
    let text = match call {
        Call::Advance(by) => {
            clock.advance(*by);
            String::new()
        }
        Call::Claim(request) => match store.claim(request).await {
            Ok(claimed) => {
                seen.leases.extend(claimed.tasks.iter().cloned());
                format!("{claimed:?}")
            }
            Err(error) => error_text(&error),
        },
        Call::Apply(batches) => match store.apply(batches).await {
            Ok(outcomes) => {
                seen.heads.extend(outcomes.iter().flat_map(heads_in));
                return Answered::Outcomes(outcomes);
            }
            Err(error) => error_text(&error),
        },
        Call::Read(query) => match store.read(query).await.map(|view| (view.as_of, view.answer)) {
            Ok((as_of, Answer::Heads(mut heads))) => {
                heads.sort_by(|a, b| a.0.cmp(&b.0));
                format!("{as_of:?} {heads:?}")
            }
            Ok((as_of, Answer::Lapsed(mut lapsed))) => {
                // Of those that lapsed at the same instant any may come first.
                lapsed.sort_by(|a, b| (b.since, &a.task).cmp(&(a.since, &b.task)));
                seen.lapsed.clone_from(&lapsed);
                format!("{as_of:?} {lapsed:?}")
            }
            Ok((as_of, answer)) => {
                format!("{as_of:?} {answer:?}")
            }
            Err(error) => error_text(&error),
        },
    };
    Answered::Text(text)
}

/// Words may differ.
fn error_text(error: &Error) -> String {
    format!("error {:?}", error.kind())
}

fn heads_in(outcome: &Outcome) -> Vec<(TaskId, Head)> {
    match outcome {
        Outcome::Applied(receipts) | Outcome::Already(receipts) => {
            let inserted = |receipt: &Receipt| match receipt {
                Receipt::Inserted(id, head) => Some((id.clone(), *head)),
                Receipt::Moved(_)
                | Receipt::Renewed { .. }
                | Receipt::Reported
                | Receipt::Limited
                | Receipt::Paused
                | Receipt::Seen
                | Receipt::Pruned(_) => None,
            };
            receipts.iter().filter_map(inserted).collect()
        }
        Outcome::Refused(refused) => match &refused.why {
            Refusal::KeyTaken(id, head) | Refusal::SlotTaken(id, head) => vec![(id.clone(), *head)],
            Refusal::NotFound
            | Refusal::Stale(_)
            | Refusal::IdTaken(_)
            | Refusal::ParentMissing(_)
            | Refusal::AliasTaken(_) => Vec::new(),
        },
    }
}

async fn rows(store: &impl Storage) -> (Vec<String>, Vec<String>) {
    let all = Query::Tasks(TaskFilter { limit: 10_000, ..TaskFilter::default() });
    let Answer::Tasks(tasks) = store.read(&all).await.expect("the store answers").answer else {
        panic!("tasks were asked for")
    };
    let (mut rows, mut in_outcomes) = (Vec::new(), Vec::new());
    for mut task in tasks {
        let attempts = store.read(&Query::Attempts(task.id.clone())).await.expect("the store answers");
        let attempts = format!("{} {:?}", task.id, attempts.answer);
        rows.extend([format!("{task:?}"), attempts.clone()]);
        if task.state.is_terminal() {
            task.parents_pending = 0;
        }
        if task.cause == Some(Cause::DependencyFailed) {
            task.error = None;
        }
        in_outcomes.extend([format!("{task:?}"), attempts]);
    }
    (rows, in_outcomes)
}

/// Draws calls over few names, so that they meet.
struct Generator {
    random: Random,
    style: Style,
    seen: Seen,
    sent: Vec<Vec<Batch>>,
}

const IDS: usize = 16;

impl Generator {
    fn new(seed: u64, style: Style) -> Self {
        Self { random: Random::new(seed), style, seen: Seen::default(), sent: Vec::new() }
    }

    fn call(&mut self) -> Call {
        match self.random.below(100) {
            0..15 => Call::Claim(self.claim()),
            15..25 => {
                let seconds = *self.random.pick(&[0, 1, 1, 5, 40, 200]);
                Call::Advance(Duration::from_micros(seconds * 1_000_000 + 7))
            }
            25..32 => Call::Read(Query::Lapsed { limit: 100 }),
            32..40 => Call::Read(self.query()),
            40..48 if !self.sent.is_empty() => Call::Apply(self.random.pick(&self.sent).clone()),
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
        match self.random.below(5) {
            0 => Query::Task(self.id()),
            1 => Query::Attempts(self.id()),
            2 => Query::Heads((0..4).map(|_| self.id()).collect::<BTreeSet<_>>().into_iter().collect()),
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

    fn slot(&mut self) -> Slot {
        Slot::trusted(format!("slot {}", self.random.below(3)))
    }

    /// One call. It writes a task once at most.
    fn batches(&mut self) -> Vec<Batch> {
        if self.style == Style::Plain {
            let steps = self.steps();
            return if steps.is_empty() { Vec::new() } else { vec![Batch { steps }] };
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
            if !steps.is_empty() {
                batches.push(Batch { steps });
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
            72..82 => {
                let (holder, mut newcomer) = (self.id(), self.task());
                newcomer.slot = Some((self.slot(), OnConflict::Replace));
                let displace = decide::replace(&holder, &newcomer.id);
                vec![Step::Transition(displace), Step::Insert(newcomer.into())]
            }
            82..94 if !self.seen.lapsed.is_empty() => {
                let lapsed = self.random.pick(&self.seen.lapsed);
                vec![Step::Transition(decide::reclaim(lapsed))]
            }
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
        let verdict = match self.random.below(9) {
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
            task.slot = Some((self.slot(), OnConflict::Reject));
        }
        task.due = match self.random.below(8) {
            0 => Due::After(Duration::from_secs(3)),
            1 => Due::At(START + Duration::from_secs(30)),
            _ => Due::Now,
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
