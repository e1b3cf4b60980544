//! What a test stands on: a world with a client and workers, trouble for as long as there is any, and what has happened
//! so far.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::{Fence, Kind, TaskId, Timestamp};

use crate::choices::Stream;
use crate::db::Row;
use crate::history::Event;
use crate::scheduler::waiting_for;
use crate::world::World;

use super::board::Board;
use super::client::Client;
use super::database::Database;
use super::failed::Failed;
use super::here::{self, Here};
use super::trouble::{self, BLOWS_MAX, STORM, SWARM_EDGES};
use super::workers::{Place, Process, Workers};

/// How often the end of a run is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// What the test itself picks has this actor.
pub(crate) const TEST: u64 = u64::MAX;

/// A test: what it does in a world.
pub(super) type Test =
    Arc<dyn Fn(TestWorld) -> Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>> + Send + Sync>;

/// The world of one run of a test. Clones are one world.
#[derive(Debug, Clone)]
pub struct TestWorld(Arc<Stage>);

impl TestWorld {
    /// Adds workers, that run nothing until they are told what: [`Workers::handle`].
    pub fn workers(&self, count: usize) -> Workers {
        Workers::new(&self.0, count)
    }

    /// The client, which submits tasks and waits for them.
    pub fn client(&self) -> Client {
        Client(self.0.clone())
    }

    /// A database of the service's own, with these rows: for handlers that keep some.
    pub fn database<R: Row>(&self, rows: impl IntoIterator<Item = R>) -> Database<R> {
        Database::new(&self.0.world, rows)
    }

    /// The store's clock.
    pub fn now(&self) -> Timestamp {
        self.0.world.now()
    }

    /// One of `0..n`, by the seed: 0 where a run is shrunk. For what the test itself may do in one way or another.
    pub fn pick(&self, what: &'static str, n: u32) -> u32 {
        self.0.world.choices().pick(Stream::Workload, what, TEST, n)
    }

    /// Faults stop, who stands still goes on, who is dead starts again; then waits until every task has ended and nobody
    /// works. What is asserted afterwards holds for zombies, too. The end of a test does this as well.
    pub async fn at_rest(&self) {
        self.0.at_rest().await;
    }

    /// What is under it: choices, history, nodes, for what isn't offered here.
    pub fn world(&self) -> &World {
        &self.0.world
    }
}

/// The state of a [`TestWorld`].
pub(super) struct Stage {
    world: World,
    client: Process,
    places: Mutex<Vec<Arc<Place>>>,
    next_place: AtomicU64,
    /// Whether there is trouble.
    storm: Board<bool>,
    /// How many workers are in trouble, or may yet be.
    troubled: Board<usize>,
    blows_left: AtomicU32,
    edges: usize,
    is_healed: AtomicBool,
    /// Which worker entered which task's handler, in order.
    entered: Board<Vec<(String, TaskId, Fence)>>,
    /// Why the run has failed.
    failed: Board<Option<String>>,
    may_panic: bool,
    named: Mutex<BTreeMap<Kind, u32>>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

/// Plays a test to its end: it has its say, then the world comes to rest. What fails is the history's last event.
/// `may_panic`: whether a handler's panic is left to the supervisor.
pub(super) async fn play(world: World, test: Test, may_panic: bool) {
    let stage = Stage::start(world, may_panic);
    let _closes = Closes(stage.clone());
    let outcome = {
        let played = pin!(async {
            play_through(&stage, test).await?;
            stage.at_rest().await;
            Ok(())
        });
        let failed = pin!(stage.failed.until(Option::clone));
        match select(played, failed).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((why, _)) => Err(why),
        }
    };
    if let Err(what) = outcome {
        stage.world.record(Event::Asserted { what });
    }
}

/// Polls the test, which may panic.
async fn play_through(stage: &Arc<Stage>, test: Test) -> Result<(), String> {
    let here = Arc::new(Here { world: stage.world.clone(), node: None, task: None });
    let mut playing = None;
    std::future::poll_fn(move |context| {
        let polled = here::act(&here, || {
            let playing = playing.get_or_insert_with(|| test(TestWorld(stage.clone())));
            playing.as_mut().poll(context)
        });
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(|failed| failed.to_string())),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// Workers hold the stage, and the stage them: that ends with the run.
struct Closes(Arc<Stage>);

impl Drop for Closes {
    fn drop(&mut self) {
        let places = std::mem::take(&mut *self.0.places());
        drop(places);
    }
}

impl Stage {
    fn start(world: World, may_panic: bool) -> Arc<Self> {
        let client = Process::start(&world, "client", 100, None);
        let edges = world.choices().pick(Stream::Faults, SWARM_EDGES, 0, 4) as usize;
        let stage = Arc::new(Self {
            world,
            client,
            places: Mutex::default(),
            next_place: AtomicU64::new(0),
            storm: Board::new(true),
            troubled: Board::new(0),
            blows_left: AtomicU32::new(BLOWS_MAX),
            edges,
            is_healed: AtomicBool::new(false),
            entered: Board::new(Vec::new()),
            failed: Board::new(None),
            may_panic,
            named: Mutex::default(),
        });
        let storm = stage.clone();
        stage.spawn("storm", async move {
            tokio::time::sleep(STORM).await;
            storm.heal().await;
        });
        stage
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn client(&self) -> &Process {
        &self.client
    }

    /// Runs what isn't of the service: trouble, starts.
    pub(super) fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.client.node().spawn(name, future);
    }

    fn places(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_place(&self) -> u64 {
        self.next_place.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn add_place(&self, place: Arc<Place>) {
        self.troubled.change(|troubled| *troubled += 1);
        self.places().push(place);
    }

    /// An id for a task of this kind that has none.
    pub(super) fn name(&self, kind: &Kind) -> TaskId {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let count = named.entry(kind.clone()).or_default();
        *count += 1;
        TaskId::trusted(format!("{kind}-{count}"))
    }

    pub(super) async fn until_calm(&self) {
        self.storm.until(|stormy| (!stormy).then_some(())).await;
    }

    pub(super) fn is_stormy(&self) -> bool {
        self.storm.look(|stormy| *stormy)
    }

    pub(super) fn edges(&self) -> usize {
        self.edges
    }

    pub(super) fn spend_blow(&self) -> bool {
        trouble::spend(&self.blows_left)
    }

    /// A worker is out of trouble for good.
    pub(super) fn calmed(&self) {
        self.troubled.change(|troubled| *troubled -= 1);
    }

    pub(super) fn entered(&self, worker: &str, task: &TaskId, fence: Fence) {
        self.entered.change(|entered| entered.push((worker.to_owned(), task.clone(), fence)));
    }

    pub(super) fn handler_panicked(&self, task: &TaskId, said: &str) {
        if !self.may_panic {
            self.failed.change(|failed| *failed = Some(format!("the handler of {task} panics: {said}")));
        }
    }

    /// Waits until a worker has entered a task's handler, or the task has ended.
    pub(super) async fn until_entered(&self, worker: &str, task: &TaskId) -> Option<Fence> {
        let is_it = |one: &&(String, TaskId, Fence)| one.0 == worker && one.1 == *task;
        let last = |entered: &Vec<(String, TaskId, Fence)>| {
            entered.iter().rev().find(is_it).map(|(_, _, fence)| *fence)
        };
        let ended = async {
            while !self.world.history().tasks().get(task).is_some_and(|task| task.state.is_terminal()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        match select(pin!(self.entered.until(last)), pin!(ended)).await {
            Either::Left((fence, _)) => Some(fence),
            Either::Right(_) => None,
        }
    }

    /// No more trouble: whoever is struck recovers first.
    async fn heal(&self) {
        self.storm.change(|stormy| *stormy = false);
        let recovered = self.troubled.until(|troubled| (*troubled == 0).then_some(()));
        waiting_for("workers to recover", recovered).await;
        let places = self.places().clone();
        places.iter().for_each(Place::recover);
        if !self.is_healed.swap(true, Ordering::Relaxed) {
            self.world.heal();
        }
    }

    async fn at_rest(&self) {
        self.heal().await;
        while !self.has_rest() {
            waiting_for("all tasks to end", tokio::time::sleep(LOOK)).await;
        }
    }

    fn has_rest(&self) -> bool {
        let have_ended = self.world.history().tasks().values().all(|task| task.state.is_terminal());
        have_ended && self.world.is_quiet() && self.places().iter().all(|place| place.is_idle())
    }
}
