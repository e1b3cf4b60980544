//! Step programs, one call after the other: what claims, applies and reads answer, and what they leave behind, must
//! be the same on every storage, simulated or real.
//!
//! A program is drawn while one storage plays it, because many calls are about what earlier ones answered: leases,
//! fences, what has lapsed. The others play the very same calls.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use steadfast_core::Error;
use steadfast_core::name::{Slot, TaskId};
use steadfast_core::step::{Batch, Head, Outcome, Receipt, Refusal, Refused, Step};
use steadfast_core::storage::{Answer, ClaimRequest, Claimed, Lapsed, Lease, Query, Storage, TaskFilter};
use steadfast_core::task::{Cause, State};
use steadfast_core::time::{ManualClock, Timestamp};

mod draw;
pub mod pairs;

use draw::Generator;

/// What the store's clock shows when a program begins.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// When a ready task has waited too long, and a running one has been silent for too long.
const STALE: Duration = Duration::from_secs(30);
const STUCK: Duration = Duration::from_secs(60);
/// How many calls a program has.
pub const CALLS: usize = 60;

/// What empties the tables of the PostgreSQL adapter in this schema between two programs.
#[must_use]
pub fn empty_postgres(schema: &str) -> String {
    let tables = ["task", "edge", "attempt", "queue", "log", "checkpoint", "alias", "ended", "worker"];
    let named = tables.map(|table| format!("\"{schema}\".{table}"));
    format!("truncate {} restart identity", named.join(", "))
}

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
    /// Several batches as the engine makes them, merged as its committers do: submits with submits, what runs with what
    /// runs, reports with reports.
    Merged,
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
    overdue: Vec<TaskId>,
    heads: Vec<(TaskId, Head)>,
    /// Who was last seen with each slot.
    slots: BTreeMap<Slot, TaskId>,
}

impl Seen {
    fn see(&mut self, batches: &[Batch], outcomes: &[Outcome]) {
        self.heads.extend(outcomes.iter().flat_map(heads_in));
        for (batch, outcome) in batches.iter().zip(outcomes) {
            let inserts = batch.steps.iter().filter_map(|step| match step {
                Step::Insert(insert) => Some(&insert.task),
                _ => None,
            });
            for task in inserts {
                let Some((slot, _)) = &task.slot else { continue };
                let holder = match outcome {
                    Outcome::Applied(_) => &task.id,
                    Outcome::Refused(Refused { why: Refusal::SlotTaken(holder, _), .. }) => holder,
                    Outcome::Already(_) | Outcome::Refused(_) => continue,
                };
                self.slots.insert(slot.clone(), holder.clone());
            }
        }
    }
}

async fn play(store: &impl Storage, clock: &ManualClock, call: &Call, seen: &mut Seen) -> Answered {
    let text = match call {
        Call::Advance(by) => {
            clock.advance(*by);
            String::new()
        }
        Call::Claim(request) => {
            let claimed = store.claim(request).await;
            seen.leases.extend(claimed.iter().flat_map(|claimed| &claimed.tasks).cloned());
            return of_claim(&claimed);
        }
        Call::Apply(batches) => {
            let outcomes = store.apply(batches).await;
            seen.see(batches, outcomes.as_deref().unwrap_or_default());
            return of_apply(&outcomes);
        }
        Call::Read(query) => match store.read(query).await.map(|view| (view.as_of, view.answer)) {
            Ok((as_of, Answer::Heads(mut heads))) => {
                heads.sort_by(|a, b| a.0.cmp(&b.0));
                format!("{as_of:?} {heads:?}")
            }
            Ok((as_of, Answer::Overdue(mut overdue))) => {
                overdue.sort();
                seen.overdue.clone_from(&overdue);
                format!("{as_of:?} {overdue:?}")
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

/// What a claim answered.
#[must_use]
pub fn of_claim(claimed: &Result<Claimed, Error>) -> Answered {
    Answered::Text(claimed.as_ref().map_or_else(error_text, |claimed| format!("{claimed:?}")))
}

/// What an apply answered.
#[must_use]
pub fn of_apply(outcomes: &Result<Vec<Outcome>, Error>) -> Answered {
    match outcomes {
        Ok(outcomes) => Answered::Outcomes(outcomes.clone()),
        Err(error) => Answered::Text(error_text(error)),
    }
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

/// All rows: in everything, and in outcomes.
pub async fn rows(store: &impl Storage) -> (Vec<String>, Vec<String>) {
    let all = Query::Tasks(TaskFilter { limit: 10_000, ..TaskFilter::default() });
    let Answer::Tasks(tasks) = store.read(&all).await.expect("the store answers").answer else {
        panic!("tasks were asked for")
    };
    let (mut rows, mut in_outcomes) = (Vec::new(), Vec::new());
    for query in [Query::Workers, Query::Stats { stale: STALE, stuck: STUCK }] {
        let answer = store.read(&query).await.expect("the store answers").answer;
        rows.push(format!("{answer:?}"));
        in_outcomes.push(format!("{answer:?}"));
    }
    for mut task in tasks {
        let id = || task.id.clone();
        let beside = [
            Query::Attempts(id()),
            Query::Parents(id()),
            Query::Checkpoints(id()),
            Query::Log { task: id(), after: (0, 0), limit: 1_000 },
        ];
        let mut attempts = task.id.to_string();
        for query in beside {
            let answer = store.read(&query).await.expect("the store answers").answer;
            write!(attempts, " {answer:?}").expect("a string takes all");
        }
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
