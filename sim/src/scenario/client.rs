//! The client of the simulated service: submits and cancels through an engine of its own, sends again what may be lost,
//! and sometimes goes away in the middle of a call.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use steadfast_core::engine::{Cancelled, Submitted};
use steadfast_core::name::{Key, Kind, Queue, Slot, TaskId};
use steadfast_core::step::{Prune, QueuePause, Refusal};
use steadfast_core::task::{Due, NewTask, OnConflict, OnParentFailure, Parent, Task};
use steadfast_core::{Engine, Error, ErrorKind, State};

use crate::choices::{Choices, Stream};
use crate::history::{Event, SubmitAnswer};
use crate::storage::SimStorage;
use crate::world::{Node, SimClock};

use super::RETENTION;
use super::handler::TIMEOUT;
use super::progress::NOBODYS;

/// How many tasks a run has.
pub(super) const TASKS: u64 = 20;
/// The queue with a limit.
pub(super) const LIMITED: &str = "limited";
/// How often a submit is sent again by the caller, after the engine has given up.
const RESUBMITS_MAX: u32 = 3;

#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) node: Node,
    pub(super) engine: Engine<SimStorage, SimClock>,
}

impl Client {
    /// Submits and cancels, one after the other, with pauses.
    pub(super) async fn run(self) {
        let replacing = self.choices().pick(Stream::Workload, "swarm: children replace", 0, 3) == 2;
        for number in 0..TASKS {
            self.pause(number).await;
            let task = self.plan(number, replacing);
            self.submit(number, task).await;
            self.keep_house(number).await;
            let choices = self.choices();
            if choices.odds(Stream::Workload, "cancel", number, 1_500) {
                let target = choices.pick(
                    Stream::Workload,
                    "cancel which",
                    number,
                    u32::try_from(number + 1).expect("few"),
                );
                self.cancel(&id(u64::from(target))).await;
            }
        }
    }

    /// Pauses or resumes a queue, or forgets what ended long ago. What goes wrong is made up for later.
    async fn keep_house(&self, number: u64) {
        let choices = self.choices();
        if choices.odds(Stream::Workload, "pause or resume", number, 1_500) {
            let paused = choices.pick(Stream::Workload, "resume or pause", number, 2) == 1;
            let _ = self.pause_queue(paused).await;
        }
        if choices.odds(Stream::Workload, "prune", number, 2_000) {
            let _ = self.prune().await;
        }
    }

    pub(super) async fn pause_queue(&self, paused: bool) -> Result<(), Error> {
        self.engine.pause(QueuePause { queue: Queue::trusted(LIMITED), paused }).await
    }

    /// Forgets a few of the tasks that ended long ago.
    pub(super) async fn prune(&self) -> Result<u32, Error> {
        let otherwise = RETENTION + Duration::from_secs(15);
        self.engine.prune(Prune { succeeded: RETENTION, otherwise, limit: 5 }).await
    }

    pub(super) fn choices(&self) -> &Choices {
        self.node.world().choices()
    }

    /// `replacing`: whether children may take a slot from its holder.
    pub(super) fn plan(&self, number: u64, replacing: bool) -> NewTask {
        let choices = self.choices();
        let pick = |site, n| choices.pick(Stream::Workload, site, number, n);
        let odds = |site, odds| choices.odds(Stream::Workload, site, number, odds);
        let mut task = NewTask::new(id(number), Kind::trusted("work"), id(number).as_str().as_bytes());
        task.timeout = TIMEOUT;
        task.attempts_max = 1 + pick("attempts", 3);
        if choices.pick(Stream::Workload, "swarm: nobodys", 0, 8) == 7 && odds("nobodys", 1_000) {
            task.kind = Kind::trusted(NOBODYS);
        }
        task.rescues_max = [5, 5, 1, 0][pick("rescues", 4) as usize];
        task.priority = i16::try_from(pick("priority", 3)).expect("small");
        if odds("limited", 3_000) {
            task.queue = Queue::trusted(LIMITED);
        }
        if odds("key", 1_500) {
            let key = format!("k{}", pick("which key", 2));
            task.payload = format!("key {key}").into_bytes().into();
            task.key = Some(Key::trusted(key));
            // The same key must come with the same request, but for the id.
            (task.attempts_max, task.rescues_max, task.priority) = (3, 5, 0);
            (task.queue, task.kind) = (Queue::default_queue(), Kind::trusted("work"));
            return task;
        }
        if odds("slot", 4_000) {
            let on_conflict = match pick("on conflict", 10) {
                3..=7 if !replacing => OnConflict::Queue,
                0..=7 => OnConflict::Replace,
                8 => OnConflict::Join,
                _ => OnConflict::Reject,
            };
            let slot = Slot::trusted(format!("s{}", pick("which slot", 2)));
            if on_conflict == OnConflict::Join || odds("alike", 5_000) {
                task.payload = format!("slot {slot}").into_bytes().into();
            }
            task.slot = Some((slot, on_conflict));
        }
        if odds("deadline", 1_500) {
            task.deadline = Some(Due::After(Duration::from_secs(u64::from(1 + pick("how soon", 40)))));
        }
        if odds("delay", 2_000) {
            task.due = Due::After(Duration::from_secs(u64::from(pick("due", 20))));
        }
        // Who replaces comes before those that wait for the slot. If one of them is its parent, directly or not, both wait
        // for ever, as was asked for: so a run has either children that replace or tasks that wait for slots.
        let overtakes = matches!(task.slot, Some((_, OnConflict::Replace))) && !replacing;
        if number > 0 && !overtakes && odds("parents", 4_500) {
            let n = u32::try_from(number).expect("few");
            let parents: BTreeSet<u32> =
                (0..=pick("how many parents", 3)).map(|_| pick("which parent", n)).collect();
            task.parents = parents
                .into_iter()
                .map(|parent| Parent {
                    id: id(u64::from(parent)),
                    on_failure: if odds("run anyway", 4_000) {
                        OnParentFailure::Run
                    } else {
                        OnParentFailure::Fail
                    },
                })
                .collect();
        }
        task
    }

    pub(super) async fn submit(&self, number: u64, task: NewTask) {
        let id = task.id.clone();
        self.node.record(Event::Submitting { task: id.clone() });
        let patience =
            self.choices().depart(Stream::Faults, "client goes away", number, self.drop_odds(), 12);
        // Some take the first answer for what it says.
        let gives_up = self.choices().odds(Stream::Workload, "gives up", number, 3_000);
        let rounds = if gives_up { 0 } else { RESUBMITS_MAX };
        for round in 0..=rounds {
            let answer = match dropped_after(patience, self.engine.submit(task.clone())).await {
                None => SubmitAnswer::Dropped,
                Some(Ok(Submitted::Accepted(accepted))) => self.answered(&task, accepted.id),
                // An earlier round may be on its way still, and find later that nothing speaks against it.
                Some(Ok(Submitted::Refused(Refusal::SlotTaken(..) | Refusal::ParentMissing(_))))
                    if round > 0 =>
                {
                    SubmitAnswer::Failed(ErrorKind::Unknown)
                }
                Some(Ok(Submitted::Refused(refusal))) => SubmitAnswer::Refused(format!("{refusal:?}")),
                Some(Ok(Submitted::Invalid(invalid))) => unreachable!("the plan is valid: {invalid}"),
                Some(Err(error)) if round < rounds && is_worth_repeating(&error) => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
                // An earlier round may have been stored without an answer.
                Some(Err(_)) if round > 0 => SubmitAnswer::Failed(ErrorKind::Unknown),
                Some(Err(error)) => SubmitAnswer::Failed(error.kind()),
            };
            self.node.record(Event::Submitted { task: id, answer });
            return;
        }
    }

    /// Whoever joins the holder of a slot, or sends a known key, is answered with another task, but for the same work.
    fn answered(&self, asked: &NewTask, told: TaskId) -> SubmitAnswer {
        let is_other = |told: &Task| told.kind != asked.kind || told.payload != asked.payload;
        if told != asked.id
            && self.node.world().history().tasks().get(&told).is_some_and(|told| is_other(told))
        {
            return SubmitAnswer::Foreign(told);
        }
        SubmitAnswer::Accepted(told)
    }

    pub(super) async fn cancel(&self, task: &TaskId) {
        // By the reason the end is known for this cancel's own.
        let reason = format!("no longer needed, {}", self.node.world().server().next_seq());
        let Ok(cancelled) = self.engine.cancel(task, &reason).await else { return };
        let acknowledged = matches!(cancelled, Cancelled::Ended | Cancelled::Requested);
        self.node.record(Event::Cancelled { task: task.clone(), acknowledged });
        let is_its_own =
            |ended: &Task| ended.state == State::Cancelled && ended.error.as_ref() == Some(&reason);
        let is_wrong = |found: &Task| match cancelled {
            Cancelled::Ended | Cancelled::Requested => false,
            Cancelled::HadEnded(_) => is_its_own(found) || !found.state.is_terminal(),
            Cancelled::NotFound => is_its_own(found),
        };
        if self.node.world().history().any_task(|other| other.id == *task && is_wrong(other)) {
            self.node.record(Event::Overlooked { task: task.clone() });
        }
    }

    async fn pause(&self, number: u64) {
        let pause = self.choices().pick(Stream::Workload, "pause", number, 6);
        tokio::time::sleep(Duration::from_millis([0, 0, 50, 1_000, 4_000, 10_000][pause as usize])).await;
    }

    fn drop_odds(&self) -> u32 {
        [0, 300, 1_500][self.choices().pick(Stream::Faults, "swarm: client goes away", 0, 3) as usize]
    }
}

pub(super) fn is_worth_repeating(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Conflict | ErrorKind::Contended | ErrorKind::Unknown | ErrorKind::Unavailable => true,
        ErrorKind::Rejected | ErrorKind::Broken => false,
    }
}

pub(super) fn id(number: u64) -> TaskId {
    TaskId::trusted(format!("t{number:02}"))
}

/// Polls a future this often and drops it then; 0 stands for as often as it needs.
pub(super) async fn dropped_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        if polls > 0 {
            left -= 1;
            if left == 0 {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}
