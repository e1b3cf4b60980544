//! Two calls that are to be under way at once, after a serial program, and drawn like its calls: mostly such that they
//! meet in a task, a slot, a key or a queue.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Renewal, Report, Step, Transition};
use steadfast_core::storage::{Answer, Query, Storage, TaskFilter};
use steadfast_core::task::Task;
use steadfast_core::time::ManualClock;
use steadfast_sim::storage::waves::waves;

use super::draw::Generator;
use super::{Call, Played, Seen, Style, play};
use crate::random::Random;

/// How many calls two are chosen from, and how many are drawn for that at most.
const CANDIDATES: usize = 16;
const DRAWN_MAX: usize = 2_000;
/// In how many of a hundred cases a call is left out that would be refused, or find nothing: those hardly meet any other.
const LEFT_OUT: usize = 85;
/// In how many of a hundred programs the two calls are chosen such that they meet, where any do; and as often such that
/// one may wait for the other.
const MEET: usize = 80;
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

/// The rows that a call is about, and whether it would write them.
type Names = BTreeMap<String, bool>;

/// Draws a setup while this storage plays it, then two calls of this style by what was seen.
pub async fn draw(seed: u64, style: Style, store: &impl Storage, clock: &ManualClock) -> Pair {
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
    generator.style = style;
    let mut candidates = Vec::new();
    for _ in 0..DRAWN_MAX {
        let call = generator.call();
        if can_be_stepped(&call) && (rows.allow(&call) || !random.chance(LEFT_OUT)) {
            candidates.push((rows.names(&call), call));
        }
        if candidates.len() == CANDIDATES {
            break;
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
    let meets = |(one, other): &(usize, usize)| {
        let (one, other) = (&candidates[*one].0, &candidates[*other].0);
        one.iter().any(|(name, writes)| other.get(name).is_some_and(|others| *writes || *others))
    };
    let count = candidates.len();
    let all = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
    let all: Vec<(usize, usize)> = all.collect();
    let meeting: Vec<(usize, usize)> = all.iter().copied().filter(meets).collect();
    // A claim finds much, but skips what somebody has locked.
    let claims = |at: usize| matches!(candidates[at].1, Call::Claim(_));
    let waiting = meeting.iter().copied().filter(|(one, other)| !claims(*one) && !claims(*other));
    let waiting: Vec<(usize, usize)> = waiting.collect();
    let chosen = [&waiting, &meeting].into_iter().find(|some| !some.is_empty() && random.chance(MEET));
    let chosen = chosen.unwrap_or(&all);
    let (one, other) = *random.pick(chosen);
    let calls = vec![candidates[one].1.clone(), candidates[other].1.clone()];
    (calls, meets(&(one, other)))
}

/// Whether a call is a claim, or an adapter's function does it at one go. What prunes is alone on its lane.
fn can_be_stepped(call: &Call) -> bool {
    match call {
        Call::Claim(_) => true,
        Call::Apply(batches) => {
            let mut steps = batches.iter().flat_map(|batch| &batch.steps);
            steps.all(is_stepped) && is_one_wave(batches)
        }
        Call::Read(_) | Call::Advance(_) => false,
    }
}

/// Whether batches don't get in each other's way, so that one set of statements carries them out; another writes reports
/// and what keeps house.
fn is_one_wave(batches: &[Batch]) -> bool {
    let is_kept = |step: &Step| matches!(step, Step::Report(_) | Step::Pause(_) | Step::Beat(_));
    let kept = batches.iter().flat_map(|batch| &batch.steps).filter(|step| is_kept(step)).count();
    (kept == 0 || kept == batches.len()) && waves(batches).into_iter().max() == Some(0)
}

fn is_stepped(step: &Step) -> bool {
    match step {
        Step::Insert(_)
        | Step::Transition(_)
        | Step::Renew(_)
        | Step::Report(_)
        | Step::Limit(_)
        | Step::Pause(_)
        | Step::Beat(_) => true,
        Step::Prune(_) => false,
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

    /// Whether a call that stood alone would change something, as far as is easily told.
    fn allow(&self, call: &Call) -> bool {
        match call {
            Call::Claim(request) => self
                .0
                .iter()
                .any(|(task, _)| task.state == State::Ready && request.queues.contains(&task.queue)),
            Call::Apply(batches) => {
                batches.iter().flat_map(|batch| &batch.steps).all(|step| self.allows(step))
            }
            Call::Read(_) | Call::Advance(_) => false,
        }
    }

    fn allows(&self, step: &Step) -> bool {
        let has = |id: &TaskId, holds: &dyn Fn(&Task) -> bool| {
            self.0.iter().any(|(task, _)| task.id == *id && holds(task))
        };
        match step {
            Step::Insert(insert) => !has(&insert.task.id, &|_| true),
            Step::Transition(Transition { task, guard, .. }) => has(task, &|row| {
                guard.from.contains(row.state) && guard.fence.is_none_or(|fence| fence == row.fence)
            }),
            Step::Renew(Renewal { task, fence, .. }) | Step::Report(Report { task, fence, .. }) => {
                has(task, &|row| row.state == State::Running && row.fence == *fence)
            }
            Step::Limit(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => true,
        }
    }

    /// What a call is about: also the slots and the children of its tasks, and what a claim may find.
    fn names(&self, call: &Call) -> Names {
        match call {
            Call::Claim(request) => {
                let waits = |task: &&Task| matches!(task.state, State::Ready | State::Scheduled);
                let asked = |task: &&Task| request.queues.contains(&task.queue);
                let found = self.0.iter().map(|(task, _)| task).filter(asked).filter(waits);
                let queues = request.queues.iter().map(|queue| format!("limit of {queue}"));
                let found = found.map(|task| format!("task {}", task.id));
                found.chain(queues).map(|name| (name, true)).collect()
            }
            Call::Apply(batches) => {
                batches.iter().flat_map(|Batch { steps }| steps).flat_map(|step| self.of_step(step)).collect()
            }
            Call::Read(_) | Call::Advance(_) => Names::new(),
        }
    }

    fn of_step(&self, step: &Step) -> Vec<(String, bool)> {
        let written = |names: Vec<String>| names.into_iter().map(|name| (name, true)).collect();
        match step {
            Step::Insert(insert) => {
                let task = &insert.task;
                let parents = task.parents.iter().map(|parent| format!("task {}", parent.id));
                let slot = task.slot.iter().map(|(slot, _)| format!("slot {slot}"));
                let key = task.key.iter().map(|key| format!("key {key}"));
                let itself = [format!("task {}", task.id)];
                let read = parents.map(|name| (name, false));
                read.chain(slot.chain(key).chain(itself).map(|name| (name, true))).collect()
            }
            Step::Transition(step) => written(self.of_task(format!("task {}", step.task))),
            Step::Renew(step) => written(vec![format!("task {}", step.task)]),
            Step::Report(step) => written(vec![format!("task {}", step.task)]),
            Step::Limit(step) => written(vec![format!("limit of {}", step.queue)]),
            Step::Pause(step) => written(vec![format!("limit of {}", step.queue)]),
            Step::Beat(step) => written(vec![format!("worker {}", step.worker)]),
            Step::Prune(_) => Vec::new(),
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
