//! The simulated database against real ones: see `steadfast_certify`.

use std::path::Path;
use std::{env, fs};

use steadfast_tests::certification::language::Store;
use steadfast_tests::certification::on_postgres::PostgresStage;
use steadfast_tests::certification::on_sqlite::SqliteStage;
use steadfast_tests::certification::stage::Stage;
use steadfast_tests::certification::statements::{Tally, golden, play_fixed};
use steadfast_tests::postgres_server::PostgresServer;

const POSTGRES_PROGRAMS: u64 = 24;
const SQLITE_PROGRAMS: u64 = 200;

#[test]
fn fixed_programs_agree_with_postgres() {
    let server = PostgresServer::shared("fixed_programs_agree_with_postgres (live)");
    let mut postgres =
        server.map(|server| PostgresStage::new(server, "postgres", "fixed_programs").expect("it works"));
    play_all(Store::Postgres, postgres.as_mut().map(|stage| stage as &mut dyn Stage));
}

#[test]
fn fixed_programs_agree_with_sqlite() {
    let mut sqlite = SqliteStage::new("fixed_programs").expect("a temporary file can be made");
    play_all(Store::Sqlite, Some(&mut sqlite));
}

/// Plays the corpus on the kernel and on the real store, if it is there, and compares both with the answers that
/// the store gave when they were recorded. `STEADFAST_RECORD=1` records them anew.
fn play_all(store: Store, real: Option<&mut dyn Stage>) {
    let is_real = real.is_some();
    let shown = play_fixed(store, real).unwrap_or_else(|difference| panic!("{difference}"));
    if env::var("STEADFAST_RECORD").is_ok_and(|value| value == "1") {
        assert!(is_real, "only a real store's answers are recorded");
        let name = match store {
            Store::Postgres => "postgres.txt",
            Store::Sqlite => "sqlite.txt",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../certify/golden").join(name);
        fs::write(&path, shown.join("\n") + "\n").expect("the golden file can be written");
        return;
    }
    let recorded: Vec<&str> =
        golden(store).split("\n\n").map(str::trim_end).filter(|one| !one.is_empty()).collect();
    for (recorded, shown) in recorded.iter().zip(&shown) {
        assert_eq!(shown.trim_end(), *recorded, "the recorded answers (right) differ");
    }
    assert_eq!(shown.len(), recorded.len(), "as many programs as were recorded");
}

#[test]
fn random_programs_agree_with_postgres() {
    let Some(server) = PostgresServer::shared("random_programs_agree_with_postgres") else { return };
    let mut postgres =
        PostgresStage::new(server, "postgres", "random_programs").expect("a private server works");
    play_random(Store::Postgres, POSTGRES_PROGRAMS, &mut postgres);
}

#[test]
fn random_programs_agree_with_sqlite() {
    let mut sqlite = SqliteStage::new("random_programs").expect("a temporary file can be made");
    play_random(Store::Sqlite, SQLITE_PROGRAMS, &mut sqlite);
}

fn play_random(store: Store, default: u64, real: &mut dyn Stage) {
    let (first, count) = programs(default);
    let mut tally = Tally::default();
    for seed in first..first + count {
        tally.play(seed, store, real);
    }
    for (_, story) in &tally.differ {
        eprintln!("{story}");
    }
    let Tally { programs, steps, blocked, errors, races, victims, early, differ } = &tally;
    eprintln!(
        "{programs} programs, {steps} steps, {blocked} with a blocked session, errors {errors:?}, {races} races, \
         {victims} other victims, {early} early"
    );
    assert_eq!(tally.excess(), None);
    let differ: Vec<_> = differ.iter().map(|(seed, _)| seed).collect();
    assert!(
        differ.is_empty(),
        "programs that differ: {differ:?} of {programs}; play one with STEADFAST_PROGRAMS=7..8"
    );
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
