//! The store's clock: the same for all processes of a host, not moved by setting the host's clock, and never going back.
//! Leases and due times are judged by nothing else.
//!
//! **The line.** On Linux all processes of a host share a clock that nobody can set: the time since boot. The file keeps
//! a line through it (`meta.boot`, `line_from`, `line_at`, `line_gap`): at so many microseconds since this boot, the
//! store's time was that. Everyone reads it with the transaction that they make anyway, and goes on from there. So
//! whoever sets the wall clock by an hour, forward or back, neither grants nor takes a lease, in no process.
//!
//! **The gap.** Absolute due times are meant by the wall clock, and so the line bends towards it, by [`SLEW`] of the time
//! that passes: a lease of 30 s ends at most 1.5 s early or 1.6 s late. The gap to be closed is part of the line, so that the
//! line says by itself where it ends, even if nobody moves it any more; and a new line begins where the old one is.
//!
//! The price: where the wall clock is put right by hours (a host without a battery, a virtual machine that was frozen),
//! times of day are late for twenty times as long, unless the host is restarted. `doctor` says how far they are off.
//!
//! **Who draws it.** The first to open the store in a boot: at the later of the wall clock and of the high-water mark.
//! From then on whoever writes anyway, together with the mark; and, once the wall clock has been set, any process within
//! a second, busy or not.
//!
//! **The high-water mark** (`meta.high_mark`): nothing that reads it runs earlier. It rules where there is no line for
//! this boot: after a restart of the host, or in a copy of the file elsewhere. It isn't written in every transaction,
//! which would be one more page in each commit, but by a transaction that writes anyway, once it is [`MARK_EVERY`] old:
//! so whoever begins with it begins at most that much before the last commit.
//!
//! **Where the host has no such clock,** or doesn't say which boot it is, time is the later of the wall clock and of an
//! earlier answer plus what the monotonic clock says has passed since. So a wall clock that is set back neither turns the
//! store's clock back nor makes it stand still, but one that is set forward is followed at once. And every process whose
//! clock runs ahead of the wall clock keeps the mark, within a second and from then on, busy or not: only then would a
//! process that starts now read another time than one that lived through the change.
//!
//! Nothing is ever claimed twice by the clock, since who holds a task is decided by its state and its fence alone.

mod host;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Row, TransactionBehavior};
use steadfast_core::time::{ManualClock, Timestamp, micros};

use crate::clock::host::{HostClocks, RealClocks};

/// How old the stored high-water mark may get before a writing transaction moves it; and how far the wall clock may be
/// from where the line expects it before a transaction that doesn't write draws a new one.
pub(crate) const MARK_EVERY: Duration = Duration::from_millis(100);

/// The line bends towards the wall clock by one part in so many of the time that passes.
const SLEW: i64 = 20;

/// What every transaction reads first.
pub(crate) const READ: &str = "SELECT high_mark, boot, line_from, line_at, line_gap FROM meta WHERE one = 1";

const WRITE: &str = "UPDATE meta SET high_mark = ?1, boot = ?2, line_from = ?3, line_at = ?4, line_gap = ?5
     WHERE one = 1";

/// One for each open store, shared by its threads.
#[derive(Debug)]
pub(crate) enum StoreClock {
    /// The host's.
    Host(Host),
    /// Set by hand, and believed even where it goes back.
    Manual(ManualClock),
}

/// What the store's clock was, read from the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    mark: Timestamp,
    /// Only the line of this boot.
    line: Option<Line>,
}

/// What the store's clock is, by the host's time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    /// Microseconds since boot.
    from: i64,
    /// The store's time then.
    at: Timestamp,
    /// How far the wall clock was ahead of it, in microseconds; negative where it was behind.
    gap: i64,
}

/// The store's clock by the host's.
#[derive(Debug)]
pub(crate) struct Host {
    clocks: Box<dyn HostClocks>,
    last: Mutex<Reading>,
}

/// What the clock said last, and by what.
#[derive(Debug, Clone, Copy)]
struct Reading {
    store: Timestamp,
    /// By the host's steady clock.
    steady: i64,
    line: Option<Line>,
}

impl StoreClock {
    pub(crate) fn new(manual: Option<ManualClock>) -> Self {
        match manual {
            Some(clock) => StoreClock::Manual(clock),
            None => StoreClock::by(Box::new(RealClocks::new())),
        }
    }

    fn by(clocks: Box<dyn HostClocks>) -> Self {
        let last = Reading { store: Timestamp::from_micros(0), steady: micros(clocks.steady()), line: None };
        StoreClock::Host(Host { clocks, last: Mutex::new(last) })
    }

    /// The row that [`READ`] finds.
    pub(crate) fn stored(&self, row: &Row<'_>) -> rusqlite::Result<Stored> {
        let mark = Timestamp::from_micros(row.get(0)?);
        let boot = match self {
            StoreClock::Manual(_) => None,
            StoreClock::Host(host) => host.clocks.boot(),
        };
        // The name isn't copied: every transaction comes by here.
        let is_ours = boot.is_some() && row.get_ref(1)?.as_str_or_null()? == boot;
        let line = if is_ours {
            Some(Line { from: row.get(2)?, at: Timestamp::from_micros(row.get(3)?), gap: row.get(4)? })
        } else {
            None
        };
        Ok(Stored { mark, line })
    }

    /// Draws the line where there is none for this boot.
    pub(crate) fn begin(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        let StoreClock::Host(host) = self else { return Ok(()) };
        let is_drawn = |conn: &Connection| {
            let stored = conn.query_one(READ, [], |row| self.stored(row))?;
            Ok::<_, rusqlite::Error>((stored, host.clocks.boot().is_none() || stored.line.is_some()))
        };
        // Looked at first without a lock: mostly another process was first.
        if is_drawn(conn)?.1 {
            return Ok(());
        }
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let (stored, false) = is_drawn(&tx)? {
            let now = host.now(stored);
            host.store(&tx, Stored { line: host.drawn(stored, now), ..stored })?;
        }
        tx.commit()
    }

    /// The time now, never before an earlier answer or the mark.
    pub(crate) fn now(&self, stored: Stored) -> Timestamp {
        match self {
            StoreClock::Manual(clock) => clock.now(),
            StoreClock::Host(host) => host.now(stored),
        }
    }

    /// Moves the mark and draws the line anew, where that is due in a transaction that read this, at this time.
    pub(crate) fn keep(
        &self,
        conn: &Connection,
        stored: Stored,
        now: Timestamp,
        writes: bool,
    ) -> rusqlite::Result<()> {
        match self {
            StoreClock::Host(host) if host.is_due(stored, now, writes) => {
                host.store(conn, Stored { mark: now, line: host.drawn(stored, now) })
            }
            StoreClock::Host(_) | StoreClock::Manual(_) => Ok(()),
        }
    }

    /// Whether the clock has to be kept even while nothing is written.
    pub(crate) fn must_be_kept(&self) -> bool {
        match self {
            StoreClock::Manual(_) => false,
            StoreClock::Host(host) => host.must_be_kept(),
        }
    }
}

impl Host {
    fn now(&self, stored: Stored) -> Timestamp {
        // A reading is replaced whole, so that a panic elsewhere can't leave half of one.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (by_host, steady) = match stored.line {
            Some(line) => {
                let steady = self.steady();
                (line.store(steady), steady)
            }
            None => {
                // The wall clock is read first: a pause between the two can only make the reading a little late.
                let (wall, steady) = (self.clocks.wall(), self.steady());
                (wall.max(last.after(steady)), steady)
            }
        };
        // A snapshot from before a new line may be read after one that has it.
        let store = by_host.max(stored.mark).max(last.store);
        *last = Reading { store, steady, line: stored.line };
        store
    }

    /// Whether a transaction at this time should move the mark and draw the line.
    fn is_due(&self, stored: Stored, now: Timestamp, writes: bool) -> bool {
        let is_old = now.since(stored.mark) >= MARK_EVERY;
        match stored.line {
            // A mark ahead of the line: somebody without a line has written, and time would stand still.
            Some(line) if line.store(self.steady()) < stored.mark => true,
            Some(line) => is_old && (writes || self.is_off(line)),
            None if self.clocks.boot().is_some() => true,
            None => is_old && (writes || self.is_ahead(now)),
        }
    }

    fn must_be_kept(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.line {
            Some(line) => self.is_off(line),
            None => self.clocks.boot().is_some() || self.is_ahead(last.after(self.steady())),
        }
    }

    /// The line from now on, where the host has one.
    fn drawn(&self, stored: Stored, now: Timestamp) -> Option<Line> {
        self.clocks.boot()?;
        let (wall, from) = (self.clocks.wall(), self.steady());
        // Where the old line is by now, so that readers of either agree.
        let at = stored.line.map_or(now, |line| line.store(from).max(now));
        Some(Line { from, at, gap: wall.as_micros().saturating_sub(at.as_micros()) })
    }

    fn store(&self, conn: &Connection, stored: Stored) -> rusqlite::Result<()> {
        let mark = stored.mark.as_micros();
        let boot = stored.line.and(self.clocks.boot());
        let from = stored.line.map(|line| line.from);
        let at = stored.line.map(|line| line.at.as_micros());
        let gap = stored.line.map(|line| line.gap);
        conn.execute(WRITE, (mark, boot, from, at, gap)).map(drop)
    }

    /// Whether the wall clock was set since the line was drawn.
    fn is_off(&self, line: Line) -> bool {
        let (wall, steady) = (self.clocks.wall(), self.steady());
        let gap = wall.as_micros().saturating_sub(line.store(steady).as_micros());
        gap.abs_diff(line.gap_left(steady)) >= micros(MARK_EVERY).unsigned_abs()
    }

    /// Whether the wall clock was set back behind the store's.
    fn is_ahead(&self, now: Timestamp) -> bool {
        now.since(self.clocks.wall()) >= MARK_EVERY
    }

    fn steady(&self) -> i64 {
        micros(self.clocks.steady())
    }
}

impl Line {
    /// The store's time at so many microseconds since boot.
    fn store(self, steady: i64) -> Timestamp {
        let passed = steady.saturating_sub(self.from);
        Timestamp::from_micros(self.at.as_micros().saturating_add(passed).saturating_add(self.closed(steady)))
    }

    /// How much of the gap is closed by then.
    fn closed(self, steady: i64) -> i64 {
        let most = steady.saturating_sub(self.from).max(0) / SLEW;
        self.gap.clamp(-most, most)
    }

    fn gap_left(self, steady: i64) -> i64 {
        self.gap.saturating_sub(self.closed(steady))
    }
}

impl Reading {
    /// The time at a later moment, if only the steady clock is asked.
    fn after(self, steady: i64) -> Timestamp {
        let passed = steady.saturating_sub(self.steady).max(0);
        Timestamp::from_micros(self.store.as_micros().saturating_add(passed))
    }
}
