//! The simulated storage against the adapters: see `steadfast_tests::certification::serial`.

use std::time::Duration;

use steadfast_core::time::ManualClock;
use steadfast_postgres::PostgresStorage;
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::world::{Kind, Profile, World};
use steadfast_sqlite::{Options, SqliteStorage};
use steadfast_tests::certification::serial::{self, CALLS, Compared, Measure, Played, START, Style};
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;

/// How many programs; `STEADFAST_PROGRAMS=1000` or `=500..1500` says otherwise.
const PROGRAMS: u64 = 60;

fn programs() -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("STEADFAST_PROGRAMS") else { return 0..PROGRAMS };
    let number = |text: &str| text.parse::<u64>().expect("STEADFAST_PROGRAMS is a number or a range of two");
    match wanted.split_once("..") {
        None => 0..number(&wanted),
        Some((first, end)) => number(first)..number(end),
    }
}

/// Draws a program on SQLite in memory: every other one has large calls.
async fn drawn(seed: u64) -> (Style, Played) {
    let style = if seed.is_multiple_of(2) { Style::Plain } else { Style::Rich };
    let clock = ManualClock::at(START);
    let options = Options { clock: Some(clock.clone()), ..Options::in_memory() };
    let store = SqliteStorage::open(options).expect("the store opens");
    (style, serial::draw(seed, style, &store, &clock).await)
}

fn on_simulated(program: &Played, profile: Profile) -> Played {
    let choices = Choices::from_seed(1);
    let scheduler = Scheduler::new(choices.clone(), 0);
    let clock = ManualClock::at(START);
    let kind = Kind { clock: Some(clock.clone()), ..Kind::of(profile) };
    let store = World::on(scheduler.clone(), choices, kind).start("client", 100).storage();
    let program = program.clone();
    let bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(3_600) };
    let replay = async move { serial::replay(&program, &store, &clock).await };
    // The scheduler brings a runtime of its own.
    let run = || scheduler.run(bounds, replay).expect("nothing waits for ever");
    std::thread::scope(|scope| scope.spawn(run).join().expect("the plan doesn't panic"))
}

/// Collects where storages differ, and fails at the end.
#[derive(Default)]
struct Differences {
    differ: Vec<String>,
    open: u64,
}

impl Differences {
    fn compare(&mut self, seed: u64, stores: &str, one: &Played, other: &Played, measure: Measure) {
        match serial::compare(one, other, measure) {
            Compared::Same => {}
            Compared::Open => self.open += 1,
            Compared::Differ(story) => {
                eprintln!("program {seed} on {stores}\n{story}\n");
                self.differ.push(format!("{seed} on {stores}"));
            }
        }
    }

    fn report(&self, on: &str) {
        let programs = programs();
        let count = programs.end - programs.start;
        let Self { differ, open } = self;
        eprintln!("{count} programs of {CALLS} calls on {on}; {open} ended early");
        assert!(*open <= 2 + count / 20, "{open} of {count} programs ended early");
        assert!(
            differ.is_empty(),
            "{} differ; play one with STEADFAST_PROGRAMS=7..8: {differ:?}",
            differ.len()
        );
    }
}

#[tokio::test]
async fn serial_step_programs_agree_on_sqlite_and_its_double() {
    let mut differences = Differences::default();
    for seed in programs() {
        let (_, played) = drawn(seed).await;
        let simulated = on_simulated(&played, Profile::Sqlite);
        differences.compare(seed, "SQLite and its double", &played, &simulated, Measure::InOutcomes);
    }
    differences.report("SQLite and its double");
}

#[tokio::test(flavor = "multi_thread")]
async fn serial_step_programs_agree_on_postgres_and_its_double_and_on_sqlite() {
    let test = "serial_step_programs";
    let Some(server) = PostgresServer::shared(test) else { return };
    let url = server.create_database(test).expect("a database can be made");
    let clock = ManualClock::at(START);
    let options =
        steadfast_postgres::Options { clock: Some(clock.clone()), ..steadfast_postgres::Options::new(url) };
    let store = PostgresStorage::open(options).await.expect("the store opens");
    let mut beside = PostgresSession::connect(server, test).expect("a session opens");
    let mut differences = Differences::default();
    for seed in programs() {
        let (style, played) = drawn(seed).await;
        let emptied = beside.query(
            "truncate steadfast.task, steadfast.edge, steadfast.attempt, steadfast.queue restart identity",
        );
        assert_eq!(emptied.expect("the server is there").message, None);
        clock.set(START);
        let real = serial::replay(&played, &store, &clock).await;
        let simulated = on_simulated(&played, Profile::Postgres);
        differences.compare(seed, "PostgreSQL and its double", &real, &simulated, Measure::Exactly);
        if style == Style::Plain {
            differences.compare(seed, "SQLite and PostgreSQL", &played, &real, Measure::InOutcomes);
        }
    }
    differences.report("PostgreSQL, its double and SQLite");
}
