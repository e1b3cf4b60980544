//! The HTTP server on a simulated network and simulated storage: partitions, losses, delays, clients that vanish,
//! servers that crash, restart and drain. What comes of it is judged by the simulator's oracle on the history of
//! the store, and by what clients were told.
//!
//! What runs is what ships: the API, engine, supervisor and sweeper; only sockets, clock and storage are simulated.
//! Every run is drawn from a seed. `STEADFAST_SEED` runs one, `STEADFAST_SEEDS` says how many.

mod calls;
mod client;
mod handler;
mod judge;
mod net;
mod process;
mod weather;

mod cancels;
mod drains;
mod events;
mod idlers;
mod restarts;
mod submits;
mod vanishing;
mod waits;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use net::Outcome;

/// How many seeds each test has where nothing else is said.
const SEEDS: u64 = 8;
/// How many of the last entries of a history are shown.
const SHOWN: usize = 60;

/// Runs a scenario from each seed; all goals must have been reached by then, or by some further ones where nobody has
/// said how many.
#[track_caller]
fn sweep(test: &str, goals: &[&'static str], scenario: impl Fn(u64) -> Outcome) {
    let (only, asked) = (number("STEADFAST_SEED"), number("STEADFAST_SEEDS"));
    let seeds = only.map_or(0..asked.unwrap_or(SEEDS), |seed| seed..seed + 1);
    let further = if only.is_none() && asked.is_none() { SEEDS * 4 } else { seeds.end };
    let mut missed: BTreeSet<&str> = goals.iter().copied().collect();
    for seed in seeds.clone().chain(seeds.end..further) {
        if seed >= seeds.end && missed.is_empty() {
            break;
        }
        let outcome = run(test, seed, &scenario);
        if only.is_some() {
            outcome.entries.iter().for_each(|entry| println!("{entry}"));
        }
        assert!(outcome.complaints.is_empty(), "{}", page(test, seed, &outcome));
        missed.retain(|goal| !outcome.reached.contains(goal));
    }
    let enough = further - seeds.start >= SEEDS;
    assert!(!enough || missed.is_empty(), "{test}: {:?} never showed that {missed:?}", seeds.start..further);
}

/// Runs it; where it panics, says from which seed.
#[track_caller]
fn run(test: &str, seed: u64, scenario: &impl Fn(u64) -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| scenario(seed)))
        .unwrap_or_else(|_| panic!("{test} panicked; {}", replay(test, seed)))
}

/// The complaints that a scenario with a fault in it brings up; none where it goes unnoticed.
fn found(scenario: impl Fn(u64) -> Outcome) -> Vec<String> {
    (0..SEEDS * 4).map(|seed| scenario(seed).complaints).find(|found| !found.is_empty()).unwrap_or_default()
}

fn page(test: &str, seed: u64, outcome: &Outcome) -> String {
    let from = outcome.entries.len().saturating_sub(SHOWN);
    let entries: Vec<String> = outcome.entries[from..].iter().map(ToString::to_string).collect();
    let complaints = outcome.complaints.join("\n  ");
    format!("{test}:\n  {complaints}\n\n{}\n\n{}", entries.join("\n"), replay(test, seed))
}

fn replay(test: &str, seed: u64) -> String {
    format!("replay: STEADFAST_SEED={seed} cargo test -p steadfast-server --test it {test} -- --nocapture")
}

/// A number, also as `0x…`.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}
