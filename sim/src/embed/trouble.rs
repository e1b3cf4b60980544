//! What befalls the workers of a test: crashes, freezes within and past the lease, drains. They come now and then, and
//! at the edges where it matters: as a handler is entered, while it waits, and between its last word and the
//! commit that settles it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::TaskId;
use tokio::sync::{mpsc, oneshot};

use crate::choices::{Choices, ODDS, Stream};

use super::workers::Place;

/// Sites of choices; their words are in `page/embedded.rs`.
pub(crate) const ENTRY: &str = "worker: entry";
pub(crate) const WAITS: &str = "worker: the handler waits";
pub(crate) const LAST_WORD: &str = "worker: last word";
pub(crate) const BLOW: &str = "worker: blow";
pub(crate) const BETWEEN: &str = "worker: between blows";
pub(crate) const DOWN: &str = "worker: down for";
pub(crate) const CLOCK_RATE: &str = "worker: clock rate";
pub(crate) const SWARM_BLOWS: &str = "worker: swarm: blows";
pub(crate) const SWARM_EDGES: &str = "worker: swarm: edges";

/// The values of [`BETWEEN`].
pub(crate) const PAUSES_MS: [u64; 6] = [2_000, 300, 500, 5_000, 11_000, 23_000];
/// The values of [`DOWN`].
pub(crate) const DOWN_SECONDS: [u64; 4] = [1, 10, 45, 90];
/// The values of [`CLOCK_RATE`], in percent.
pub(crate) const RATES: [u32; 4] = [100, 95, 106, 120];
/// The values of [`SWARM_EDGES`]: in how many of ten thousand cases an edge is used.
const EDGE_ODDS: [u32; 4] = [0, 300, 1_500, 4_000];
/// How many attempts a run may lose at most: fewer than a task's rescues, so that no task is given up for it.
pub(super) const BLOWS_MAX: u32 = 3;
/// How long there is trouble, at most.
pub(super) const STORM: Duration = Duration::from_secs(90);
/// How long a drained worker may take beyond its grace.
const DRAIN_SPARE: Duration = Duration::from_secs(2);

const _: () = assert!(EDGE_ODDS[3] < ODDS);

/// What befalls a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    Crash,
    /// Frozen until just past the end of its lease.
    Freeze,
    /// Frozen, but not for long enough to lose the lease.
    FreezeWithin,
    FreezeLong,
    Drain,
}

impl Blow {
    const ALL: [Blow; 5] = [Blow::Crash, Blow::Freeze, Blow::FreezeLong, Blow::FreezeWithin, Blow::Drain];
    /// How many of them strike beside a handler: draining isn't done at an edge.
    const AT_EDGES: u32 = 4;

    /// The blow of a choice; 0 is none.
    pub(crate) fn of(value: u32) -> Option<Self> {
        let index = usize::try_from(value).expect("small").checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// How long it stands still.
    fn frozen_for(self, lease: Duration) -> Option<Duration> {
        match self {
            Blow::FreezeWithin => Some(lease * 9 / 10),
            Blow::Freeze => Some(lease + lease / 10),
            Blow::FreezeLong => Some(lease * 2),
            Blow::Crash | Blow::Drain => None,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blow::Crash => "crashes",
            Blow::FreezeWithin => "freezes, for nine tenths of its lease,",
            Blow::Freeze => "freezes, until just past its lease,",
            Blow::FreezeLong => "freezes, for twice its lease,",
            Blow::Drain => "is drained, then killed,",
        })
    }
}

/// A blow beside a handler, on its way to who strikes. The handler goes on when `resume` is dropped.
pub(super) struct Strike {
    incarnation: u32,
    blow: Blow,
    resume: Option<oneshot::Sender<()>>,
}

/// Where handlers ask for blows.
pub(super) type Strikes = mpsc::UnboundedSender<Strike>;

impl Place {
    fn choices(&self) -> &Choices {
        self.stage.world().choices()
    }

    pub(super) fn pick(&self, site: &'static str, n: usize) -> usize {
        let n = u32::try_from(n).expect("few");
        self.choices().pick(Stream::Faults, site, self.number, n) as usize
    }

    /// A blow at an edge of a handler; the task is the actor, so that it doesn't depend on who else is there.
    fn draw(&self, site: &'static str, task: &TaskId) -> Option<Blow> {
        if !self.stage.is_stormy() {
            return None;
        }
        let odds = EDGE_ODDS[self.stage.edges()];
        let actor = actor(task);
        let blow = Blow::of(self.choices().depart(Stream::Faults, site, actor, odds, Blow::AT_EDGES))?;
        self.stage.spend_blow().then_some(blow)
    }

    /// Strikes the worker at this edge, or doesn't; a handler that survives goes on afterwards.
    pub(super) async fn edge(&self, incarnation: u32, site: &'static str, task: &TaskId) {
        let Some(blow) = self.draw(site, task) else { return };
        let (resume, resumed) = oneshot::channel();
        // Nobody strikes any more when the test is over.
        let _ = self.strikes.send(Strike { incarnation, blow, resume: Some(resume) });
        let _ = resumed.await;
    }

    /// The same where the handler waits: it isn't held up.
    pub(super) fn edge_while_waiting(&self, incarnation: u32, task: &TaskId) {
        if let Some(blow) = self.draw(WAITS, task) {
            let _ = self.strikes.send(Strike { incarnation, blow, resume: None });
        }
    }

    /// Strikes the worker until the storm is over; then it is alive and well.
    pub(super) async fn haunt(self: Arc<Self>, mut strikes: mpsc::UnboundedReceiver<Strike>) {
        let has_blows = self.pick(SWARM_BLOWS, 3) > 0;
        loop {
            let pause = if has_blows {
                Duration::from_millis(PAUSES_MS[self.pick(BETWEEN, PAUSES_MS.len())])
            } else {
                STORM * 2
            };
            let next = {
                let over = pin!(self.stage.until_calm());
                let struck = pin!(strikes.recv());
                let rested = pin!(tokio::time::sleep(pause));
                match select(over, select(struck, rested)).await {
                    Either::Left(_) => break,
                    Either::Right((Either::Left((strike, _)), _)) => strike,
                    Either::Right((Either::Right(_), _)) => None,
                }
            };
            match next {
                Some(strike) if strike.incarnation == self.incarnation() => {
                    self.strike(strike.blow).await;
                    drop(strike.resume);
                }
                Some(_of_the_dead) => {}
                None if has_blows => {
                    let blow = Blow::of(u32::try_from(self.pick(BLOW, 8)).expect("few"));
                    if let Some(blow) = blow.filter(|_| self.stage.spend_blow()) {
                        self.strike(blow).await;
                    }
                }
                None => {}
            }
        }
        self.stage.calmed();
    }

    async fn strike(self: &Arc<Self>, blow: Blow) {
        if let Some(time) = blow.frozen_for(self.lease()) {
            self.freeze();
            tokio::time::sleep(time).await;
            self.thaw();
            return;
        }
        if blow == Blow::Drain {
            self.drain();
            tokio::time::sleep(self.grace() + DRAIN_SPARE).await;
        }
        self.crash();
        let down = DOWN_SECONDS[self.pick(DOWN, DOWN_SECONDS.len())];
        tokio::time::sleep(Duration::from_secs(down)).await;
        self.start();
    }
}

/// The task's handler as an actor.
pub(super) fn actor(task: &TaskId) -> u64 {
    xxhash_rust::xxh3::xxh3_64(task.as_str().as_bytes())
}

/// One blow less to spend, if one is left.
pub(super) fn spend(left: &std::sync::atomic::AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}
