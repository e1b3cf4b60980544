//! Which batches of a call go together.
//!
//! Statements are set-oriented, and the batches of a call are applied as if one came after the other. So batches that
//! could get in each other's way are parted into *waves*, carried out one after the other in one statement: within a
//! wave no two batches insert the same id, none names a parent that another one inserts, and so on. Nearly every call
//! is one wave.

use std::collections::{BTreeMap, HashMap, HashSet};

use steadfast_core::step::{Batch, Head, Insert, Refusal, Refused, Renewal, Step, Transition};
use steadfast_core::storage::Error;
use steadfast_core::task::{Due, NewTask, State};

use crate::columns::{rejected, waits};

/// How many waves one call may have.
const WAVES_MAX: usize = 500;

/// What batches may touch so that they can't share a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Touched<'a> {
    /// Writes the task with this id.
    Task(&'a str),
    /// Makes it, or names it as a parent.
    New(&'a str),
    Key(&'a str),
    Slot(&'a str),
    Queue(&'a str),
}

/// How it is touched: those who share a thing don't disturb each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Shared,
    Alone,
}

/// The first wave in which a thing may be shared, and the first in which it may be had alone.
#[derive(Debug, Clone, Copy, Default)]
struct Free {
    shared: usize,
    alone: usize,
}

/// Says in which wave each batch is carried out: after every earlier one that it could get in the way of.
pub(crate) fn waves(batches: &[Batch]) -> Result<Vec<usize>, Error> {
    let mut free: HashMap<Touched<'_>, Free> = HashMap::with_capacity(batches.len());
    // The first wave after all that end a task without ado, and may free a slot by that.
    let mut after_ends = 0;
    let mut touches = Vec::new();
    let mut waves = Vec::with_capacity(batches.len());
    for batch in batches {
        touches.clear();
        touch(batch, &mut touches);
        let mut wave = if batch.steps.len() > 1 && takes_slot(batch) { after_ends } else { 0 };
        for (touched, touch) in &touches {
            if let Some(free) = free.get(touched) {
                wave = wave.max(if *touch == Touch::Shared { free.shared } else { free.alone });
            }
        }
        if wave >= WAVES_MAX {
            return Err(rejected(format!(
                "over {WAVES_MAX} batches of a call wait for each other: send fewer"
            )));
        }
        for (touched, touch) in &touches {
            let free = free.entry(*touched).or_default();
            free.alone = free.alone.max(wave + 1);
            // Whoever shares a thing doesn't overtake.
            let after = if *touch == Touch::Alone { wave + 1 } else { wave };
            free.shared = free.shared.max(after);
        }
        if let [Step::Transition(step)] = batch.steps.as_slice()
            && step.change.to.is_terminal()
        {
            after_ends = after_ends.max(wave + 1);
        }
        waves.push(wave);
    }
    Ok(waves)
}

fn takes_slot(batch: &Batch) -> bool {
    batch.steps.iter().any(|step| matches!(step, Step::Insert(insert) if insert.task.slot.is_some()))
}

/// What a batch touches. Inserts that stand alone may share keys or slots: one statement sorts them out. But a task that
/// loses its key to another is nobody to wait for in its slot, and that must be known before.
fn touch<'a>(batch: &'a Batch, touches: &mut Vec<(Touched<'a>, Touch)>) {
    let unique = if batch.steps.len() == 1 { Touch::Shared } else { Touch::Alone };
    for step in &batch.steps {
        match step {
            Step::Transition(step) => touches.push((Touched::Task(step.task.as_str()), Touch::Alone)),
            Step::Renew(step) => touches.push((Touched::Task(step.task.as_str()), Touch::Alone)),
            // They come after all waves.
            Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => {}
            Step::Limit(step) => touches.push((Touched::Queue(step.queue.as_str()), Touch::Alone)),
            Step::Insert(Insert { task, .. }) => {
                touches.push((Touched::Task(task.id.as_str()), Touch::Alone));
                touches.push((Touched::New(task.id.as_str()), Touch::Alone));
                let of_key = if task.slot.is_some() { Touch::Alone } else { unique };
                touches.extend(task.key.as_ref().map(|key| (Touched::Key(key.as_str()), of_key)));
                touches.extend(task.slot.as_ref().map(|(slot, _)| (Touched::Slot(slot.as_str()), unique)));
                let parents =
                    task.parents.iter().map(|parent| (Touched::New(parent.id.as_str()), Touch::Shared));
                touches.extend(parents);
            }
        }
    }
}

/// Steps of one batch that get in each other's way. What becomes of them is plain without asking the store, and its
/// statements needn't know of them.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    /// Batches that can't be applied, by their place: a step needs what an earlier one has just taken.
    pub(crate) refused: BTreeMap<usize, Refused>,
    /// Steps that ask for what an earlier one asks for, and the earlier one; by their place in the call.
    pub(crate) same: BTreeMap<usize, usize>,
}

impl Twins {
    /// Whether the step needn't be sent.
    pub(crate) fn settles(&self, batch: usize, step: usize) -> bool {
        self.refused.contains_key(&batch) || self.same.contains_key(&step)
    }

    /// Finds them in every batch of several steps.
    pub(crate) fn find(batches: &[Batch]) -> Result<Self, Error> {
        let mut twins = Self::default();
        let mut first = 0;
        for (number, batch) in batches.iter().enumerate() {
            if batch.steps.len() > 1 {
                twins.find_in(batch, number, first)?;
            }
            first += batch.steps.len();
        }
        Ok(twins)
    }

    fn find_in(&mut self, batch: &Batch, number: usize, first: usize) -> Result<(), Error> {
        let mut known: HashMap<Touched<'_>, (usize, &Insert)> = HashMap::new();
        let mut written = HashSet::new();
        for (at, step) in batch.steps.iter().enumerate() {
            let insert = match step {
                Step::Insert(insert) => insert,
                Step::Transition(Transition { task, .. }) | Step::Renew(Renewal { task, .. }) => {
                    check_once(written.insert(Touched::Task(task.as_str())), task)?;
                    continue;
                }
                Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => continue,
                Step::Limit(limit) => {
                    check_once(written.insert(Touched::Queue(limit.queue.as_str())), &limit.queue)?;
                    continue;
                }
            };
            let task = &insert.task;
            let id = Touched::New(task.id.as_str());
            let key = task.key.as_ref().map(|key| Touched::Key(key.as_str()));
            let slot = task.slot.as_ref().map(|(slot, _)| Touched::Slot(slot.as_str()));
            // Who waits for its slot doesn't mind who holds it.
            let contested = slot.filter(|_| !waits(task));
            let earlier = [Some(id), key, contested].into_iter().flatten().find_map(|one| {
                let (at, insert) = known.get(&one)?;
                Some((one, *at, *insert))
            });
            let Some((one, earlier_at, earlier)) = earlier else {
                for one in [Some(id), key, slot].into_iter().flatten() {
                    known.entry(one).or_insert((at, insert));
                }
                continue;
            };
            let (holder, head) = (earlier.task.id.clone(), head_of_new(&earlier.task));
            let why = match one {
                Touched::Slot(_) => Refusal::SlotTaken(holder, head),
                _ if earlier.digest == insert.digest => {
                    self.same.insert(first + at, first + earlier_at);
                    continue;
                }
                Touched::Key(_) => Refusal::KeyTaken(holder, head),
                Touched::New(_) | Touched::Task(_) | Touched::Queue(_) => Refusal::IdTaken(head),
            };
            self.refused.entry(number).or_insert(Refused { step: at, why });
        }
        Ok(())
    }
}

fn check_once(first: bool, what: &impl std::fmt::Display) -> Result<(), Error> {
    if first { Ok(()) } else { Err(rejected(format!("two steps of one batch are about {what}"))) }
}

/// The head of a task that would have been stored.
fn head_of_new(task: &NewTask) -> Head {
    let state = match task.due {
        _ if !task.parents.is_empty() => State::Blocked,
        Due::Now => State::Ready,
        Due::After(delay) if delay.is_zero() => State::Ready,
        Due::After(_) | Due::At(_) => State::Scheduled,
    };
    Head { state, rev: 0, fence: 0, cancel_requested: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadfast_core::decide;
    use steadfast_core::name::{Key, Kind, Slot, TaskId};
    use steadfast_core::step::{Change, Guard, States};
    use steadfast_core::storage::ErrorKind;
    use steadfast_core::task::{OnConflict, OnParentFailure, Parent};

    fn id(text: &str) -> TaskId {
        TaskId::trusted(text)
    }

    fn task(name: &str) -> NewTask {
        NewTask::new(id(name), Kind::trusted("scan"), *b"{}")
    }

    fn child(name: &str, parent: &str) -> NewTask {
        let parents = vec![Parent { id: id(parent), on_failure: OnParentFailure::Fail }];
        NewTask { parents, ..task(name) }
    }

    fn slotted(name: &str, slot: &str) -> NewTask {
        NewTask { slot: Some((Slot::trusted(slot), OnConflict::Replace)), ..task(name) }
    }

    fn keyed(name: &str, key: &str) -> NewTask {
        NewTask { key: Some(Key::trusted(key)), ..task(name) }
    }

    fn put(task: NewTask) -> Step {
        Step::Insert(task.into())
    }

    fn end(name: &str) -> Step {
        let guard = Guard {
            from: States::RUNNING,
            fence: Some(1),
            unless_cancel_requested: false,
            lease_lapsed: false,
            overdue: false,
        };
        Step::Transition(Transition::new(id(name), guard, Change::to(State::Succeeded)))
    }

    fn replace(holder: &str, newcomer: &str) -> Batch {
        let holder = Step::Transition(decide::replace(&id(holder), &id(newcomer)));
        Batch { steps: vec![holder, put(slotted(newcomer, "s"))] }
    }

    #[track_caller]
    fn check(batches: &[Batch], expected: &[usize]) {
        assert_eq!(waves(batches).expect("the batches are good"), expected);
    }

    #[test]
    fn batches_that_do_not_meet_share_a_wave() {
        check(
            &[end("a").into(), end("b").into(), put(task("c")).into(), put(child("d", "a")).into()],
            &[0; 4],
        );
        check(&[put(keyed("a", "k")).into(), put(keyed("b", "k")).into()], &[0, 0]);
        check(&[put(slotted("a", "s")).into(), put(slotted("b", "s")).into()], &[0, 0]);
    }

    #[test]
    fn who_wants_a_slot_and_a_key_comes_after_those_who_want_the_key_and_is_not_overtaken() {
        let both = || NewTask { key: Some(Key::trusted("k")), ..slotted("b", "s") };
        let last = || put(slotted("c", "s")).into();
        check(&[put(keyed("a", "k")).into(), put(both()).into(), last()], &[0, 1, 1]);
        check(&[put(both()).into(), last(), put(keyed("a", "k")).into()], &[0, 0, 1]);
    }

    #[test]
    fn batches_that_meet_keep_their_order() {
        check(&[put(task("a")).into(), put(task("a")).into(), put(task("a")).into()], &[0, 1, 2]);
        check(&[put(task("a")).into(), put(child("b", "a")).into(), put(child("c", "a")).into()], &[0, 1, 1]);
        check(&[put(child("b", "a")).into(), put(task("a")).into()], &[0, 1]);
        check(&[put(task("a")).into(), end("a").into()], &[0, 1]);
        check(&[replace("a", "b"), replace("b", "c"), end("d").into()], &[0, 1, 0]);
        check(&[end("a").into(), replace("x", "b"), end("c").into()], &[0, 1, 0]);
    }

    #[test]
    fn steps_of_a_batch_that_meet_are_answered_without_the_store() {
        let twins = |steps: Vec<Step>| Twins::find(&[put(task("x")).into(), Batch { steps }]);
        let found =
            twins(vec![put(slotted("a", "s")), put(task("c")), put(slotted("b", "s"))]).expect("good");
        let refused = found.refused.get(&1).expect("refused");
        assert!(refused.step == 2 && matches!(refused.why, Refusal::SlotTaken(_, _)), "{refused:?}");
        let found =
            twins(vec![put(keyed("a", "k")), put(keyed("b", "k")), put(keyed("a", "k"))]).expect("good");
        assert_eq!(found.same.into_iter().collect::<Vec<_>>(), [(2, 1), (3, 1)]);
        let family = twins(vec![put(task("a")), put(child("b", "a")), put(child("c", "a"))]).expect("good");
        assert!(family.refused.is_empty() && family.same.is_empty());
        assert_eq!(twins(vec![end("a"), end("a")]).expect_err("twice").kind(), ErrorKind::Rejected);
    }
}
