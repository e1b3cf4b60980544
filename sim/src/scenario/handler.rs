//! The handler of the simulated workers: it does all that handlers do, by choice, and notes what it saw.

use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::handler::{Running, StopReason};
use steadfast_core::name::TaskId;
use steadfast_core::step::{Outcome, Report};
use steadfast_core::task::{Checkpoint, LogLine, Progress};
use steadfast_core::{Cause, Context, Engine, Handler, Verdict};

use crate::choices::{Choices, Stream};
use crate::faults::Spot;
use crate::history::{Event, Word};
use crate::scheduler::yield_now;
use crate::storage::SimStorage;
use crate::world::{Node, SimClock};

use super::Tempo;
use super::progress::GIVEN_BACK_FENCE_MAX;
use super::rival::Tip;

/// How long an attempt may take in the simulation.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// In how many of ten thousand attempts the handler finds that its attempt is lost, as who runs commands does.
const LOST: u32 = 300;

pub(crate) const REMEMBERED: &str = "api: a finished step was remembered by a later attempt";
pub(crate) const NAMED: &str = "api: an attempt gave its task another name";

/// Runs on this node.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) node: Node,
    pub(super) engine: Engine<SimStorage, SimClock>,
    pub(super) tip: Tip,
    pub(super) tempo: Tempo,
}

impl Handler for Worker {
    fn call(&self, context: Context) -> Running {
        let Self { node, engine, tip, tempo } = self.clone();
        Box::pin(async move {
            let (task, fence) = (context.task_id().clone(), context.fence());
            let payload_id = String::from_utf8_lossy(context.payload()).into_owned();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            report(&node, &engine, &context).await;
            let verdict = match speak(&node, &context).await {
                Ok(()) => work(&node, &context, tempo).await,
                Err(verdict) => verdict,
            };
            node.record(Event::Said { task, fence, word: Word::of(&verdict) });
            if let Some(slot) = context.lease().slot.clone().filter(|_| node.is_alive()) {
                // The rival may have gone home.
                let _ = tip.send(slot);
            }
            verdict
        })
    }
}

/// Says something before the work, or what the attempt before would have said; unless it is told to stop meanwhile.
async fn report(node: &Node, engine: &Engine<SimStorage, SimClock>, context: &Context) {
    let choices: &Choices = node.world().choices();
    let actor = actor(context);
    let (task, own) = (context.task_id().clone(), context.fence());
    let (fence, number) = match choices.pick(Stream::Workload, "report", actor, 10) {
        0..=5 => return,
        9 if own > 1 => (own - 1, 2),
        _ => (own, 1),
    };
    let said = format!("fence {fence}");
    let mut report = Report::new(task.clone(), fence);
    let line = LogLine {
        number,
        ago: Duration::ZERO,
        stream: steadfast_core::task::Stream::Log,
        text: said.clone(),
    };
    report.lines.push(line);
    let parts = choices.pick(Stream::Workload, "what is reported", actor, 8);
    if parts & 1 > 0 {
        report.progress = Some(Progress { percent: 50, message: said.clone() });
    }
    if parts & 2 > 0 {
        report.checkpoints.push(Checkpoint { name: "half".into(), value: said.into_bytes().into() });
    }
    if parts & 4 > 0 {
        let alias = choices.pick(Stream::Workload, "which alias", actor, 12);
        report.alias = Some(TaskId::trusted(format!("alias-{alias}")));
    }
    let (sent, stopped) = (std::pin::pin!(engine.report(report)), std::pin::pin!(context.stopped()));
    if let Either::Left((Ok(outcome), _)) = select(sent, stopped).await {
        let kept = matches!(outcome, Outcome::Applied(_) | Outcome::Already(_));
        node.record(Event::Reported { task, fence, number, kept });
    }
}

/// Says something at the attempt's own desk, and does a durable step, or finds it done.
async fn speak(node: &Node, context: &Context) -> Result<(), Verdict> {
    let choices: &Choices = node.world().choices();
    let actor = actor(context);
    let own = format!("fence {}", context.fence());
    match choices.pick(Stream::Workload, "speaks", actor, 10) {
        6 => context.log(&own),
        7 => context.progress(10, &own),
        8 => {
            let fresh = own.clone().into_bytes();
            let stored = context.step("first", || async { Ok::<_, Verdict>(fresh) }).await?;
            if stored.as_ref() == own.as_bytes() {
                let (task, fence) = (context.task_id().clone(), context.fence());
                node.record(Event::Reported { task, fence, number: 0, kept: true });
            } else {
                node.record(Event::Did { what: REMEMBERED });
            }
        }
        9 => {
            let number = choices.pick(Stream::Workload, "which alias", actor, 12);
            // It may be another task's.
            if context.alias(TaskId::trusted(format!("alias-{number}"))).await.is_ok() {
                node.record(Event::Did { what: NAMED });
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a handler does that was told to stop, while its grace lasts or longer.
async fn clean_up(node: &Node, context: &Context) {
    node.strike(Spot::Cleanup).await;
    let which = node.world().choices().pick(Stream::Workload, "cleans up for", actor(context), 5);
    tokio::time::sleep(Duration::from_millis([0, 0, 500, 2_950, 3_500][which as usize])).await;
}

/// The task is the actor: what it does doesn't depend on who else is there.
pub(super) fn actor(context: &Context) -> u64 {
    xxhash_rust::xxh3::xxh3_64(context.task_id().as_str().as_bytes())
}

async fn work(node: &Node, context: &Context, tempo: Tempo) -> Verdict {
    let choices: &Choices = node.world().choices();
    let actor = actor(context);
    let done = || Verdict::done(format!("fence {}", context.fence()).into_bytes());
    let delay = |site, seconds: u32| {
        let tenths = choices.pick(Stream::Workload, site, actor, seconds * 10);
        tempo.of(Duration::from_millis(u64::from(tenths) * 100))
    };
    if context.fence() <= GIVEN_BACK_FENCE_MAX && choices.odds(Stream::Workload, "is lost", actor, LOST) {
        sleep_or_stop(node, context, delay("work before it is lost", 5)).await;
        return Verdict::Lost;
    }
    match choices.pick(Stream::Workload, "handler", actor, 12) {
        0..=2 => done(),
        3 => {
            yield_now().await;
            done()
        }
        4..=6 => sleep_or_stop(node, context, delay("short work", 15)).await.unwrap_or_else(done),
        7 => {
            sleep_or_stop(node, context, delay("work before an error", 5)).await;
            Verdict::error("the work went wrong")
        }
        8 => {
            // Unlike `panic!` this doesn't print.
            std::panic::resume_unwind(Box::new("the handler panicked".to_owned()))
        }
        9 => Verdict::Fail { cause: Cause::Error, error: "the work can't be done".into() },
        10 if context.fence() <= GIVEN_BACK_FENCE_MAX => Verdict::Snooze { after: delay("snooze", 10) },
        10 => done(),
        _ => {
            // Deaf: it ends at its timeout or when it is dropped.
            let _busy = node.keep_busy();
            tokio::time::sleep(tempo.of(TIMEOUT * 2)).await;
            done()
        }
    }
}

/// Works for a while; told to stop, it says so and ends with an error. `None` where nobody stopped it.
async fn sleep_or_stop(node: &Node, context: &Context, duration: Duration) -> Option<Verdict> {
    let (stopped, work) = (std::pin::pin!(context.stopped()), std::pin::pin!(tokio::time::sleep(duration)));
    match select(stopped, work).await {
        Either::Left((reason, _)) => {
            let lost = reason == StopReason::LeaseLost;
            node.record(Event::Told { task: context.task_id().clone(), fence: context.fence(), lost });
            clean_up(node, context).await;
            Some(Verdict::error(reason))
        }
        Either::Right(_) => None,
    }
}
