//! Runs seeds of a scenario until one breaks a property: `cargo run --release -p steadfast-sim --example sweep -- FIRST
//! COUNT [FLAW]`. With the word `hash` in place of a flaw it prints the hash of each run, to compare builds and machines.
#![allow(clippy::print_stdout)]

use steadfast_sim::scenario::workers;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let what = args.next().unwrap_or_default();
    let flaw = Flaw::ALL.into_iter().find(|flaw| flaw.as_str() == what);
    for profile in Profile::ALL {
        let setup = Setup { scenario: workers::SCENARIO, profile, flaws: flaw.into_iter().collect() };
        if what == "hash" {
            for seed in first..first + count {
                println!("{} {seed} {:016x}", profile.as_str(), setup.run(seed).hash());
            }
            continue;
        }
        match setup.find(first..first + count) {
            Some(report) => println!("{report}"),
            None => println!("{count} seeds on {}: nothing", profile.as_str()),
        }
    }
}
