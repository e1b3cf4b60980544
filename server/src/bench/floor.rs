//! The floor: the least that a table of tasks can cost in raw SQL, on a store of the same kind, with the same
//! durability. It has one narrow table and one index; nothing is fenced, replaced, released, retried or run.
//!
//! It is pinned, so that ratios mean the same everywhere and always: don't tune it.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rusqlite::Connection;
use tokio_postgres::Client;

use super::place::{Place, connect};
use super::{Error, PAYLOAD, SET, rate};

/// How many tasks a transaction has on SQLite.
const SQLITE_SET: usize = 100;
/// How many connections work at once on PostgreSQL.
const CONNECTIONS: usize = 2;

/// Tasks submitted and tasks processed in a second.
pub(super) async fn measure(place: &Place, tasks: usize) -> Result<(f64, f64), Error> {
    match place {
        Place::Files { .. } | Place::Memory => {
            let file = place.file();
            let measuring = tokio::task::spawn_blocking(move || on_sqlite(file.as_deref(), tasks));
            Ok(measuring.await.map_err(|error| Error::Wrong(error.to_string()))??)
        }
        Place::Postgres { url, schema } => on_postgres(url, &Place::floor_schema(schema), tasks).await,
    }
}

fn on_sqlite(file: Option<&Path>, tasks: usize) -> rusqlite::Result<(f64, f64)> {
    let conn = file.map_or_else(Connection::open_in_memory, Connection::open)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE task (id INTEGER PRIMARY KEY, queue TEXT, state INTEGER DEFAULT 0, payload TEXT,
             created INTEGER, worker TEXT, lease INTEGER, done INTEGER);
         CREATE INDEX ready ON task (queue, id) WHERE state = 0;",
    )?;
    Ok((submit_on_sqlite(&conn, tasks)?, process_on_sqlite(&conn, tasks)?))
}

fn submit_on_sqlite(conn: &Connection, tasks: usize) -> rusqlite::Result<f64> {
    let payload = std::str::from_utf8(PAYLOAD)?;
    let (mut begin, mut commit) = (conn.prepare("BEGIN IMMEDIATE")?, conn.prepare("COMMIT")?);
    let mut insert = conn.prepare("INSERT INTO task (queue, payload, created) VALUES ('default', ?1, ?2)")?;
    let mut left = tasks;
    let began = Instant::now();
    while left > 0 {
        begin.execute([])?;
        for _ in 0..left.min(SQLITE_SET) {
            insert.execute((payload, now_us()))?;
        }
        commit.execute([])?;
        left -= left.min(SQLITE_SET);
    }
    Ok(rate(tasks, began.elapsed()))
}

fn process_on_sqlite(conn: &Connection, tasks: usize) -> rusqlite::Result<f64> {
    let (mut begin, mut commit) = (conn.prepare("BEGIN IMMEDIATE")?, conn.prepare("COMMIT")?);
    let mut claim = conn.prepare(
        "UPDATE task SET state = 1, worker = ?1, lease = ?2 WHERE id IN
             (SELECT id FROM task WHERE queue = 'default' AND state = 0 ORDER BY id LIMIT 100) RETURNING id",
    )?;
    let mut complete = conn.prepare("UPDATE task SET state = 2, done = ?2 WHERE id = ?1 AND state = 1")?;
    let began = Instant::now();
    loop {
        let claimed = claim.query_map(("worker", now_us() + 30_000_000), |row| row.get(0))?;
        let claimed = claimed.collect::<rusqlite::Result<Vec<i64>>>()?;
        if claimed.is_empty() {
            return Ok(rate(tasks, began.elapsed()));
        }
        begin.execute([])?;
        for id in claimed {
            complete.execute((id, now_us()))?;
        }
        commit.execute([])?;
    }
}

/// Microseconds since the Unix epoch.
fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

async fn on_postgres(url: &str, schema: &str, tasks: usize) -> Result<(f64, f64), Error> {
    let client = connect(url).await?;
    client
        .batch_execute(&format!(
            "SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema};
             CREATE TABLE {schema}.task (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text,
                 state smallint DEFAULT 0, priority smallint DEFAULT 0, payload text,
                 created timestamptz DEFAULT now(), worker text, lease timestamptz, done timestamptz);
             CREATE INDEX ON {schema}.task (queue, priority, id) WHERE state = 0"
        ))
        .await?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = connect(url).await?;
        client.batch_execute(&format!("SET search_path = {schema}")).await?;
        clients.push(client);
    }
    let began = Instant::now();
    let shares = clients.iter().enumerate();
    try_join_all(shares.map(|(number, client)| {
        // What doesn't divide falls to the first.
        let share = tasks / CONNECTIONS + if number == 0 { tasks % CONNECTIONS } else { 0 };
        submit_on_postgres(client, share)
    }))
    .await?;
    let submit = rate(tasks, began.elapsed());
    let began = Instant::now();
    try_join_all(clients.iter().map(process_on_postgres)).await?;
    let process = rate(tasks, began.elapsed());
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
    Ok((submit, process))
}

async fn submit_on_postgres(client: &Client, tasks: usize) -> Result<(), Error> {
    let insert = "INSERT INTO task (queue, payload) SELECT 'default', unnest($1::text[])";
    let insert = client.prepare(insert).await?;
    let payload = String::from_utf8_lossy(PAYLOAD);
    let payloads = vec![payload.as_ref(); SET];
    let mut left = tasks;
    while left > 0 {
        let set = &payloads[..left.min(SET)];
        client.execute(&insert, &[&set]).await?;
        left -= set.len();
    }
    Ok(())
}

async fn process_on_postgres(client: &Client) -> Result<(), Error> {
    let claim = "UPDATE task SET state = 1, worker = $1, lease = now() + interval '30 s' WHERE id IN (
        SELECT id FROM task WHERE queue = 'default' AND state = 0 ORDER BY priority, id LIMIT 500
        FOR UPDATE SKIP LOCKED) RETURNING id";
    let complete = "UPDATE task SET state = 2, done = now() WHERE id = ANY($1) AND state = 1";
    let (claim, complete) = (client.prepare(claim).await?, client.prepare(complete).await?);
    loop {
        let rows = client.query(&claim, &[&"worker"]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        client.execute(&complete, &[&ids]).await?;
    }
}
