//! The clock that worker and guard share: nanoseconds since boot, the same number in every process.
//!
//! `Instant` can't cross a process boundary, and a *duration* sent by a worker that is stopped between
//! measuring and sending would prolong the lease. So deadlines travel as points on this clock. It must not
//! be used for anything that outlives the machine's boot.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// On Linux the clock that goes on while the machine is suspended: the store's time does, too.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Now, in nanoseconds since boot.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(CLOCK);
    let seconds = u64::try_from(now.tv_sec).expect("a clock that starts at boot isn't negative");
    let nanos = u64::try_from(now.tv_nsec).expect("the nanoseconds of a timespec aren't negative");
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// The point that lies `remaining` after now.
pub(super) fn after(remaining: Duration) -> u64 {
    now_ns().saturating_add(u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX))
}

/// How long it still is until `at_ns`; zero when it has passed.
pub(super) fn until(at_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(now_ns()))
}
