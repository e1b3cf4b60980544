//! The simulated storage against the adapters: see `steadfast_certify::serial`.

use steadfast_core::time::ManualClock;
use steadfast_postgres::PostgresStorage;
use steadfast_sim::world::Profile;
use steadfast_tests::certification::doubles::{drawn, on_double};
use steadfast_tests::certification::serial::{self, CALLS, Compared, Measure, Played, START, Style};
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;

/// How many programs; `STEADFAST_PROGRAMS=1000` or `=500..1500` says otherwise.
const PROGRAMS: u64 = 60;

fn programs() -> std::ops::Range<u64> {
    wanted_programs(PROGRAMS)
}

/// Which programs to play: so many from the first, if nothing else is asked for.
pub(crate) fn wanted_programs(usual: u64) -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("STEADFAST_PROGRAMS") else { return 0..usual };
    let number = |text: &str| text.parse::<u64>().expect("STEADFAST_PROGRAMS is a number or a range of two");
    match wanted.split_once("..") {
        None => 0..number(&wanted),
        Some((first, end)) => number(first)..number(end),
    }
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
        let simulated = on_double(&played, Profile::Sqlite);
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
        let emptied = beside.query(&serial::empty_postgres("steadfast"));
        assert_eq!(emptied.expect("the server is there").message, None);
        clock.set(START);
        let real = serial::replay(&played, &store, &clock).await;
        let simulated = on_double(&played, Profile::Postgres);
        differences.compare(seed, "PostgreSQL and its double", &real, &simulated, Measure::Exactly);
        if style == Style::Plain {
            differences.compare(seed, "SQLite and PostgreSQL", &played, &real, Measure::InOutcomes);
        }
    }
    differences.report("PostgreSQL, its double and SQLite");
}
