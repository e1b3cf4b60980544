//! Bytes as choices: the engine on the simulated stores, driven by coverage rather than by seeds.

use steadfast_sim::choices::Choices;
use steadfast_sim::scenario::SCENARIOS;
use steadfast_sim::storage::flaws::Flaw;
use steadfast_sim::sweep::{Report, Setup};
use steadfast_sim::world::Profile;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "simulation",
    about: "a scenario and a store, then choices",
    run: |bytes| {
        if let Some(Simulated(report)) = simulate(bytes, &[]) {
            assert!(report.violations.is_empty(), "{report}");
        }
    },
};

/// A run from bytes.
#[derive(Debug)]
pub struct Simulated(pub Report);

/// Runs the scenario and the store that the first byte names from the choices that the others are; nothing where there
/// are none. With flaws it must be possible to find them so.
pub fn simulate(bytes: &[u8], flaws: &[Flaw]) -> Option<Simulated> {
    let (which, choices) = bytes.split_first()?;
    let (profile, scenario) = (which & 1, which >> 1);
    let setup = Setup {
        scenario: SCENARIOS[usize::from(scenario) % SCENARIOS.len()],
        profile: Profile::ALL[usize::from(profile)],
        flaws: flaws.to_vec(),
    };
    Some(Simulated(setup.run_choices(Choices::from_bytes(choices))))
}
