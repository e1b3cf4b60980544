//! The handler on the simulated network: works for a while, by choice, and notes what the oracle asks for.

use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast::core::handler::{Running, StopReason};
use steadfast::{Context, Handler, Verdict};
use steadfast_sim::choices::Stream;
use steadfast_sim::history::{Event, Word};
use steadfast_sim::world::Node;

/// Runs on this node.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) node: Node,
}

impl Handler for Work {
    fn call(&self, context: Context) -> Running {
        let node = self.node.clone();
        Box::pin(async move {
            let (task, fence) = (context.task_id().clone(), context.fence());
            let payload_id = serde_json::from_slice(context.payload()).unwrap_or_default();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            let verdict = work(&node, &context).await;
            node.record(Event::Said { task, fence, word: Word::of(&verdict) });
            verdict
        })
    }
}

async fn work(node: &Node, context: &Context) -> Verdict {
    let choices = node.world().choices();
    // The task is the actor, by the number at the end of what it was given.
    let digits = context.payload().iter().filter(|byte| byte.is_ascii_digit());
    let actor = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let steps = choices.pick(Stream::Workload, "steps", actor, 5);
    for step in 0..steps {
        context.progress(u8::try_from(step * 20).expect("few"), format!("step {step}"));
        let pause = Duration::from_millis(
            [0, 30, 200, 600][choices.pick(Stream::Workload, "pause in a step", actor, 4) as usize],
        );
        let (stopped, slept) = (std::pin::pin!(context.stopped()), std::pin::pin!(tokio::time::sleep(pause)));
        if let Either::Left((reason, _)) = select(stopped, slept).await {
            let lost = reason == StopReason::LeaseLost;
            node.record(Event::Told { task: context.task_id().clone(), fence: context.fence(), lost });
            return Verdict::error(reason);
        }
    }
    match choices.pick(Stream::Workload, "verdict", actor, 8) {
        6 => Verdict::error("the work went wrong"),
        7 => Verdict::fail("the work can't be done"),
        _ => Verdict::done(format!("\"fence {}\"", context.fence()).into_bytes()),
    }
}
