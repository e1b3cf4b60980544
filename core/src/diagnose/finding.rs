//! Why a task is where it is: one of a closed list of findings, each with its sentence and its advice.

use std::time::Duration;

use crate::name::{Queue, Slot, TaskId, WorkerId};
use crate::storage::{QueueStats, Worker};
use crate::task::{Cause, State, Task};
use crate::time::Timestamp;

use super::page::{ago, list, rough, within};
use super::{Facts, STALE, STUCK, WORKER_SILENT};

/// Why a task is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It waits for parents that haven't ended: these, with their states.
    WaitsForParents(Vec<(TaskId, State)>),
    /// It waits for its slot.
    WaitsForSlot {
        /// Which.
        slot: Slot,
        /// Who holds it.
        holder: TaskId,
        /// Where the holder is.
        holder_state: State,
        /// How many wait before it.
        ahead: u32,
    },
    /// It is blocked, and nothing blocks it: a wake-up was lost, or the rows were read while they changed.
    BlockedByNothing,
    /// It is due later; with the cause of its last attempt's end, if it had one.
    DueLater {
        /// When.
        due_at: Timestamp,
        /// What ended the last attempt.
        after: Option<Cause>,
    },
    /// Its queue is paused.
    QueuePaused(Queue),
    /// As many of its queue run as may.
    QueueFull {
        /// Which queue.
        queue: Queue,
        /// How many may run.
        limit: u32,
        /// How many do.
        running: u64,
    },
    /// No living worker can run it.
    NoWorker(LackingWorker),
    /// The workers that can run it have as many attempts as they may.
    WorkersBusy {
        /// Their attempts.
        running: u64,
        /// How many they may have.
        concurrency: u64,
    },
    /// It is about to be claimed by one of so many workers.
    NextUp {
        /// How many workers could.
        workers: usize,
    },
    /// It has been ready for more than [`STALE`] although a worker has room for it.
    Overlooked {
        /// Since when.
        since: Timestamp,
        /// How many workers could.
        workers: usize,
    },
    /// An attempt runs and gives signs of life.
    Runs(Standing),
    /// A worker has it, and hasn't said yet whether the handler was entered.
    Claimed(Standing),
    /// An attempt runs under a living lease, and its handler has given no sign for more than [`STUCK`].
    Stuck(Standing),
    /// Somebody asked it to stop, and it hasn't yet.
    Stopping {
        /// Why it should stop.
        reason: String,
        /// Where it runs.
        standing: Standing,
    },
    /// Its worker let the lease lapse; a sweeper will deal with that.
    LeaseLapsed {
        /// Where it ran.
        standing: Standing,
        /// What it will become: ready again, failed or cancelled.
        becomes: State,
    },
    /// It has ended, for this cause.
    Ended(Option<Cause>),
}

/// An attempt in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose.
    pub worker: WorkerId,
    /// Until when.
    pub lease_until: Timestamp,
    /// Whether the handler is known to have been entered, and when.
    pub entered_at: Option<Timestamp>,
    /// The handler's last sign of life: entered, or reported.
    pub last_sign: Option<Timestamp>,
}

/// In what way a worker is lacking. Names are sorted and appear once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LackingWorker {
    /// The store has never seen one.
    AtAll,
    /// Those that could run it were drained or haven't been seen for [`WORKER_SILENT`]; this was the last.
    Alive {
        /// Which.
        last: WorkerId,
        /// When it was seen.
        seen_at: Timestamp,
        /// Whether it was drained.
        drained: bool,
    },
    /// None that lives claims from its queue; they claim from these.
    ForQueue(Vec<String>),
    /// None that lives and claims from its queue can run its kind; they can run these.
    ForKind(Vec<String>),
}

pub(super) fn find(facts: &Facts) -> Finding {
    match facts.task.state {
        State::Blocked => blocked(facts),
        State::Scheduled if !facts.is_claimable() => Finding::DueLater {
            due_at: facts.task.due_at,
            after: facts.attempts.last().map(|last| last.cause),
        },
        State::Scheduled | State::Ready => unclaimed(facts),
        State::Running => running(facts),
        State::Succeeded | State::Failed | State::Cancelled => Finding::Ended(facts.task.cause),
    }
}

fn blocked(facts: &Facts) -> Finding {
    let unfinished = facts.parents.iter().filter_map(|(parent, state)| {
        state.filter(|state| !state.is_terminal()).map(|state| (parent.id.clone(), state))
    });
    let unfinished: Vec<_> = unfinished.collect();
    if !unfinished.is_empty() {
        return Finding::WaitsForParents(unfinished);
    }
    match (&facts.task.slot, &facts.holder) {
        (Some(slot), Some(holder)) if facts.task.slot_waiting => Finding::WaitsForSlot {
            slot: slot.clone(),
            holder: holder.id.clone(),
            holder_state: holder.state,
            ahead: holder.ahead,
        },
        (Some(_) | None, _) => Finding::BlockedByNothing,
    }
}

/// Why nobody has claimed it: the first reason of those that hold.
fn unclaimed(facts: &Facts) -> Finding {
    let Task { queue, .. } = &facts.task;
    if let Some(QueueStats { paused: true, .. }) = &facts.queue {
        return Finding::QueuePaused(queue.clone());
    }
    if let Some(QueueStats { concurrency: Some(limit), tasks, .. }) = &facts.queue {
        let running = tasks[usize::from(State::Running.code())];
        if running >= u64::from(*limit) {
            return Finding::QueueFull { queue: queue.clone(), limit: *limit, running };
        }
    }
    let able = match able_workers(facts) {
        Ok(able) => able,
        Err(lacking) => return Finding::NoWorker(lacking),
    };
    if able.iter().all(|worker| worker.running >= worker.concurrency) {
        let sum = |what: fn(&Worker) -> u32| able.iter().map(|worker| u64::from(what(worker))).sum();
        return Finding::WorkersBusy {
            running: sum(|worker| worker.running),
            concurrency: sum(|worker| worker.concurrency),
        };
    }
    let since = facts.eligible_at();
    let workers = able.len();
    if facts.now.since(since) > STALE {
        Finding::Overlooked { since, workers }
    } else {
        Finding::NextUp { workers }
    }
}

/// The living workers that claim from its queue and can run its kind.
fn able_workers(facts: &Facts) -> Result<Vec<&Worker>, LackingWorker> {
    let Task { queue, kind, .. } = &facts.task;
    let serves = |worker: &&Worker| worker.queues.contains(queue);
    let runs = |worker: &&Worker| worker.kinds.contains(kind);
    let lives = |worker: &&Worker| !worker.gone && facts.now.since(worker.seen_at) <= WORKER_SILENT;
    let able: Vec<_> = facts.workers.iter().filter(serves).filter(runs).collect();
    let alive: Vec<_> = able.iter().copied().filter(lives).collect();
    if !alive.is_empty() {
        return Ok(alive);
    }
    if let Some(last) = able.into_iter().max_by_key(|worker| worker.seen_at) {
        return Err(LackingWorker::Alive {
            last: last.id.clone(),
            seen_at: last.seen_at,
            drained: last.gone,
        });
    }
    let mut living = facts.workers.iter().filter(lives).peekable();
    if living.peek().is_none() {
        return Err(LackingWorker::AtAll);
    }
    let mut of_queue = facts.workers.iter().filter(lives).filter(serves).peekable();
    Err(match of_queue.peek() {
        None => LackingWorker::ForQueue(names(living.flat_map(|worker| &worker.queues))),
        Some(_) => LackingWorker::ForKind(names(of_queue.flat_map(|worker| &worker.kinds))),
    })
}

fn names<'a, N: ToString + 'a>(names: impl Iterator<Item = &'a N>) -> Vec<String> {
    let names: std::collections::BTreeSet<String> = names.map(ToString::to_string).collect();
    names.into_iter().collect()
}

fn running(facts: &Facts) -> Finding {
    let task = &facts.task;
    let standing = Standing {
        worker: task.worker.clone().unwrap_or_else(|| WorkerId::trusted("unknown")),
        lease_until: task.lease_expires_at.unwrap_or(facts.now),
        entered_at: task.entered_at,
        last_sign: facts.last_sign(),
    };
    if standing.lease_until <= facts.now {
        let becomes = match (&task.cancel, task.rescues < task.rescues_max) {
            (Some(_), _) => State::Cancelled,
            (None, true) => State::Ready,
            (None, false) => State::Failed,
        };
        return Finding::LeaseLapsed { standing, becomes };
    }
    if let Some(reason) = &task.cancel {
        return Finding::Stopping { reason: reason.clone(), standing };
    }
    let silent_since = standing.last_sign.or(task.claimed_at).unwrap_or(facts.now);
    if facts.now.since(silent_since) > STUCK {
        Finding::Stuck(standing)
    } else if standing.last_sign.is_some() {
        Finding::Runs(standing)
    } else {
        Finding::Claimed(standing)
    }
}

impl Finding {
    /// The word for it in interfaces.
    pub fn as_str(&self) -> &'static str {
        match self {
            Finding::WaitsForParents(_) => "waits_for_parents",
            Finding::WaitsForSlot { .. } => "waits_for_slot",
            Finding::BlockedByNothing => "blocked_by_nothing",
            Finding::DueLater { .. } => "due_later",
            Finding::QueuePaused(_) => "queue_paused",
            Finding::QueueFull { .. } => "queue_full",
            Finding::NoWorker(_) => "no_worker",
            Finding::WorkersBusy { .. } => "workers_busy",
            Finding::NextUp { .. } => "next_up",
            Finding::Overlooked { .. } => "overlooked",
            Finding::Runs(_) => "runs",
            Finding::Claimed(_) => "claimed",
            Finding::Stuck(_) => "stuck",
            Finding::Stopping { .. } => "stopping",
            Finding::LeaseLapsed { .. } => "lease_lapsed",
            Finding::Ended(_) => "ended",
        }
    }

    pub(super) fn sentence(&self, facts: &Facts) -> String {
        let now = facts.now;
        match self {
            Finding::WaitsForParents(parents) => {
                let shown = parents.iter().map(|(id, state)| format!("{id} ({state})"));
                let all = facts.parents.len();
                let of = if all == parents.len() {
                    format!("{all} {}", if all == 1 { "parent" } else { "parents" })
                } else {
                    format!("{} of its {all} parents", parents.len())
                };
                format!("Waits for {of}: {}.", list(shown))
            }
            Finding::WaitsForSlot { slot, holder, holder_state, ahead } => {
                let before = match ahead {
                    0 => "it is the next".into(),
                    1 => "1 task is before it".into(),
                    _ => format!("{ahead} tasks are before it"),
                };
                format!("Waits for the slot {slot}, which {holder} ({holder_state}) holds; {before}.")
            }
            Finding::BlockedByNothing => {
                "Is blocked, although no parent of it is unfinished and its slot isn't held.".into()
            }
            Finding::DueLater { due_at, after } => due_later(facts, *due_at, *after),
            Finding::QueuePaused(queue) => format!("Is ready, but its queue {queue} is paused."),
            Finding::QueueFull { queue, limit: 0, .. } => {
                format!("Is ready, but its queue {queue} has the limit 0: none of its tasks may run.")
            }
            Finding::QueueFull { queue, limit, running } => {
                format!("Is ready, but its queue {queue} is at its limit: {running} of {limit} run.")
            }
            Finding::NoWorker(lacking) => lacking.sentence(facts),
            Finding::WorkersBusy { running, concurrency } => format!(
                "Is ready, but all workers that can run it are busy: {running} of {concurrency} attempts."
            ),
            Finding::NextUp { workers } => {
                format!("Is ready, and {} can claim it.", counted(*workers))
            }
            Finding::Overlooked { since, workers } => format!(
                "Has been ready for {}, although {} with room can claim it.",
                rough(now.since(*since)),
                counted(*workers)
            ),
            Finding::Runs(standing) => {
                let sign = standing.last_sign.map_or_else(String::new, |at| ago(now, at));
                format!("{}; last sign of life {sign}.", standing.sentence(now))
            }
            Finding::Claimed(standing) => format!("{}.", standing.sentence(now)),
            Finding::Stuck(standing) => {
                let since = standing.last_sign.or(facts.task.claimed_at).unwrap_or(now);
                format!(
                    "Is stuck: {}, but its handler has given no sign of life for {}.",
                    standing.lease(now),
                    rough(now.since(since))
                )
            }
            Finding::Stopping { reason, standing } => {
                format!("Was asked to stop ({reason}), and hasn't yet: {}.", standing.lease(now))
            }
            Finding::LeaseLapsed { standing, becomes } => lapsed(facts, standing, *becomes),
            Finding::Ended(_) => ended(facts),
        }
    }

    pub(super) fn advice(&self, facts: &Facts) -> Option<String> {
        let Task { queue, kind, .. } = &facts.task;
        Some(match self {
            Finding::QueuePaused(queue) => format!("Resume the queue {queue}."),
            Finding::QueueFull { queue, limit: 0, .. } => format!("Raise or lift the limit of {queue}."),
            Finding::NoWorker(_) if kind.is_reserved() => {
                format!("Carry it on with `steadfast run --resume {}`.", facts.task.id)
            }
            Finding::NoWorker(_) => {
                format!("Start a worker that claims from queue {queue} and has a handler for kind {kind}.")
            }
            Finding::Overlooked { .. } => {
                "Look into the workers' logs: their claims fail, or find other tasks first.".into()
            }
            Finding::BlockedByNothing => {
                "Ask again; if it stays so, it is a bug: cancel the task, and report it.".into()
            }
            Finding::Stuck(standing) => {
                format!("Look at what the handler does on worker {}, or cancel the task.", standing.worker)
            }
            Finding::LeaseLapsed { standing, .. }
                if facts.now.since(standing.lease_until) > super::next::SWEEP_LATE =>
            {
                "No sweeper seems to run: start a server or a worker on this store.".into()
            }
            Finding::WaitsForParents(_)
            | Finding::WaitsForSlot { .. }
            | Finding::DueLater { .. }
            | Finding::QueueFull { .. }
            | Finding::WorkersBusy { .. }
            | Finding::NextUp { .. }
            | Finding::Runs(_)
            | Finding::Claimed(_)
            | Finding::Stopping { .. }
            | Finding::LeaseLapsed { .. }
            | Finding::Ended(_) => return None,
        })
    }
}

impl Standing {
    fn lease(&self, now: Timestamp) -> String {
        format!("worker {} has it, leased for another {}", self.worker, rough(self.left(now)))
    }

    fn sentence(&self, now: Timestamp) -> String {
        let entered = match self.entered_at {
            Some(at) => format!("its handler was entered {}", ago(now, at)),
            None => "whether its handler was entered isn't known".into(),
        };
        format!("Runs: {}; {entered}", self.lease(now))
    }

    fn left(&self, now: Timestamp) -> Duration {
        self.lease_until.since(now)
    }
}

impl LackingWorker {
    fn sentence(&self, facts: &Facts) -> String {
        let Task { queue, kind, .. } = &facts.task;
        let why = match self {
            LackingWorker::AtAll => "no worker lives on this store".into(),
            LackingWorker::Alive { last, seen_at, drained: true } => {
                let when = facts.ago(*seen_at);
                format!(
                    "no worker for kind {kind} in queue {queue} lives: the last, {last}, was drained {when}"
                )
            }
            LackingWorker::Alive { last, seen_at, drained: false } => {
                let when = facts.ago(*seen_at);
                format!("no worker for kind {kind} in queue {queue} lives: the last, {last}, was seen {when}")
            }
            LackingWorker::ForQueue(queues) => {
                format!("no worker claims from queue {queue}, only from {}", list(queues.iter().cloned()))
            }
            LackingWorker::ForKind(kinds) => {
                let has = list(kinds.iter().cloned());
                format!("no worker of queue {queue} has a handler for kind {kind}, only for {has}")
            }
        };
        format!("Is ready, but {why}.")
    }
}

fn due_later(facts: &Facts, due_at: Timestamp, after: Option<Cause>) -> String {
    let due = within(facts.now, due_at);
    let task = &facts.task;
    match after {
        None => format!("Waits until it is due, {due}."),
        Some(Cause::Snoozed) => format!("Was put off by its handler; due {due}."),
        Some(cause) => {
            let next = task.attempt + 1;
            let error = task.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            format!(
                "Waits for attempt {next} of {}, due {due}; the last one ended by {cause}{error}.",
                task.attempts_max
            )
        }
    }
}

fn lapsed(facts: &Facts, standing: &Standing, becomes: State) -> String {
    let task = &facts.task;
    let to = match becomes {
        State::Cancelled => "to be cancelled, as was asked".into(),
        State::Failed => format!("to be failed: its {} rescues are used up", task.rescues_max),
        State::Blocked | State::Scheduled | State::Ready | State::Running | State::Succeeded => {
            format!("to be rescued, as rescue {} of {}", task.rescues + 1, task.rescues_max)
        }
    };
    let entered = match standing.entered_at {
        Some(_) => "after its handler was entered",
        None => "and whether its handler was entered isn't known",
    };
    format!(
        "Worker {} let its lease lapse {}, {entered}: {to}.",
        standing.worker,
        facts.ago(standing.lease_until)
    )
}

fn ended(facts: &Facts) -> String {
    let task = &facts.task;
    let when = task.finished_at.map_or_else(String::new, |at| format!(" {}", facts.ago(at)));
    let ran = match facts.current() {
        Some(_) => format!(", in attempt {} of {}", task.attempt.max(1), task.attempts_max),
        None if task.fence == 0 => ", without having been claimed".into(),
        None => format!(", while it waited for attempt {}", task.attempt + 1),
    };
    let cause = task.cause.map_or("a cause that wasn't recorded", Cause::as_str);
    let error = task.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    let state = match task.state {
        State::Succeeded => "Succeeded",
        State::Failed => "Failed",
        State::Cancelled => "Was cancelled",
        State::Blocked | State::Scheduled | State::Ready | State::Running => "Ended",
    };
    if task.cause == Some(Cause::Done) {
        return format!("{state}{when}{ran}.");
    }
    format!("{state}{when}{ran}; cause {cause}{error}.")
}

fn counted(workers: usize) -> String {
    if workers == 1 { "a worker".into() } else { format!("{workers} workers") }
}
