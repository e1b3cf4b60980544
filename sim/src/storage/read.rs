//! Reads: one statement each, in a snapshot of its own.

use steadfast_core::State;
use steadfast_core::name::TaskId;
use steadfast_core::storage::{Answer, Lapsed, Query, TaskFilter, View};
use steadfast_core::task::Task;

use crate::db::Table;
use crate::world::Server;

use super::apply::head;
use super::rows::{StoreRow, table};

/// Answers a query from what is committed.
pub(super) fn read(server: &Server, query: &Query) -> View {
    let answer = match query {
        Query::Task(id) => Answer::Task(find(server, id).map(|row| Box::new(row.as_task().clone()))),
        Query::Tasks(filter) => Answer::Tasks(list(server, filter)),
        Query::Attempts(id) => Answer::Attempts(
            rows(server, table::ATTEMPT)
                .into_iter()
                .filter_map(|row| match row {
                    StoreRow::Attempt(row) if row.task == *id => Some(row.attempt.clone()),
                    StoreRow::Attempt(_) | StoreRow::Task(_) | StoreRow::Edge(_) | StoreRow::Limit(_) => None,
                })
                .collect(),
        ),
        Query::Parents(_) => Answer::Parents(Vec::new()),
        Query::Log { .. } => Answer::Log(Vec::new()),
        Query::Checkpoints(_) => Answer::Checkpoints(Vec::new()),
        Query::Overdue { .. } => Answer::Overdue(Vec::new()),
        Query::Stats { .. } => Answer::Stats(Default::default()),
        Query::Workers => Answer::Workers(Vec::new()),
        Query::Heads(ids) => {
            Answer::Heads(ids.iter().filter_map(|id| Some((id.clone(), head(&find(server, id)?)))).collect())
        }
        Query::Lapsed { limit } => Answer::Lapsed(lapsed(server, *limit)),
    };
    View { store: server.store.clone(), as_of: server.now(), answer }
}

fn rows(server: &Server, table: Table) -> Vec<StoreRow> {
    server.db().committed(table).cloned().collect()
}

fn find(server: &Server, id: &TaskId) -> Option<StoreRow> {
    server.db().committed(table::TASK).find(|row| row.as_task().id == *id).cloned()
}

fn list(server: &Server, filter: &TaskFilter) -> Vec<Task> {
    let matches = |task: &Task| {
        filter.state.is_none_or(|state| state == task.state)
            && filter.queue.as_ref().is_none_or(|queue| *queue == task.queue)
            && filter.kind.as_ref().is_none_or(|kind| *kind == task.kind)
            && filter.slot.as_ref().is_none_or(|slot| Some(slot) == task.slot.as_ref())
    };
    let mut found: Vec<(u64, Task)> = rows(server, table::TASK)
        .iter()
        .filter_map(|row| match row {
            StoreRow::Task(row) if matches(&row.task) => Some((row.seq, row.task.clone())),
            StoreRow::Task(_) | StoreRow::Edge(_) | StoreRow::Attempt(_) | StoreRow::Limit(_) => None,
        })
        .collect();
    found.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    found.into_iter().take(filter.limit as usize).map(|(_, task)| task).collect()
}

fn lapsed(server: &Server, limit: u32) -> Vec<Lapsed> {
    let now = server.now();
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
