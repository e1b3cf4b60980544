//! The simulated database against real ones: see `steadfast_tests::certification`.

use std::path::Path;
use std::{env, fs};

use steadfast_sim::db::Begin;
use steadfast_tests::certification::corpus;
use steadfast_tests::certification::generator::Generator;
use steadfast_tests::certification::language::Store;
use steadfast_tests::certification::on_kernel::KernelStage;
use steadfast_tests::certification::on_postgres::PostgresStage;
use steadfast_tests::certification::on_sqlite::SqliteStage;
use steadfast_tests::certification::stage::{Observation, Stage, play, step_text};
use steadfast_tests::postgres_server::PostgresServer;

const STEPS_PER_PROGRAM: usize = 30;
const POSTGRES_PROGRAMS: u64 = 24;
const SQLITE_PROGRAMS: u64 = 200;

const READ_COMMITTED: &[Begin] = &[Begin::ReadCommitted];
const REPEATABLE_READ: &[Begin] = &[Begin::RepeatableRead];
const MIXED: &[Begin] = &[Begin::ReadCommitted, Begin::RepeatableRead];
const SQLITE: &[Begin] = &[Begin::Deferred, Begin::Immediate];

#[test]
fn fixed_programs_agree_with_postgres() {
    let server = PostgresServer::shared("fixed_programs_agree_with_postgres (live)");
    let mut postgres = server.map(|server| PostgresStage::new(server, "fixed_programs").expect("it works"));
    play_all(Store::Postgres, "postgres.txt", postgres.as_mut().map(|stage| stage as &mut dyn Stage));
}

#[test]
fn fixed_programs_agree_with_sqlite() {
    let mut sqlite = SqliteStage::new("fixed_programs").expect("a temporary file can be made");
    play_all(Store::Sqlite, "sqlite.txt", Some(&mut sqlite));
}

/// Plays the corpus on the kernel and on the real store, if it is there, and compares both with the answers that
/// the store gave when they were recorded. `STEADFAST_RECORD=1` records them anew.
fn play_all(store: Store, golden: &str, mut real: Option<&mut dyn Stage>) {
    let mut kernel = KernelStage::new(store);
    let mut transcripts = String::new();
    for program in corpus::programs(store) {
        let real = real.as_mut().map(|real| &mut **real as &mut dyn Stage);
        transcripts.push_str(&play(&program, &mut kernel, real).0);
        transcripts.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(golden);
    if env::var("STEADFAST_RECORD").is_ok_and(|value| value == "1") {
        assert!(real.is_some(), "only a real store's answers are recorded");
        fs::write(&path, &transcripts).expect("the golden file can be written");
    }
    let recorded = fs::read_to_string(&path).expect("the golden file is part of the repository");
    for (recorded, shown) in recorded.split("\n\n").zip(transcripts.split("\n\n")) {
        assert_eq!(shown, recorded, "the recorded answers (right) differ");
    }
    assert_eq!(transcripts.len(), recorded.len(), "as many programs as were recorded");
}

#[test]
fn random_programs_agree_with_postgres() {
    let Some(server) = PostgresServer::shared("random_programs_agree_with_postgres") else { return };
    let mut postgres = PostgresStage::new(server, "random_programs").expect("a private server works");
    let (first, count) = programs(POSTGRES_PROGRAMS);
    let mut tally = Tally::default();
    for seed in first..first + count {
        let levels = [READ_COMMITTED, REPEATABLE_READ, MIXED][usize::try_from(seed % 3).expect("below 3")];
        tally.play(seed, Store::Postgres, levels, &mut postgres);
    }
    tally.report(count);
}

#[test]
fn random_programs_agree_with_sqlite() {
    let mut sqlite = SqliteStage::new("random_programs").expect("a temporary file can be made");
    let (first, count) = programs(SQLITE_PROGRAMS);
    let mut tally = Tally::default();
    for seed in first..first + count {
        tally.play(seed, Store::Sqlite, SQLITE, &mut sqlite);
    }
    tally.report(count);
}

/// The first seed, which is the program's name, and the number of programs: `STEADFAST_PROGRAMS=1000` or `STEADFAST_PROGRAMS=500..1500`.
fn programs(default: u64) -> (u64, u64) {
    let Ok(wanted) = env::var("STEADFAST_PROGRAMS") else { return (0, default) };
    let number = |text: &str| text.parse::<u64>().expect("STEADFAST_PROGRAMS is a number or a range of two");
    match wanted.split_once("..") {
        None => (0, number(&wanted)),
        Some((first, end)) => (number(first), number(end) - number(first)),
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

#[derive(Default)]
struct Tally {
    steps: usize,
    blocked: usize,
    errors: std::collections::BTreeMap<String, usize>,
    /// Steps in which those who could go on at the same moment did so in another order than first come first.
    races: usize,
    /// Programs that ended early because another session was the victim of a deadlock: it depends on who waits
    /// last, and from there on the stages go different ways.
    victims: usize,
    /// Programs that ended early because the kernel was; see [`is_early`].
    early: usize,
    differ: Vec<u64>,
}

impl Tally {
    /// Plays one program on both stages, until they differ.
    fn play(&mut self, seed: u64, store: Store, levels: &'static [Begin], real: &mut dyn Stage) {
        let mut kernel = KernelStage::new(store);
        let mut generator = Generator::new(seed, store, levels);
        kernel.reset(&Generator::rows()).expect("the kernel does no I/O");
        real.reset(&Generator::rows()).expect("the store works");
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
                if has_victim(&observed) && kernel.find_order(has_victim) {
                    self.victims += 1;
                } else if kernel.find_order(|shown| is_early(shown, &observed)) {
                    self.early += 1;
                } else {
                    eprintln!("{transcript}the kernel: {simulated:?}\nthe store:  {observed:?}\n");
                    self.differ.push(seed);
                }
                return;
            }
            self.races += usize::from(observed != simulated);
            generator.learn(&observed);
        }
        let (simulated, observed) = (kernel.rows().expect("no I/O"), real.rows().expect("the store works"));
        if simulated != observed {
            eprintln!(
                "{transcript}the kernel ends with: {simulated:?}\nthe store ends with:  {observed:?}\n"
            );
            self.differ.push(seed);
        }
    }

    fn report(&self, programs: u64) {
        let Self { steps, blocked, errors, races, victims, early, differ } = self;
        eprintln!(
            "{programs} programs, {steps} steps, {blocked} with a blocked session, errors {errors:?}, \
             {races} races, {victims} other victims, {early} early"
        );
        assert!(*victims <= 2 + steps / 5_000, "{victims} victims of deadlocks differ");
        assert!(*early <= 2 + steps / 5_000, "{early} serialization failures come too early");
        assert!(*races <= 5 + steps / 300, "{races} steps differ by the order of wake-ups");
        assert!(
            differ.is_empty(),
            "programs that differ: {differ:?} of {programs}; play one with STEADFAST_PROGRAMS=7..8"
        );
    }
}
