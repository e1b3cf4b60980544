//! How specimens release children: looked up in the statement that ends the parent, or by asking whether an unfinished
//! parent is left instead of counting.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::Timestamp;
use steadfast_core::name::TaskId;

use crate::db::{Next, Rows, Select, Statement};

use super::release::{Release, released};
use super::rows::{EdgeRow, RowKey, StoreRow, table};

/// The statement that ends tasks, with the look-up of the edges to their children folded into it: an edge that is committed
/// while the statement waits for its parent's row is not seen. It answers the tasks, then the edges.
pub(super) fn releasing(ends: Statement<StoreRow>) -> Statement<StoreRow> {
    ends.then(|mut changed| {
        let ended = changed.iter().map(StoreRow::as_task).filter(|task| task.state.is_terminal());
        let parents: BTreeSet<TaskId> = ended.map(|task| task.id.clone()).collect();
        let edges = Rows::all(table::EDGE).filter(move |row: &StoreRow| {
            let edge = row.as_edge();
            parents.contains(&edge.parent) && !edge.gone
        });
        let look_up = Statement::select(Select::new(edges));
        Next::Run(look_up.then(move |edges| {
            changed.extend(edges);
            Next::Answer(changed)
        }))
    })
}

/// The tasks and the edges of such an answer.
pub(super) fn parted(rows: Vec<StoreRow>) -> (Vec<StoreRow>, Vec<EdgeRow>) {
    let (edges, tasks): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| matches!(row, StoreRow::Edge(_)));
    (tasks, edges.iter().map(|row| row.as_edge().clone()).collect())
}

/// Releases those of these blocked children that have, as the statement sees it, no unfinished parent: of two parents that
/// end at the same time neither sees that the other has.
pub(super) fn by_not_exists(
    children: Rows<StoreRow>,
    releases: BTreeMap<TaskId, Release>,
    now: Timestamp,
) -> Statement<StoreRow> {
    let ids: BTreeSet<TaskId> = releases.keys().cloned().collect();
    let edges = Rows::all(table::EDGE).filter(move |row: &StoreRow| {
        let edge = row.as_edge();
        ids.contains(&edge.child) && !edge.gone
    });
    Statement::select(Select::new(edges)).then(move |edges| {
        let edges: Vec<EdgeRow> = edges.iter().map(|row| row.as_edge().clone()).collect();
        let parents = Rows::by_keys(table::TASK, edges.iter().map(|edge| RowKey::Task(edge.parent.clone())));
        Next::Run(Statement::select(Select::new(parents)).then(move |parents| {
            let unfinished: BTreeSet<&TaskId> = parents
                .iter()
                .map(StoreRow::as_task)
                .filter(|task| !task.state.is_terminal())
                .map(|task| &task.id)
                .collect();
            let waits: BTreeSet<TaskId> = edges
                .iter()
                .filter(|edge| unfinished.contains(&edge.parent))
                .map(|edge| edge.child.clone())
                .filter(|child| releases[child].failed_parent.is_none())
                .collect();
            let free = children.filter(move |row: &StoreRow| !waits.contains(&row.as_task().id));
            Next::Run(Statement::update(free, move |row| {
                released(row, &releases[&row.as_task().id], true, now)
            }))
        }))
    })
}
