//! The second phase: faults have stopped, and everything must come to an end within a bound that is computed from what
//! is left: leases, attempts, backoffs, due times. What hasn't ended by then must be proven to wait rightfully.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::Timestamp;
use steadfast_core::name::{Kind, TaskId};
use steadfast_core::task::Task;

use crate::history::Event;
use crate::storage::rows::{awaited_slot, held_slot};
use crate::world::World;

/// A kind that no worker has a handler for.
pub(crate) const NOBODYS: &str = "nobodys";
/// While its fence is no higher than this, a task may be snoozed, or its attempt given up as lost: its handlers see to that.
pub(super) const GIVEN_BACK_FENCE_MAX: u64 = 4;

/// What one attempt may cost when there are no faults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    /// For how long leases are granted.
    pub(super) lease: Duration,
    /// How often lapsed leases are swept.
    pub(super) sweep: Duration,
    /// How long an attempt may take, its grace and a snooze included.
    pub(super) attempt: Duration,
}

/// The longest backoff and jitter after this attempt.
fn backoff(task: &Task) -> Duration {
    let steps = task.attempts_max.min(16);
    (task.backoff.min * 2_u32.saturating_pow(steps)).min(task.backoff.max).mul_f64(1.2)
}

/// How long it may take until all has ended, if everything has to wait for everything else.
pub(super) fn bound(tasks: &BTreeMap<TaskId, Arc<Task>>, now: Timestamp, costs: Costs) -> Duration {
    let unfinished = tasks.values().filter(|task| !task.state.is_terminal());
    let of_each = unfinished.map(|task| {
        // Those that are left, one that is lost with a worker that stays dead, and those that are given back.
        let attempts = task.attempts_max.saturating_sub(task.attempt) + 1;
        let given_back = u32::try_from(GIVEN_BACK_FENCE_MAX.saturating_sub(task.fence)).expect("few");
        let lapse = task.lease_expires_at.map_or(Duration::ZERO, |at| at.since(now));
        let due = task.due_at.since(now);
        let deadline = task.deadline_at.map_or(Duration::ZERO, |at| at.since(now));
        (costs.attempt + backoff(task)) * (attempts + given_back)
            + lapse.max(costs.lease)
            + (costs.lease + costs.sweep * 2) * given_back
            + costs.sweep * 2
            + due
            + deadline
    });
    // Until all workers have noticed that faults have stopped.
    costs.lease + costs.sweep + of_each.sum::<Duration>()
}

/// Waits until everything that must end has ended, or the bound is past: then that is noted, and P1 judges it. `meanwhile` is
/// what is done at each look.
pub(super) async fn until_all_ended<F: Future<Output = ()>>(
    world: &World,
    look: Duration,
    costs: Costs,
    meanwhile: impl Fn() -> F,
) {
    let mut bound_at = world.now() + bound(&world.history().tasks(), world.now(), costs);
    let mut known = world.history().tasks().len();
    loop {
        let tasks = world.history().tasks();
        if tasks.len() > known {
            // What was still on its way to the store has arrived.
            known = tasks.len();
            bound_at = bound_at.max(world.now() + bound(&tasks, world.now(), costs));
        }
        if !must_anything_end(world, &tasks) {
            // What a caller gave up, or went away from, may still be on its way to the store.
            if world.is_quiet() {
                return;
            }
        } else if world.now() > bound_at {
            world.record(Event::Overran { by: world.now().since(bound_at) });
            return;
        }
        meanwhile().await;
        tokio::time::sleep(look).await;
    }
}

fn must_anything_end(world: &World, tasks: &BTreeMap<TaskId, Arc<Task>>) -> bool {
    if tasks.values().all(|task| task.state.is_terminal()) {
        return false;
    }
    let parents = world.history().parents();
    let tasks: BTreeMap<&TaskId, &Arc<Task>> = tasks.iter().collect();
    let rightful = Rightful { tasks: &tasks, parents: &parents };
    tasks.values().any(|task| !task.state.is_terminal() && !rightful.may_wait(task))
}

/// Who waits rightfully although all faults have stopped.
pub(crate) struct Rightful<'a> {
    pub(crate) tasks: &'a BTreeMap<&'a TaskId, &'a Arc<Task>>,
    pub(crate) parents: &'a BTreeMap<TaskId, Vec<TaskId>>,
}

impl Rightful<'_> {
    /// Whether nobody can run it, or it waits for one of those. Whatever has a deadline ends by then.
    pub(crate) fn may_wait(&self, task: &Task) -> bool {
        // Nothing waits for itself, so a chain has no more links than there are tasks.
        self.may_wait_within(task, self.tasks.len())
    }

    fn may_wait_within(&self, task: &Task, links: usize) -> bool {
        if task.state.is_terminal() || task.deadline_at.is_some() || links == 0 {
            return false;
        }
        if task.kind == Kind::trusted(NOBODYS) && task.worker.is_none() {
            return true;
        }
        let waits_for = |other: &TaskId| {
            self.tasks.get(other).is_some_and(|other| self.may_wait_within(other, links - 1))
        };
        let parents = self.parents.get(&task.id);
        if task.parents_pending > 0 && parents.is_some_and(|parents| parents.iter().any(waits_for)) {
            return true;
        }
        let Some(slot) = awaited_slot(task) else { return false };
        let mut others = self.tasks.values().filter(|other| other.id != task.id);
        others.any(|other| held_slot(other) == Some(slot) && self.may_wait_within(other, links - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::made::{at, running, task};
    use steadfast_core::State;
    use steadfast_core::name::Slot;

    fn named(id: &str, change: impl Fn(&mut Task)) -> Arc<Task> {
        let mut task = Task { id: TaskId::trusted(id), ..task() };
        change(&mut task);
        Arc::new(task)
    }

    #[track_caller]
    fn check(tasks: &[Arc<Task>], edges: &[(&str, &str)], expected: &[&str]) {
        let by_id: BTreeMap<&TaskId, &Arc<Task>> = tasks.iter().map(|task| (&task.id, task)).collect();
        let mut parents: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
        for (parent, child) in edges {
            parents.entry(TaskId::trusted(*child)).or_default().push(TaskId::trusted(*parent));
        }
        let rightful = Rightful { tasks: &by_id, parents: &parents };
        let may: Vec<_> =
            tasks.iter().filter(|task| rightful.may_wait(task)).map(|task| task.id.as_str()).collect();
        assert_eq!(may, expected);
    }

    #[test]
    fn only_what_nobody_can_run_may_wait_and_who_waits_for_it() {
        let nobodys = |task: &mut Task| task.kind = Kind::trusted(NOBODYS);
        let blocked = |task: &mut Task| (task.state, task.parents_pending) = (State::Blocked, 1);
        let holds = |task: &mut Task| {
            nobodys(task);
            task.slot = Some(Slot::trusted("s"));
        };
        let waits = |task: &mut Task| {
            (task.state, task.slot_waiting, task.slot) = (State::Blocked, true, Some(Slot::trusted("s")));
        };
        check(&[named("a", |_| ()), named("b", nobodys)], &[], &["b"]);
        let chain = [named("a", nobodys), named("b", blocked), named("c", blocked), named("d", blocked)];
        check(&chain, &[("a", "b"), ("b", "c"), ("x", "d")], &["a", "b", "c"]);
        check(&[named("a", holds), named("b", waits)], &[], &["a", "b"]);
        check(&[named("b", waits)], &[], &[]);
        let in_time = |task: &mut Task| {
            blocked(task);
            task.deadline_at = Some(at(9));
        };
        let chain = [named("a", nobodys), named("b", in_time), named("c", blocked)];
        check(&chain, &[("a", "b"), ("b", "c")], &["a"]);
    }

    #[test]
    fn the_bound_grows_with_what_is_left() {
        let second = Duration::from_secs(1);
        let costs = Costs { lease: second * 10, sweep: second * 5, attempt: second * 30 };
        let of =
            |task: &Task| bound(&BTreeMap::from([(task.id.clone(), Arc::new(task.clone()))]), at(0), costs);
        let ended = Task { state: State::Failed, ..task() };
        assert_eq!(of(&ended), second * 15);
        let last = Task { attempts_max: 1, attempt: 1, fence: 9, ..running() };
        assert!(of(&last) > second * 60 && of(&last) < second * 120, "{:?}", of(&last));
        let fresh = Task { attempts_max: 3, ..task() };
        assert!(of(&fresh) > of(&last) * 2);
        let later = Task { due_at: at(100), ..fresh.clone() };
        assert_eq!(of(&later), of(&fresh) + second * 100);
        let in_time = Task { deadline_at: Some(at(100)), ..fresh.clone() };
        assert_eq!(of(&in_time), of(&fresh) + second * 100);
    }
}
