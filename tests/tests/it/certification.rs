//! The simulated database against real ones: see `steadfast_tests::certification`.

use std::env;

use steadfast_sim::db::Begin;
use steadfast_tests::certification::generator::Generator;
use steadfast_tests::certification::language::Store;
use steadfast_tests::certification::on_kernel::KernelStage;
use steadfast_tests::certification::on_postgres::PostgresStage;
use steadfast_tests::certification::on_sqlite::SqliteStage;
use steadfast_tests::certification::stage::{Stage, step_text};
use steadfast_tests::postgres_server::PostgresServer;

const STEPS_PER_PROGRAM: usize = 30;
const POSTGRES_PROGRAMS: u64 = 24;
const SQLITE_PROGRAMS: u64 = 200;

const READ_COMMITTED: &[Begin] = &[Begin::ReadCommitted];
const REPEATABLE_READ: &[Begin] = &[Begin::RepeatableRead];
const MIXED: &[Begin] = &[Begin::ReadCommitted, Begin::RepeatableRead];
const SQLITE: &[Begin] = &[Begin::Deferred, Begin::Immediate];

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

/// The first seed and the number of programs: `STEADFAST_PROGRAMS=1000` or `STEADFAST_PROGRAMS=500..1500`.
fn programs(default: u64) -> (u64, u64) {
    let Ok(wanted) = env::var("STEADFAST_PROGRAMS") else { return (0, default) };
    let number = |text: &str| text.parse::<u64>().expect("STEADFAST_PROGRAMS is a number or a range of two");
    match wanted.split_once("..") {
        None => (0, number(&wanted)),
        Some((first, end)) => (number(first), number(end) - number(first)),
    }
}

#[derive(Default)]
struct Tally {
    steps: usize,
    blocked: usize,
    errors: std::collections::BTreeMap<String, usize>,
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
            if observed != simulated {
                eprintln!("{transcript}the kernel: {simulated:?}\nthe store:  {observed:?}\n");
                self.differ.push(seed);
                return;
            }
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
        let Self { steps, blocked, errors, differ } = self;
        eprintln!("{programs} programs, {steps} steps, {blocked} with a blocked session, errors {errors:?}");
        assert!(differ.is_empty(), "programs that differ: {differ:?} of {programs}");
    }
}
