//! The engine on the simulated storage, from seeds. A failure prints the seed, the property and the history, and how to
//! see it again.
//!
//! `STEADFAST_SEED` runs one seed, of `STEADFAST_SCENARIO` where that is said, else of `workers`; `STEADFAST_SEEDS` sets how
//! many, `STEADFAST_TIME` (seconds) for how long at most, `STEADFAST_PROFILE` on which store.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use steadfast_sim::oracle::goals;
use steadfast_sim::scenario::{self, Scenario, burst, plain, workers};
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
    let setup = setup(profile);
    if let Some(seed) = number("STEADFAST_SEED") {
        let report = Setup { scenario: scenario(), ..setup }.run(seed);
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

/// The shorter stories, with fewer seeds: what each must reach is in its list of goals.
#[test]
fn the_shorter_stories_keep_every_property() {
    for (scenario, seeds) in [(plain::SCENARIO, 500), (burst::SCENARIO, 300), (plain::LONG_LEASES, 30)] {
        for profile in Profile::ALL {
            let setup = Setup { scenario, profile, flaws: Vec::new() };
            let mut reached = BTreeSet::new();
            for seed in 0..seeds {
                let report = setup.run(seed);
                assert!(report.violations.is_empty(), "{report}");
                reached.extend((scenario.goals.reached)(&report.entries));
            }
            let missed: Vec<_> = scenario.goals.all.iter().filter(|goal| !reached.contains(*goal)).collect();
            assert!(missed.is_empty(), "{} on {}: {missed:?}", scenario.name, profile.as_str());
        }
    }
}

#[test]
fn a_seed_is_a_run() {
    for profile in Profile::ALL {
        let setup = setup(profile);
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
        let setup = setup(profile);
        for seed in 0..20 {
            let first = setup.run(seed);
            let again =
                setup.run_choices(steadfast_sim::choices::Choices::from_decisions(first.decisions.clone()));
            assert_eq!(first.hash(), again.hash(), "seed {seed} on {}", profile.as_str());
        }
    }
}

fn setup(profile: Profile) -> Setup {
    Setup { scenario: workers::SCENARIO, profile, flaws: Vec::new() }
}

/// The one that is asked for, as the page of a failure does.
fn scenario() -> Scenario {
    let Some(name) = variable("STEADFAST_SCENARIO") else { return workers::SCENARIO };
    scenario::find(&name).unwrap_or_else(|| panic!("STEADFAST_SCENARIO={name}: there is no such scenario"))
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
