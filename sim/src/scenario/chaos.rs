//! What befalls the workers: crashes and restarts, freezes beyond the lease and thaws, drains.

use std::time::Duration;

use steadfast_core::name::{Kind, Queue, WorkerId};
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::{Engine, Handlers, Supervisor, WorkerConfig, sweeper};

use crate::choices::{Choices, Stream};
use crate::history::Event;
use crate::storage::SimStorage;
use crate::world::{Node, SimClock, World};

use super::client::LIMITED;
use super::handler::Worker;
use super::rival::Tip;

/// The lease in the simulation.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How often lapsed leases are swept.
const SWEEP: Duration = Duration::from_secs(5);

/// One place where a worker runs, over all its incarnations.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) world: World,
    pub(super) number: u64,
    pub(super) tip: Tip,
}

/// A worker process.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) node: Node,
    pub(super) drain: DrainHandle,
}

impl Place {
    /// Starts a worker process: engine, sweeper and supervisor.
    pub(super) fn start(&self, incarnation: u32) -> Incarnation {
        let name = format!("w{}.{incarnation}", self.number);
        let rate = [100, 95, 106, 120][self.pick("clock rate", 4) as usize];
        let node = self.world.start(&name, rate);
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        node.spawn("sweeper", sweeper::run(engine.clone(), SWEEP));
        let handlers = Handlers::new().with(
            Kind::trusted("work"),
            Worker { node: node.clone(), engine: engine.clone(), tip: self.tip.clone() },
        );
        let mut config = WorkerConfig::new(WorkerId::trusted(name));
        config.queues = vec![Queue::default_queue()];
        // Claims that ask for the limited queue go one after the other, because its row is locked. Others meet.
        if self.number == 0 || self.pick("queues", 3) < 2 {
            config.queues.push(Queue::trusted(LIMITED));
        }
        config.concurrency = 1 + self.pick("concurrency", 4) as usize;
        config.lease = LEASE;
        config.grace = Duration::from_secs(3);
        let (supervisor, drain) =
            Supervisor::new(engine.clone(), handlers, config).expect("the configuration makes sense");
        node.spawn("supervisor", drained_at_last(node.clone(), engine.clone(), supervisor));
        Incarnation { node, drain }
    }

    /// Plays with the worker until `until`; returns the incarnation that lives then, if one does.
    pub(super) async fn haunt(self, until: tokio::time::Instant) -> Option<Incarnation> {
        let mut count = 0;
        let mut worker = self.start(count);
        let calm = self.pick("swarm: calm", 3);
        while tokio::time::Instant::now() < until {
            self.wait("between blows", &[500, 2_000, 5_000, 11_000, 23_000]).await;
            let blow = if calm == 0 { 0 } else { self.pick("blow", 6) };
            match blow {
                0 | 1 => {}
                2 => {
                    worker.node.crash();
                    self.wait("dead for", &[0, 1_000, 9_000, 30_000]).await;
                    count += 1;
                    worker = self.start(count);
                }
                3 | 4 => {
                    worker.node.freeze();
                    // Just within the lease, just past it, long past it.
                    self.wait("frozen for", &[1_000, 9_900, 10_100, 15_000, 40_000]).await;
                    worker.node.thaw();
                }
                _ => {
                    worker.drain.drain();
                    self.wait("drained for", &[4_000, 10_000]).await;
                    worker.node.crash();
                    count += 1;
                    worker = self.start(count);
                }
            }
        }
        // A dead worker may stay dead, but for one.
        if self.number > 0 && self.pick("stays dead", 4) == 3 {
            worker.node.crash();
            return None;
        }
        Some(worker)
    }

    fn choices(&self) -> &Choices {
        self.world.choices()
    }

    fn pick(&self, site: &'static str, n: u32) -> u32 {
        self.choices().pick(Stream::Faults, site, self.number, n)
    }

    async fn wait(&self, site: &'static str, millis: &[u64]) {
        let which = self.pick(site, u32::try_from(millis.len()).expect("few"));
        tokio::time::sleep(Duration::from_millis(millis[which as usize])).await;
    }
}

/// Runs a worker until it is drained, and notes what its process still knows then.
pub(super) async fn drained_at_last(
    node: Node,
    engine: Engine<SimStorage, SimClock>,
    supervisor: Supervisor<SimStorage, SimClock>,
) {
    supervisor.run().await;
    node.record(Event::Drained { node: node.name().to_owned(), attempts: engine.registry().len() });
}
