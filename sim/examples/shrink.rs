//! How well failures shrink: for each flaw the first seeds that find it, and how many decisions are left.
//! `cargo run --release -p steadfast-sim --example shrink [FAILURES [TRIES]]`
#![allow(clippy::print_stdout)]

use steadfast_sim::scenario::workers;
use steadfast_sim::shrink::{TRIES_MAX, shrink_report};
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

/// The last seed that is tried.
const SEEDS_MAX: u64 = 20_000;

fn main() {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<u32>().expect("a number"));
    let failures = args.next().map_or(5, |count| usize::try_from(count).expect("few"));
    let tries_max = args.next().unwrap_or(TRIES_MAX);
    let mut all = Vec::new();
    for flaw in Flaw::ALL {
        for profile in Profile::ALL {
            let setup = Setup { scenario: workers::SCENARIO, profile, flaws: vec![flaw] };
            let mut seed = 0;
            let mut sizes = Vec::new();
            while let (true, Some(report)) = (sizes.len() < failures, setup.find(seed..SEEDS_MAX)) {
                seed = report.seed.expect("it came from a seed") + 1;
                let property = report.headline().expect("it failed").property;
                let (shrunk, smallest) = shrink_report(&report, property, tries_max);
                assert!(smallest.breaks(property), "what is shrunk fails in the same way");
                sizes.push(shrunk.decisions.len());
                println!(
                    "{} on {}, seed {}: {property}, {} decisions to {} in {} tries{}",
                    flaw.as_str(),
                    profile.as_str(),
                    seed - 1,
                    report.decisions.len(),
                    shrunk.decisions.len(),
                    shrunk.tries,
                    if shrunk.is_minimal { "" } else { ", given up" }
                );
            }
            sizes.sort_unstable();
            if let Some(median) = sizes.get(sizes.len() / 2) {
                println!("{} on {}: median {median} of {sizes:?}", flaw.as_str(), profile.as_str());
                all.extend(sizes);
            }
        }
    }
    all.sort_unstable();
    println!("all: median {} of {}", all[all.len() / 2], all.len());
}
