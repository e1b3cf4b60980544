//! Statement programs, fixed and random, on the kernel and on a store; and what they showed, counted.

use std::collections::BTreeMap;

use steadfast_sim::db::Begin;

use super::corpus;
use super::generator::Generator;
use super::language::Store;
use super::on_kernel::KernelStage;
use super::stage::{Difference, Observation, Stage, compare, step_text};

/// How many steps a random program has.
pub const STEPS_PER_PROGRAM: usize = 30;

const READ_COMMITTED: &[Begin] = &[Begin::ReadCommitted];
const REPEATABLE_READ: &[Begin] = &[Begin::RepeatableRead];
const MIXED: &[Begin] = &[Begin::ReadCommitted, Begin::RepeatableRead];
const SQLITE: &[Begin] = &[Begin::Deferred, Begin::Immediate];

/// The answers that a real store gave to the fixed programs when they were recorded.
#[must_use]
pub fn golden(store: Store) -> &'static str {
    match store {
        Store::Postgres => include_str!("../golden/postgres.txt"),
        Store::Sqlite => include_str!("../golden/sqlite.txt"),
    }
}

/// The levels at which the transactions of this random program run.
#[must_use]
pub fn levels(store: Store, seed: u64) -> &'static [Begin] {
    match store {
        Store::Postgres => {
            [READ_COMMITTED, REPEATABLE_READ, MIXED][usize::try_from(seed % 3).expect("below 3")]
        }
        Store::Sqlite => SQLITE,
    }
}

/// Plays the fixed programs on the kernel and, if there is one, on the real store; answers what they showed, program
/// after program.
///
/// # Errors
/// Where the two differ, or a fact that a program states isn't there.
pub fn play_fixed(store: Store, mut real: Option<&mut dyn Stage>) -> Result<Vec<String>, Difference> {
    let mut kernel = KernelStage::new(store);
    let mut transcripts = Vec::new();
    for program in corpus::programs(store) {
        let real = real.as_mut().map(|real| &mut **real as &mut dyn Stage);
        transcripts.push(compare(&program, &mut kernel, real)?.0);
    }
    Ok(transcripts)
}

/// What random programs showed.
#[derive(Debug, Default)]
pub struct Tally {
    /// Programs that were played.
    pub programs: usize,
    /// Steps of all of them.
    pub steps: usize,
    /// Steps after which somebody was blocked.
    pub blocked: usize,
    /// How often each error was answered.
    pub errors: BTreeMap<String, usize>,
    /// Steps in which those who could go on at the same moment did so in another order than first come first.
    pub races: usize,
    /// Programs that ended early because another session was the victim of a deadlock: it depends on who waits
    /// last, and from there on the stages go different ways. Or because the kernel saw one where somebody waits only
    /// behind one who waits to have a whole table: PostgreSQL lets that one be overtaken.
    pub victims: usize,
    /// Programs that ended early because the kernel was.
    pub early: usize,
    /// Programs whose stages differ, with what they showed.
    pub differ: Vec<(u64, String)>,
}

impl Tally {
    /// Plays one program on the kernel and a real store, until they differ.
    ///
    /// # Panics
    /// If the store fails.
    pub fn play(&mut self, seed: u64, store: Store, real: &mut dyn Stage) {
        let levels = levels(store, seed);
        let mut kernel = KernelStage::new(store);
        let mut generator = Generator::new(seed, store, levels);
        kernel.reset(&Generator::rows()).expect("the kernel does no I/O");
        real.reset(&Generator::rows()).expect("the store works");
        self.programs += 1;
        let mut transcript = format!("program {seed} on {store:?}, transactions at {levels:?}\n");
        for _ in 0..STEPS_PER_PROGRAM {
            let Some((session, act)) = generator.draw() else { break };
            let simulated = kernel.step(session, &act, None).expect("the kernel does no I/O");
            let observed = real.step(session, &act, Some(&simulated)).expect("the store works");
            transcript.push_str(&step_text(store, session, &act, &observed));
            self.steps += 1;
            self.blocked += usize::from(!observed.blocked.is_empty());
            for (_, answer) in observed.answers.iter().filter(|(_, answer)| answer.starts_with("error ")) {
                *self.errors.entry(answer.clone()).or_default() += 1;
            }
            if observed != simulated && !kernel.explain(&observed) {
                let may_differ = generator.locks_tables || has_victim(&observed);
                if may_differ && kernel.find_order(has_victim) {
                    self.victims += 1;
                } else if kernel.find_order(|shown| is_early(shown, &observed)) {
                    self.early += 1;
                } else {
                    let story = format!("{transcript}the kernel: {simulated:?}\nthe store:  {observed:?}\n");
                    self.differ.push((seed, story));
                }
                return;
            }
            self.races += usize::from(observed != simulated);
            generator.learn(&observed);
        }
        let (simulated, observed) = (kernel.rows().expect("no I/O"), real.rows().expect("the store works"));
        if simulated != observed {
            let ends = format!("the kernel ends with: {simulated:?}\nthe store ends with:  {observed:?}\n");
            self.differ.push((seed, transcript + &ends));
        }
    }

    /// How often the kernel and the store went different ways where PostgreSQL itself leaves open which.
    #[must_use]
    pub fn allowed(&self) -> usize {
        self.races + self.victims + self.early
    }

    /// Which of the differences that are allowed are more than there should be, for this many steps.
    #[must_use]
    pub fn excess(&self) -> Option<String> {
        let Self { steps, races, victims, early, .. } = self;
        let limits = [
            (*victims, 2 + steps / 5_000, "victims of deadlocks differ"),
            (*early, 2 + steps / 5_000, "serialization failures come too early"),
            (*races, 5 + steps / 300, "steps differ by the order of wake-ups"),
        ];
        let over = limits.into_iter().find(|(count, most, _)| count > most);
        over.map(|(count, most, what)| format!("{count} {what}; at most {most} should"))
    }
}

/// A locking select at REPEATABLE READ that has waited for a change gets its 40001 from the kernel at once. If yet
/// another session has changed the row meanwhile, PostgreSQL waits for that one too before it says the same.
fn is_early(shown: &Observation, observed: &Observation) -> bool {
    let late =
        |(session, answer): &&(usize, String)| answer == "error 40001" && observed.blocked.contains(session);
    let Some((session, _)) = shown.answers.iter().find(late) else { return false };
    let mut shown = shown.clone();
    shown.answers.retain(|(answered, _)| answered != session);
    shown.blocked.push(*session);
    shown.blocked.sort_unstable();
    shown == *observed
}

fn has_victim(seen: &Observation) -> bool {
    seen.answers.iter().any(|(_, answer)| answer == "error 40P01")
}
