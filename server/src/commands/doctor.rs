//! `doctor`: looks whether a deployment is well, and says of each thing that isn't what to do about it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::AnsiColor;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use steadfast::core::diagnose::{STALE, STUCK};
use steadfast::core::storage::TaskFilter;
use steadfast::{State, StoreUrl, TaskId};

use super::{Out, Target};
use crate::backend::{Backend, Missing};
use crate::failure::{Exit, Failure};
use crate::units::{duration_text, rough_text, time};
use crate::wire::{StatsJson, WorkerJson};

/// More than that between the store's clock and this machine's is worth a word.
const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(2);
/// Ready tasks that are looked at for whether somebody is there who can run them.
const READY_LOOKED_AT: u32 = 500;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Pass,
    Warn,
    Fail,
}

/// What was looked at, and how it is.
#[derive(Debug, Serialize)]
struct Check {
    level: Level,
    check: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found(Vec<Check>);

impl Found {
    fn pass(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Check { level: Level::Pass, check, detail: detail.into(), help: None });
    }

    fn warn(&mut self, check: &'static str, detail: impl Into<String>, help: impl Into<String>) {
        self.0.push(Check { level: Level::Warn, check, detail: detail.into(), help: Some(help.into()) });
    }

    fn fail(&mut self, check: &'static str, failure: Failure) {
        self.0.push(Check { level: Level::Fail, check, detail: failure.what, help: failure.help });
    }
}

/// Checks the store; with a server named beside it, whether that works on the same one; with a server alone, what it
/// says of its store.
pub(super) async fn doctor(target: &Target, out: Out) -> Result<ExitCode, Failure> {
    let mut found = Found::default();
    let server = match &target.server {
        Some(_) => reach_server(target, &mut found).await,
        None => None,
    };
    let store = if target.looks_at_store() { reach_store(target, &mut found).await } else { None };
    if let (Some((_, server)), Some((_, store))) = (&server, &store) {
        same_store(server, store, &mut found);
    }
    if let Some((backend, stats)) = store.or(server) {
        clock(&backend, &mut found).await;
        tasks(&stats, &mut found);
        if let Err(failure) = hands(&backend, &mut found).await {
            found.fail("workers", failure);
        }
    }
    for check in &found.0 {
        out.write(check, |out| line(out, check))?;
    }
    let worst = found.0.iter().map(|check| check.level).max();
    Ok(if worst == Some(Level::Fail) { ExitCode::from(Exit::Failed as u8) } else { ExitCode::SUCCESS })
}

fn line(out: &mut dyn Write, check: &Check) -> io::Result<()> {
    let (word, color) = match check.level {
        Level::Pass => ("PASS", AnsiColor::Green),
        Level::Warn => ("WARN", AnsiColor::Yellow),
        Level::Fail => ("FAIL", AnsiColor::Red),
    };
    let style = color.on_default().bold();
    write!(out, "{style}{word}{style:#}  {:<10} {}", check.check, check.detail)?;
    match &check.help {
        Some(help) => writeln!(out, "; {help}"),
        None => writeln!(out),
    }
}

async fn reach_server(target: &Target, found: &mut Found) -> Option<(Backend, StatsJson)> {
    let reached = async {
        let backend = target.backend(Missing::Refuse).await?;
        if let Backend::Server(client) = &backend {
            let client = client.clone();
            let ready = move || client.get::<serde_json::Value>("/readyz", &[], Duration::ZERO);
            tokio::task::spawn_blocking(ready).await.expect("a call to the server doesn't panic")?;
        }
        let stats = backend.stats().await?;
        Ok((backend, stats))
    };
    match reached.await {
        Ok((backend, stats)) => {
            let url = target.server.as_deref().unwrap_or_default();
            found.pass("server", format!("{url} is ready, on store {}", stats.store));
            Some((backend, stats))
        }
        Err(failure) => {
            found.fail("server", failure);
            None
        }
    }
}

async fn reach_store(target: &Target, found: &mut Found) -> Option<(Backend, StatsJson)> {
    let reached = async {
        let backend = target.backend_on_store(Missing::Refuse).await?;
        let stats = backend.stats().await?;
        Ok((backend, stats))
    };
    let url = &target.store;
    match reached.await {
        Ok((backend, stats)) => {
            found.pass("store", format!("{url} is store {}", stats.store));
            if let Err(failure) = keeping(url, found).await {
                found.fail("durability", failure);
            }
            Some((backend, stats))
        }
        Err(failure) => {
            found.fail("store", failure);
            None
        }
    }
}

fn same_store(server: &StatsJson, store: &StatsJson, found: &mut Found) {
    if server.store == store.store {
        found.pass("same store", "the server works on this store");
        return;
    }
    let what = format!("the server works on store {}, and this is {}", server.store, store.store);
    found.fail(
        "same store",
        Failure::new(Exit::Failed, what).help("start the server with the same --store, or look at its own"),
    );
}

/// The schema's version, and whether what is acknowledged survives a loss of power.
async fn keeping(url: &StoreUrl, found: &mut Found) -> Result<(), Failure> {
    match url {
        StoreUrl::Sqlite(path) => sqlite(path, found),
        StoreUrl::SqliteInMemory => {
            found.warn("durability", "the store is in memory", "it is gone with its process: name a file");
            Ok(())
        }
        StoreUrl::Postgres(url) => postgres(url, found).await,
    }
}

fn sqlite(path: &Path, found: &mut Found) -> Result<(), Failure> {
    let failed = |error: rusqlite::Error| Failure::new(Exit::Unreachable, format!("SQLite: {error}"));
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    found.pass("schema", format!("version {version}"));
    let journal: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(failed)?;
    if journal == "wal" {
        found.pass("durability", "write-ahead log, synced at each commit");
    } else {
        found.warn(
            "durability",
            format!("the journal mode is {journal}, not wal: readers and the writer wait for each other"),
            "keep the file on a local disk, where SQLite can share memory between processes",
        );
    }
    Ok(())
}

async fn postgres(url: &str, found: &mut Found) -> Result<(), Failure> {
    let failed = |error: tokio_postgres::Error| {
        Failure::new(Exit::Unreachable, format!("PostgreSQL: {}", crate::failure::chain(&error)))
    };
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let version = client.query_one("SELECT version FROM steadfast.meta", &[]).await.map_err(failed)?;
    found.pass("schema", format!("version {}", version.get::<_, i32>(0)));
    let mut weak = Vec::new();
    for (setting, wanted) in [
        ("fsync", &["on"][..]),
        ("full_page_writes", &["on"]),
        ("synchronous_commit", &["on", "local", "remote_write", "remote_apply"]),
    ] {
        let row = client.query_one("SELECT current_setting($1)", &[&setting]).await.map_err(failed)?;
        let value: String = row.get(0);
        if !wanted.contains(&value.as_str()) {
            weak.push(format!("{setting} = {value}"));
        }
    }
    connection.abort();
    if weak.is_empty() {
        found.pass("durability", "fsync, full_page_writes and synchronous_commit are on");
    } else {
        found.warn(
            "durability",
            weak.join(", "),
            "an acknowledged task may be lost when the database's machine loses power: turn them on",
        );
    }
    Ok(())
}

/// Leases and due times are judged by the store's clock; this machine's only dates what people read.
async fn clock(backend: &Backend, found: &mut Found) {
    let before = jiff::Timestamp::now().as_microsecond();
    let asked = backend.stats().await;
    let after = jiff::Timestamp::now().as_microsecond();
    let stats = match asked {
        Ok(stats) => stats,
        Err(failure) => return found.fail("clock", failure),
    };
    let Ok(as_of) = time(&stats.as_of) else { return };
    let here = before + (after - before) / 2;
    let offset = Duration::from_micros(as_of.as_micros().abs_diff(here));
    let which = if as_of.as_micros() >= here { "ahead of" } else { "behind" };
    // The store read its clock at some moment between the two.
    let uncertain = Duration::from_micros(after.abs_diff(before) / 2);
    if offset > CLOCK_OFFSET_MAX + uncertain {
        found.warn(
            "clock",
            format!("the store's clock is {} {which} this machine's", rough_text(offset)),
            "leases aren't harmed, but times of day (--at) mean the store's: set both by NTP",
        );
    } else {
        found.pass("clock", format!("the store's clock is {}ms {which} this machine's", offset.as_millis()));
    }
}

/// Stale and stuck tasks, and paused queues.
fn tasks(stats: &StatsJson, found: &mut Found) {
    let total: u64 = stats.tasks.values().sum();
    found.pass("tasks", format!("{total} in {} queues", stats.queues.len()));
    let minutes = |duration| duration_text(duration);
    for (count, check, what, help) in [
        (
            stats.stale,
            "stale",
            format!("ready for more than {} and not claimed", minutes(STALE)),
            "see `steadfast queues` and the workers below",
        ),
        (
            stats.stuck,
            "stuck",
            format!("running without a sign for more than {}", minutes(STUCK)),
            "see `steadfast list --state running`; the timeout ends them, or cancel them",
        ),
    ] {
        if count > 0 {
            found.warn(check, format!("{count} tasks {what}"), help);
        } else {
            found.pass(check, format!("no task {what}"));
        }
    }
    let paused: Vec<&str> =
        stats.queues.iter().filter(|queue| queue.paused).map(|queue| queue.queue.as_str()).collect();
    if paused.is_empty() {
        found.pass("paused", "no queue is paused");
    } else {
        found.warn(
            "paused",
            format!("nothing is claimed from {}", paused.join(", ")),
            format!("steadfast queue resume {}", paused.join(" ")),
        );
    }
}

/// Whether somebody is alive for every kind of ready task, in its queue.
async fn hands(backend: &Backend, found: &mut Found) -> Result<(), Failure> {
    let workers = backend.workers().await?.workers;
    let alive: Vec<&WorkerJson> = workers.iter().filter(|worker| worker.alive).collect();
    let mut waiting: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut left, mut before) = (READY_LOOKED_AT, None);
    loop {
        let filter = TaskFilter { state: Some(State::Ready), before, limit: left, ..TaskFilter::default() };
        let page = backend.list(filter).await?;
        left = left.saturating_sub(u32::try_from(page.tasks.len()).unwrap_or(u32::MAX));
        for task in page.tasks {
            *waiting.entry((task.queue, task.kind)).or_default() += 1;
        }
        before = page.next.filter(|_| left > 0).map(TaskId::trusted);
        if before.is_none() {
            break;
        }
    }
    let mut all_served = true;
    for ((queue, kind), count) in waiting {
        if alive.iter().any(|worker| worker.queues.contains(&queue) && worker.kinds.contains(&kind)) {
            continue;
        }
        all_served = false;
        if kind == steadfast::exec::RUN_KIND {
            found.warn(
                "workers",
                format!("{count} commands of `steadfast run` were left behind in queue {queue}"),
                "steadfast run --resume ID carries one on",
            );
        } else {
            let what =
                format!("no worker is alive for kind {kind} in queue {queue}, where {count} tasks are ready");
            let help = "start `steadfast serve` or `steadfast worker` with a handler for it";
            found.fail("workers", Failure::new(Exit::Failed, what).help(help));
        }
    }
    if alive.is_empty() && all_served {
        found.warn("workers", "no worker is alive", "start `steadfast serve` or `steadfast worker`");
    } else if all_served {
        found.pass("workers", format!("{} alive, for every kind that waits", alive.len()));
    }
    Ok(())
}
