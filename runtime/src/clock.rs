//! The production clock: the system's time since boot, and tokio's timer.

use std::future::Future;
use std::time::Duration;

use steadfast_core::time::{Clock, Moment};

/// The process's clock. Every value of it is the same clock.
///
/// On Linux it goes on while the machine is suspended, as the store's does: a worker that wakes up knows at once that
/// its leases must have lapsed. Its sleeps, which are tokio's, stand still meanwhile; they decide only when to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        now()
    }

    /// # Panics
    /// When it is polled outside a tokio runtime with time enabled.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }
}

#[cfg(unix)]
fn now() -> Moment {
    Moment::from_origin(Duration::from_nanos(crate::subprocess::now_ns()))
}

#[cfg(not(unix))]
fn now() -> Moment {
    use std::sync::LazyLock;
    use std::time::Instant;

    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment::from_origin(ORIGIN.elapsed())
}
