//! The world: nodes over one simulated database, and what may go wrong with them.
//!
//! A node can crash (its handles are cut *first*, then its futures dropped, so that destructors can't release what
//! a real kill wouldn't), freeze and thaw, and restart. Its clock may run fast or slow.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use steadfast_core::time::{Clock, ManualClock, Moment};
use steadfast_core::wake::{Hint, Hints, Wake};
use steadfast_core::{State, StoreId, Timestamp};

use crate::choices::{Choices, Stream};
use crate::db::{Db, Mode};
use crate::history::{Event, History};
use crate::scheduler::{NodeId, Scheduler};
use crate::storage::SimStorage;
use crate::storage::flaws::Flaw;
use crate::storage::gate::Gate;
use crate::storage::rows::{RowKey, StoreRow};

/// The database's own node: never crashed, never frozen.
pub(crate) const DATABASE: NodeId = NodeId(1);
/// Virtual time begins here: a Sunday in September 2001, when the seconds got their tenth digit.
pub const EPOCH: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

/// Which real store the simulated one imitates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// PostgreSQL at READ COMMITTED: a transaction outlives the client that asked for it.
    Postgres,
    /// SQLite: one writer at a time, in the client's own process.
    Sqlite,
}

impl Profile {
    /// Both.
    pub const ALL: [Profile; 2] = [Profile::Postgres, Profile::Sqlite];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Profile::Postgres => "postgres",
            Profile::Sqlite => "sqlite",
        }
    }
}

/// Which faults this run has, and how often: drawn per seed, so that each seed has a character (a swarm). All odds
/// are in ten thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A call is refused before anything happened.
    pub unavailable: u32,
    /// A call conflicts.
    pub conflict: u32,
    /// The connection is lost while the call is under way: it may or may not be committed.
    pub lost: u32,
    /// The answer is late.
    pub slow: u32,
    /// A hint is lost.
    pub hint_lost: u32,
    /// A place inside the store where others may come in between is used.
    pub latency: u32,
    /// A woken task is set aside behind others.
    pub set_aside: u32,
}

impl Faults {
    /// Draws them for a seed. The default is none.
    pub fn draw(choices: &Choices) -> Self {
        let draw = |site, values: [u32; 4]| {
            let pick = choices.pick(Stream::Faults, site, 0, 4);
            values[pick as usize]
        };
        Self {
            unavailable: draw("swarm: unavailable", [0, 0, 100, 800]),
            conflict: draw("swarm: conflict", [0, 0, 200, 1_000]),
            lost: draw("swarm: lost", [0, 100, 400, 1_500]),
            slow: draw("swarm: slow", [0, 0, 300, 2_000]),
            hint_lost: draw("swarm: hint lost", [0, 0, 2_000, 10_000]),
            latency: draw("swarm: latency", [0, 500, 2_000, 6_000]),
            set_aside: draw("swarm: set aside", [0, 500, 2_000, 5_000]),
        }
    }
}

/// What kind of store a world has.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Which real store it imitates.
    pub profile: Profile,
    /// The deliberate faults in its plans.
    pub flaws: BTreeSet<Flaw>,
    /// What may go wrong with calls. The default is nothing.
    pub faults: Faults,
    /// A clock set by hand, as adapters take one, in place of virtual time: for suites that judge stores.
    pub clock: Option<ManualClock>,
    /// Stops every transaction until it is let go on.
    pub gate: Option<Gate>,
}

impl Kind {
    /// The plain store of a profile, on virtual time.
    pub fn of(profile: Profile) -> Self {
        Self { profile, flaws: BTreeSet::new(), faults: Faults::default(), clock: None, gate: None }
    }
}

/// The simulated store's server side, shared by all nodes.
pub struct Server {
    pub(crate) choices: Choices,
    pub(crate) profile: Profile,
    pub(crate) latency_odds: u32,
    pub(crate) faults: Faults,
    pub(crate) scheduler: Scheduler,
    pub(crate) history: History,
    pub(crate) store: StoreId,
    db: Mutex<Db<StoreRow>>,
    flaws: BTreeSet<Flaw>,
    seq: AtomicU64,
    faulty: AtomicBool,
    clock: Option<ManualClock>,
    pub(crate) gate: Option<Gate>,
    started: OnceLock<tokio::time::Instant>,
    turns: Wake,
    listeners: Mutex<Vec<Wake>>,
    /// How often clocks were read since the scheduler's poll of that number began.
    clock_reads: Mutex<(u64, u32)>,
}

/// More reads of a clock within one poll are a loop that never awaits anything: no bound of the scheduler sees it.
const CLOCK_READS_MAX: u32 = 100_000;

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("profile", &self.profile)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The kernel. Held for one call of it and never across an await.
    pub(crate) fn db(&self) -> MutexGuard<'_, Db<StoreRow>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's clock: virtual time, unless it is set by hand.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or_else(|| EPOCH + self.elapsed(), ManualClock::now)
    }

    /// Virtual time since it was asked for first.
    fn elapsed(&self) -> Duration {
        let now = tokio::time::Instant::now();
        now.duration_since(*self.started.get_or_init(|| now))
    }

    fn count_clock_read(&self) {
        let mut reads = self.clock_reads.lock().unwrap_or_else(PoisonError::into_inner);
        let poll = self.scheduler.polls();
        *reads = if reads.0 == poll { (poll, reads.1 + 1) } else { (poll, 0) };
        assert!(
            reads.1 < CLOCK_READS_MAX,
            "livelock within one poll: a task turns in a circle and never waits"
        );
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn has_any_flaw(&self) -> bool {
        !self.flaws.is_empty()
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaws.contains(&flaw)
    }

    /// Whether faults are still injected.
    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// Somebody's locks may have been freed.
    pub(crate) fn progress(&self) {
        self.turns.notify(Hint::CHANGED);
    }

    pub(crate) fn turns(&self) -> Hints {
        self.turns.listen()
    }

    pub(crate) fn listener(&self) -> Wake {
        let wake = Wake::new();
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(wake.clone());
        wake
    }

    /// A transaction has committed, at this very instant.
    pub(crate) fn committed(&self, rows: &[StoreRow], deleted: &[RowKey]) {
        let mut hint = Hint { ready: false, changed: false };
        for row in rows {
            match row {
                StoreRow::Task(row) => {
                    hint.changed = true;
                    hint.ready |= row.task.state == State::Ready;
                }
                // What a limit or a pause kept waiting may be claimed now.
                StoreRow::Queue(row) => hint.ready |= row.limit() != Some(0),
                StoreRow::Edge(_)
                | StoreRow::Attempt(_)
                | StoreRow::Log(_)
                | StoreRow::Checkpoint(_)
                | StoreRow::Alias(_)
                | StoreRow::Worker(_) => {}
            }
        }
        self.history.committed(self.now(), rows, deleted);
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (number, wake) in listeners.iter().enumerate() {
            let lost = self.is_faulty()
                && self.choices.odds(Stream::Faults, "hint lost", number as u64, self.faults.hint_lost);
            if !lost && hint != Hint::default() {
                wake.notify(hint);
            }
        }
    }
}

/// A handle to the whole world. Clones are one world.
#[derive(Debug, Clone)]
pub struct World {
    server: Arc<Server>,
    nodes: Arc<AtomicU32>,
}

impl World {
    /// A world with an empty store and no nodes.
    pub fn new(choices: Choices, profile: Profile, flaws: impl IntoIterator<Item = Flaw>) -> Self {
        let faults = Faults::draw(&choices);
        let scheduler = Scheduler::new(choices.clone(), faults.set_aside);
        let flaws = flaws.into_iter().collect();
        Self::on(scheduler, choices, Kind { flaws, faults, ..Kind::of(profile) })
    }

    /// A world with an empty store of this kind and no nodes, on a scheduler that may have others.
    pub fn on(scheduler: Scheduler, choices: Choices, kind: Kind) -> Self {
        let Kind { profile, flaws, faults, clock, gate } = kind;
        let mode = match profile {
            Profile::Postgres => Mode::Postgres,
            Profile::Sqlite => Mode::Sqlite,
        };
        let server = Server {
            scheduler,
            choices,
            profile,
            latency_odds: faults.latency,
            faults,
            history: History::new(),
            store: StoreId::trusted("simulated"),
            db: Mutex::new(Db::new(mode)),
            flaws,
            seq: AtomicU64::new(1),
            faulty: AtomicBool::new(true),
            clock,
            gate,
            started: OnceLock::new(),
            turns: Wake::new(),
            listeners: Mutex::new(Vec::new()),
            clock_reads: Mutex::new((0, 0)),
        };
        Self { server: Arc::new(server), nodes: Arc::new(AtomicU32::new(DATABASE.0 + 1)) }
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &Scheduler {
        &self.server.scheduler
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The choices.
    pub fn choices(&self) -> &Choices {
        &self.server.choices
    }

    /// What happened so far.
    pub fn history(&self) -> &History {
        &self.server.history
    }

    /// The store's clock.
    pub fn now(&self) -> Timestamp {
        self.server.now()
    }

    /// Stops injecting faults into calls.
    pub fn heal(&self) {
        self.server.faulty.store(false, Ordering::Relaxed);
        self.record(Event::Healed);
    }

    /// Notes an event.
    pub fn record(&self, event: Event) {
        self.server.history.record(self.server.now(), event);
    }

    /// Starts a node: a process with a clock that runs at `rate_percent` of true time.
    pub fn start(&self, name: impl Into<String>, rate_percent: u32) -> Node {
        let id = NodeId(self.nodes.fetch_add(1, Ordering::Relaxed));
        let node = Node {
            id,
            name: Arc::from(name.into()),
            alive: Arc::new(AtomicBool::new(true)),
            rate_percent,
            world: self.clone(),
        };
        self.record(Event::Started { node: node.name.to_string() });
        node
    }
}

/// A process of the world. Clones are one node.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) id: NodeId,
    name: Arc<str>,
    alive: Arc<AtomicBool>,
    rate_percent: u32,
    world: World,
}

impl Node {
    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, by which a [`Gate`] knows it.
    pub fn number(&self) -> u64 {
        u64::from(self.id.0)
    }

    /// The world it is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Runs a future in this process.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.world.scheduler().spawn(self.id, format!("{}/{name}", self.name), future);
    }

    /// A new connection of this process to the store.
    pub fn storage(&self) -> SimStorage {
        SimStorage::new(self.world.server.clone(), self.clone())
    }

    /// Its clock.
    pub fn clock(&self) -> SimClock {
        SimClock { server: self.world.server.clone(), rate_percent: self.rate_percent }
    }

    /// Whether it hasn't crashed.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Notes an event of this process; one that has crashed has nothing to say.
    pub fn record(&self, event: Event) {
        if self.is_alive() {
            self.world.record(event);
        }
    }

    /// All its memory is gone, at whatever await it is.
    pub fn crash(&self) {
        self.record(Event::Crashed { node: self.name.to_string() });
        self.alive.store(false, Ordering::Relaxed);
        self.world.scheduler().kill(self.id);
    }

    /// It stands still; the world goes on.
    pub fn freeze(&self) {
        self.record(Event::Froze { node: self.name.to_string() });
        self.world.scheduler().freeze(self.id);
    }

    /// It goes on, not knowing that time has passed.
    pub fn thaw(&self) {
        self.record(Event::Thawed { node: self.name.to_string() });
        self.world.scheduler().thaw(self.id);
    }
}

/// A process's clock in virtual time: the twin of `TokioClock`. It may run fast or slow.
#[derive(Debug, Clone)]
pub struct SimClock {
    server: Arc<Server>,
    rate_percent: u32,
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        self.server.count_clock_read();
        Moment::from_origin(self.server.elapsed() * self.rate_percent / 100)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration * 100 / self.rate_percent)
    }
}
