//! Reads: one statement each, in a snapshot of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::name::{Queue, TaskId};
use steadfast_core::storage::{Answer, Lapsed, Query, QueueStats, Stats, TaskFilter, View, Worker};
use steadfast_core::task::{Checkpoint, Fence, LogEntry, Parent, Task};
use steadfast_core::{State, Timestamp};

use crate::db::Table;
use crate::world::Server;

use super::apply::head;
use super::rows::{StoreRow, table};

/// Answers a query from what is committed. Leases are judged by the time given.
pub(super) fn read(server: &Server, query: &Query, lapsed_by: Timestamp) -> View {
    let answer = match query {
        Query::Task(id) => Answer::Task(named(server, id).map(|row| Box::new(row.as_task().clone()))),
        Query::Tasks(filter) => Answer::Tasks(list(server, filter)),
        Query::Attempts(id) => Answer::Attempts(
            rows(server, table::ATTEMPT)
                .into_iter()
                .filter_map(|row| match row {
                    StoreRow::Attempt(row) => (row.task == *id).then(|| row.attempt.clone()),
                    other => unreachable!("a row of the table of attempts, not {other:?}"),
                })
                .collect(),
        ),
        Query::Parents(id) => Answer::Parents(parents(server, id)),
        Query::Log { task, after, limit } => Answer::Log(log(server, task, *after, *limit)),
        Query::Checkpoints(id) => Answer::Checkpoints(checkpoints(server, id)),
        Query::Overdue { limit } => Answer::Overdue(overdue(server, *limit)),
        Query::Stats { stale, stuck } => Answer::Stats(stats(server, *stale, *stuck)),
        Query::Workers => Answer::Workers(workers(server)),
        Query::Heads(ids) => {
            Answer::Heads(ids.iter().filter_map(|id| Some((id.clone(), head(&find(server, id)?)))).collect())
        }
        Query::Lapsed { limit } => Answer::Lapsed(lapsed(server, *limit, lapsed_by)),
    };
    View { store: server.store.clone(), as_of: server.now(), answer }
}

fn rows(server: &Server, table: Table) -> Vec<StoreRow> {
    server.db().committed(table).cloned().collect()
}

fn find(server: &Server, id: &TaskId) -> Option<StoreRow> {
    server.db().committed(table::TASK).find(|row| row.as_task().id == *id).cloned()
}

/// By id, or else by another name.
fn named(server: &Server, id: &TaskId) -> Option<StoreRow> {
    let alias = || {
        let row = rows(server, table::ALIAS).into_iter().find(|row| row.as_alias().alias == *id)?;
        find(server, &row.as_alias().task)
    };
    find(server, id).or_else(alias)
}

fn list(server: &Server, filter: &TaskFilter) -> Vec<Task> {
    let matches = |task: &Task| {
        filter.state.is_none_or(|state| state == task.state)
            && filter.queue.as_ref().is_none_or(|queue| *queue == task.queue)
            && filter.kind.as_ref().is_none_or(|kind| *kind == task.kind)
            && filter.slot.as_ref().is_none_or(|slot| Some(slot) == task.slot.as_ref())
            && !(filter.unfinished && task.state.is_terminal())
            && !(filter.in_slot && task.slot.is_none())
    };
    let before = match &filter.before {
        None => u64::MAX,
        Some(id) => match find(server, id) {
            Some(row) => row.arrival(),
            None => return Vec::new(),
        },
    };
    let mut found = rows(server, table::TASK);
    found.retain(|row| row.arrival() < before && matches(row.as_task()));
    found.sort_by_key(|row| std::cmp::Reverse(row.arrival()));
    found.iter().take(filter.limit as usize).map(|row| row.as_task().clone()).collect()
}

fn parents(server: &Server, id: &TaskId) -> Vec<(Parent, Option<State>)> {
    let edges = rows(server, table::EDGE);
    let of_child = edges.iter().map(StoreRow::as_edge).filter(|edge| edge.child == *id);
    of_child
        .map(|edge| {
            // Whoever has the id of a parent that was forgotten is another task.
            let parent = find(server, &edge.parent).filter(|_| !edge.gone);
            let state = parent.map(|row| row.as_task().state);
            (Parent { id: edge.parent.clone(), on_failure: edge.on_failure }, state)
        })
        .collect()
}

fn log(server: &Server, id: &TaskId, after: (Fence, u32), limit: u32) -> Vec<LogEntry> {
    let lines = rows(server, table::LOG).into_iter().filter_map(|row| match row {
        StoreRow::Log(row) => (row.task == *id).then(|| row.entry.clone()),
        other => unreachable!("a row of the table of logs, not {other:?}"),
    });
    lines.filter(|line| (line.fence, line.number) > after).take(limit as usize).collect()
}

fn checkpoints(server: &Server, id: &TaskId) -> Vec<Checkpoint> {
    let of_task = |row| match row {
        StoreRow::Checkpoint(row) => (row.task == *id).then(|| row.checkpoint.clone()),
        other => unreachable!("a row of the table of checkpoints, not {other:?}"),
    };
    rows(server, table::CHECKPOINT).into_iter().filter_map(of_task).collect()
}

fn workers(server: &Server) -> Vec<Worker> {
    let worker = |row| match row {
        StoreRow::Worker(worker) => Worker::clone(&worker),
        other => unreachable!("a row of the table of workers, not {other:?}"),
    };
    rows(server, table::WORKER).into_iter().map(worker).collect()
}

fn overdue(server: &Server, limit: u32) -> Vec<TaskId> {
    let now = server.now();
    let mut found: Vec<_> = rows(server, table::TASK)
        .iter()
        .filter(|row| row.as_task().state.is_waiting())
        .filter_map(|row| {
            let deadline = row.as_task().deadline_at.filter(|deadline| *deadline <= now)?;
            Some((deadline, row.as_task().id.clone()))
        })
        .collect();
    found.sort();
    found.into_iter().take(limit as usize).map(|(_, id)| id).collect()
}

fn stats(server: &Server, stale: Duration, stuck: Duration) -> Stats {
    let now = server.now();
    let mut queues: BTreeMap<Queue, QueueStats> = BTreeMap::new();
    let mut of = |queue: &Queue, change: &dyn Fn(&mut QueueStats)| {
        let empty = || QueueStats {
            queue: queue.clone(),
            concurrency: None,
            paused: false,
            tasks: [0; 7],
            oldest_ready: None,
            stale: 0,
            stuck: 0,
        };
        change(queues.entry(queue.clone()).or_insert_with(empty));
    };
    for row in rows(server, table::QUEUE) {
        let row = row.as_queue();
        if row.concurrency.is_some() || row.paused {
            of(&row.queue, &|stats| (stats.concurrency, stats.paused) = (row.concurrency, row.paused));
        }
    }
    for row in rows(server, table::TASK) {
        let task = row.as_task();
        of(&task.queue, &|stats| {
            stats.tasks[usize::from(task.state.code())] += 1;
            if task.state == State::Ready {
                let waits = now.since(task.due_at);
                stats.oldest_ready = stats.oldest_ready.max(Some(waits));
                stats.stale += u64::from(waits > stale);
            }
            if task.state == State::Running {
                let sign = task.entered_at.max(task.reported_at).or(task.claimed_at);
                stats.stuck += u64::from(sign.is_some_and(|sign| now.since(sign) > stuck));
            }
        });
    }
    Stats { queues: queues.into_values().collect() }
}

fn lapsed(server: &Server, limit: u32, now: Timestamp) -> Vec<Lapsed> {
    let mut found: Vec<Lapsed> = rows(server, table::TASK)
        .iter()
        .map(StoreRow::as_task)
        .filter(|task| task.state == State::Running)
        .filter_map(|task| {
            let expired = task.lease_expires_at.filter(|expires| *expires <= now)?;
            Some(Lapsed {
                task: task.id.clone(),
                fence: task.fence,
                worker: task.worker.clone()?,
                entered: task.entered_at.is_some(),
                rescues: task.rescues,
                rescues_max: task.rescues_max,
                cancel: task.cancel.clone(),
                since: now.since(expired),
            })
        })
        .collect();
    found.sort_by_key(|lapsed| (std::cmp::Reverse(lapsed.since), lapsed.task.clone()));
    found.truncate(limit as usize);
    found
}
