//! The workers of a test: each is a process with an engine, a supervisor and a sweeper of its own, which crashes, freezes,
//! is drained and starts again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::handler::Running;
use steadfast_core::supervisor::DrainHandle;
use steadfast_core::{
    Context, Engine, Fence, Handler, Handlers, Kind, Supervisor, TaskId, WorkerConfig, WorkerId, sweeper,
};

use crate::scheduler::waiting_for;
use crate::world::{Node, SimClock, World};

use super::connection::{Call, CallScript, Connection, Deed};
use super::failed::Failed;
use super::stage::Stage;
use super::trouble::{CLOCK_RATE, RATES, Strike, Strikes};
use super::watched::Watched;

/// A process of the simulated service.
#[derive(Debug, Clone)]
pub struct Process {
    node: Node,
    engine: Engine<Connection, SimClock>,
}

impl Process {
    pub(super) fn start(world: &World, name: &str, rate: u32, calls: Option<CallScript>) -> Self {
        let node = world.start(name, rate);
        let (engine, commits) = Engine::new(Connection::new(&node, calls), node.clock());
        node.spawn("committer", commits);
        Self { node, engine }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Its name, with a number that rises with every start: `w0.1`.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Its engine, for handlers that submit, cancel or read tasks.
    pub fn engine(&self) -> &Engine<Connection, SimClock> {
        &self.engine
    }
}

type Serve = Arc<dyn Fn(&Process) -> Handlers + Send + Sync>;
type Tune = Arc<dyn Fn(&mut WorkerConfig) + Send + Sync>;

/// How the workers of a group are made.
#[derive(Clone, Default)]
struct Recipe {
    handlers: Handlers,
    serve: Option<Serve>,
    tune: Option<Tune>,
    calls: Option<CallScript>,
    has_started: bool,
}

impl Recipe {
    fn config(&self, name: &str) -> WorkerConfig {
        let mut config = WorkerConfig::new(WorkerId::trusted(name));
        if let Some(tune) = &self.tune {
            tune(&mut config);
        }
        config
    }

    fn handlers(&self, process: &Process) -> Handlers {
        let served = self.serve.as_ref().map(|serve| serve(process)).unwrap_or_default();
        merged(served, &self.handlers)
    }
}

/// All of both; of two for a kind the latter.
fn merged(mut handlers: Handlers, others: &Handlers) -> Handlers {
    for kind in others.kinds() {
        let handler = others.find(kind).expect("it is its kind").clone();
        handlers = handlers.with(kind.clone(), Shared(handler));
    }
    handlers
}

struct Shared(Arc<dyn Handler>);

impl Handler for Shared {
    fn call(&self, context: Context) -> Running {
        self.0.call(context)
    }
}

/// Some workers that are alike. They start at the test's first await, or when one of them is told to do something.
#[derive(Clone)]
pub struct Workers {
    places: Vec<Arc<Place>>,
    recipe: Arc<Mutex<Recipe>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places.iter().map(|place| place.name())).finish()
    }
}

impl Workers {
    pub(super) fn new(stage: &Arc<Stage>, count: usize) -> Self {
        let recipe = Arc::new(Mutex::new(Recipe::default()));
        let places: Vec<Arc<Place>> = (0..count).map(|_| Place::new(stage, recipe.clone())).collect();
        let workers = Self { places, recipe };
        let starting = workers.clone();
        stage.spawn("start", async move { starting.places.iter().for_each(Place::ensure_started) });
        workers
    }

    /// Runs the tasks of a kind with a handler: the very one that the service runs in production.
    ///
    /// # Panics
    /// The kind is no valid name, or the workers have started: give them their handlers before the first await.
    #[track_caller]
    pub fn handle(&self, kind: &str, handler: impl Handler) -> &Self {
        let kind = Kind::new(kind).unwrap_or_else(|invalid| panic!("{invalid}"));
        self.handlers(Handlers::new().with(kind, handler))
    }

    /// The same for all handlers of a service at once, typed ones among them.
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn handlers(&self, handlers: Handlers) -> &Self {
        let mut recipe = self.change();
        recipe.handlers = merged(std::mem::take(&mut recipe.handlers), &handlers);
        drop(recipe);
        self
    }

    /// The same for handlers that need their process's engine, made at each start of a worker, as `main` makes them.
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn serve(&self, handlers: impl Fn(&Process) -> Handlers + Send + Sync + 'static) -> &Self {
        self.change().serve = Some(Arc::new(handlers));
        self
    }

    /// Changes how they work: queues, concurrency, lease, grace. The default is production's.
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn configure(&self, change: impl Fn(&mut WorkerConfig) + Send + Sync + 'static) -> &Self {
        self.change().tune = Some(Arc::new(change));
        self
    }

    /// Says what becomes of each of their calls to the store.
    ///
    /// # Panics
    /// As [`handle`](Self::handle).
    #[track_caller]
    pub fn on_call(&self, deed: impl FnMut(&Call<'_>) -> Deed + Send + 'static) -> &Self {
        self.change().calls = Some(Arc::new(Mutex::new(deed)));
        self
    }

    /// The worker of this number, from 0 in each group: for scripts.
    ///
    /// # Panics
    /// There are fewer.
    #[track_caller]
    pub fn worker(&self, number: usize) -> Worker {
        let place = self.places.get(number);
        let place = place.unwrap_or_else(|| panic!("there are {} workers, from 0", self.places.len()));
        Worker(place.clone())
    }

    #[track_caller]
    fn change(&self) -> MutexGuard<'_, Recipe> {
        let recipe = self.recipe.lock().unwrap_or_else(PoisonError::into_inner);
        if recipe.has_started {
            drop(recipe);
            panic!("the workers have started: say how they work before the test's first await");
        }
        recipe
    }
}

/// A worker, for scripts: it does what it is told, when it is told. Clones are one worker.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Place>);

impl Worker {
    /// Its name, over all its starts: `w0`.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// All its memory is gone, at whatever await it is; the store notices nothing.
    pub fn crash(&self) {
        self.0.ensure_started();
        self.0.crash();
    }

    /// Starts it again, after a [`crash`](Self::crash). One that runs goes on.
    pub fn restart(&self) {
        self.0.ensure_started();
        self.0.start();
    }

    /// It stands still until [`thaw`](Self::thaw); the world goes on.
    pub fn freeze(&self) {
        self.0.ensure_started();
        self.0.freeze();
    }

    /// It goes on, not knowing that time has passed.
    pub fn thaw(&self) {
        self.0.thaw();
    }

    /// Asks it to drain: it claims nothing more, and gives back what doesn't end within its grace.
    pub fn drain(&self) {
        self.0.ensure_started();
        self.0.drain();
    }

    /// Its process, unless it has crashed.
    pub fn process(&self) -> Option<Process> {
        self.0.ensure_started();
        self.0.live().incarnation.as_ref().map(|live| live.process.clone())
    }

    /// Waits until it has claimed this task and entered its handler; answers with the fence. Where it has done so more
    /// than once, with the last one.
    ///
    /// # Errors
    /// The task has ended, and this worker never entered it.
    ///
    /// # Cancellation
    /// Safe: it only looks.
    pub async fn enters(&self, task: &TaskId) -> Result<Fence, Failed> {
        self.0.ensure_started();
        let entered =
            waiting_for("a worker to enter a task's handler", self.0.stage.until_entered(self.name(), task));
        entered
            .await
            .ok_or_else(|| Failed::new(format!("{task} has ended and {} never entered it", self.name())))
    }
}

/// Where a worker runs, over all its starts.
pub(super) struct Place {
    pub(super) stage: Arc<Stage>,
    pub(super) number: u64,
    name: String,
    recipe: Arc<Mutex<Recipe>>,
    live: Mutex<Live>,
    pub(super) strikes: Strikes,
}

#[derive(Debug, Default)]
struct Live {
    /// How often it was started.
    starts: u32,
    incarnation: Option<Incarnation>,
    is_frozen: bool,
}

#[derive(Debug)]
struct Incarnation {
    process: Process,
    drain: DrainHandle,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Place {
    fn new(stage: &Arc<Stage>, recipe: Arc<Mutex<Recipe>>) -> Arc<Self> {
        let number = stage.next_place();
        let (strikes, struck) = tokio::sync::mpsc::unbounded_channel::<Strike>();
        let name = format!("w{number}");
        let place =
            Arc::new(Self { stage: stage.clone(), number, name, recipe, live: Mutex::default(), strikes });
        stage.add_place(place.clone());
        stage.spawn("trouble", place.clone().haunt(struck));
        place
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recipe(&self) -> Recipe {
        self.recipe.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn lease(&self) -> Duration {
        self.recipe().config(&self.name).lease
    }

    pub(super) fn grace(&self) -> Duration {
        self.recipe().config(&self.name).grace
    }

    /// The number of its start.
    pub(super) fn incarnation(&self) -> u32 {
        self.live().starts
    }

    fn ensure_started(self: &Arc<Self>) {
        if self.live().starts == 0 {
            self.start();
        }
    }

    /// Starts it, unless it runs.
    pub(super) fn start(self: &Arc<Self>) {
        if self.live().incarnation.is_some() {
            return;
        }
        self.recipe.lock().unwrap_or_else(PoisonError::into_inner).has_started = true;
        let recipe = self.recipe();
        let starts = self.live().starts + 1;
        let name = format!("{}.{}", self.name, starts - 1);
        let rate = RATES[self.pick(CLOCK_RATE, RATES.len())];
        let process = Process::start(self.stage.world(), &name, rate, recipe.calls.clone());
        let config = recipe.config(&name);
        let sweep = sweeper::SWEEP.min(config.lease);
        process.node.spawn("sweeper", sweeper::run(process.engine.clone(), sweep));
        let handlers = recipe.handlers(&process).map(|handler| Watched {
            handler,
            place: self.clone(),
            incarnation: starts,
            process: process.clone(),
        });
        let (supervisor, drain) = Supervisor::new(process.engine.clone(), handlers, config)
            .unwrap_or_else(|invalid| panic!("the workers' configuration makes no sense: {invalid}"));
        process.node.spawn("supervisor", supervisor.run());
        *self.live() = Live { starts, incarnation: Some(Incarnation { process, drain }), is_frozen: false };
    }

    pub(super) fn crash(&self) {
        let crashed = self.live().incarnation.take();
        if let Some(Incarnation { process, drain: _ }) = crashed {
            process.node.crash();
        }
    }

    pub(super) fn freeze(&self) {
        let mut live = self.live();
        if let Some(Incarnation { process, .. }) = &live.incarnation
            && !live.is_frozen
        {
            process.node.freeze();
            live.is_frozen = true;
        }
    }

    pub(super) fn thaw(&self) {
        let mut live = self.live();
        if let Some(Incarnation { process, .. }) = &live.incarnation
            && live.is_frozen
        {
            process.node.thaw();
            live.is_frozen = false;
        }
    }

    pub(super) fn drain(&self) {
        if let Some(live) = &self.live().incarnation {
            live.drain.drain();
        }
    }

    /// Alive and well: faults are over. One that was drained has done what it was told, and stays as it is.
    pub(super) fn recover(self: &Arc<Self>) {
        self.thaw();
        self.start();
    }

    /// Whether no attempt lives here.
    pub(super) fn is_idle(&self) -> bool {
        let live = self.live();
        live.incarnation.as_ref().is_none_or(|live| live.process.engine.registry().is_empty())
    }
}
