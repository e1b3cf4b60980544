//! The store's clock: the host's, kept from going back. Leases and due times are judged by nothing else.
//!
//! Within a process, time is the later of the wall clock and of the last answer plus what the monotonic clock says
//! has passed since. So a wall clock that is set back neither turns the store's clock back nor makes it stand still:
//! leases go on lapsing and tasks go on coming due.
//!
//! Between processes, and across restarts, the file keeps a high-water mark (`meta.clock`). Every write transaction
//! reads it and never runs earlier; the transaction that finds it older than [`MARK_EVERY`], and writes anyway, moves
//! it on. It isn't written in every transaction, because that would be one more page in each commit. What this buys:
//! - while nobody sets the host's clock back, all processes read the same clock, and the mark changes nothing;
//! - after it was set back, processes that lived through it agree (each goes on by its monotonic clock), and one that
//!   starts later begins at the mark: at most [`MARK_EVERY`] behind the others, and it can't fall further behind,
//!   because their commits move the mark that it reads. Leases between them are judged within that margin: far
//!   less than what a worker keeps between renewing a lease and its end. Nothing is claimed twice or lost by it, since
//!   who holds a task is decided by state and fence alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use steadfast_core::time::{ManualClock, Timestamp, micros};

/// How old the stored high-water mark may get before a writing transaction moves it.
pub(crate) const MARK_EVERY: Duration = Duration::from_millis(100);

/// One for each open store, shared by its threads.
#[derive(Debug)]
pub(crate) enum StoreClock {
    /// The host's.
    Host(Mutex<Reading>),
    /// Set by hand, and believed even where it goes back.
    Manual(ManualClock),
}

/// What the clock said, and when by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    store: Timestamp,
    at: Instant,
}

impl StoreClock {
    pub(crate) fn new(manual: Option<ManualClock>) -> Self {
        match manual {
            Some(clock) => StoreClock::Manual(clock),
            None => StoreClock::Host(Mutex::new(Reading { store: wall(), at: Instant::now() })),
        }
    }

    /// The time now, not before `mark`, the store's high-water mark.
    pub(crate) fn now(&self, mark: Timestamp) -> Timestamp {
        match self {
            StoreClock::Manual(clock) => clock.now(),
            StoreClock::Host(last) => {
                // A reading is replaced whole, so that a panic elsewhere can't leave half of one.
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = last.next(wall(), Instant::now(), mark);
                last.store
            }
        }
    }

    /// Whether a transaction that writes at this time should move the mark.
    pub(crate) fn is_mark_due(&self, now: Timestamp, mark: Timestamp) -> bool {
        match self {
            StoreClock::Manual(_) => false,
            StoreClock::Host(_) => now.as_micros() - mark.as_micros() >= micros(MARK_EVERY),
        }
    }
}

impl Reading {
    fn next(self, wall: Timestamp, at: Instant, mark: Timestamp) -> Reading {
        let passed = at.saturating_duration_since(self.at);
        Reading { store: wall.max(self.store + passed).max(mark), at }
    }
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_micros(micros(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_MARK: Timestamp = Timestamp::from_micros(0);

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_wall_clock_set_back_neither_turns_the_clock_back_nor_stops_it() {
        let start = Instant::now();
        let reading = Reading { store: seconds(1_000), at: start };
        let reading = reading.next(seconds(500), start + Duration::from_secs(3), NO_MARK);
        assert_eq!(reading.store, seconds(1_003));
        let reading = reading.next(seconds(507), start + Duration::from_secs(10), NO_MARK);
        assert_eq!(reading.store, seconds(1_010));
    }

    #[test]
    fn a_wall_clock_set_forward_is_followed() {
        let start = Instant::now();
        let reading = Reading { store: seconds(1_000), at: start };
        assert_eq!(reading.next(seconds(1_600), start, NO_MARK).store, seconds(1_600));
    }

    #[test]
    fn the_clock_is_never_behind_the_mark_and_goes_on_from_there() {
        let start = Instant::now();
        let reading = Reading { store: seconds(500), at: start }.next(seconds(500), start, seconds(1_000));
        assert_eq!(reading.store, seconds(1_000));
        let reading = reading.next(seconds(502), start + Duration::from_secs(2), seconds(1_000));
        assert_eq!(reading.store, seconds(1_002));
    }

    #[test]
    fn a_manual_clock_is_believed_when_it_goes_back() {
        let manual = ManualClock::at(seconds(10));
        let clock = StoreClock::new(Some(manual.clone()));
        manual.set(seconds(5));
        assert_eq!(clock.now(seconds(8)), seconds(5));
        assert!(!clock.is_mark_due(seconds(500), NO_MARK));
    }
}
