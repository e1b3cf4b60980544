//! What befalls the workers: crashes and restarts, freezes beyond the lease and thaws, drains.

use std::time::Duration;

use steadfast_core::name::{Kind, Queue, WorkerId};
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::{Engine, Handlers, Supervisor, WorkerConfig, sweeper};
use tokio::sync::oneshot;

use crate::choices::{Choices, Stream};
use crate::faults::Fault;
use crate::history::Event;
use crate::storage::SimStorage;
use crate::world::{Node, SimClock, World};

use super::Tempo;
use super::client::LIMITED;
use super::handler::Worker;
use super::rival::Tip;

/// The lease in the simulation, at the plain tempo.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How often lapsed leases are swept.
pub(super) const SWEEP: Duration = Duration::from_secs(5);

/// One place where a worker runs, over all its incarnations.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) world: World,
    pub(super) number: u64,
    pub(super) tip: Tip,
    pub(super) tempo: Tempo,
}

/// A worker process.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) node: Node,
    engine: Engine<SimStorage, SimClock>,
    pub(super) drain: DrainHandle,
    /// Answers when it is drained, or dead.
    pub(super) gone: oneshot::Receiver<()>,
}

impl Place {
    /// Starts a worker process: engine, sweeper and supervisor.
    pub(super) fn start(&self, incarnation: u32) -> Incarnation {
        let name = format!("w{}.{incarnation}", self.number);
        let rate = [100, 95, 106, 120][self.pick("clock rate", 4) as usize];
        let node = self.world.start(&name, rate);
        let tempo = self.tempo;
        let (engine, commits) = Engine::new(node.storage(), node.clock());
        node.spawn("committer", commits);
        node.spawn("sweeper", sweeper::run(engine.clone(), tempo.of(SWEEP)));
        let handlers = Handlers::new().with(
            Kind::trusted("work"),
            Worker { node: node.clone(), engine: engine.clone(), tip: self.tip.clone(), tempo },
        );
        let mut config = WorkerConfig::new(WorkerId::trusted(name));
        config.queues = vec![Queue::default_queue()];
        // Claims that ask for the limited queue go one after the other, because its row is locked. Others meet.
        if self.number == 0 || self.pick("queues", 3) < 2 {
            config.queues.push(Queue::trusted(LIMITED));
        }
        config.concurrency = 1 + self.pick("concurrency", 4) as usize;
        config.lease = tempo.of(LEASE);
        config.grace = tempo.of(Duration::from_secs(3));
        let (supervisor, drain) =
            Supervisor::new(engine.clone(), handlers, config).expect("the configuration makes sense");
        let (has_gone, gone) = oneshot::channel();
        let drained = drained_at_last(node.clone(), engine.clone(), supervisor);
        node.spawn("supervisor", async move {
            drained.await;
            // Nobody may want to know.
            let _ = has_gone.send(());
        });
        node.expose();
        Incarnation { node, engine, drain, gone }
    }

    /// Plays with the worker until `until`; returns the incarnation that lives then, if one does.
    pub(super) async fn haunt(self, until: tokio::time::Instant) -> Option<Incarnation> {
        let mut count = 0;
        let mut worker = self.start(count);
        let calm = self.pick("swarm: calm", 3);
        while tokio::time::Instant::now() < until {
            self.wait("between blows", &[500, 2_000, 5_000, 11_000, 23_000]).await;
            // It may have been struck in the middle of a call.
            let blow = match (worker.node.is_alive(), calm) {
                (false, _) => 2,
                (true, 0) => 0,
                (true, _) => self.pick("blow", 7),
            };
            match blow {
                0 | 1 => {}
                2 => {
                    worker.node.crash();
                    self.wait("dead for", &[0, 1_000, 9_000, 30_000]).await;
                    count += 1;
                    worker = self.start(count);
                }
                3 | 4 => self.freeze(&worker.node).await,
                5 => {
                    worker.drain.drain();
                    self.wait("drained for", &[4_000, 10_000, 0, 20, 1_500]).await;
                    if worker.node.is_alive() && !worker.engine.registry().is_empty() {
                        self.world.met(Fault::CrashedInDrain);
                    }
                    worker.node.crash();
                    count += 1;
                    worker = self.start(count);
                }
                _ => {
                    let seconds = [1, 9, 11, 60][self.pick("clock jumps", 4) as usize];
                    worker.node.jump_clock(self.tempo.of(Duration::from_secs(seconds)));
                }
            }
        }
        worker.node.shelter();
        if !worker.node.is_alive() {
            worker = self.start(count + 1);
            worker.node.shelter();
        }
        // A dead worker may stay dead, but for one.
        if self.number > 0 && self.pick("stays dead", 4) == 3 {
            worker.node.crash();
            return None;
        }
        Some(worker)
    }

    /// Stands still: within the lease, until just before the first of its leases lapses, until just after, long past it.
    async fn freeze(&self, node: &Node) {
        node.freeze();
        let lapse = node.until_first_lapse();
        let edge = Duration::from_millis(20);
        let time = match (self.pick("frozen for", 5), lapse) {
            (0, _) => Duration::from_secs(1),
            (1, Some(lapse)) if lapse > edge => {
                self.world.met(Fault::ThawedBeforeLapse);
                lapse - edge
            }
            (2, Some(lapse)) => {
                self.world.met(Fault::ThawedAfterLapse);
                lapse + edge
            }
            (1 | 2, _) => self.tempo.of(LEASE) + edge,
            (3, _) => self.tempo.of(Duration::from_secs(15)),
            _ => self.tempo.of(Duration::from_secs(40)),
        };
        tokio::time::sleep(time).await;
        node.thaw();
    }

    fn choices(&self) -> &Choices {
        self.world.choices()
    }

    fn pick(&self, site: &'static str, n: u32) -> u32 {
        self.choices().pick(Stream::Faults, site, self.number, n)
    }

    async fn wait(&self, site: &'static str, millis: &[u64]) {
        let which = self.pick(site, u32::try_from(millis.len()).expect("few"));
        tokio::time::sleep(self.tempo.of(Duration::from_millis(millis[which as usize]))).await;
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
