//! Two calls that are to be under way at once, after a serial program, and drawn like its calls: mostly such that they
//! meet in a task, a slot, a key or a queue.

use std::collections::BTreeSet;

use steadfast_core::State;
use steadfast_core::step::{Batch, Step};
use steadfast_core::storage::{Answer, Query, Storage, TaskFilter};
use steadfast_core::task::Task;
use steadfast_core::time::ManualClock;

use super::draw::Generator;
use super::{Call, Played, Seen, Style, play};
use crate::random::Random;

/// How many calls two are chosen from.
const CANDIDATES: usize = 16;
/// In how many of a hundred programs the two calls are chosen such that they meet, where any do.
const MEET: usize = 90;
/// In how many of a hundred programs one call is sent twice.
const TWICE: usize = 4;

/// Calls that are made one after the other, and then two at once.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    /// What happens before.
    pub setup: Played,
    /// The two calls.
    pub calls: Vec<Call>,
    /// Whether both are about one task, slot, key or limit.
    pub meet: bool,
}

/// What a name in a call stands for.
type Names = BTreeSet<String>;

/// Draws a setup while this storage plays it, then two calls by what was seen.
pub async fn draw(seed: u64, store: &impl Storage, clock: &ManualClock) -> Pair {
    let mut random = Random::new(seed ^ 0x7061_6972);
    let mut generator = Generator::new(seed, Style::Plain);
    let mut pair = Pair::default();
    for _ in 0..20 + random.below(11) {
        let call = generator.call();
        let answer = play(store, clock, &call, &mut generator.seen).await;
        pair.setup.calls.push((call, answer));
    }
    let late = random.chance(30).then(|| Call::Advance(std::time::Duration::from_secs(40)));
    let known = [Call::Read(Query::Lapsed { limit: 100 }), Call::Read(Query::Overdue { limit: 100 })];
    for call in late.into_iter().chain(known) {
        let answer = play(store, clock, &call, &mut generator.seen).await;
        pair.setup.calls.push((call, answer));
    }
    let rows = Rows::read(store).await;
    if random.chance(90) {
        rows.forget_leases_that_are_lost(&mut generator.seen);
    }
    let mut candidates = Vec::new();
    while candidates.len() < CANDIDATES {
        let call = generator.call();
        if can_be_stepped(&call) {
            candidates.push((rows.names(&call), call));
        }
    }
    (pair.calls, pair.meet) = choose(&candidates, &mut random);
    pair
}

fn choose(candidates: &[(Names, Call)], random: &mut Random) -> (Vec<Call>, bool) {
    if random.chance(TWICE) {
        let (_, call) = random.pick(candidates);
        return (vec![call.clone(), call.clone()], true);
    }
    let meets = |(one, other): &(usize, usize)| !candidates[*one].0.is_disjoint(&candidates[*other].0);
    let count = candidates.len();
    let all = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
    let all: Vec<(usize, usize)> = all.collect();
    let meeting: Vec<(usize, usize)> = all.iter().copied().filter(meets).collect();
    let chosen = if !meeting.is_empty() && random.chance(MEET) { &meeting } else { &all };
    let (one, other) = *random.pick(chosen);
    let calls = vec![candidates[one].1.clone(), candidates[other].1.clone()];
    (calls, meets(&(one, other)))
}

/// Whether a call is a claim, or one batch that isn't kept apart from claims and transitions.
fn can_be_stepped(call: &Call) -> bool {
    match call {
        Call::Claim(_) => true,
        Call::Apply(batches) => matches!(batches.as_slice(), [batch] if batch.steps.iter().all(is_stepped)),
        Call::Read(_) | Call::Advance(_) => false,
    }
}

fn is_stepped(step: &Step) -> bool {
    match step {
        Step::Insert(_) | Step::Transition(_) | Step::Renew(_) | Step::Limit(_) => true,
        Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => false,
    }
}

/// The tasks that there are when the two calls are drawn, each with its parents.
struct Rows(Vec<(Task, Vec<String>)>);

impl Rows {
    async fn read(store: &impl Storage) -> Self {
        let all = Query::Tasks(TaskFilter { limit: 10_000, ..TaskFilter::default() });
        let Answer::Tasks(tasks) = store.read(&all).await.expect("the store answers").answer else {
            panic!("tasks were asked for")
        };
        let mut rows = Vec::new();
        for task in tasks {
            let asked = store.read(&Query::Parents(task.id.clone())).await;
            let Answer::Parents(parents) = asked.expect("the store answers").answer else {
                panic!("parents were asked for")
            };
            let parents = parents.into_iter().map(|(parent, _)| format!("task {}", parent.id)).collect();
            rows.push((task, parents));
        }
        Self(rows)
    }

    /// Most transitions are about leases, and those that are lost are all refused alike.
    fn forget_leases_that_are_lost(&self, seen: &mut Seen) {
        let holds = |task: &Task| (task.id.clone(), task.fence);
        let running = self.0.iter().map(|(task, _)| task).filter(|task| task.state == State::Running);
        let held: BTreeSet<_> = running.map(holds).collect();
        seen.leases.retain(|lease| held.contains(&(lease.task.clone(), lease.fence)));
    }

    /// What a call is about: also the slots and the children of its tasks, and what a claim may find.
    fn names(&self, call: &Call) -> Names {
        match call {
            Call::Claim(request) => {
                let waits = |task: &&Task| matches!(task.state, State::Ready | State::Scheduled);
                let asked = |task: &&Task| request.queues.contains(&task.queue);
                let found = self.0.iter().map(|(task, _)| task).filter(asked).filter(waits);
                let queues = request.queues.iter().map(|queue| format!("limit of {queue}"));
                found.map(|task| format!("task {}", task.id)).chain(queues).collect()
            }
            Call::Apply(batches) => {
                batches.iter().flat_map(|Batch { steps }| steps).flat_map(|step| self.of_step(step)).collect()
            }
            Call::Read(_) | Call::Advance(_) => Names::new(),
        }
    }

    fn of_step(&self, step: &Step) -> Vec<String> {
        match step {
            Step::Insert(insert) => {
                let task = &insert.task;
                let parents = task.parents.iter().map(|parent| format!("task {}", parent.id));
                let slot = task.slot.iter().map(|(slot, _)| format!("slot {slot}"));
                let key = task.key.iter().map(|key| format!("key {key}"));
                parents.chain(slot).chain(key).chain([format!("task {}", task.id)]).collect()
            }
            Step::Transition(step) => self.of_task(format!("task {}", step.task)),
            Step::Renew(step) => vec![format!("task {}", step.task)],
            Step::Limit(step) => vec![format!("limit of {}", step.queue)],
            Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => Vec::new(),
        }
    }

    fn of_task(&self, name: String) -> Vec<String> {
        let children = self.0.iter().filter(|(_, parents)| parents.contains(&name));
        let children = children.map(|(child, _)| format!("task {}", child.id));
        let itself = self.0.iter().filter(|(task, _)| name == format!("task {}", task.id));
        let slot = itself.filter_map(|(task, _)| Some(format!("slot {}", task.slot.as_ref()?)));
        let mut names: Vec<String> = children.chain(slot).collect();
        names.push(name);
        names
    }
}
