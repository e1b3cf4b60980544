//! The rival: whenever a handler whose task holds a slot has said its last word, it comes in between that word and its
//! settling, and queues for the slot or cancels the first who waits for it.

use steadfast_core::name::{Kind, Slot, TaskId};
use steadfast_core::task::{NewTask, OnConflict};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::choices::Stream;
use crate::storage::rows::awaited_slot;

use super::client::Client;
use super::handler::TIMEOUT;

/// How many tasks it submits at most.
const NEWCOMERS_MAX: u64 = 4;
/// Its choices and its tasks are numbered from here, beyond those of the client.
const FIRST: u64 = 100;

/// Tells the rival that the holder of a slot is about to end.
pub(super) type Tip = UnboundedSender<Slot>;

#[derive(Debug)]
pub(super) struct Rival {
    client: Client,
    tips: UnboundedReceiver<Slot>,
    newcomers: u64,
}

impl Rival {
    pub(super) fn new(client: Client) -> (Self, Tip) {
        let (tip, tips) = unbounded_channel();
        (Self { client, tips, newcomers: 0 }, tip)
    }

    /// Acts on tips until then.
    pub(super) async fn run(mut self, until: Instant) {
        let mut number = FIRST;
        while let Ok(Some(slot)) = timeout_at(until, self.tips.recv()).await {
            number += 1;
            let act = self.client.choices().pick(Stream::Workload, "rival", number, 4);
            let first = self.first_waiting(&slot);
            match (act, first) {
                (2 | 3, Some(first)) => self.client.cancel(&first).await,
                (1..=3, _) if self.newcomers < NEWCOMERS_MAX => {
                    self.newcomers += 1;
                    self.client.submit(number, newcomer(number, slot)).await;
                }
                _ => {}
            }
        }
    }

    fn first_waiting(&self, slot: &Slot) -> Option<TaskId> {
        let tasks = self.client.node.world().history().tasks();
        let waiting = tasks.values().filter(|task| awaited_slot(task) == Some(slot));
        waiting.min_by_key(|task| task.submitted_at).map(|task| task.id.clone())
    }
}

fn newcomer(number: u64, slot: Slot) -> NewTask {
    let id = TaskId::trusted(format!("r{number}"));
    let mut task = NewTask::new(id.clone(), Kind::trusted("work"), id.as_str().as_bytes());
    task.timeout = TIMEOUT;
    task.slot = Some((slot, OnConflict::Queue));
    task
}
