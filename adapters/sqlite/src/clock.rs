//! The store's clock: the host's, kept from going back. Leases and due times are judged by nothing else.
//!
//! Within a process, time is the later of the wall clock and of an earlier answer plus what the monotonic clock says has
//! passed since. So a wall clock that is set back neither turns the store's clock back nor makes it stand still: leases
//! go on lapsing and tasks go on coming due.
//!
//! Between processes, and across restarts, the file keeps a high-water mark (`meta.high_water`): nothing that reads it runs
//! earlier. It isn't written in every transaction, which would be one more page in each commit, but
//! - by a transaction that writes anyway, once it is [`MARK_EVERY`] old: whoever opens the store later begins at most
//!   that much before the last commit, even if all others are gone and the host's clock was set back since;
//! - by every process whose clock runs ahead of the wall clock, within a second and from then on, busy or not: only then
//!   would a process that starts now read another time than one that lived through the change.
//!
//! While nobody sets the host's clock back, all processes read the same clock anyway, and the mark changes nothing.
//! What margin remains is far less than what a worker keeps between a renewal and the end of its lease; and nothing is
//! ever claimed twice by it, since who holds a task is decided by its state and its fence alone.

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
                // The wall clock is read first: a pause between the two can only make the reading a little late.
                let (wall, at) = (wall(), Instant::now());
                let now = last.after(at);
                if wall.max(mark) > now {
                    *last = Reading { store: wall.max(mark), at };
                }
                last.after(at)
            }
        }
    }

    /// Whether a transaction at this time should move the mark.
    pub(crate) fn is_mark_due(&self, now: Timestamp, mark: Timestamp, writes: bool) -> bool {
        match self {
            StoreClock::Manual(_) => false,
            StoreClock::Host(_) => now.since(mark) >= MARK_EVERY && (writes || is_ahead(now)),
        }
    }

    /// Whether the mark has to be kept even while nothing is written.
    pub(crate) fn must_be_kept(&self) -> bool {
        match self {
            StoreClock::Manual(_) => false,
            StoreClock::Host(_) => is_ahead(self.now(Timestamp::from_micros(0))),
        }
    }
}

/// Whether the host's clock was set back behind the store's.
fn is_ahead(now: Timestamp) -> bool {
    now.since(wall()) >= MARK_EVERY
}

impl Reading {
    /// The time at a later moment, if only the monotonic clock is asked.
    fn after(self, at: Instant) -> Timestamp {
        self.store + at.saturating_duration_since(self.at)
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
    const HOUR: Duration = Duration::from_secs(3600);

    /// A clock that has read this time at this moment.
    fn having_read(store: Timestamp, at: Instant) -> StoreClock {
        StoreClock::Host(Mutex::new(Reading { store, at }))
    }

    #[test]
    fn a_wall_clock_set_back_neither_turns_the_clock_back_nor_stops_it() {
        let a_second_ago =
            Instant::now().checked_sub(Duration::from_secs(1)).expect("the host is up for longer");
        let ahead = wall() + HOUR;
        let clock = having_read(ahead, a_second_ago);
        let now = clock.now(NO_MARK);
        assert!(now >= ahead + Duration::from_secs(1));
        assert!(clock.now(NO_MARK) >= now);
    }

    #[test]
    fn a_wall_clock_set_forward_is_followed() {
        let before = wall();
        assert!(having_read(before - HOUR, Instant::now()).now(NO_MARK) >= before);
    }

    #[test]
    fn the_clock_is_never_behind_the_mark_and_goes_on_from_there() {
        let mark = wall() + HOUR;
        let clock = StoreClock::new(None);
        assert!(clock.now(NO_MARK) < mark);
        let now = clock.now(mark);
        assert!(now >= mark);
        assert!(clock.now(NO_MARK) >= now);
    }

    #[test]
    fn the_mark_moves_with_writes_and_without_them_only_while_the_wall_clock_is_behind() {
        let clock = StoreClock::new(None);
        let now = clock.now(NO_MARK);
        assert!(clock.is_mark_due(now, now - MARK_EVERY, true));
        assert!(!clock.is_mark_due(now, now - MARK_EVERY / 2, true), "young enough");
        assert!(!clock.is_mark_due(now, now - HOUR, false), "every process reads the same clock");
        assert!(!clock.must_be_kept());

        let clock = having_read(now + HOUR, Instant::now());
        let now = clock.now(NO_MARK);
        assert!(clock.must_be_kept());
        assert!(clock.is_mark_due(now, now - MARK_EVERY, false));
    }

    #[test]
    fn a_manual_clock_is_believed_when_it_goes_back() {
        let manual = ManualClock::at(Timestamp::from_micros(10));
        let clock = StoreClock::new(Some(manual.clone()));
        manual.set(Timestamp::from_micros(5));
        assert_eq!(clock.now(Timestamp::from_micros(8)), Timestamp::from_micros(5));
        assert!(!clock.is_mark_due(wall(), NO_MARK, true));
    }
}
