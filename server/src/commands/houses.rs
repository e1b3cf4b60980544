//! `slots`, `queues`, `queue`, `migrate` and `prune`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use steadfast::StoreUrl;

use super::{Out, Target};
use crate::backend::{Missing, open};
use crate::cli::{self, QueueAct};
use crate::failure::Failure;
use crate::show::table;
use crate::units::rough_text;
use crate::wire::{QueueJson, SlotJson};

pub(super) async fn slots(args: cli::Slots, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    match args.slot {
        Some(slot) if args.cancel => {
            let cancelled = backend.free_slot(&slot, "its slot was freed from the command line").await?;
            out.write(&cancelled, |out| {
                let what = match cancelled.cancel.as_str() {
                    "requested" => "is told to stop",
                    _ => "is cancelled",
                };
                writeln!(out, "{}  {what}", cancelled.id)
            })?;
        }
        Some(slot) => {
            let slot = backend.slot(&slot).await?;
            out.write(&slot, |out| slot_table(out, std::slice::from_ref(&slot)))?;
        }
        None => {
            let slots = backend.slots().await?.slots;
            out.write(&slots, |out| slot_table(out, &slots))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn slot_table(out: &mut dyn Write, slots: &[SlotJson]) -> io::Result<()> {
    let row = |slot: &SlotJson| {
        let holder = slot.holder.as_ref();
        [
            slot.slot.clone(),
            holder.map_or_else(|| "-".into(), |holder| holder.state.clone()),
            holder.map_or_else(|| "-".into(), |holder| holder.id.clone()),
            slot.waiting.len().to_string(),
        ]
    };
    let rows: Vec<[String; 4]> = slots.iter().map(row).collect();
    table(out, ["SLOT", "STATE", "HOLDER", "WAITING"], &rows)
}

pub(super) async fn queues(target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let queues = target.backend(Missing::Refuse).await?.queues().await?.queues;
    out.write(&queues, |out| queue_table(out, &queues))?;
    Ok(ExitCode::SUCCESS)
}

fn queue_table(out: &mut dyn Write, queues: &[QueueJson]) -> io::Result<()> {
    let row = |queue: &QueueJson| {
        let count = |states: &[&str]| {
            let counts = states.iter().filter_map(|state| queue.tasks.get(*state));
            counts.sum::<u64>().to_string()
        };
        let oldest = queue
            .oldest_ready_s
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(rough_text);
        [
            queue.queue.clone(),
            if queue.paused { "paused".into() } else { "open".into() },
            queue.concurrency.map_or_else(|| "-".into(), |limit| limit.to_string()),
            count(&["blocked", "scheduled", "ready"]),
            count(&["running"]),
            count(&["succeeded", "failed", "cancelled"]),
            oldest.unwrap_or_else(|| "-".into()),
        ]
    };
    let rows: Vec<[String; 7]> = queues.iter().map(row).collect();
    table(out, ["QUEUE", "CLAIMS", "LIMIT", "WAITING", "RUNNING", "ENDED", "OLDEST READY"], &rows)
}

pub(super) async fn queue(args: cli::Queueing, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let backend = target.backend(Missing::Refuse).await?;
    let mut queues = Vec::new();
    match args.act {
        QueueAct::Pause(named) => {
            for queue in &named.queues {
                queues.push(backend.pause(queue, true).await?);
            }
        }
        QueueAct::Resume(named) => {
            for queue in &named.queues {
                queues.push(backend.pause(queue, false).await?);
            }
        }
        QueueAct::Limit { queue, concurrency } => queues.push(backend.limit(&queue, concurrency.0).await?),
    }
    out.write(&queues, |out| queue_table(out, &queues))?;
    Ok(ExitCode::SUCCESS)
}

/// Opening a store brings it up to date, under a lock, so that is all there is to do.
pub(super) async fn migrate(store: &StoreUrl, out: Out) -> Result<ExitCode, Failure> {
    let (host, id) = open(store, Missing::Create).await?;
    let json = serde_json::json!({ "store": id.as_str(), "url": store.to_string(), "up_to_date": true });
    out.write(&json, |out| writeln!(out, "{store} ({id}) is up to date"))?;
    super::worker::close(host).await;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn prune(args: cli::Prune, target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let pruned = target.backend(Missing::Refuse).await?.prune(args.older).await?;
    out.write(&pruned, |out| writeln!(out, "{} tasks forgotten", pruned.pruned))?;
    Ok(ExitCode::SUCCESS)
}
