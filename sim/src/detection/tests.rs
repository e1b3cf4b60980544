//! Each flaw is found by its property within few seeds; and what only one property sees goes unfound without it.

use std::collections::BTreeSet;

use super::*;
use crate::capsule::Capsule;
use crate::oracle::PROPERTIES;

/// Within how many seeds each must be found.
const SEEDS_MAX: u64 = 500;

/// For each property something that no other property sees. What P10 sees, a child that is blocked for ever, never ends
/// either, so P1 sees it too.
const SOLE: &[(&str, &str)] = &[
    ("P1", "hints-without-polling"),
    ("P2", "lost-answer-is-definite"),
    ("P3", "claim-without-lock"),
    ("P4", "unfenced-report"),
    ("P5", "promotion-keeps-revision"),
    ("P6", "repeated-end-is-written"),
    ("P7", "row-cache-in-client"),
    ("P8", "absence-cached"),
    ("P9", "first-parent-releases"),
    ("P10", "no-share-lock-on-parents"),
    ("P11", "last-in-line-first"),
    ("P12", "retry-without-backoff"),
    ("P13", "alias-taken-over"),
    ("P14", "error-as-success"),
    ("P15", "cancel-forgotten"),
    ("P16", "deadline-by-workers-clock"),
    ("P18", "limit-outside-claim"),
    ("P19", "id-cursor-reader"),
    ("P20", "report-not-kept"),
    ("P21", "drain-forgets-claimed"),
    ("P22", "connection-leak"),
];

#[test]
fn each_flaw_is_found_by_its_property_on_postgres() {
    each_flaw_is_found(Profile::Postgres);
}

#[test]
fn each_flaw_is_found_by_its_property_on_sqlite() {
    each_flaw_is_found(Profile::Sqlite);
}

fn each_flaw_is_found(profile: Profile) {
    let mut missed = Vec::new();
    for subject in Subject::all().filter(|subject| matches!(subject.source, Source::Flaw(_))) {
        if !subject.exists_on(profile) {
            continue;
        }
        let (name, property) = (subject.name, subject.property);
        match subject.find(profile, Strategy::Random, 0..SEEDS_MAX) {
            Some(report) => {
                println!("{name} on {}: seed {:?} breaks {property}", profile.as_str(), report.seed)
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "{SEEDS_MAX} seeds on {} don't find {missed:?}", profile.as_str());
}

#[test]
fn without_a_property_what_only_it_sees_goes_unfound() {
    for (property, name) in SOLE {
        let subject = Subject::all().find(|subject| subject.name == *name).expect("it is among the flaws");
        assert_eq!(subject.property, *property, "{name}");
        let setup = subject.setup(Profile::Postgres);
        let found = (0..SEEDS_MAX).find(|seed| {
            let report = setup.run(*seed);
            let others = report.violations_without(property);
            let are_expected = others.iter().all(|other| *property == "P10" && other.property == "P1");
            assert!(are_expected, "seed {seed}: without {property}, {name} is still found by {others:?}");
            report.breaks(property)
        });
        let seed = found.unwrap_or_else(|| panic!("{SEEDS_MAX} seeds don't find {name}"));
        println!("{property}: nothing else sees {name} in seed {seed}");
    }
    let covered: BTreeSet<_> = SOLE.iter().map(|(property, _)| *property).collect();
    // What a service's own test asserts is nothing that Steadfast promises.
    let promised = PROPERTIES.iter().filter(|property| property.name.starts_with('P'));
    let all: BTreeSet<_> = promised.map(|property| property.name).collect();
    assert_eq!(covered, all, "each property has something that only it sees");
}

#[test]
fn names_and_properties_are_known_and_nothing_is_named_twice() {
    let all: Vec<_> = Subject::all().collect();
    let names: BTreeSet<_> = all.iter().map(|subject| subject.name).collect();
    assert_eq!(names.len(), SPECIMENS.len() + Flaw::ALL.len());
    for subject in all {
        assert!(PROPERTIES.iter().any(|property| property.name == subject.property), "{subject:?}");
    }
}

/// The page of a specimen ends with a capsule like any other.
#[test]
fn what_is_found_in_a_subject_replays_from_its_capsule() {
    for name in ["dropped-handle", "stale-snapshot", "error-as-success", "id-cursor-reader"] {
        let subject = Subject::all().find(|subject| subject.name == name).unwrap();
        let report = subject.find(Profile::Postgres, Strategy::Random, 0..1_000).unwrap();
        let replayed = Capsule::of(&report).replay().unwrap();
        assert_eq!(replayed.hash(), report.hash(), "{name}");
    }
}

/// Reporting itself: what fails on purpose is found, shrunk to what matters, named on its page, and replays.
#[test]
fn the_canary_is_reported() {
    use crate::page::Page;
    use crate::scenario::{SCENARIOS, canary};

    assert!(SCENARIOS.iter().all(|scenario| scenario.name != canary::SCENARIO.name));
    for profile in Profile::ALL {
        let setup = Setup { scenario: canary::SCENARIO, profile, flaws: Vec::new() };
        let report = setup.find(0..100).expect("it sings in every other run");
        let page = Page::of(&report, canary::PROPERTY);
        let text = page.to_string();
        assert!(text.starts_with(&format!("{} is broken", canary::PROPERTY)), "{text}");
        let [decision] = page.report().decisions.as_slice() else { panic!("one decision matters:\n{text}") };
        assert_eq!((decision.site.site.as_ref(), decision.value), ("sings", 3));
        let replayed = Capsule::from_json(text.lines().last().unwrap()).unwrap().replay().unwrap();
        assert_eq!(replayed.hash(), page.report().hash());
        assert!(replayed.breaks(canary::PROPERTY) && replayed.unapplied.is_empty());
    }
}
