//! Each specimen is found by its property from seeds alone; its repaired twin survives the same seeds.

use std::collections::BTreeSet;

use super::*;
use crate::oracle::PROPERTIES;

/// Within how many seeds each must be found.
const SEEDS_MAX: u64 = 1_000;
/// How many seeds each is run on, faulty and repaired.
const SEEDS: u64 = 200;

#[test]
fn random_seeds_find_each_specimen_by_its_property() {
    for specimen in SPECIMENS {
        for profile in Profile::ALL {
            let found = (0..SEEDS_MAX).find_map(|seed| {
                let report = specimen.run(profile, Choices::from_seed(seed));
                specimen.is_found_by(&report).then_some((seed, report))
            });
            let name = specimen.name;
            let Some((seed, report)) = found else { panic!("{name} goes unfound on {}", profile.as_str()) };
            let broken: Vec<_> = report.violations.iter().map(|violation| violation.property).collect();
            println!("{name} on {}: {} seeds, {broken:?}", profile.as_str(), seed + 1);
            let again = specimen.run(profile, Choices::from_decisions(report.decisions.clone()));
            assert_eq!(report.hash(), again.hash(), "the decisions of {name} don't replay it");
        }
    }
}

/// A specimen that can't pass isn't a faithful one: what is found in it must be the fault of its design.
#[test]
fn the_repaired_designs_survive_the_same_seeds() {
    for specimen in SPECIMENS {
        for profile in Profile::ALL {
            let report = specimen.setup_fixed(profile).find(0..SEEDS);
            if let Some(report) = report {
                panic!("{} is not repaired:\n{report}", specimen.name);
            }
        }
    }
}

/// Zero is always the benign default, so what is shrunk names only what matters. Whoever answers with an id that nobody
/// uses does so in any case.
#[test]
fn without_departures_nothing_goes_wrong_but_the_foreign_id() {
    for specimen in SPECIMENS {
        for profile in Profile::ALL {
            let report = specimen.run(profile, Choices::from_decisions([]));
            let expected: &[&str] = if specimen.name == "foreign-run-id" { &["P13", "P20"] } else { &[] };
            let broken: Vec<_> = report.violations.iter().map(|violation| violation.property).collect();
            assert_eq!(broken, expected, "{report}");
        }
    }
}

/// The deadlock is named: who waits, for what, and who holds it.
#[test]
fn a_run_that_is_stuck_says_who_waits_for_what() {
    let specimen = Specimen::find("await-under-lock").expect("it is in the list");
    for profile in Profile::ALL {
        let seeds = (0..SEEDS).map(|seed| specimen.run(profile, Choices::from_seed(seed)));
        let stuck: Vec<String> = seeds
            .flat_map(|report| report.violations)
            .map(|violation| violation.what)
            .filter(|what| what.starts_with("no progress"))
            .collect();
        assert!(stuck.len() > 10, "only {} of {SEEDS} runs got stuck", stuck.len());
        for what in stuck {
            for part in [
                "api/POST /run",
                "waits for the old task's end, holding the registry's lock",
                "api/call_agent run-",
                "waits for the registry's lock",
            ] {
                assert!(what.contains(part), "{part:?} is missing in: {what}");
            }
        }
    }
}

#[test]
fn a_specimen_names_an_incident_a_property_and_nothing_twice() {
    let names: BTreeSet<_> = SPECIMENS.iter().map(|specimen| specimen.name).collect();
    assert_eq!(names.len(), SPECIMENS.len());
    for specimen in SPECIMENS {
        assert!(PROPERTIES.iter().any(|property| property.name == specimen.property), "{specimen:?}");
        assert_eq!(Specimen::find(specimen.name).map(|found| found.name), Some(specimen.name));
        assert_eq!(specimen.faulty.name, specimen.name);
    }
    let incidents: BTreeSet<_> = SPECIMENS.iter().map(|specimen| specimen.incident).collect();
    assert_eq!(incidents, (1..=5).collect());
}
