//! How soon each specimen is found and how well it shrinks, search by search.
//! `cargo run --release -p steadfast-sim --example shrink [SEARCHES [SEEDS_MAX [NAME…]]]`
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Instant;

use steadfast_sim::detection::Subject;
use steadfast_sim::shrink::{TRIES_MAX, shrink_report};
use steadfast_sim::strategy::Strategy;
use steadfast_sim::world::Profile;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, otherwise| args.get(at).map_or(otherwise, |text| text.parse().expect("a number"));
    let (searches, seeds_max): (u64, u64) = (number(0, 3), number(1, 10_000));
    let names = args.get(2..).unwrap_or_default();
    for subject in
        Subject::all().filter(|subject| names.is_empty() || names.iter().any(|name| name == subject.name))
    {
        for strategy in Strategy::SEEDED {
            for search in 0..searches {
                let start = search * 10_000;
                let began = Instant::now();
                let found = subject.find(Profile::Postgres, strategy, start..start + seeds_max);
                let searched = began.elapsed().as_secs_f64();
                let name = subject.name;
                let Some(report) = found else {
                    println!("{name} {strategy}: NOTHING in {seeds_max} seeds, {searched:.1} s");
                    continue;
                };
                let seeds = report.seed.expect("it came from a seed") - start + 1;
                let broken: Vec<_> = report.violations.iter().map(|violation| violation.property).collect();
                let (shrunk, smallest) = shrink_report(&report, subject.property, TRIES_MAX);
                println!(
                    "{name} {strategy}: {seeds} seeds, {searched:.1} s, {broken:?}; {} decisions to {} in {} tries{}, {:.1} s: {}",
                    report.decisions.len(),
                    shrunk.decisions.len(),
                    shrunk.tries,
                    if shrunk.is_minimal { "" } else { ", given up" },
                    began.elapsed().as_secs_f64() - searched,
                    smallest
                        .violations
                        .iter()
                        .find(|v| v.property == subject.property)
                        .map_or("", |v| v.what.as_str()),
                );
            }
        }
    }
}
