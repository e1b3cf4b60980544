//! A process of the world: its handles to the store and the clock, and what can be done to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use steadfast_core::time::{Clock, Moment};

use super::{CLOCK_READS_MAX, Server, World};
use crate::faults::{Fault, Side, Spot};
use crate::history::Event;
use crate::scheduler::{NodeId, count_clock_read};
use crate::storage::SimStorage;

/// A process of the world. Clones are one node.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) process: Arc<Process>,
    pub(super) world: World,
}

/// What all handles to a process share.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) alive: AtomicBool,
    /// How many handlers keep its threads busy.
    pub(super) busy: AtomicU32,
    pub(super) rate_percent: u32,
    /// How far its clock has jumped, in microseconds.
    pub(super) jumped: AtomicU64,
}

/// A handler that keeps its process's threads busy.
pub(crate) struct Busy(Arc<Process>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.process.name
    }

    pub(crate) fn id(&self) -> NodeId {
        self.process.id
    }

    /// Its number, by which a [`Gate`](crate::storage::gate::Gate) knows it.
    pub fn number(&self) -> u64 {
        u64::from(self.id().0)
    }

    /// A handler keeps the process's threads busy, until this is dropped. It matters only to a process that renews
    /// its leases from the same threads ([`Flaw::RenewalsBehindHandlers`]).
    pub(crate) fn keep_busy(&self) -> Busy {
        self.process.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.process.clone())
    }

    /// Whether a handler keeps its threads busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.process.busy.load(Ordering::Relaxed) > 0
    }

    /// The world it is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Runs a future in this process.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.world.scheduler().spawn(self.id(), format!("{}/{name}", self.name()), future);
    }

    /// A new connection of this process to the store.
    pub fn storage(&self) -> SimStorage {
        SimStorage::new(self.world.server.clone(), self.clone())
    }

    /// A new connection of this process to the store of another world, which it takes for its own.
    pub fn storage_in(&self, other: &World) -> SimStorage {
        SimStorage::new(other.server.clone(), self.clone())
    }

    /// Its clock.
    pub fn clock(&self) -> SimClock {
        SimClock { server: self.world.server.clone(), process: self.process.clone() }
    }

    /// Its clock jumps forward, as after a pause of the whole machine. (A monotonic clock never goes back.)
    pub fn jump_clock(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).expect("a jump is short");
        self.process.jumped.fetch_add(micros, Ordering::Relaxed);
        self.world.server.met(Fault::ClockJumped);
        self.record(Event::Jumped {
            node: self.name().to_owned(),
            micros: i64::try_from(micros).expect("a jump is short"),
        });
    }

    /// From here on it may crash or freeze in the middle of a call, where a seed has that.
    pub fn expose(&self) {
        self.world.server.exposed_nodes().insert(self.id(), self.process.clone());
    }

    /// From here on it may not any more.
    pub fn shelter(&self) {
        self.world.server.exposed_nodes().remove(&self.id());
    }

    /// What befalls a process at a place of its own, outside of any call.
    pub(crate) async fn strike(&self, spot: Spot) {
        // Nobody is told: there is no call.
        let _ = self.world.server.strike(spot, self.number(), Side::Caller).await;
    }

    /// How long until the first of its leases lapses, as a worker of this name.
    pub fn until_first_lapse(&self) -> Option<Duration> {
        self.world.server.until_first_lapse(self.name())
    }

    /// Whether it hasn't crashed.
    pub fn is_alive(&self) -> bool {
        self.process.alive.load(Ordering::Relaxed)
    }

    /// Notes an event of this process; one that has crashed has nothing to say.
    pub fn record(&self, event: Event) {
        if self.is_alive() {
            self.world.record(event);
        }
    }

    /// All its memory is gone, at whatever await it is.
    pub fn crash(&self) {
        self.world.server.crash_node(&self.process);
    }

    /// It stands still; the world goes on.
    pub fn freeze(&self) {
        self.record(Event::Froze { node: self.name().to_owned() });
        self.world.scheduler().freeze(self.id());
    }

    /// It goes on, not knowing that time has passed.
    pub fn thaw(&self) {
        self.record(Event::Thawed { node: self.name().to_owned() });
        self.world.scheduler().thaw(self.id());
    }
}

/// A process's clock in virtual time: the twin of `TokioClock`. It may run fast or slow, and jump forward.
#[derive(Debug, Clone)]
pub struct SimClock {
    server: Arc<Server>,
    process: Arc<Process>,
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        assert!(
            count_clock_read() < CLOCK_READS_MAX,
            "livelock within one poll: a task turns in a circle and never waits"
        );
        let jumped = Duration::from_micros(self.process.jumped.load(Ordering::Relaxed));
        Moment::from_origin(self.server.elapsed() * self.process.rate_percent / 100 + jumped)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration * 100 / self.process.rate_percent)
    }
}
