//! Lists of tasks: the filter as SQL.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use steadfast_core::storage::TaskFilter;
use steadfast_core::{Kind, Queue, Slot, State, Task};

use crate::row::{TASK, TASK_FROM, task};

/// Found first and read afterwards, so that sorting moves numbers only.
pub(crate) fn tasks(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<Vec<Task>> {
    let join = if filter.kind.is_some() { "CROSS JOIN request USING (seq)" } else { "" };
    let mut found = format!("SELECT seq FROM task {} {join} WHERE true", index(filter));
    let mut values: Vec<Value> = Vec::new();
    if let Some(state) = filter.state {
        // The number itself and no parameter: that is how SQLite knows that the index serves.
        write!(found, " AND state = {}", state.code()).expect("a string takes any text");
    }
    if filter.unfinished {
        found.push_str(" AND state < 4");
    }
    if filter.in_slot {
        found.push_str(" AND slot IS NOT NULL");
    }
    if filter.unfinished && (filter.in_slot || filter.slot.is_some()) {
        // Few, however many tasks have ended.
        found.push_str(" AND seq IN (SELECT task FROM slot UNION ALL SELECT task FROM slot_waiter)");
    }
    let texts = [
        ("queue", filter.queue.as_ref().map(Queue::as_str)),
        ("slot", filter.slot.as_ref().map(Slot::as_str)),
        ("kind", filter.kind.as_ref().map(Kind::as_str)),
    ];
    for (column, text) in texts {
        if let Some(text) = text {
            write!(found, " AND {column} = ?").expect("a string takes any text");
            values.push(Value::Text(text.into()));
        }
    }
    if let Some(before) = &filter.before {
        // Nothing is less than the number of a task that doesn't exist.
        found.push_str(" AND seq < (SELECT seq FROM request WHERE id = ?)");
        values.push(Value::Text(before.as_str().into()));
    }
    found.push_str(" ORDER BY seq DESC LIMIT ?");
    values.push(Value::Integer(filter.limit.into()));
    let sql = format!("SELECT {TASK} FROM {TASK_FROM} WHERE seq IN ({found}) ORDER BY seq DESC");
    conn.prepare_cached(&sql)?.query_and_then(params_from_iter(values), task)?.collect()
}

/// Waiting and running tasks are found in their state's index, however many have ended. All others are looked for from
/// the newest on, until there are enough.
fn index(filter: &TaskFilter) -> &'static str {
    match filter.state {
        Some(State::Scheduled) => "INDEXED BY task_scheduled",
        Some(State::Ready) => "INDEXED BY task_ready",
        Some(State::Running) => "INDEXED BY task_running",
        Some(State::Blocked | State::Succeeded | State::Failed | State::Cancelled) | None => "",
    }
}
