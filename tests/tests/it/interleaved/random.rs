//! Random interleavings of two calls, on the adapter's own functions and on the simulated plans: see
//! `steadfast_certify::interleaved::random`.

use std::fmt::Write as _;

use steadfast_core::step::{Outcome, Refusal, Refused};
use steadfast_core::time::ManualClock;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_tests::certification::interleaved::random::{Moved, Place, follow, step};
use steadfast_tests::certification::serial::pairs::{Pair, draw};
use steadfast_tests::certification::serial::{Answered, Call, Style, replay, rows};
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::random::Random;

use super::stepped::Stepped;
use super::{SimulatedStage, in_world, start_beside};
use crate::steps::wanted_programs;

/// How many programs; `STEADFAST_PROGRAMS=1000` or `=402..403` says otherwise.
const PROGRAMS: u64 = 60;

/// A program, in which order its calls went on, and what came of it.
struct Program {
    pair: Pair,
    moves: Vec<Moved>,
    answers: Vec<Answered>,
    rows: Vec<String>,
}

/// Every third program has merged calls.
fn style(seed: u64) -> Style {
    if seed % 3 == 2 { Style::Merged } else { Style::Plain }
}

/// Draws and plays a program on the simulated store.
fn on_simulated(seed: u64) -> Program {
    in_world(None, move |world, gate, clock: ManualClock| async move {
        let beside = start_beside(&world, &gate).storage();
        let pair = draw(seed, style(seed), &beside, &clock).await;
        let mut stage = SimulatedStage::new(&world, gate, &pair.calls);
        let moves = step(&mut stage, pair.calls.len(), &mut Random::new(seed ^ 0x6f72_6465)).await;
        let answers = stage.answered().into_iter().map(|(_, whole)| whole).collect();
        let (rows, _) = rows(&beside).await;
        Program { pair, moves, answers, rows }
    })
}

impl Program {
    /// Plays it on PostgreSQL in the same order; tells where it differs.
    async fn on_postgres(&self, stepped: &mut Stepped) -> Result<(), String> {
        stepped.empty();
        let setup = replay(&self.pair.setup, &stepped.store, &stepped.clock).await;
        let calls = setup.calls.iter().zip(&self.pair.setup.calls);
        if let Some(((call, real), (_, simulated))) = calls.into_iter().find(|(one, other)| one.1 != other.1)
        {
            return Err(format!("before, {call:?}\n  PostgreSQL {real:?}\n  its double {simulated:?}"));
        }
        let mut stage = stepped.stage(&self.pair.calls);
        let followed = follow(&mut stage, self.pair.calls.len(), &self.moves).await;
        let answers: Vec<Answered> = stage.answers().await.into_iter().map(|(_, whole)| whole).collect();
        if let Err((number, places)) = followed {
            let moved = &self.moves[number];
            let real = Moved { places, ..moved.clone() };
            return Err(format!("after move {number}\n  PostgreSQL {real}\n  its double {moved}"));
        }
        if answers != self.answers {
            return Err(format!("answers\n  PostgreSQL {answers:?}\n  its double {:?}", self.answers));
        }
        let (rows, _) = rows(&stepped.store).await;
        if rows == self.rows {
            return Ok(());
        }
        let missing: Vec<_> = self.rows.iter().filter(|row| !rows.contains(row)).collect();
        let extra: Vec<_> = rows.iter().filter(|row| !self.rows.contains(row)).collect();
        Err(format!("at the end\n  PostgreSQL {extra:#?}\n  its double {missing:#?}"))
    }

    fn story(&self, seed: u64) -> String {
        let mut story = format!("interleaving {seed}\n");
        for (number, (call, answer)) in self.pair.setup.calls.iter().enumerate() {
            writeln!(story, "{number}. {call:?}\n     {answer:?}").expect("a string takes all");
        }
        for (caller, call) in self.pair.calls.iter().enumerate() {
            writeln!(story, "caller {caller}: {call:?}").expect("a string takes all");
        }
        for (number, moved) in self.moves.iter().enumerate() {
            writeln!(story, "{number}. {moved}").expect("a string takes all");
        }
        story
    }

    /// Whether a replacing was refused because the task to be replaced wasn't there when its row was to be locked. The
    /// function looks once more after that, and may find it: then it goes on, or refuses for another reason. The
    /// simulated plan doesn't look again.
    fn is_open(&self) -> bool {
        let several = |call: &Call| matches!(call, Call::Apply(batches) if batches[0].steps.len() > 1);
        let missing = |answer: &Answered| match answer {
            Answered::Outcomes(outcomes) => {
                matches!(outcomes.as_slice(), [Outcome::Refused(Refused { step: 0, why: Refusal::NotFound })])
            }
            Answered::Text(_) => false,
        };
        self.pair.calls.iter().zip(&self.answers).any(|(call, answer)| several(call) && missing(answer))
    }

    fn has_waited(&self) -> bool {
        self.moves.iter().any(|moved| moved.places.contains(&Place::Waits))
    }

    fn has_conflicted(&self) -> bool {
        let conflict = |answer: &Answered| matches!(answer, Answered::Text(text) if text == "error Conflict");
        self.answers.iter().any(conflict)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_interleavings_of_the_adapters_functions_agree_with_the_simulated_plans() {
    let test = "random_interleavings";
    let Some(server) = PostgresServer::shared(test) else { return };
    let mut stepped = Stepped::open(server, test, 2).await;
    let (mut differ, mut met, mut waited, mut conflicted, mut open) = (Vec::new(), 0, 0, 0, 0);
    for seed in wanted_programs(PROGRAMS) {
        let program = on_simulated(seed);
        met += u64::from(program.pair.meet);
        waited += u64::from(program.has_waited());
        conflicted += u64::from(program.has_conflicted());
        if let Err(how) = program.on_postgres(&mut stepped).await {
            if program.is_open() {
                open += 1;
                continue;
            }
            eprintln!("{}{how}\n", program.story(seed));
            differ.push(seed);
        }
    }
    let programs = wanted_programs(PROGRAMS);
    let count = programs.end - programs.start;
    eprintln!(
        "{count} interleavings: {met} of calls that meet, {waited} waited, {conflicted} conflicted, {open} open"
    );
    assert!(open <= 2 + count / 50, "{open} of {count} differ about a task that was to be replaced");
    assert!(
        differ.is_empty(),
        "{} differ; play one with STEADFAST_PROGRAMS=7..8 cargo test -p steadfast-tests --test it \
        random_interleavings: {differ:?}",
        differ.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_interleavings_find_a_lock_that_is_missing() {
    let test = "random_interleavings_with_a_flaw";
    let Some(server) = PostgresServer::shared(test) else { return };
    let mut stepped = Stepped::open(server, test, 2).await;
    for seed in 0..400 {
        let program = on_simulated(seed);
        stepped.define(Some(Flaw::NoShareLockOnParents));
        if program.on_postgres(&mut stepped).await.is_err() {
            stepped.define(None);
            if program.on_postgres(&mut stepped).await.is_ok() {
                eprintln!("interleaving {seed} shows it");
                return;
            }
        }
    }
    panic!("400 interleavings look the same without a lock on parents");
}
