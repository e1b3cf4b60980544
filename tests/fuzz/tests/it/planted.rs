//! Each target can fail: what is known to be wrong is found.

use steadfast_fuzz::{Simulated, simulate};
use steadfast_sim::storage::flaws::Flaw;

/// How many inputs at most: blind ones, made by no fuzzer.
const INPUTS_MAX: u64 = 400;

/// Bytes, of which half, three in four or all but a few stand for something else than the default.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let dense = [128, 192, 255][(seed % 3) as usize];
    // The first names the scenario `workers` on one store or the other.
    let first = (seed & 1) as u8;
    std::iter::once(first).chain((0..1_024).map(|_| if next() < dense { next() } else { 0 })).collect()
}

#[test]
fn choices_from_bytes_find_flaws_of_the_store() {
    for flaw in [Flaw::UnfencedTransition, Flaw::UnfencedReport] {
        let found = (0..INPUTS_MAX).find(|seed| {
            let Simulated(report) = simulate(&bytes(*seed), &[flaw]).unwrap();
            !report.violations.is_empty()
        });
        let seed = found.unwrap_or_else(|| panic!("{} is not found", flaw.as_str()));
        println!("{} is found by input {seed}", flaw.as_str());
        let Simulated(report) = simulate(&bytes(seed), &[]).unwrap();
        assert!(report.violations.is_empty(), "{report}");
    }
}
