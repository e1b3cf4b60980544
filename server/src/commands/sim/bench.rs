//! `sim bench`: how fast the simulator searches, on one core.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use steadfast_sim::determinism;
use steadfast_sim::scenario::workers;
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

use super::super::Out;
use super::Bench;
use crate::failure::Failure;

/// What was measured, over the profiles together and each alone.
#[derive(Debug, Serialize)]
struct Figures {
    /// Runs of three workers × twenty tasks with every fault in a second.
    seeds_per_s: f64,
    /// Polls in a second.
    steps_per_s: f64,
    /// How much faster than real time virtual time passes.
    virtual_over_wall: f64,
    /// What hashing every event adds to a run, as a share of it.
    hash_overhead: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<OfProfile>,
}

#[derive(Debug, Serialize)]
struct OfProfile {
    profile: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    seeds: u64,
    steps: u64,
    virtual_time: Duration,
    wall: Duration,
    hashing: Duration,
}

pub(super) fn bench(args: &Bench, out: Out) -> Result<ExitCode, Failure> {
    let mut all = Sums::default();
    let mut profiles = Vec::new();
    for profile in Profile::ALL {
        let sums = measure(profile, args.time);
        all.add(sums);
        profiles.push(OfProfile { profile: profile.as_str(), figures: sums.figures(Vec::new()) });
    }
    let figures = all.figures(profiles);
    out.write(&figures, |out| {
        let scenario = workers::SCENARIO.name;
        writeln!(
            out,
            "scenario {scenario}, every fault, one core{}",
            if cfg!(debug_assertions) { ", NOT in release" } else { "" }
        )?;
        let all = [("all", &figures)].into_iter();
        for (name, f) in all.chain(figures.profiles.iter().map(|one| (one.profile, &one.figures))) {
            writeln!(
                out,
                "{name:<9} {:>7.0} seeds/s {:>10.0} steps/s {:>9.0} × real time, hashing adds {:.1} %",
                f.seeds_per_s,
                f.steps_per_s,
                f.virtual_over_wall,
                f.hash_overhead * 100.0
            )?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn measure(profile: Profile, time: Duration) -> Sums {
    let setup = Setup { scenario: workers::SCENARIO, profile, flaws: Vec::new() };
    let mut sums = Sums::default();
    let started = Instant::now();
    while started.elapsed() < time || sums.seeds == 0 {
        let begun = Instant::now();
        let report = setup.run(sums.seeds);
        sums.wall += begun.elapsed();
        let begun = Instant::now();
        // Once more, as the run has done it.
        std::hint::black_box(determinism::hash(&report.entries));
        sums.hashing += begun.elapsed();
        sums.seeds += 1;
        sums.steps += report.steps;
        sums.virtual_time += report.virtual_time;
    }
    sums
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.wall += other.wall;
        self.hashing += other.hashing;
    }

    fn figures(self, profiles: Vec<OfProfile>) -> Figures {
        let wall = self.wall.as_secs_f64();
        let hashing = self.hashing.as_secs_f64();
        Figures {
            seeds_per_s: self.seeds as f64 / wall,
            steps_per_s: self.steps as f64 / wall,
            virtual_over_wall: self.virtual_time.as_secs_f64() / wall,
            hash_overhead: hashing / (wall - hashing),
            profiles,
        }
    }
}
