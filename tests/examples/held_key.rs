//! Measures what somebody's open transaction that holds an idempotency key costs everybody else: sixteen callers
//! submit on PostgreSQL (fsync on), first undisturbed, then while the key is held and one more caller waits for it.
//!
//!     cargo run --release -p steadfast-tests --example held_key -- [SECONDS]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use steadfast_core::name::{Key, Kind, TaskId};
use steadfast_core::{Clock, Engine, Moment, NewTask};
use steadfast_postgres::{Options, PostgresStorage};
use steadfast_tests::postgres_server::{self, PostgresServer};
use steadfast_tests::postgres_session::PostgresSession;

const CALLERS: usize = 16;
const HOLD: &str = "begin; insert into task (id, kind, queue, key, digest, submitted_at, due_at, timeout, backoff_min, \
    backoff_max, attempts_max, rescues_max, priority, state, payload) \
    values ('holder', 'scan', 'default', 'k', 1, 0, 0, 1, 1, 1, 3, 5, 0, 2, '')";

#[derive(Clone, Copy)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment::from_origin(self.0.elapsed())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

type OnPostgres = Engine<PostgresStorage, TokioClock>;

fn new_task(id: String) -> NewTask {
    NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{}")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(30), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let Some(server) = PostgresServer::start(postgres_server::Options { fsync: true, settings: &[] })? else {
        return Err("PostgreSQL isn't installed: there is nothing to measure on".into());
    };
    let store = PostgresStorage::open(Options::new(server.create_database("held")?)).await?;
    let (engine, commits) = Engine::new(store, TokioClock(Instant::now()));
    tokio::spawn(commits);

    submit_for(&engine, "warm", Duration::from_secs(2)).await?;
    print("undisturbed", &submit_for(&engine, "calm", time).await?);

    let mut beside = PostgresSession::connect(&server, "held")?;
    beside.query(&format!("set search_path = steadfast; {HOLD}"))?;
    let done = AtomicBool::new(false);
    let waiter = async {
        let mut number = 0;
        while !done.load(Ordering::Relaxed) {
            let task = NewTask { key: Some(Key::trusted("k")), ..new_task(format!("wait-{number}")) };
            // It waits for as long as the engine's patience lasts, or until it is told to stop.
            let _ = tokio::time::timeout(time, engine.submit(task)).await;
            number += 1;
        }
    };
    let measured = async {
        let waits = submit_for(&engine, "held", time).await;
        done.store(true, Ordering::Relaxed);
        waits
    };
    let (_, waits) = futures_util::join!(waiter, measured);
    print("key held", &waits?);
    beside.query("rollback")?;
    Ok(())
}

/// How long each submit took, shortest first.
async fn submit_for(
    engine: &OnPostgres,
    name: &str,
    time: Duration,
) -> Result<Vec<Duration>, steadfast_core::Error> {
    let until = Instant::now() + time;
    let callers = (0..CALLERS).map(async |caller| {
        let mut waits = Vec::new();
        while Instant::now() < until {
            let began = Instant::now();
            engine.submit(new_task(format!("{name}-{caller}-{}", waits.len()))).await?;
            waits.push(began.elapsed());
        }
        Ok(waits)
    });
    let mut all: Vec<Duration> =
        join_all(callers).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    all.sort_unstable();
    Ok(all)
}

fn print(what: &str, waits: &[Duration]) {
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let place = (waits.len() as f64 * share) as usize;
        waits[place.min(waits.len() - 1)]
    };
    println!("{what}: {} submits, p50 {:?}, p99 {:?}, longest {:?}", waits.len(), at(0.5), at(0.99), at(1.0));
}
