//! The world: nodes over one simulated database, and what may go wrong with them.
//!
//! A node can crash (its handles are cut *first*, then its futures dropped, so that destructors can't release what
//! a real kill wouldn't), freeze and thaw, and restart. Its clock may run fast or slow, and jump. The store can crash and
//! come back, its disk can be full for a while, and its clock can jump.

mod calls;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use steadfast_core::name::TaskId;
use steadfast_core::time::ManualClock;
use steadfast_core::wake::{Hint, Hints, Wake};
use steadfast_core::{ErrorKind, State, StoreId, Task, Timestamp};

use crate::choices::{Choices, Stream};
use crate::db::{Db, Mode, Table};
use crate::faults::Fault;
pub use crate::faults::Faults;
use crate::history::{Event, History};
use crate::scheduler::{self, NodeId, Scheduler};
use crate::storage::flaws::Flaw;
use crate::storage::gate::Gate;
use crate::storage::rows::{RowKey, StoreRow, table};
pub(crate) use node::Process;
pub use node::{Node, SimClock};

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
    changes: Mutex<BTreeMap<TaskId, u64>>,
    seq: AtomicU64,
    faulty: AtomicBool,
    /// Which kinds of faults have happened: a bit each.
    met: AtomicU64,
    /// Nodes that may be struck in the middle of a call. Not as nodes, which hold this server.
    exposed: Mutex<BTreeMap<NodeId, Arc<Process>>>,
    /// Those that stand still in the middle of a call.
    stopped: Mutex<BTreeMap<NodeId, Arc<Process>>>,
    /// Until when the store is down, in microseconds of virtual time.
    down_until: AtomicU64,
    /// What is on the disk, where commits don't wait for it.
    synced: Mutex<Vec<StoreRow>>,
    disk_full: AtomicBool,
    /// How far the store's clock has jumped, in microseconds.
    jumped: AtomicI64,
    clock: Option<ManualClock>,
    pub(crate) gate: Option<Gate>,
    started: OnceLock<tokio::time::Instant>,
    turns: Wake,
    /// The number of the next node.
    nodes: AtomicU32,
    listeners: Mutex<Vec<Wake>>,
    calls: calls::Calls,
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
        self.clock.as_ref().map_or_else(
            || {
                let jumped = Timestamp::from_micros(
                    EPOCH.as_micros().saturating_add(self.jumped.load(Ordering::Relaxed)),
                );
                jumped + self.elapsed()
            },
            ManualClock::now,
        )
    }

    /// Virtual time since it was asked for first.
    fn elapsed(&self) -> Duration {
        let now = scheduler::now();
        now.duration_since(*self.started.get_or_init(|| now))
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// The time by which leases are judged for a client: the store's.
    pub(crate) fn lapsed_by(&self, client: &Node) -> Timestamp {
        if self.has(Flaw::LeaseByWorkersClock) {
            EPOCH + self.elapsed() * client.process.rate_percent / 100
        } else {
            self.now()
        }
    }

    /// How the loss of an answer is classed.
    pub(crate) fn kind_of_lost_answer(&self) -> ErrorKind {
        if self.has(Flaw::LostAnswerIsDefinite) { ErrorKind::Unavailable } else { ErrorKind::Unknown }
    }

    /// Only for [`Flaw::IdCursorReader`]: which change of each task was the last, by the numbers of the transactions.
    pub(crate) fn number_changes(&self, written: &[StoreRow], number: u64) {
        let number_of = |row: &StoreRow| {
            if let StoreRow::Task(row) = row { Some((row.task.id.clone(), number)) } else { None }
        };
        let tasks = written.iter().filter_map(number_of);
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
    }

    /// Only for [`Flaw::IdCursorReader`]: the tasks whose last change has a number above this one.
    pub(crate) fn changes_after(&self, number: u64) -> Vec<(TaskId, u64)> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().filter(|(_, last)| **last > number).map(|(id, last)| (id.clone(), *last)).collect()
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

    /// Notes that a fault of this kind has happened.
    pub(crate) fn met(&self, fault: Fault) {
        self.met.fetch_or(fault.bit(), Ordering::Relaxed);
    }

    pub(crate) fn exposed_nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Process>>> {
        self.exposed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stopped_nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Process>>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_down(&self) -> bool {
        let until = self.down_until.load(Ordering::Relaxed);
        until > 0 && self.elapsed() < Duration::from_micros(until)
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// All memory of a process is gone, at whatever await it is.
    pub(crate) fn crash_node(&self, process: &Process) {
        if process.alive.swap(false, Ordering::Relaxed) {
            self.history.record(self.now(), Event::Crashed { node: process.name.clone() });
        }
        self.exposed_nodes().remove(&process.id);
        self.scheduler.kill(process.id);
    }

    /// What a crash loses of what was committed and not synced.
    fn lose_unsynced(&self) {
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.db().crash_back_to(synced.iter().cloned());
        self.history.fell_back(self.now(), &synced);
    }

    /// Now and then what is committed reaches the disk: only where it doesn't with each commit.
    fn sync_now_and_then(&self) {
        if self.has(Flaw::RelaxedDurability) && self.choices.pick(Stream::Storage, "synced", 0, 16) == 0 {
            let tables = (0..table::COUNT).map(Table);
            let rows = self.db().synced(tables);
            *self.synced.lock().unwrap_or_else(PoisonError::into_inner) = rows;
        }
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

    /// Whether a task that ran leaves room in a queue with a limit, where another is ready.
    fn makes_room(&self, left: &Task) -> bool {
        let of_queue = |task: &Task, state| task.queue == left.queue && task.state == state;
        let ran = |task: &Task| task.id == left.id && task.state == State::Running;
        let limits = |row: &StoreRow| matches!(row, StoreRow::Queue(row) if row.queue == left.queue && row.limit().is_some_and(|limit| limit > 0));
        left.state != State::Running
            && self.db().committed(table::QUEUE).any(limits)
            && self.history.any_task(ran)
            && self.history.any_task(|task| of_queue(task, State::Ready))
    }

    /// A transaction of this process has committed, at this very instant.
    pub(crate) fn committed(&self, by: &str, rows: &[StoreRow], deleted: &[RowKey]) {
        let mut hint = Hint { ready: false, changed: false };
        for row in rows {
            match row {
                StoreRow::Task(row) => {
                    hint.changed = true;
                    hint.ready |= row.task.state == State::Ready || self.makes_room(&row.task);
                }
                // What a limit or a pause kept waiting may be claimed now.
                StoreRow::Queue(row) => hint.ready |= row.limit() != Some(0),
                StoreRow::Edge(_)
                | StoreRow::Attempt(_)
                | StoreRow::Log(_)
                | StoreRow::Checkpoint(_)
                | StoreRow::Alias(_)
                | StoreRow::Worker(_)
                | StoreRow::Item(_) => {}
            }
        }
        self.history.committed(self.now(), by, rows, deleted);
        self.sync_now_and_then();
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, wake) in listeners.iter().enumerate() {
            let lost = self.is_faulty()
                && self.choices.odds(Stream::Faults, "hint lost", number as u64, self.faults.hint_lost);
            if lost {
                self.met(Fault::HintLost);
            } else if hint != Hint::default() {
                wake.notify(hint);
            }
        }
    }
}

/// A handle to the whole world. Clones are one world.
#[derive(Debug, Clone)]
pub struct World {
    server: Arc<Server>,
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
        Self::named("simulated", scheduler, choices, kind)
    }

    fn named(store: &'static str, scheduler: Scheduler, choices: Choices, kind: Kind) -> Self {
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
            store: StoreId::trusted(store),
            db: Mutex::new(Db::new(mode)),
            flaws,
            changes: Mutex::default(),
            seq: AtomicU64::new(1),
            faulty: AtomicBool::new(true),
            met: AtomicU64::new(0),
            exposed: Mutex::new(BTreeMap::new()),
            stopped: Mutex::new(BTreeMap::new()),
            down_until: AtomicU64::new(0),
            synced: Mutex::new(Vec::new()),
            disk_full: AtomicBool::new(false),
            jumped: AtomicI64::new(0),
            clock,
            gate,
            started: OnceLock::new(),
            turns: Wake::new(),
            nodes: AtomicU32::new(DATABASE.0 + 1),
            listeners: Mutex::new(Vec::new()),
            calls: calls::Calls::default(),
        };
        Self { server: Arc::new(server) }
    }

    /// Another database of the same kind, with nothing in it, at the same time: what a process works on whose URL names
    /// the wrong one. See [`Node::storage_in`].
    pub fn another_database(&self) -> Self {
        let Server { scheduler, choices, profile, .. } = &*self.server;
        Self::named("another", scheduler.clone(), choices.clone(), Kind::of(*profile))
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

    /// Stops injecting faults into calls, and notes which there were.
    pub fn heal(&self) {
        self.server.faulty.store(false, Ordering::Relaxed);
        self.server.disk_full.store(false, Ordering::Relaxed);
        self.server.down_until.store(0, Ordering::Relaxed);
        let stopped: Vec<NodeId> = self.server.stopped_nodes().keys().copied().collect();
        stopped.into_iter().for_each(|node| self.server.thaw_stopped(node));
        self.record(Event::Healed);
        let met = self.server.met.load(Ordering::Relaxed);
        let faults = Fault::ALL.into_iter().filter(|fault| met & fault.bit() != 0);
        self.record(Event::Met { faults: faults.map(Fault::goal).collect() });
        self.server.note_healed();
    }

    /// Notes that a fault of this kind has happened.
    pub fn met(&self, fault: Fault) {
        self.server.met(fault);
    }

    /// The database crashes: its connections are lost, what wasn't committed is taken back, and for so long it can't be
    /// reached. SQLite has no process of its own that could.
    pub fn restart_store(&self, down: Duration) {
        if self.server.profile == Profile::Sqlite {
            return;
        }
        self.record(Event::StoreCrashed { down });
        self.server.met(Fault::StoreRestarted);
        let until = self.server.elapsed() + down;
        self.server
            .down_until
            .store(u64::try_from(until.as_micros()).expect("a run is short"), Ordering::Relaxed);
        // Whoever waits for an answer of what ran there is told that it is lost.
        self.server.scheduler.kill(DATABASE);
        if self.server.has(Flaw::RelaxedDurability) {
            self.server.lose_unsynced();
        } else {
            self.server.db().kill_all();
        }
        self.server.progress();
    }

    /// From here on, or no longer, nothing that is written fits on the disk.
    pub fn fill_disk(&self, full: bool) {
        self.server.disk_full.store(full, Ordering::Relaxed);
    }

    /// The store's clock is set forward, or back; but not while a transaction is open, whose statements and whose commit
    /// would be judged by two times. Says whether it was.
    pub fn jump_store_clock(&self, micros: i64) -> bool {
        if !self.server.db().is_quiet() {
            return false;
        }
        self.server.met(Fault::StoreClockJumped);
        self.server.jumped.fetch_add(micros, Ordering::Relaxed);
        self.record(Event::Jumped { node: "store".into(), micros });
        true
    }

    /// Wakes everybody who listens, several times for the same nothing.
    pub fn hint_for_nothing(&self) {
        self.server.met(Fault::HintSpurious);
        self.server.met(Fault::HintFolded);
        let listeners = self.server.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for wake in listeners.iter().chain(&listeners) {
            wake.notify(Hint::BOTH);
        }
    }

    /// Notes an event.
    pub fn record(&self, event: Event) {
        self.server.history.record(self.server.now(), event);
    }

    /// Notes what is left in the store when everybody has gone.
    pub fn close(&self) {
        let connections = self.server.db().session_count();
        self.record(Event::Closed { connections });
    }

    /// Starts a node: a process with a clock that runs at `rate_percent` of true time.
    pub fn start(&self, name: impl Into<String>, rate_percent: u32) -> Node {
        let process = Process {
            id: NodeId(self.server.nodes.fetch_add(1, Ordering::Relaxed)),
            name: name.into(),
            rate_percent,
            alive: AtomicBool::new(true),
            busy: AtomicU32::new(0),
            jumped: AtomicU64::new(0),
        };
        let node = Node { process: Arc::new(process), world: self.clone() };
        self.record(Event::Started { node: node.name().to_owned() });
        node
    }
}
