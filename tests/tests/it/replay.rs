//! Runs that are kept: each line of `regressions.jsonl` is a capsule, as a failure page ends with one.
//!
//! A capsule of what ships must hold: it failed once. A capsule with a flaw must still break its property: it shows that
//! its decisions are met where they were made. `STEADFAST_REPLAY=FILE` replays one capsule instead, and prints its page.

use std::path::Path;

use steadfast_sim::capsule::{Capsule, file_from};
use steadfast_sim::page::Page;
use steadfast_sim::scenario::workers;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::strategy::Strategy;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

const REGRESSIONS: &str = include_str!("regressions.jsonl");

#[test]
fn what_is_kept_replays() {
    if let Ok(file) = std::env::var("STEADFAST_REPLAY") {
        let path = file_from(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(&file));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("STEADFAST_REPLAY: {}: {error}", path.display()));
        let replayed = Capsule::from_text(&text).and_then(|capsule| capsule.replay());
        let report = replayed.unwrap_or_else(|error| panic!("STEADFAST_REPLAY: {}: {error}", path.display()));
        let Some(property) = report.headline().map(|violation| violation.property) else {
            println!("{report}");
            return;
        };
        panic!("{}", Page::as_it_is(report, property));
    }
    for (number, line) in REGRESSIONS.lines().enumerate() {
        let capsule = Capsule::from_json(line).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        let report = capsule.replay().unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        let property = capsule.property.as_deref().expect("a kept run broke something");
        if capsule.flaws.is_empty() {
            assert!(report.violations.is_empty(), "line {} fails again:\n{report}", number + 1);
        } else {
            assert!(
                report.breaks(property),
                "line {} no longer breaks {property} with {:?}; the first decision that isn't met any more is {:?}. If \
                 the place where it was made was changed on purpose, find it anew: steadfast sim sweep --json --flaw …",
                number + 1,
                capsule.flaws,
                report.unapplied.first()
            );
        }
    }
}

#[test]
fn priorities_find_a_missing_guard_too() {
    for profile in Profile::ALL {
        let flaws = vec![Flaw::UnfencedTransition];
        let setup = Setup { scenario: workers::SCENARIO, profile, flaws };
        let found = setup.find_with(Strategy::Pct, 0..1_000);
        let report = found.unwrap_or_else(|| panic!("the fence isn't missed on {}", profile.as_str()));
        let replayed = Capsule::of(&report).replay().unwrap();
        assert_eq!(replayed.hash(), report.hash(), "seed {:?} on {}", report.seed, profile.as_str());
    }
}
