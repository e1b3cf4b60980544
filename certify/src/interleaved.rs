//! Step programs of two callers at once: known interleavings here, and [random] ones, each stepped part by part.
//!
//! A stage runs two calls and stops each before its begin, each part of what it does and its commit. What is compared is
//! who waits for whom after each turn, what each call answers, and the rows at the end.

use std::future::Future;
use std::time::Duration;

use steadfast_core::Verdict;
use steadfast_core::decide;
use steadfast_core::name::{Key, Kind, Queue, Slot, TaskId, WorkerId};
use steadfast_core::step::{Batch, Outcome, Prune, QueueLimit, QueuePause, Refusal, Renewal, Report, Step};
use steadfast_core::storage::{ClaimRequest, Claimed, Error, Lapsed, Lease};
use steadfast_core::task::{Backoff, NewTask, OnConflict, OnParentFailure, Parent, State};
use steadfast_sim::storage::flaws::Flaw;

use super::serial::Call;
use State::{Blocked, Cancelled, Ready, Running, Succeeded};
use Turn::{Commit, First, Rest, RollBack};

pub mod random;

/// What one caller does in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Begins, and does its first part.
    First,
    /// Does all others, as far as it gets; what it has to wait for it goes on from by itself.
    Rest,
    /// Commits.
    Commit,
    /// Rolls back instead.
    RollBack,
}

/// A known interleaving.
#[derive(Debug, Clone)]
pub struct Interleaving {
    /// Its name, with its number in the list of facts where it has one.
    pub name: &'static str,
    /// What happens before.
    pub setup: Vec<Call>,
    /// The two calls.
    pub calls: [Call; 2],
    /// Who does what.
    pub turns: Vec<(usize, Turn)>,
    /// The statements are these with one guard taken out.
    pub flaw: Option<Flaw>,
    /// What the calls answer.
    pub answers: [&'static str; 2],
    /// Where tasks are at the end.
    pub ends: Vec<(&'static str, State)>,
}

/// Two calls that can be stepped.
pub trait Stage: Send {
    /// Waits until each caller stands at its gate, waits for a lock, or is through.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;
    /// Before what a caller stands: `begin`, a part, `commit`.
    fn at(&self, caller: usize) -> Option<&'static str>;
    /// Whether its call is answered.
    fn is_through(&self, caller: usize) -> bool;
    /// Lets it go on to the next.
    fn grant(&mut self, caller: usize);
    /// Its commit will be a rollback.
    fn abandon(&mut self, caller: usize);
}

/// Plays the turns; answers who waited for a lock after each of them.
pub async fn play(stage: &mut impl Stage, interleaving: &Interleaving) -> Vec<Vec<usize>> {
    let mut waited = Vec::new();
    // Who goes on by itself as soon as it can.
    let mut free = [false; 2];
    stage.settle().await;
    for (caller, turn) in &interleaving.turns {
        match turn {
            Turn::First => {
                for _ in 0..2 {
                    if stage.at(*caller).is_some_and(|at| at != "commit") {
                        stage.grant(*caller);
                        stage.settle().await;
                    }
                }
            }
            Turn::Rest => free[*caller] = true,
            Turn::Commit | Turn::RollBack => {
                let name = interleaving.name;
                assert_eq!(stage.at(*caller), Some("commit"), "{name}: caller {caller}, {waited:?}");
                if *turn == Turn::RollBack {
                    stage.abandon(*caller);
                }
                stage.grant(*caller);
                stage.settle().await;
            }
        }
        while let Some(next) =
            (0..2).find(|one| free[*one] && stage.at(*one).is_some_and(|at| at != "commit"))
        {
            stage.grant(next);
            stage.settle().await;
        }
        let waits = |one: &usize| stage.at(*one).is_none() && !stage.is_through(*one);
        waited.push((0..2).filter(waits).collect());
    }
    waited
}

/// What a call answered, in a word.
#[must_use]
pub fn outcome_text(answer: &Result<Vec<Outcome>, Error>) -> String {
    match answer.as_deref() {
        Ok([Outcome::Applied(_)]) => "applied".to_owned(),
        Ok([Outcome::Already(_)]) => "already".to_owned(),
        Ok([Outcome::Refused(refused)]) => match refused.why {
            Refusal::NotFound => "not found",
            Refusal::Stale(_) => "stale",
            Refusal::IdTaken(_) => "id taken",
            Refusal::KeyTaken(..) => "key taken",
            Refusal::SlotTaken(..) => "slot taken",
            Refusal::ParentMissing(_) => "no parent",
            Refusal::AliasTaken(_) => "alias taken",
        }
        .to_owned(),
        Ok(several) => format!("{several:?}"),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

/// What a claim got.
#[must_use]
pub fn claim_text(answer: &Result<Claimed, Error>) -> String {
    match answer {
        Ok(claimed) => claimed.tasks.iter().map(|lease| lease.task.as_str()).collect::<Vec<_>>().join(" "),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

const A: usize = 0;
const B: usize = 1;

/// All of them.
#[must_use]
pub fn table() -> Vec<Interleaving> {
    [children(), claims(), attempts(), slots(), keys(), aliases()].into_iter().flatten().collect()
}

/// A child and its parents.
fn children() -> Vec<Interleaving> {
    vec![
        plain(
            "B3 add a child, then complete its parent",
            running("p"),
            [put(child("c", &["p"])), settle("p")],
            waits(A),
            ["applied", "applied"],
            vec![("p", Succeeded), ("c", Ready)],
        ),
        plain(
            "B3 complete a parent, then add a child",
            running("p"),
            [put(child("c", &["p"])), settle("p")],
            waits(B),
            ["applied", "applied"],
            vec![("p", Succeeded), ("c", Ready)],
        ),
        Interleaving {
            flaw: Some(Flaw::NoShareLockOnParents),
            ..plain(
                "B1 without the lock the child is stranded",
                running("p"),
                [put(child("c", &["p"])), settle("p")],
                vec![(A, First), (B, First), (B, Rest), (B, Commit), (A, Rest), (A, Commit)],
                ["applied", "applied"],
                vec![("p", Succeeded), ("c", Blocked)],
            )
        },
        plain(
            "B7 two parents end at once",
            vec![put(task("p1")), put(task("p2")), put(child("c", &["p1", "p2"])), claim(2)],
            [settle("p1"), settle("p2")],
            vec![(A, First), (B, First), (A, Rest), (B, Rest), (A, Commit), (B, Commit)],
            ["applied", "applied"],
            vec![("c", Ready)],
        ),
    ]
}

/// Claims, and what runs at once.
fn claims() -> Vec<Interleaving> {
    vec![
        plain(
            "A4 two claims skip what the other has locked",
            vec![put(task("t1")), put(task("t2"))],
            [claim(1), claim(1)],
            vec![(A, First), (A, Rest), (B, First), (B, Rest), (A, Commit), (B, Commit)],
            ["t1", "t2"],
            vec![("t1", Running), ("t2", Running)],
        ),
        plain(
            "D6 the limit's row is locked, then what runs is counted",
            limited(),
            [claim(1), claim(1)],
            waits(A),
            ["t1", ""],
            vec![("t1", Running), ("t2", Ready)],
        ),
        Interleaving {
            flaw: Some(Flaw::LimitCountedBeforeLock),
            ..plain(
                "D6 what runs is counted in the statement that waits for the lock",
                limited(),
                [claim(1), claim(1)],
                waits(A),
                ["t1", "t2"],
                vec![("t1", Running), ("t2", Running)],
            )
        },
        plain(
            "a queue's first limit waits for who claims from the queue",
            two_ready(),
            [claim(2), limit(1)],
            waits(A),
            ["t1 t2", "applied"],
            vec![("t1", Running), ("t2", Running)],
        ),
        plain(
            "who claims waits for the queue's first limit, and keeps to it",
            two_ready(),
            [claim(2), limit(1)],
            waits(B),
            ["t1", "applied"],
            vec![("t1", Running), ("t2", Ready)],
        ),
        plain(
            "a pause waits for who claims from the queue",
            two_ready(),
            [claim(1), pause()],
            waits(A),
            ["t1", "applied"],
            vec![("t1", Running), ("t2", Ready)],
        ),
        plain(
            "who claims waits for the queue's first pause, and gets nothing",
            two_ready(),
            [claim(2), pause()],
            waits(B),
            ["", "applied"],
            vec![("t1", Ready), ("t2", Ready)],
        ),
    ]
}

/// Who has the last word about an attempt.
fn attempts() -> Vec<Interleaving> {
    vec![
        // Found by random interleavings: the simulated plan called it stale, and the function calls the caller back.
        plain(
            "a cancel whose task is stored after it was looked for, and before it is told why it wasn't found",
            Vec::new(),
            [cancel("t"), put(task("t"))],
            vec![(A, First), (B, First), (B, Rest), (B, Commit), (A, Rest)],
            ["error Conflict", "applied"],
            vec![("t", Ready)],
        ),
        plain(
            "a settling, then a rescue of the same task",
            lapsed("t"),
            [settle("t"), rescue("t")],
            waits(A),
            ["applied", "stale"],
            vec![("t", Succeeded)],
        ),
        plain(
            "a rescue, then a settling of the same task",
            lapsed("t"),
            [settle("t"), rescue("t")],
            waits(B),
            ["stale", "applied"],
            vec![("t", Ready)],
        ),
        plain(
            "a renewal, then a rescue",
            lapsed("t"),
            [renew("t"), rescue("t")],
            waits(A),
            ["applied", "stale"],
            vec![("t", Running)],
        ),
        plain(
            "a rescue, then a renewal",
            lapsed("t"),
            [renew("t"), rescue("t")],
            waits(B),
            ["stale", "applied"],
            vec![("t", Ready)],
        ),
    ]
}

/// A slot's holder and the newcomer.
fn slots() -> Vec<Interleaving> {
    vec![
        plain(
            "a replacing, then the holder's settling",
            vec![put(slotted("old")), claim(1)],
            [replace("old", "new"), settle("old")],
            waits(A),
            ["applied", "stale"],
            vec![("old", Cancelled), ("new", Ready)],
        ),
        plain(
            "the holder's settling, then a replacing",
            vec![put(slotted("old")), claim(1)],
            [replace("old", "new"), settle("old")],
            waits(B),
            ["stale", "applied"],
            vec![("old", Succeeded)],
        ),
        // Found by a sweep. Whoever has taken the slot isn't locked, and may end without seeing who waits.
        plain(
            "a slot is taken after its holder was looked for, and before one that wants it and one that waits behind that",
            Vec::new(),
            [merged([slotted("wants"), queued("waits")]), put(slotted("holder"))],
            vec![(A, First), (B, First), (B, Rest), (B, Commit), (A, Rest)],
            ["error Conflict", "applied"],
            vec![("holder", Ready)],
        ),
    ]
}

/// A key whose first inserter is still under way.
fn keys() -> Vec<Interleaving> {
    vec![
        plain(
            "D9 a key whose inserter rolls back",
            Vec::new(),
            [put(keyed("t1", 0)), put(keyed("t2", 0))],
            vec![(A, First), (B, First), (A, Rest), (A, RollBack), (B, Rest), (B, Commit)],
            ["rolled back", "applied"],
            vec![("t2", Ready)],
        ),
        plain(
            "D9 a key whose inserter commits the same request",
            Vec::new(),
            [put(keyed("t1", 0)), put(keyed("t2", 0))],
            waits(A),
            ["applied", "already"],
            vec![("t1", Ready)],
        ),
        plain(
            "D9 a key whose inserter commits another request",
            Vec::new(),
            [put(keyed("t1", 0)), put(keyed("t2", 1))],
            waits(A),
            ["applied", "key taken"],
            vec![("t1", Ready)],
        ),
        // Found by reading. The child would wait for ever: its parent isn't stored, and nobody ends it.
        plain(
            "a child whose parent, of the same batch, loses its key to another's",
            Vec::new(),
            [family("p1", "c1"), family("p2", "c2")],
            vec![(A, First), (A, Rest), (B, First), (B, Rest), (A, Commit)],
            ["applied", "error Conflict"],
            vec![("p1", Ready), ("c1", Blocked)],
        ),
    ]
}

/// Another name of a task, and whoever has it already.
fn aliases() -> Vec<Interleaving> {
    let named = |name: &str| {
        let alias = Some(TaskId::trusted("run-7"));
        Call::Apply(vec![Batch::from(Step::Report(Report {
            alias,
            ..Report::new(TaskId::trusted(name), 1)
        }))])
    };
    let kept = Duration::ZERO;
    let forget =
        Call::Apply(vec![Batch::from(Step::Prune(Prune { succeeded: kept, otherwise: kept, limit: 10 }))]);
    let ended = [running("old"), vec![named("old"), settle("old")], running("t")].concat();
    vec![
        // Found by reading. It would be told that it has a name by which nobody finds it.
        plain(
            "an alias whose owner is forgotten before it is known whose it is",
            [ended, vec![Call::Advance(Duration::from_secs(1))]].concat(),
            [named("t"), forget],
            vec![(A, First), (B, First), (B, Commit), (A, Rest)],
            ["error Conflict", "applied"],
            vec![("t", Running)],
        ),
    ]
}

/// A task with a key, and a child of it, in one batch.
fn family(parent: &str, of_it: &str) -> Call {
    let steps = [keyed(parent, 0), child(of_it, &[parent])].map(|task| Step::Insert(task.into()));
    Call::Apply(vec![Batch { steps: steps.into() }])
}

fn plain(
    name: &'static str,
    setup: Vec<Call>,
    calls: [Call; 2],
    turns: Vec<(usize, Turn)>,
    answers: [&'static str; 2],
    ends: Vec<(&'static str, State)>,
) -> Interleaving {
    Interleaving { name, setup, calls, turns, flaw: None, answers, ends }
}

/// One goes first, and the other waits for it to end.
fn waits(first: usize) -> Vec<(usize, Turn)> {
    let second = 1 - first;
    vec![(first, First), (second, First), (first, Rest), (first, Commit), (second, Rest), (second, Commit)]
}

fn running(name: &str) -> Vec<Call> {
    vec![put(task(name)), claim(1)]
}

fn lapsed(name: &str) -> Vec<Call> {
    [running(name), vec![Call::Advance(Duration::from_secs(31))]].concat()
}

/// Two ready tasks in a queue that lets one run.
fn limited() -> Vec<Call> {
    [two_ready(), vec![limit(1)]].concat()
}

fn two_ready() -> Vec<Call> {
    vec![put(task("t1")), put(task("t2"))]
}

fn limit(concurrency: u32) -> Call {
    let limit = QueueLimit { queue: Queue::default_queue(), concurrency: Some(concurrency) };
    Call::Apply(vec![Batch::from(Step::Limit(limit))])
}

fn pause() -> Call {
    let pause = QueuePause { queue: Queue::default_queue(), paused: true };
    Call::Apply(vec![Batch::from(Step::Pause(pause))])
}

fn task(name: &str) -> NewTask {
    NewTask::new(TaskId::trusted(name), Kind::trusted("scan"), *b"{}")
}

fn put(task: NewTask) -> Call {
    Call::Apply(vec![Batch::from(Step::Insert(task.into()))])
}

fn child(name: &str, parents: &[&str]) -> NewTask {
    let parent = |id: &&str| Parent { id: TaskId::trusted(*id), on_failure: OnParentFailure::Fail };
    NewTask { parents: parents.iter().map(parent).collect(), queue: Queue::trusted("children"), ..task(name) }
}

fn claim(limit: u32) -> Call {
    Call::Claim(ClaimRequest {
        worker: WorkerId::trusted("worker-1"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("scan")],
        limit,
        lease: Duration::from_secs(30),
    })
}

fn lease(name: &str) -> Lease {
    let NewTask { id, kind, queue, payload, attempts_max, timeout, .. } = task(name);
    let backoff = Backoff::default();
    Lease {
        task: id,
        fence: 1,
        kind,
        queue,
        slot: None,
        payload,
        attempt: 1,
        attempts_max,
        timeout,
        backoff,
        deadline: None,
    }
}

fn settle(name: &str) -> Call {
    let step = decide::settle(&lease(name), Verdict::done(*b"42"), None);
    Call::Apply(vec![Batch::from(Step::Transition(step))])
}

fn cancel(name: &str) -> Call {
    let step = decide::cancel(&TaskId::trusted(name), Ready, "not wanted").expect("it hasn't ended");
    Call::Apply(vec![Batch::from(Step::Transition(step))])
}

fn rescue(name: &str) -> Call {
    let lapsed = Lapsed {
        task: TaskId::trusted(name),
        fence: 1,
        worker: WorkerId::trusted("worker-1"),
        entered: true,
        rescues: 0,
        rescues_max: 5,
        cancel: None,
        since: Duration::from_secs(1),
    };
    Call::Apply(vec![Batch::from(Step::Transition(decide::reclaim(&lapsed)))])
}

fn renew(name: &str) -> Call {
    let (task, lease) = (TaskId::trusted(name), Duration::from_secs(30));
    Call::Apply(vec![Batch::from(Step::Renew(Renewal { task, fence: 1, lease, entered: None }))])
}

fn slotted(name: &str) -> NewTask {
    NewTask { slot: Some((Slot::trusted("s"), OnConflict::Replace)), ..task(name) }
}

fn queued(name: &str) -> NewTask {
    NewTask { slot: Some((Slot::trusted("s"), OnConflict::Queue)), ..task(name) }
}

/// Submits that share a call.
fn merged(tasks: [NewTask; 2]) -> Call {
    Call::Apply(tasks.map(|task| Batch::from(Step::Insert(task.into()))).to_vec())
}

fn replace(holder: &str, newcomer: &str) -> Call {
    let displace = decide::replace(&TaskId::trusted(holder), &TaskId::trusted(newcomer));
    let steps = vec![Step::Transition(displace), Step::Insert(slotted(newcomer).into())];
    Call::Apply(vec![Batch { steps }])
}

fn keyed(name: &str, priority: i16) -> NewTask {
    NewTask { key: Some(Key::trusted("k")), priority, ..task(name) }
}
