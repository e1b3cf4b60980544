//! Each event as a line, in the terms of tasks, leases and rows.

use std::fmt;
use std::time::Duration;

use steadfast_core::State;
use steadfast_core::task::Task;

use super::{Entry, Event};

impl fmt::Display for Entry {
    /// One line, in the terms of tasks, leases and rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.since(crate::world::EPOCH).as_secs_f64();
        write!(f, "{seconds:>10.3}s  ")?;
        match &self.event {
            Event::Changed { before, after } => write_change(f, before.as_deref(), after),
            Event::Edge(edge) => {
                write!(f, "commit    edge {} → {} ({})", edge.parent, edge.child, edge.on_failure)
            }
            Event::Limited { queue, concurrency } => {
                write!(f, "commit    queue {queue} limit {concurrency:?}")
            }
            Event::Kept { task, fence, number: 0 } => {
                write!(f, "commit    {task} keeps a step of fence {fence}")
            }
            Event::Kept { task, fence, number } => {
                write!(f, "commit    {task} keeps line {number} of fence {fence}")
            }
            Event::Aliased { alias, task } => write!(f, "commit    {alias} stands for {task}"),
            Event::Pruned { task } => write!(f, "commit    {} is forgotten", task.id),
            Event::Lost { task } => write!(f, "store     has lost {}", task.id),
            Event::Reported { task, fence, number: 0, .. } => {
                write!(f, "handler   of {task} fence {fence} hears that a step was kept")
            }
            Event::Reported { task, fence, number, kept } => {
                let what = if *kept { "kept" } else { "refused" };
                write!(f, "handler   of {task} fence {fence} hears that line {number} was {what}")
            }
            Event::Submitting { task } => write!(f, "client    submits {task}"),
            Event::Submitted { task, answer } => write!(f, "client    is told about {task}: {answer:?}"),
            Event::Cancelled { task, acknowledged } => {
                let how = if *acknowledged { "acknowledged" } else { "came too late" };
                write!(f, "client    cancel of {task} {how}")
            }
            Event::Overlooked { task } => write!(f, "client    finds that its own cancel has ended {task}"),
            Event::Overdue { task, what } => write!(f, "client    finds that {task} waits too long {what}"),
            Event::Retrying { task } => write!(f, "client    asks to try {task} again"),
            Event::Entered { node, task, fence, .. } => {
                write!(f, "handler   {node} enters {task} fence {fence}")
            }
            Event::Told { task, fence, lost } => {
                let why = if *lost { ": its lease is lost" } else { "" };
                write!(f, "handler   of {task} fence {fence} is told to stop{why}")
            }
            Event::Said { task, fence, word } => write!(f, "handler   of {task} fence {fence} says {word}"),
            Event::Outlived { task, fence, .. } => {
                write!(f, "handler   of {task} fence {fence} is still at work")
            }
            Event::Prolonged { task, worker, by } => {
                write!(f, "commit    the lease of {worker} on {task} is prolonged by {by}")
            }
            Event::CutShort { task, worker, by } => {
                write!(f, "commit    the attempt of {worker} at {task} is ended for its deadline by {by}")
            }
            Event::Held { task } => write!(f, "store     a stranger locks the row of {task}"),
            Event::Looked { reader, task, rev, state, .. } => {
                write!(f, "reader    {reader} is shown {task} {state} rev {rev}")
            }
            Event::Missed { reader, task, .. } => {
                write!(f, "reader    {reader} is told that there is no {task}")
            }
            Event::Follows { reader, task } => write!(f, "reader    {reader} follows {task}"),
            Event::Followed { reader, task, rev, state } => {
                write!(f, "reader    {reader} is told of {task} {state} rev {rev}")
            }
            of_world => write_of_world(f, of_world),
        }
    }
}

/// What happens to processes and to the store, and what the simulation notes itself.
fn write_of_world(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    match event {
        Event::Drained { node, attempts: 0 } => write!(f, "node      {node} is drained"),
        Event::Drained { node, attempts } => {
            write!(f, "node      {node} is drained and still knows {attempts} attempts")
        }
        Event::Closed { connections } => {
            write!(f, "store     has {connections} connections when everybody has gone")
        }
        Event::Draining { node } => write!(f, "node      {node} is told to drain"),
        Event::Started { node } => write!(f, "node      {node} starts"),
        Event::Crashed { node } => write!(f, "node      {node} crashes"),
        Event::Froze { node } => write!(f, "node      {node} freezes"),
        Event::Thawed { node } => write!(f, "node      {node} thaws"),
        Event::Noted { text, .. } => write!(f, "note      {text}"),
        Event::Asserted { .. } => write!(f, "test      fails"),
        Event::StoreCrashed { down } => {
            write!(f, "store     the database crashes and is down for {down:?}")
        }
        Event::Stalled { time } => write!(f, "store     a transaction has stood still for {time:?}"),
        Event::Misled { node } => {
            write!(f, "store     tells {node} of a conflict, and nobody else was there")
        }
        Event::Jumped { node, micros } => {
            let seconds = Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
            let way = if *micros < 0 { "back" } else { "forward" };
            write!(f, "clock     of {node} jumps {way} by {seconds} s")
        }
        Event::Did { what } => write!(f, "client    {what}"),
        Event::Overran { by } => {
            write!(f, "—         it is {by:?} past the time by which all must have ended")
        }
        Event::Healed => write!(f, "—         faults stop"),
        Event::Calm => write!(f, "—         all that was under way is over"),
        Event::Met { faults } => write!(f, "—         there were {} kinds of faults", faults.len()),
        Event::Changed { .. }
        | Event::Edge(_)
        | Event::Limited { .. }
        | Event::Kept { .. }
        | Event::Aliased { .. }
        | Event::Pruned { .. }
        | Event::Lost { .. }
        | Event::Reported { .. }
        | Event::Submitting { .. }
        | Event::Submitted { .. }
        | Event::Cancelled { .. }
        | Event::Overlooked { .. }
        | Event::Overdue { .. }
        | Event::Retrying { .. }
        | Event::Entered { .. }
        | Event::Told { .. }
        | Event::Said { .. }
        | Event::Outlived { .. }
        | Event::Held { .. }
        | Event::Prolonged { .. }
        | Event::CutShort { .. }
        | Event::Looked { .. }
        | Event::Missed { .. }
        | Event::Follows { .. }
        | Event::Followed { .. } => unreachable!("written above"),
    }
}

fn write_change(f: &mut fmt::Formatter<'_>, before: Option<&Task>, after: &Task) -> fmt::Result {
    let from = before.map_or("–", |task| task.state.as_str());
    write!(f, "commit    {} {from} → {} rev {} fence {}", after.id, after.state, after.rev, after.fence)?;
    write!(f, " attempt {}/{}", after.attempt, after.attempts_max)?;
    if after.rescues > 0 {
        write!(f, " rescues {}/{}", after.rescues, after.rescues_max)?;
    }
    if after.parents_pending > 0 {
        write!(f, " waits for {}", after.parents_pending)?;
    }
    if let (true, Some(slot)) = (after.slot_waiting, &after.slot) {
        write!(f, " waits for slot {slot}")?;
    }
    if let (State::Running, Some(worker)) = (after.state, &after.worker) {
        write!(f, " by {worker}")?;
    }
    if let Some(cause) = after.cause {
        write!(f, " [{cause}]")?;
    }
    if after.cancel.is_some() {
        write!(f, " cancel asked for")?;
    }
    Ok(())
}
