//! `sim bench`: how fast the simulator searches, on one core.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use steadfast_sim::determinism;
use steadfast_sim::scenario::{Scenario, burst, plain, workers};
use steadfast_sim::sweep::Setup;
use steadfast_sim::world::Profile;

use super::super::Out;
use super::Bench;
use crate::failure::Failure;

/// Three workers and twenty tasks; the same under long leases; and with the longer stories around them.
const SCENARIOS: [Scenario; 4] = [plain::SCENARIO, plain::LONG_LEASES, burst::SCENARIO, workers::SCENARIO];
/// Runs before the clock is started.
const WARM_UP: u64 = 5;

/// What was measured. All times are CPU time of the one thread that runs: on a core of its own that is real time, and
/// on a machine that others use it doesn't count them.
#[derive(Debug, Serialize)]
struct Figures {
    /// Runs of three workers × twenty tasks with faults in a second (`plain`).
    seeds_per_s: f64,
    /// Polls in a second, in the same runs.
    steps_per_s: f64,
    /// How much faster than real time virtual time passes where leases and backoff dominate (`long-leases`).
    virtual_over_wall: f64,
    /// What hashing every event adds to a run, as a share of it (`plain`).
    hash_overhead: f64,
    /// How much of a core the thread had.
    core_share: f64,
    runs: Vec<OfRuns>,
}

/// What was measured of one scenario on one profile.
#[derive(Debug, Serialize)]
struct OfRuns {
    scenario: &'static str,
    profile: &'static str,
    seeds_per_s: f64,
    steps_per_s: f64,
    virtual_over_wall: f64,
    hash_overhead: f64,
    steps_per_seed: f64,
    events_per_seed: f64,
    virtual_s_per_seed: f64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    seeds: u64,
    steps: u64,
    events: u64,
    virtual_time: Duration,
    cpu: Duration,
    wall: Duration,
    hashing: Duration,
}

pub(super) fn bench(args: &Bench, out: Out) -> Result<ExitCode, Failure> {
    let mut all = Sums::default();
    let mut by_scenario = [Sums::default(); SCENARIOS.len()];
    let mut runs = Vec::new();
    for (scenario, sums) in SCENARIOS.iter().zip(&mut by_scenario) {
        for profile in Profile::ALL {
            let measured = measure(*scenario, profile, args.time);
            sums.add(measured);
            runs.push(measured.of_runs(scenario.name, profile));
        }
        all.add(*sums);
    }
    let [plain, leases, ..] = by_scenario;
    let figures = Figures {
        seeds_per_s: plain.seeds_per_s(),
        steps_per_s: plain.steps_per_s(),
        virtual_over_wall: leases.virtual_over_wall(),
        hash_overhead: plain.hash_overhead(),
        core_share: all.cpu.as_secs_f64() / all.wall.as_secs_f64(),
        runs,
    };
    out.write(&figures, |out| {
        let Figures { seeds_per_s, steps_per_s, virtual_over_wall, hash_overhead, core_share, runs } = &figures;
        let debug = if cfg!(debug_assertions) { ", NOT in release" } else { "" };
        writeln!(
            out,
            "{seeds_per_s:.0} seeds/s, {steps_per_s:.0} steps/s, {virtual_over_wall:.0} × real time, hashing adds {:.1} %",
            hash_overhead * 100.0
        )?;
        writeln!(out, "every fault, by the CPU time of one thread, which had {core_share:.2} of a core{debug}")?;
        for of in runs {
            writeln!(
                out,
                "{:<8} {:<9} {:>6.0} seeds/s {:>9.0} steps/s {:>8.0} × real time; a seed has {:>5.0} steps, {:>4.0} events, {:>4.0} s",
                of.scenario,
                of.profile,
                of.seeds_per_s,
                of.steps_per_s,
                of.virtual_over_wall,
                of.steps_per_seed,
                of.events_per_seed,
                of.virtual_s_per_seed
            )?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn measure(scenario: Scenario, profile: Profile, time: Duration) -> Sums {
    let setup = Setup { scenario, profile, flaws: Vec::new() };
    for seed in 0..WARM_UP {
        std::hint::black_box(setup.run(seed));
    }
    let mut sums = Sums::default();
    let started = Instant::now();
    while started.elapsed() < time || sums.seeds == 0 {
        let begun = cpu_time();
        let report = setup.run(sums.seeds);
        let ran = cpu_time();
        // Once more, as the run has done it.
        std::hint::black_box(determinism::hash(&report.entries));
        sums.hashing += cpu_time() - ran;
        sums.steps += report.steps;
        sums.events += report.entries.len() as u64;
        sums.virtual_time += report.virtual_time;
        // What a run leaves behind must be cleared away as well.
        let dropped = cpu_time();
        drop(report);
        sums.cpu += (ran - begun) + (cpu_time() - dropped);
        sums.seeds += 1;
    }
    sums.wall = started.elapsed();
    sums
}

/// What this thread has had of a core.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("CPU time isn't negative")
}

impl Sums {
    fn add(&mut self, other: Sums) {
        let Sums { seeds, steps, events, virtual_time, cpu, wall, hashing } = other;
        self.seeds += seeds;
        self.steps += steps;
        self.events += events;
        self.virtual_time += virtual_time;
        self.cpu += cpu;
        self.wall += wall;
        self.hashing += hashing;
    }

    fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.cpu.as_secs_f64()
    }

    fn steps_per_s(&self) -> f64 {
        self.steps as f64 / self.cpu.as_secs_f64()
    }

    fn virtual_over_wall(&self) -> f64 {
        self.virtual_time.as_secs_f64() / self.cpu.as_secs_f64()
    }

    fn hash_overhead(&self) -> f64 {
        self.hashing.as_secs_f64() / (self.cpu - self.hashing).as_secs_f64()
    }

    fn of_runs(&self, scenario: &'static str, profile: Profile) -> OfRuns {
        let seeds = self.seeds as f64;
        OfRuns {
            scenario,
            profile: profile.as_str(),
            seeds_per_s: self.seeds_per_s(),
            steps_per_s: self.steps_per_s(),
            virtual_over_wall: self.virtual_over_wall(),
            hash_overhead: self.hash_overhead(),
            steps_per_seed: self.steps as f64 / seeds,
            events_per_seed: self.events as f64 / seeds,
            virtual_s_per_seed: self.virtual_time.as_secs_f64() / seeds,
        }
    }
}
