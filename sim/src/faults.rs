//! What may go wrong, how often, and where: drawn per seed, so that each seed has a character.
//!
//! A *swarm*: each seed leaves whole kinds of faults out and gives weights to the rest. *Spots*: the places inside a
//! call between which a client sees nothing (sent, each statement, a wait for a lock, commit sent, committed, answered);
//! a seed activates a few of them, each with one kind of blow, which then falls there with some probability.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast_core::{Error, ErrorKind};

use crate::choices::{Choices, Stream};
use crate::db::ErrorClass;
use crate::history::Event;
use crate::scheduler::{NodeId, yield_now};
use crate::storage::transaction::classed;
use crate::world::{Process, Profile, Server};

/// A kind of fault that has happened, as a goal that a sweep must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call was refused before anything happened.
    Unavailable,
    /// PostgreSQL: 40001.
    Conflict,
    /// PostgreSQL: 40P01.
    Deadlock,
    /// PostgreSQL: 55P03.
    LockTimeout,
    /// SQLite: another connection was writing for too long.
    Busy,
    /// Nothing fits on the disk any more.
    DiskFull,
    /// The connection was lost, and nothing of the call is left.
    LostBeforeCommit,
    /// The connection was lost after the commit.
    LostAfterCommit,
    /// The call went on alone and was committed after its caller had given it up: a ghost's write.
    InDoubt,
    /// The answer was late.
    SlowAnswer,
    /// A transaction stood still with its locks.
    Stalled,
    /// A hint was lost.
    HintLost,
    /// Several hints became one.
    HintFolded,
    /// A hint with nothing behind it.
    HintSpurious,
    /// The database crashed and came back.
    StoreRestarted,
    /// Somebody wrote a row and never ended the transaction; it was taken back with the dead session.
    DeadSession,
    /// A process crashed in the middle of a call.
    CrashedInCall,
    /// A process stood still in the middle of a call.
    FrozenInCall,
    /// A process stood still until just before its first lease lapsed.
    ThawedBeforeLapse,
    /// A process stood still until just after its first lease had lapsed.
    ThawedAfterLapse,
    /// A process crashed while it was being drained.
    CrashedInDrain,
    /// A process crashed while an attempt had its grace.
    CrashedInGrace,
    /// A process's clock jumped.
    ClockJumped,
    /// The store's clock jumped.
    StoreClockJumped,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 24] = [
        Fault::Unavailable,
        Fault::Conflict,
        Fault::Deadlock,
        Fault::LockTimeout,
        Fault::Busy,
        Fault::DiskFull,
        Fault::LostBeforeCommit,
        Fault::LostAfterCommit,
        Fault::InDoubt,
        Fault::SlowAnswer,
        Fault::Stalled,
        Fault::HintLost,
        Fault::HintFolded,
        Fault::HintSpurious,
        Fault::StoreRestarted,
        Fault::DeadSession,
        Fault::CrashedInCall,
        Fault::FrozenInCall,
        Fault::ThawedBeforeLapse,
        Fault::ThawedAfterLapse,
        Fault::CrashedInDrain,
        Fault::CrashedInGrace,
        Fault::ClockJumped,
        Fault::StoreClockJumped,
    ];

    /// The goal: that it happened.
    pub const fn goal(self) -> &'static str {
        match self {
            Fault::Unavailable => "fault: a call was refused",
            Fault::Conflict => "fault: a conflict (40001)",
            Fault::Deadlock => "fault: a deadlock's victim (40P01)",
            Fault::LockTimeout => "fault: a lock was waited for too long (55P03)",
            Fault::Busy => "fault: the file was busy",
            Fault::DiskFull => "fault: the disk was full",
            Fault::LostBeforeCommit => "fault: a connection was lost before the commit",
            Fault::LostAfterCommit => "fault: a connection was lost after the commit",
            Fault::InDoubt => "fault: a ghost's write, committed after its caller had given it up",
            Fault::SlowAnswer => "fault: a late answer",
            Fault::Stalled => "fault: a transaction stood still with its locks",
            Fault::HintLost => "fault: a hint was lost",
            Fault::HintFolded => "fault: hints were folded into one",
            Fault::HintSpurious => "fault: a hint with nothing behind it",
            Fault::StoreRestarted => "fault: the database crashed and came back",
            Fault::DeadSession => "fault: a dead session's write was taken back",
            Fault::CrashedInCall => "fault: a crash in the middle of a call",
            Fault::FrozenInCall => "fault: a freeze in the middle of a call",
            Fault::ThawedBeforeLapse => "fault: a thaw just before a lease lapsed",
            Fault::ThawedAfterLapse => "fault: a thaw just after a lease had lapsed",
            Fault::CrashedInDrain => "fault: a crash during a drain",
            Fault::CrashedInGrace => "fault: a crash during an attempt's cleanup",
            Fault::ClockJumped => "fault: a worker's clock jumped",
            Fault::StoreClockJumped => "fault: the store's clock jumped",
        }
    }

    /// Whether it can happen on this store.
    pub const fn is_of(self, profile: Profile) -> bool {
        match self {
            Fault::Conflict | Fault::Deadlock | Fault::LockTimeout | Fault::StoreRestarted => {
                matches!(profile, Profile::Postgres)
            }
            Fault::Busy => matches!(profile, Profile::Sqlite),
            Fault::Unavailable
            | Fault::DiskFull
            | Fault::LostBeforeCommit
            | Fault::LostAfterCommit
            | Fault::InDoubt
            | Fault::SlowAnswer
            | Fault::Stalled
            | Fault::HintLost
            | Fault::HintFolded
            | Fault::HintSpurious
            | Fault::DeadSession
            | Fault::CrashedInCall
            | Fault::FrozenInCall
            | Fault::ThawedBeforeLapse
            | Fault::ThawedAfterLapse
            | Fault::CrashedInDrain
            | Fault::CrashedInGrace
            | Fault::ClockJumped
            | Fault::StoreClockJumped => true,
        }
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// What a class of errors is the sign of.
    pub(crate) const fn of_class(class: ErrorClass) -> Option<Fault> {
        match class {
            ErrorClass::SerializationFailure => Some(Fault::Conflict),
            ErrorClass::Deadlock => Some(Fault::Deadlock),
            ErrorClass::LockTimeout => Some(Fault::LockTimeout),
            ErrorClass::Busy | ErrorClass::BusySnapshot => Some(Fault::Busy),
            ErrorClass::DiskFull => Some(Fault::DiskFull),
            ErrorClass::Cancelled
            | ErrorClass::InFailedTransaction
            | ErrorClass::UniqueViolation
            | ErrorClass::CheckViolation(_) => None,
        }
    }
}

/// A place inside a call, or in an attempt's last moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// Before anything leaves the process.
    Sent,
    /// Before a statement.
    Statement,
    /// At a lock that somebody else holds.
    LockWait,
    /// Before a commit becomes durable.
    Commit,
    /// After it did, before anybody was told.
    Committed,
    /// The answer is there, and the caller hasn't seen it.
    Answered,
    /// A handler was told to stop, and cleans up.
    Cleanup,
}

impl Spot {
    /// All of them.
    pub const ALL: [Spot; 7] = [
        Spot::Sent,
        Spot::Statement,
        Spot::LockWait,
        Spot::Commit,
        Spot::Committed,
        Spot::Answered,
        Spot::Cleanup,
    ];

    const fn site(self) -> &'static str {
        match self {
            Spot::Sent => "strike: sent",
            Spot::Statement => "strike: statement",
            Spot::LockWait => "strike: wait for a lock",
            Spot::Commit => "strike: commit",
            Spot::Committed => "strike: committed",
            Spot::Answered => "strike: answered",
            Spot::Cleanup => "strike: cleanup",
        }
    }

    const fn swarm_site(self) -> &'static str {
        match self {
            Spot::Sent => "swarm: sent",
            Spot::Statement => "swarm: statement",
            Spot::LockWait => "swarm: wait for a lock",
            Spot::Commit => "swarm: commit",
            Spot::Committed => "swarm: committed",
            Spot::Answered => "swarm: answered",
            Spot::Cleanup => "swarm: cleanup",
        }
    }

    /// How often an active spot is struck, of ten thousand arrivals. A run has some hundred calls of some statements, and
    /// few waits for locks.
    const fn odds(self) -> u32 {
        match self {
            Spot::Statement => 40,
            Spot::Sent | Spot::Commit | Spot::Committed | Spot::Answered => 200,
            Spot::LockWait => 2_000,
            Spot::Cleanup => 5_000,
        }
    }
}

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process that made the call crashes.
    Crash,
    /// It stands still for a while.
    Freeze,
    /// The statement fails as statements do on this store.
    Fail,
    /// The transaction stands still for a while, with its locks.
    Stall,
    /// The connection is lost.
    Sever,
}

/// Which faults a run has, and how often. All odds are in ten thousand.
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
    /// What strikes at which spot.
    pub strikes: [Option<Blow>; Spot::ALL.len()],
}

impl Faults {
    /// Draws them for a seed. The default is none.
    pub fn draw(choices: &Choices) -> Self {
        let draw = |site, values: [u32; 4]| {
            let pick = choices.pick(Stream::Faults, site, 0, 4);
            values[pick as usize]
        };
        let strike = |spot: Spot| match choices.pick(Stream::Faults, spot.swarm_site(), 0, 16) {
            0..=10 => None,
            11 => Some(Blow::Crash),
            12 => Some(Blow::Freeze),
            13 => Some(Blow::Fail),
            14 => Some(Blow::Stall),
            _ => Some(Blow::Sever),
        };
        Self {
            unavailable: draw("swarm: unavailable", [0, 0, 100, 800]),
            conflict: draw("swarm: conflict", [0, 0, 200, 1_000]),
            lost: draw("swarm: lost", [0, 100, 400, 1_500]),
            slow: draw("swarm: slow", [0, 0, 300, 2_000]),
            hint_lost: draw("swarm: hint lost", [0, 0, 2_000, 10_000]),
            latency: draw("swarm: latency", [0, 500, 2_000, 6_000]),
            set_aside: draw("swarm: set aside", [0, 500, 2_000, 5_000]),
            strikes: Spot::ALL.map(strike),
        }
    }
}

/// Where the code runs that meets a spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// In the caller's process.
    Caller,
    /// In the store's: on SQLite that is the caller's too.
    Store,
}

impl Server {
    /// Meets a spot of a call of this node.
    ///
    /// # Errors
    /// What the caller is told, if it lives to hear it: the plan must end there.
    pub(crate) async fn strike(self: &Arc<Self>, spot: Spot, actor: u64, side: Side) -> Result<(), Error> {
        let Some(blow) = self.faults.strikes[spot as usize] else { return Ok(()) };
        if !self.is_faulty() || !self.choices.odds(Stream::Faults, spot.site(), actor, spot.odds()) {
            return Ok(());
        }
        let dies_with_it = side == Side::Caller || self.profile == Profile::Sqlite;
        match blow {
            Blow::Crash => {
                if self.crash(actor) {
                    self.met(if spot == Spot::Cleanup {
                        Fault::CrashedInGrace
                    } else {
                        Fault::CrashedInCall
                    });
                    if dies_with_it {
                        // It is dropped here, where it stands.
                        std::future::pending::<()>().await;
                    }
                }
                Ok(())
            }
            Blow::Freeze => {
                if self.freeze_for_a_while(actor) {
                    self.met(Fault::FrozenInCall);
                    if dies_with_it {
                        yield_now().await;
                    }
                }
                Ok(())
            }
            Blow::Fail => match spot {
                Spot::Statement | Spot::LockWait => Err(self.failed(self.failing(actor))),
                Spot::Sent | Spot::Commit | Spot::Committed | Spot::Answered | Spot::Cleanup => Ok(()),
            },
            Blow::Stall | Blow::Sever if spot == Spot::Cleanup => Ok(()),
            Blow::Stall => {
                let which = self.choices.pick(Stream::Faults, "stalls for", actor, 4);
                self.met(Fault::Stalled);
                let time = Duration::from_millis([50, 2, 1_000, 9_000][which as usize]);
                tokio::time::sleep(time).await;
                self.history.record(self.now(), Event::Stalled { time });
                Ok(())
            }
            Blow::Sever => {
                self.met(match spot {
                    Spot::Committed | Spot::Answered => Fault::LostAfterCommit,
                    Spot::Sent | Spot::Statement | Spot::LockWait | Spot::Commit | Spot::Cleanup => {
                        Fault::LostBeforeCommit
                    }
                });
                Err(Error::new(ErrorKind::Unknown, "injected: the connection was lost"))
            }
        }
    }

    /// How a statement fails here.
    fn failing(&self, actor: u64) -> ErrorClass {
        let which = self.choices.pick(Stream::Faults, "fails with", actor, 4) as usize;
        match self.profile {
            Profile::Postgres => {
                use ErrorClass::{Deadlock, DiskFull, LockTimeout, SerializationFailure};
                [SerializationFailure, Deadlock, LockTimeout, DiskFull][which]
            }
            Profile::Sqlite => [ErrorClass::Busy, ErrorClass::DiskFull][which % 2],
        }
    }

    /// An error as the caller is told of it, and noted as what happened.
    pub(crate) fn failed(&self, class: ErrorClass) -> Error {
        if let Some(fault) = Fault::of_class(class) {
            self.met(fault);
        }
        classed(class)
    }

    /// A process that may be struck in the middle of a call.
    fn exposed(&self, actor: u64) -> Option<Arc<Process>> {
        let node = NodeId(u32::try_from(actor).ok()?);
        let exposed = self.exposed_nodes().get(&node).cloned()?;
        exposed.alive.load(Ordering::Relaxed).then_some(exposed)
    }

    /// Crashes a process, if it may be.
    fn crash(&self, actor: u64) -> bool {
        let Some(exposed) = self.exposed(actor) else { return false };
        self.crash_node(&exposed);
        true
    }

    fn freeze_for_a_while(self: &Arc<Self>, actor: u64) -> bool {
        let Some(exposed) = self.exposed(actor) else { return false };
        let node = exposed.id;
        let until_lapse = self.until_first_lapse(&exposed.name).unwrap_or(Duration::from_secs(10));
        let edge = Duration::from_millis(20);
        let time = match self.choices.pick(Stream::Faults, "frozen in a call for", actor, 5) {
            0 => Duration::from_secs(1),
            1 => until_lapse.saturating_sub(edge),
            2 => until_lapse + edge,
            3 => Duration::from_secs(15),
            _ => Duration::from_secs(40),
        };
        self.history.record(self.now(), Event::Froze { node: exposed.name.clone() });
        self.scheduler.freeze(node);
        self.stopped_nodes().insert(node, exposed);
        let server = Arc::clone(self);
        // On nobody's node: it outlives them all.
        self.scheduler.spawn(NodeId(0), "thaws", async move {
            tokio::time::sleep(time).await;
            server.thaw_stopped(node);
        });
        true
    }

    /// Lets a process go on that stands still in the middle of a call.
    pub(crate) fn thaw_stopped(&self, node: NodeId) {
        let Some(stopped) = self.stopped_nodes().remove(&node) else { return };
        if stopped.alive.load(Ordering::Relaxed) {
            self.history.record(self.now(), Event::Thawed { node: stopped.name.clone() });
        }
        self.scheduler.thaw(node);
    }

    /// How long until the first of a worker's leases lapses.
    pub(crate) fn until_first_lapse(&self, worker: &str) -> Option<Duration> {
        let tasks = self.history.tasks();
        let held = tasks.values().filter(|task| task.worker.as_ref().is_some_and(|w| w.as_str() == worker));
        held.filter_map(|task| task.lease_expires_at).map(|at| at.since(self.now())).min()
    }

    /// How a commit fails that has something to write, while the disk is full.
    pub(crate) fn disk_error(&self, wrote: bool) -> Option<ErrorClass> {
        (wrote && self.is_disk_full()).then_some(ErrorClass::DiskFull)
    }
}
