//! The sweeper: part of every worker and server, not the user's duty. Reclaims lapsed leases and ends what is
//! overdue, for ever.

use std::time::Duration;

use crate::engine::Engine;
use crate::storage::Storage;
use crate::time::Clock;

/// How often to look. A task whose worker was killed waits for its lease and at most this long; two reads of an index
/// each second cost a store next to nothing, even from many workers.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Lapsed leases, or overdue tasks, taken up in one go.
const PAGE: u32 = 500;
/// Pages in one sweep; the rest waits for the next.
const PAGES_MAX: u32 = 100;

/// Sweeps now and then every `every`, until dropped. Storage errors are logged, and the next sweep tries again.
pub async fn run<S: Storage, C: Clock>(engine: Engine<S, C>, every: Duration) {
    loop {
        match engine.reclaim_lapsed(PAGE, PAGES_MAX).await {
            Ok(0) => {}
            Ok(reclaimed) => tracing::info!(reclaimed, "swept lapsed leases"),
            Err(error) => tracing::warn!(?error, "the sweep failed and will be repeated"),
        }
        match engine.expire_overdue(PAGE, PAGES_MAX).await {
            Ok(0) => {}
            Ok(expired) => tracing::info!(expired, "ended overdue tasks"),
            Err(error) => tracing::warn!(?error, "the sweep for deadlines failed and will be repeated"),
        }
        engine.clock().sleep(every).await;
    }
}
