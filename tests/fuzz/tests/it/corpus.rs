//! All that the fuzzer found worth keeping still holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use steadfast_fuzz::{SIMULATED, TARGETS};
use steadfast_sim::scenario::SCENARIOS;
use steadfast_sim::world::Profile;

/// The most files that a target's corpus has: it is minimised before it is committed.
const FILES_MAX: usize = 200;
/// The largest of them, in bytes.
const FILE_BYTES_MAX: u64 = 4_096;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

#[test]
fn every_input_of_the_corpus_holds() {
    for target in TARGETS {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join(target.name))
            .unwrap_or_else(|error| panic!("{} has no corpus: {error}", target.name))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!((5..=FILES_MAX).contains(&files.len()), "{}: {} files", target.name, files.len());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            assert!(bytes.len() as u64 <= FILE_BYTES_MAX, "{} is large", file.display());
            let held = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(held.is_ok(), "{} no longer holds: see above", file.display());
        }
    }
}

/// A target without a binary, or a folder without a target, would never be run.
#[test]
fn targets_binaries_and_corpora_are_the_same() {
    let names: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let found = |folder: PathBuf, ending: &str| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut found: Vec<String> =
            entries.filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned())).collect();
        found.sort();
        found
    };
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(found(folder(), ""), sorted);
    assert_eq!(found(folder().join("../fuzz_targets"), ".rs"), sorted);
    let manifest = std::fs::read_to_string(folder().join("../Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "fuzz/Cargo.toml: {name}");
    }
}

/// A scenario without a byte would never be fuzzed.
#[test]
fn every_scenario_has_a_byte() {
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    let there = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    assert_eq!(sorted(SIMULATED.to_vec()), sorted(there), "a new scenario goes to the end of `SIMULATED`");
}

#[test]
fn the_corpus_has_every_scenario_on_every_store() {
    let files = std::fs::read_dir(folder().join("simulation")).unwrap();
    let firsts: BTreeSet<u8> =
        files.filter_map(|file| std::fs::read(file.unwrap().path()).unwrap().first().copied()).collect();
    for (scenario, name) in (0_u8..).zip(SIMULATED) {
        for (store, profile) in (0_u8..).zip(Profile::ALL) {
            let first = scenario * 2 + store;
            let store = profile.as_str();
            assert!(firsts.contains(&first), "no input begins with {first}: {name} on {store}");
        }
    }
}
