//! Which batches of a call go together, by the rule of the PostgreSQL adapter.
//!
//! Statements are set-oriented, and the batches of a call are applied as if one came after the other: those that could
//! get in each other's way are parted into waves. Steps of *one* batch that do are settled without the store.

use std::collections::BTreeMap;

use steadfast_core::State;
use steadfast_core::step::{Batch, Head, Insert, Receipt, Refusal, Step};
use steadfast_core::task::{Due, NewTask, OnConflict};

use super::apply::{Place, Verdict};

/// What batches may touch so that they can't share a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Touched<'a> {
    Task(&'a str),
    /// Makes it, or names it as a parent.
    New(&'a str),
    Key(&'a str),
    Slot(&'a str),
    Queue(&'a str),
}

/// The first wave in which a thing may be shared, and the first in which it may be had alone.
#[derive(Debug, Clone, Copy, Default)]
struct Free {
    shared: usize,
    alone: usize,
}

/// In which wave each batch is carried out.
#[must_use]
pub fn waves(batches: &[Batch]) -> Vec<usize> {
    let mut free: BTreeMap<Touched<'_>, Free> = BTreeMap::new();
    // The first wave after all that end a task without ado, and may free a slot by that.
    let mut after_ends = 0;
    let mut waves = Vec::with_capacity(batches.len());
    for batch in batches {
        let touches = touches(batch);
        let takes_slot = touches.iter().any(|(touched, _)| matches!(touched, Touched::Slot(_)));
        let mut wave = if batch.steps.len() > 1 && takes_slot { after_ends } else { 0 };
        for (touched, alone) in &touches {
            let free = free.get(touched).copied().unwrap_or_default();
            wave = wave.max(if *alone { free.alone } else { free.shared });
        }
        for (touched, alone) in touches {
            let free = free.entry(touched).or_default();
            free.alone = free.alone.max(wave + 1);
            free.shared = free.shared.max(if alone { wave + 1 } else { wave });
        }
        if let [Step::Transition(step)] = batch.steps.as_slice()
            && step.change.to.is_terminal()
        {
            after_ends = after_ends.max(wave + 1);
        }
        waves.push(wave);
    }
    waves
}

/// What a batch touches, and whether it must have it alone. Inserts that stand alone may share keys or slots: one
/// statement sorts them out. But a task that loses its key to another is nobody to wait for in its slot.
fn touches(batch: &Batch) -> Vec<(Touched<'_>, bool)> {
    let alone = batch.steps.len() > 1;
    let mut touches = Vec::new();
    for step in &batch.steps {
        match step {
            Step::Transition(step) => touches.push((Touched::Task(step.task.as_str()), true)),
            Step::Renew(step) => touches.push((Touched::Task(step.task.as_str()), true)),
            Step::Limit(step) => touches.push((Touched::Queue(step.queue.as_str()), true)),
            // They come after all waves.
            Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => {}
            Step::Insert(Insert { task, .. }) => {
                touches.push((Touched::Task(task.id.as_str()), true));
                touches.push((Touched::New(task.id.as_str()), true));
                let of_key = alone || task.slot.is_some();
                touches.extend(task.key.as_ref().map(|key| (Touched::Key(key.as_str()), of_key)));
                touches.extend(task.slot.as_ref().map(|(slot, _)| (Touched::Slot(slot.as_str()), alone)));
                touches.extend(task.parents.iter().map(|one| (Touched::New(one.id.as_str()), false)));
            }
        }
    }
    touches
}

/// Steps of one batch that get in each other's way.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// Those that need what an earlier one takes.
    pub(super) refused: Vec<(Place, Refusal)>,
    /// Those that ask for what an earlier one asks for, and the earlier one.
    pub(super) same: Vec<(Place, Place)>,
}

impl Twins {
    /// Finds them in every batch.
    pub(super) fn find(batches: &[Batch]) -> Self {
        let mut twins = Self::default();
        for (b, batch) in batches.iter().enumerate() {
            let mut known: BTreeMap<Touched<'_>, (usize, &Insert)> = BTreeMap::new();
            for (s, step) in batch.steps.iter().enumerate() {
                let Step::Insert(insert) = step else { continue };
                let task = &insert.task;
                let id = Some(Touched::New(task.id.as_str()));
                let key = task.key.as_ref().map(|key| Touched::Key(key.as_str()));
                let slot = task.slot.as_ref().map(|(slot, _)| Touched::Slot(slot.as_str()));
                // Who is ready to wait for a slot isn't refused it.
                let wants_slot = slot.filter(|_| {
                    task.slot.as_ref().is_some_and(|(_, on_conflict)| *on_conflict != OnConflict::Queue)
                });
                let mut wanted = [id, key, wants_slot].into_iter().flatten();
                match wanted.find_map(|one| known.get(&one).map(|earlier| (one, *earlier))) {
                    None => {
                        for one in [id, key, slot].into_iter().flatten() {
                            known.entry(one).or_insert((s, insert));
                        }
                    }
                    Some((one, (at, earlier))) => twins.push((b, s), insert, one, at, earlier),
                }
            }
        }
        twins
    }

    fn push(&mut self, (b, s): Place, insert: &Insert, one: Touched<'_>, at: usize, earlier: &Insert) {
        let (holder, head) = (earlier.task.id.clone(), head_of_new(&earlier.task));
        let why = match one {
            Touched::Slot(_) => Refusal::SlotTaken(holder, head),
            _ if earlier.digest == insert.digest => return self.same.push(((b, s), (b, at))),
            Touched::Key(_) => Refusal::KeyTaken(holder, head),
            Touched::New(_) | Touched::Task(_) | Touched::Queue(_) => Refusal::IdTaken(head),
        };
        self.refused.push(((b, s), why));
    }
}

/// What stands already beside the step that stored it.
pub(super) fn as_already(verdict: &Verdict) -> Verdict {
    match verdict {
        Verdict::Applied(receipt @ Receipt::Inserted(..)) => Verdict::Already(receipt.clone()),
        other => other.clone(),
    }
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
