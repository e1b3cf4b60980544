//! The engine on the simulated storage, from seeds. A failure prints the seed, the property and the history, and how to
//! see it again.
//!
//! `STEADFAST_SEED` runs one seed, `STEADFAST_SEEDS` sets how many, `STEADFAST_TIME` (seconds) for how long at most,
//! `STEADFAST_PROFILE` on which store.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use steadfast_sim::oracle::goals;
use steadfast_sim::scenario::workers;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

/// How many seeds each sweep has where nothing else is said.
const SEEDS: u64 = 1_000;

#[test]
fn three_workers_keep_every_property_on_simulated_postgres() {
    sweep(Profile::Postgres);
}

#[test]
fn three_workers_keep_every_property_on_simulated_sqlite() {
    sweep(Profile::Sqlite);
}

#[track_caller]
fn sweep(profile: Profile) {
    if variable("STEADFAST_PROFILE").is_some_and(|wanted| wanted != profile.as_str()) {
        return;
    }
    let setup = setup(profile, None);
    if let Some(seed) = number("STEADFAST_SEED") {
        let report = setup.run(seed);
        println!("{report}");
        assert!(report.violations.is_empty(), "seed {seed} breaks a property");
        return;
    }
    let until = number("STEADFAST_TIME").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut reached = BTreeSet::new();
    let mut seeds = 0;
    for seed in 0..number("STEADFAST_SEEDS").unwrap_or(SEEDS) {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let report = setup.run(seed);
        assert!(report.violations.is_empty(), "{report}");
        reached.extend(goals::reached(&report.entries));
        seeds += 1;
    }
    let goals: Vec<_> = workers::SCENARIO.goals.of(profile).collect();
    let missed: Vec<_> = goals.iter().filter(|goal| !reached.contains(*goal)).collect();
    let (name, count) = (profile.as_str(), goals.len());
    println!("{seeds} seeds on {name}: no violation, {} of {count} goals", count - missed.len());
    assert!(seeds < SEEDS || missed.is_empty(), "{seeds} seeds never showed that {missed:?}");
}

/// Each specimen is the storage that ships with one guard missing. Row locks are PostgreSQL's business: SQLite's only
/// writer needs none.
#[test]
fn a_thousand_seeds_find_every_missing_guard() {
    let specimens = [
        (Flaw::UnfencedTransition, Profile::Postgres, "P4"),
        (Flaw::UnfencedTransition, Profile::Sqlite, "P4"),
        (Flaw::NoShareLockOnParents, Profile::Postgres, "P10"),
        (Flaw::LimitCountedBeforeLock, Profile::Postgres, "P18"),
        (Flaw::UncheckedLeaseOnReclaim, Profile::Postgres, "P16"),
        (Flaw::UncheckedLeaseOnReclaim, Profile::Sqlite, "P16"),
        (Flaw::RetryIgnoresCancel, Profile::Postgres, "P15"),
        (Flaw::RetryIgnoresCancel, Profile::Sqlite, "P15"),
        (Flaw::NoShareLockOnHolder, Profile::Postgres, "P11"),
        (Flaw::PromotionInStatementOfEnd, Profile::Postgres, "P11"),
        (Flaw::PromotionWithoutLocks, Profile::Postgres, "P11"),
        (Flaw::UnfencedReport, Profile::Postgres, "P4"),
        (Flaw::UnfencedReport, Profile::Sqlite, "P4"),
        (Flaw::RelaxedDurability, Profile::Postgres, "P20"),
    ];
    for (flaw, profile, property) in specimens {
        let report = setup(profile, Some(flaw)).find(0..SEEDS);
        let report =
            report.unwrap_or_else(|| panic!("{} goes unfound on {}", flaw.as_str(), profile.as_str()));
        let broken: Vec<_> = report.violations.iter().map(|violation| violation.property).collect();
        println!("{} on {}: seed {:?} breaks {broken:?}", flaw.as_str(), profile.as_str(), report.seed);
        assert!(broken.contains(&property), "{} was found by {broken:?} only:\n{report}", flaw.as_str());
    }
}

#[test]
fn a_seed_is_a_run() {
    for profile in Profile::ALL {
        let setup = setup(profile, None);
        for seed in 0..100 {
            let (first, second) = (setup.run(seed), setup.run(seed));
            let differing =
                first.entries.iter().zip(&second.entries).find(|(a, b)| format!("{a:?}") != format!("{b:?}"));
            assert_eq!(first.hash(), second.hash(), "seed {seed} on {}: {differing:?}", profile.as_str());
        }
    }
}

#[test]
fn the_decisions_of_a_run_replay_it() {
    for profile in Profile::ALL {
        let setup = setup(profile, None);
        for seed in 0..20 {
            let first = setup.run(seed);
            let again =
                setup.run_choices(steadfast_sim::choices::Choices::from_decisions(first.decisions.clone()));
            assert_eq!(first.hash(), again.hash(), "seed {seed} on {}", profile.as_str());
        }
    }
}

fn setup(profile: Profile, flaw: Option<Flaw>) -> Setup {
    Setup { scenario: workers::SCENARIO, profile, flaws: flaw.into_iter().collect() }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A number, also as `0x…`, and with a trailing `s` for seconds.
fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    let digits = text.trim_end_matches('s');
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}
