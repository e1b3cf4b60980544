//! Known interleavings of two calls, on the adapter's functions and on the simulated plans: see
//! `steadfast_certify::interleaved`.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::Storage;
use steadfast_core::time::ManualClock;
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler, yield_now};
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::storage::gate::Gate;
use steadfast_sim::world::{Kind, Node, Profile, World};
use steadfast_tests::certification::interleaved::{
    Interleaving, Stage, claim_text, outcome_text, play, table,
};
use steadfast_tests::certification::serial::{
    Answered, Call, Played, START, empty_postgres, of_apply, of_claim, replay,
};
use steadfast_tests::postgres_server::PostgresServer;

use stepped::Stepped;

mod random;
mod stepped;

/// What a stage showed.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// Who waited for a lock, after each turn.
    waited: Vec<Vec<usize>>,
    answers: Vec<String>,
    rows: Vec<String>,
}

/// Plays calls without steps; with none, it only reads the rows.
async fn unstepped(calls: &[Call], store: &impl Storage, clock: &ManualClock) -> Vec<String> {
    let calls = calls.iter().map(|call| (call.clone(), Answered::Text(String::new())));
    replay(&Played { calls: calls.collect(), ..Played::default() }, store, clock).await.rows
}

/// What a call answered, in a word and whole, once it has.
type Answer = Arc<Mutex<Option<(String, Answered)>>>;

/// The simulated plans, behind a gate.
struct SimulatedStage {
    gate: Gate,
    nodes: Vec<Node>,
    answers: Vec<Answer>,
}

/// More than any plan takes to get to its next stop.
const POLLS_TO_SETTLE: u32 = 200;

impl SimulatedStage {
    fn new(world: &World, gate: Gate, calls: &[Call]) -> Self {
        let mut stage = Self { gate, nodes: Vec::new(), answers: Vec::new() };
        for call in calls {
            let node = world.start("caller", 100);
            let (store, answer, call) = (node.storage(), Arc::new(Mutex::new(None)), call.clone());
            let slot = answer.clone();
            node.spawn("call", async move {
                let answered = answered(&store, &call).await;
                // Nothing else makes a stepped store unavailable.
                let given_up = answered.0 == "error Unavailable";
                let answered = if given_up { rolled_back() } else { answered };
                *slot.lock().expect("not poisoned") = Some(answered);
            });
            stage.nodes.push(node);
            stage.answers.push(answer);
        }
        stage
    }
}

impl SimulatedStage {
    /// What the calls answered, in a word and whole.
    fn answered(&self) -> Vec<(String, Answered)> {
        let answered = |answer: &Arc<Mutex<Option<_>>>| answer.lock().expect("not poisoned").clone();
        self.answers.iter().map(|answer| answered(answer).expect("it works")).collect()
    }
}

/// What a call that is stepped answers, in a word and whole.
async fn answered(store: &impl Storage, call: &Call) -> (String, Answered) {
    match call {
        Call::Apply(batches) => {
            let outcomes = store.apply(batches).await;
            (outcome_text(&outcomes), of_apply(&outcomes))
        }
        Call::Claim(request) => {
            let claimed = store.claim(request).await;
            (claim_text(&claimed), of_claim(&claimed))
        }
        Call::Read(_) | Call::Advance(_) => unreachable!("calls that write are stepped"),
    }
}

/// What a call that was rolled back by hand answers.
fn rolled_back() -> (String, Answered) {
    ("rolled back".to_owned(), Answered::Text("rolled back".to_owned()))
}

impl Stage for SimulatedStage {
    async fn settle(&mut self) {
        // Virtual time stands still meanwhile: nobody's wait for a lock times out.
        for _ in 0..POLLS_TO_SETTLE {
            yield_now().await;
            for node in &self.nodes {
                // A statement that begins no part belongs to the one before.
                let goes_on = |at| at == "statement" && self.gate.part(node.number()).is_none();
                if self.gate.at(node.number()).is_some_and(goes_on) {
                    self.gate.grant(node.number());
                }
            }
        }
    }

    fn at(&self, caller: usize) -> Option<&'static str> {
        let node = self.nodes[caller].number();
        let at = self.gate.at(node)?;
        if at == "statement" { self.gate.part(node) } else { Some(at) }
    }

    fn is_through(&self, caller: usize) -> bool {
        self.answers[caller].lock().expect("not poisoned").is_some()
    }

    fn grant(&mut self, caller: usize) {
        self.gate.grant(self.nodes[caller].number());
    }

    fn abandon(&mut self, caller: usize) {
        self.gate.abandon(self.nodes[caller].number());
    }
}

/// Plays with a simulated store that is stepped: its world, its gate, its clock.
fn in_world<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    flaw: Option<Flaw>,
    play: impl FnOnce(World, Gate, ManualClock) -> F + Send,
) -> T {
    let choices = Choices::from_seed(1);
    let scheduler = Scheduler::new(choices.clone(), 0);
    let (gate, clock) = (Gate::default(), ManualClock::at(START));
    let kind = Kind {
        flaws: flaw.into_iter().collect(),
        clock: Some(clock.clone()),
        gate: Some(gate.clone()),
        ..Kind::of(Profile::Postgres)
    };
    let world = World::on(scheduler.clone(), choices, kind);
    let bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(60) };
    let run = || scheduler.run(bounds, play(world, gate, clock)).expect("nothing waits for ever");
    // The scheduler brings a runtime of its own.
    std::thread::scope(|scope| scope.spawn(run).join().expect("the plan doesn't panic"))
}

/// A node whose calls no gate holds up.
fn start_beside(world: &World, gate: &Gate) -> Node {
    let beside = world.start("beside", 100);
    (0..10_000).for_each(|_| gate.grant(beside.number()));
    beside
}

fn on_simulated(interleaving: &Interleaving) -> Shown {
    let interleaving = interleaving.clone();
    in_world(interleaving.flaw, |world, gate, clock| async move {
        let beside = start_beside(&world, &gate);
        unstepped(&interleaving.setup, &beside.storage(), &clock).await;
        let mut stage = SimulatedStage::new(&world, gate, &interleaving.calls);
        let waited = play(&mut stage, &interleaving).await;
        let answers = stage.answered().into_iter().map(|(word, _)| word).collect();
        Shown { waited, answers, rows: unstepped(&[], &beside.storage(), &clock).await }
    })
}

#[track_caller]
fn check(interleaving: &Interleaving, shown: &Shown) {
    let Interleaving { name, answers, ends, .. } = interleaving;
    assert_eq!(shown.answers, answers, "{name}: {shown:#?}");
    for (task, state) in ends {
        let text = format!("Task {{ id: {task:?},");
        let row = shown.rows.iter().find(|row| row.starts_with(&text));
        let row = row.unwrap_or_else(|| panic!("{name}: there is no {task}"));
        assert!(row.contains(&format!("state: {state:?},")), "{name}: {row}");
    }
}

#[test]
fn known_interleavings_end_as_they_should_on_the_simulated_plans() {
    for interleaving in table() {
        check(&interleaving, &on_simulated(&interleaving));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_interleavings_of_the_adapters_functions_agree_with_the_simulated_plans() {
    let test = "interleavings";
    let Some(server) = PostgresServer::shared(test) else { return };
    let mut stepped = Stepped::open(server, test, 2).await;
    for interleaving in table() {
        stepped.empty();
        stepped.define(interleaving.flaw);
        unstepped(&interleaving.setup, &stepped.store, &stepped.clock).await;
        let mut stage = stepped.stage(&interleaving.calls);
        let waited = play(&mut stage, &interleaving).await;
        let answers = stage.answers().await.into_iter().map(|(word, _)| word).collect();
        let shown = Shown { waited, answers, rows: unstepped(&[], &stepped.store, &stepped.clock).await };
        check(&interleaving, &shown);
        let simulated = on_simulated(&interleaving);
        assert_eq!(shown, simulated, "{}: PostgreSQL left, its double right", interleaving.name);
    }
}
