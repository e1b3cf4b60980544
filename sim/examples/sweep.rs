//! Runs seeds of a scenario: `cargo run --release -p steadfast-sim --example sweep -- FIRST COUNT [FLAW]`.
#![allow(clippy::print_stdout)]
use steadfast_sim::scenario::workers;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let flaw = args.next().and_then(|name| Flaw::ALL.into_iter().find(|flaw| flaw.as_str() == name));
    for profile in Profile::ALL {
        let setup = Setup { scenario: workers::SCENARIO, profile, flaws: flaw.into_iter().collect() };
        match setup.find(first..first + count) {
            Some(report) => println!("{report}"),
            None => println!("{count} seeds on {}: nothing", profile.as_str()),
        }
    }
}
