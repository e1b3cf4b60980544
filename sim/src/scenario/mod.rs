//! Scenarios: who is in the world and what they do. A scenario runs in any profile from any choices, and the oracle
//! judges what came of it.

mod chaos;
mod client;
mod handler;
mod rival;
pub mod incidents;
pub mod workers;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::history::Entry;
use crate::scheduler::Bounds;
use crate::world::World;

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
}

impl Goals {
    /// None.
    pub const NONE: Goals = Goals { all: &[], reached: |_| BTreeSet::new() };
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    workers::SCENARIO,
    incidents::dropped_handle::SCENARIO,
    incidents::await_under_lock::SCENARIO,
    incidents::no_dispatcher::SCENARIO,
    incidents::stale_status::SCENARIO,
    incidents::foreign_run_id::SCENARIO,
];

/// How long ended tasks are kept at least: longer than any client sends a submit again.
pub const RETENTION: Duration = Duration::from_secs(60);

/// What one run may cost. A run that comes to rest stays far below.
pub const BOUNDS: Bounds = Bounds { polls: 2_000_000, time: Duration::from_secs(3 * 3600) };
