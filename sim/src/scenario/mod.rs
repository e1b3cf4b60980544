//! Scenarios: who is in the world and what they do. A scenario runs in any profile from any choices, and the oracle
//! judges what came of it.

mod chaos;
mod client;
mod handler;
mod rival;
pub mod workers;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::scheduler::Bounds;
use crate::world::World;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in a sentence.
    pub about: &'static str,
    pub(crate) run: fn(World) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[workers::SCENARIO];

/// How long ended tasks are kept at least: longer than any client sends a submit again.
pub const RETENTION: Duration = Duration::from_secs(60);

/// What one run may cost. A run that comes to rest stays far below.
pub const BOUNDS: Bounds = Bounds { polls: 2_000_000, time: Duration::from_secs(3 * 3600) };
