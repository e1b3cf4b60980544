//! Bytes as choices: the engine on the simulated stores, driven by coverage rather than by seeds.

use steadfast_sim::choices::Choices;
use steadfast_sim::scenario;
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

/// The scenarios by the first byte of an input: a new one goes to the end, so that the inputs that are kept stay the
/// runs that they were.
pub const SIMULATED: &[&str] = &[
    "workers",
    "burst",
    "plain",
    "long-leases",
    "sessions",
    "leases",
    "families",
    "limits",
    "lines",
    "followers",
    "drains",
    "promptness",
    "incident-1-dropped-handle",
    "incident-2-await-under-lock",
    "incident-3-no-dispatcher",
    "incident-4-stale-status",
    "incident-5-foreign-run-id",
];

/// A run from bytes.
#[derive(Debug)]
pub struct Simulated(pub Report);

/// Runs the scenario and the store that the first byte names from the choices that the others are; nothing where it
/// names none. With flaws it must be possible to find them so.
///
/// # Panics
/// A scenario of the list is gone.
pub fn simulate(bytes: &[u8], flaws: &[Flaw]) -> Option<Simulated> {
    let (which, choices) = bytes.split_first()?;
    let (profile, scenario) = (which & 1, which >> 1);
    let name = SIMULATED.get(usize::from(scenario))?;
    let setup = Setup {
        scenario: scenario::find(name).unwrap_or_else(|| panic!("there is no scenario {name}")),
        profile: Profile::ALL[usize::from(profile)],
        flaws: flaws.to_vec(),
    };
    Some(Simulated(setup.run_choices(Choices::from_bytes(choices))))
}
