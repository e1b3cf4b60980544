//! The clocks of the host that the store's clock is made of.

use std::fmt;
use std::time::{Duration, SystemTime};

use steadfast_core::time::{Timestamp, micros};

/// What a host says about time.
pub(crate) trait HostClocks: fmt::Debug + Send + Sync {
    /// The wall clock, which may be set at any moment.
    fn wall(&self) -> Timestamp;

    /// Time that passes evenly and is never set. Where there is a [`boot`](Self::boot), all processes of the host read
    /// the same; else its origin means nothing elsewhere.
    fn steady(&self) -> Duration;

    /// What no other boot, of this host or another, is called. `None` where the host doesn't say.
    fn boot(&self) -> Option<&str>;
}

/// The clocks of the host that this process runs on.
#[derive(Debug)]
pub(crate) struct RealClocks {
    #[cfg(target_os = "linux")]
    boot: Option<String>,
    #[cfg(not(target_os = "linux"))]
    origin: std::time::Instant,
}

impl RealClocks {
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> Self {
        let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self { boot: read.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()) }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl HostClocks for RealClocks {
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_micros(micros(since))
    }

    /// Goes on while the host is suspended, as the wall clock does.
    #[cfg(target_os = "linux")]
    fn steady(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::Boottime))
            .expect("a clock that starts at boot isn't negative")
    }

    #[cfg(not(target_os = "linux"))]
    fn steady(&self) -> Duration {
        self.origin.elapsed()
    }

    #[cfg(target_os = "linux")]
    fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
    }

    #[cfg(not(target_os = "linux"))]
    fn boot(&self) -> Option<&str> {
        None
    }
}
