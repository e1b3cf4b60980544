//! Scenarios: who is in the world and what they do. A scenario runs in any profile from any choices, and the oracle
//! judges what came of it.

pub mod canary;
mod chaos;
mod client;
pub mod drains;
pub mod families;
pub mod followers;
pub(crate) mod handler;
pub(crate) mod operator;
pub(crate) mod progress;
mod rival;
pub mod sessions;
mod weather;
pub mod burst;
pub mod incidents;
pub mod leases;
pub mod limits;
pub mod lines;
pub mod plain;
pub mod promptness;
pub mod workers;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::faults::Fault;
use crate::history::Entry;
use crate::scheduler::Bounds;
use crate::world::{Profile, World};

/// What happens in a scenario. A test's closure is one too: see [`embed`](crate::embed).
pub(crate) type Play = &'static (dyn Fn(World) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync);

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in a sentence.
    pub about: &'static str,
    /// What must happen in it sometimes.
    pub goals: Goals,
    pub(crate) run: Play,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What must happen *sometimes*: a sweep that never comes near the dangerous interleaving proves nothing.
#[derive(Debug, Clone, Copy)]
pub struct Goals {
    /// All goals that a sweep must reach.
    pub all: &'static [&'static str],
    /// Those that a history reaches.
    pub reached: fn(&[Entry]) -> BTreeSet<&'static str>,
    /// Whether each kind of fault that its store can have must happen, too.
    pub has_faults: bool,
}

impl Goals {
    /// None.
    pub const NONE: Goals = Goals { all: &[], reached: |_| BTreeSet::new(), has_faults: false };

    /// All goals that a sweep on this store must reach.
    pub fn of(&self, profile: Profile) -> impl Iterator<Item = &'static str> {
        let has_faults = self.has_faults;
        let faults = Fault::ALL.into_iter().filter(move |fault| has_faults && fault.is_of(profile));
        self.all.iter().copied().chain(faults.map(Fault::goal))
    }
}

/// All scenarios that what ships must survive; so the [canary] isn't among them.
pub const SCENARIOS: &[Scenario] = &[
    workers::SCENARIO,
    burst::SCENARIO,
    plain::SCENARIO,
    plain::LONG_LEASES,
    sessions::SCENARIO,
    leases::SCENARIO,
    families::SCENARIO,
    limits::SCENARIO,
    lines::SCENARIO,
    followers::SCENARIO,
    drains::SCENARIO,
    promptness::SCENARIO,
    incidents::dropped_handle::SCENARIO,
    incidents::await_under_lock::SCENARIO,
    incidents::no_dispatcher::SCENARIO,
    incidents::stale_status::SCENARIO,
    incidents::foreign_run_id::SCENARIO,
];

/// Scenarios that only who names them gets: the [canary], which fails on purpose.
pub const BY_NAME: &[Scenario] = &[canary::SCENARIO];

/// The scenario of this name, of either.
pub fn find(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().chain(BY_NAME).find(|scenario| scenario.name == name).copied()
}

/// How fast a story goes: the same waits, so many times shorter.
#[derive(Debug, Clone, Copy)]
struct Tempo(u32);

impl Tempo {
    /// As written.
    const PLAIN: Tempo = Tempo(1);
    /// A few seconds for what takes minutes.
    const BRISK: Tempo = Tempo(5);

    fn of(self, wait: Duration) -> Duration {
        wait / self.0
    }
}

/// How long ended tasks are kept at least: longer than any client sends a submit again.
pub const RETENTION: Duration = Duration::from_secs(60);

/// What one run may cost. A run that comes to rest stays far below.
pub const BOUNDS: Bounds = Bounds { polls: 2_000_000, time: Duration::from_secs(3600) };

/// A scenario keeps every property, and its seeds come through what it is there for.
#[cfg(test)]
fn holds_and_reaches_its_goals(scenario: &Scenario) {
    use crate::sweep::Setup;
    use crate::world::Profile;

    /// How many seeds each has in each profile.
    const SEEDS: u64 = 200;
    for profile in Profile::ALL {
        let setup = Setup { scenario: *scenario, profile, flaws: Vec::new() };
        let mut reached = BTreeSet::new();
        for seed in 0..SEEDS {
            let report = setup.run(seed);
            assert!(report.violations.is_empty(), "{report}");
            reached.extend((scenario.goals.reached)(&report.entries));
        }
        let missed: Vec<_> = scenario.goals.all.iter().filter(|goal| !reached.contains(*goal)).collect();
        assert!(missed.is_empty(), "{SEEDS} seeds of {} never showed that {missed:?}", scenario.name);
    }
}
