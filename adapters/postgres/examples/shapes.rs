//! Measures what decided the shape of a call: one function on the server, or its statements pipelined between BEGIN and
//! COMMIT. Prints figures as JSON, in tasks per second, beside a floor: the least that a table of tasks can cost.
//!
//! `cargo run --release -p steadfast-postgres --example shapes -- postgres://user@host/database [tasks]`
//!
//! It makes and drops the schemas `shapes` and `shapes_floor` in that database.

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::try_join;
use serde_json::json;
use steadfast_core::decide;
use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Batch, Outcome, Step};
use steadfast_core::storage::{ClaimRequest, Lease, Storage};
use steadfast_core::task::NewTask;
use steadfast_core::{Payload, Verdict};
use steadfast_postgres::{Columns, Options, Plan, PostgresStorage, statements};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many tasks a set has.
const SET: usize = 500;
/// How many connections work at once.
const CONNECTIONS: usize = 2;
/// How often each figure is taken; the median counts.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: shapes URL [tasks]")?;
    let tasks = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let mut figures: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name: &'static str, rate: f64| match figures.iter_mut().find(|(known, _)| *known == name)
    {
        Some((_, rates)) => rates.push(rate),
        None => figures.push((name, vec![rate])),
    };
    for _ in 0..ROUNDS {
        floor(&url, tasks, &mut note).await?;
        processing(&url, tasks, &mut note).await?;
        settling(&url, tasks, &mut note).await?;
    }
    let mut median = |name: &str| {
        let rates = figures.iter_mut().find(|(known, _)| *known == name).map(|(_, rates)| rates);
        let rates = rates.expect("every figure was taken");
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2].round()
    };
    let ratio = median("process") / median("floor_process");
    let figures = json!({
        "tasks": tasks, "set": SET, "connections": CONNECTIONS, "rounds": ROUNDS,
        "per_second": {
            "floor_submit": median("floor_submit"), "floor_process": median("floor_process"),
            "submit": median("submit"), "process": median("process"),
            "settle_function": median("settle_function"), "settle_pipelined": median("settle_pipelined"),
        },
        "process_to_floor": (ratio * 1000.0).round() / 1000.0,
        "submit_to_floor": (median("submit") / median("floor_submit") * 1000.0).round() / 1000.0,
        "function_to_pipelined":
            (median("settle_function") / median("settle_pipelined") * 1000.0).round() / 1000.0,
    });
    println!("{figures:#}");
    Ok(())
}

fn rate(tasks: usize, since: Instant) -> f64 {
    let tasks = u32::try_from(tasks).expect("few enough to count");
    f64::from(tasks) / since.elapsed().as_secs_f64()
}

async fn connect(url: &str, search_path: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {search_path}")).await?;
    Ok(client)
}

/// The floor, as it is pinned for all benchmarks.
async fn floor(url: &str, tasks: usize, note: &mut impl FnMut(&'static str, f64)) -> Result<()> {
    let setup = connect(url, "shapes_floor").await?;
    setup
        .batch_execute(
            "DROP SCHEMA IF EXISTS shapes_floor CASCADE; CREATE SCHEMA shapes_floor;
            CREATE TABLE task (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text, state smallint DEFAULT 0,
                priority smallint DEFAULT 0, payload text, created timestamptz DEFAULT now(), worker text,
                lease timestamptz, done timestamptz);
            CREATE INDEX ON task (queue, priority, id) WHERE state = 0",
        )
        .await?;
    let clients = [connect(url, "shapes_floor").await?, connect(url, "shapes_floor").await?];
    let payloads = vec![r#"{"i":1}"#; SET];
    let since = Instant::now();
    try_join_all(clients.iter().map(|client| async {
        let insert = "INSERT INTO task (queue, payload) SELECT 'default', unnest($1::text[])";
        let insert = client.prepare(insert).await?;
        for _ in 0..tasks / SET / CONNECTIONS {
            client.execute(&insert, &[&payloads]).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    }))
    .await?;
    note("floor_submit", rate(tasks, since));
    let since = Instant::now();
    try_join_all(clients.iter().map(floor_worker)).await?;
    note("floor_process", rate(tasks, since));
    setup.batch_execute("DROP SCHEMA shapes_floor CASCADE").await?;
    Ok(())
}

async fn floor_worker(client: &Client) -> std::result::Result<(), tokio_postgres::Error> {
    let claim = "UPDATE task SET state = 1, worker = $1, lease = now() + interval '30 s' WHERE id IN (
        SELECT id FROM task WHERE queue = 'default' AND state = 0 ORDER BY priority, id LIMIT 500
        FOR UPDATE SKIP LOCKED) RETURNING id";
    let complete = "UPDATE task SET state = 2, done = now() WHERE id = ANY($1) AND state = 1";
    let (claim, complete) = (client.prepare(claim).await?, client.prepare(complete).await?);
    loop {
        let ids: Vec<i64> = client.query(&claim, &[&"worker"]).await?.iter().map(|row| row.get(0)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        client.execute(&complete, &[&ids]).await?;
    }
}

async fn open(url: &str) -> Result<PostgresStorage> {
    connect(url, "public").await?.batch_execute("DROP SCHEMA IF EXISTS shapes CASCADE").await?;
    let options = Options { schema: "shapes".into(), writers: CONNECTIONS, ..Options::new(url) };
    Ok(PostgresStorage::open(options).await?)
}

fn new_task(number: usize) -> Batch {
    let id = TaskId::trusted(format!("0190a1b2-c3d4-7e5f-8a9b-{number:012x}"));
    Step::Insert(NewTask::new(id, Kind::trusted("noop"), *br#"{"i":1}"#).into()).into()
}

async fn submit(store: &PostgresStorage, tasks: usize) -> Result<()> {
    let half = tasks / CONNECTIONS;
    try_join_all((0..CONNECTIONS).map(|part| async move {
        for from in (part * half..(part + 1) * half).step_by(SET) {
            let batches: Vec<Batch> = (from..from + SET).map(new_task).collect();
            let outcomes = store.apply(&batches).await?;
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))));
        }
        Ok::<_, steadfast_core::Error>(())
    }))
    .await?;
    Ok(())
}

fn request() -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::trusted("worker-0190a1b2c3d4"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("noop")],
        limit: u32::try_from(SET).expect("small"),
        lease: Duration::from_secs(30),
    }
}

fn settled(leases: &[Lease]) -> Vec<Batch> {
    let output: Payload = (*b"null").into();
    let settle = |lease| decide::settle(lease, Verdict::Done(output.clone()), Some(Duration::ZERO));
    leases.iter().map(|lease| Step::Transition(settle(lease)).into()).collect()
}

/// Submits and processes as workers do.
async fn processing(url: &str, tasks: usize, note: &mut impl FnMut(&'static str, f64)) -> Result<()> {
    let store = open(url).await?;
    let since = Instant::now();
    submit(&store, tasks).await?;
    note("submit", rate(tasks, since));
    let since = Instant::now();
    let counts = try_join_all((0..CONNECTIONS).map(|_| async {
        let mut count = 0;
        loop {
            let leases = store.claim(&request()).await?.tasks;
            if leases.is_empty() {
                return Ok::<_, steadfast_core::Error>(count);
            }
            let outcomes = store.apply(&settled(&leases)).await?;
            count += outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Applied(_))).count();
        }
    }))
    .await?;
    note("process", rate(tasks, since));
    assert_eq!(counts.into_iter().sum::<usize>(), tasks);
    Ok(())
}

/// Settles tasks that are claimed already: half of them by the function, half by pipelined statements.
async fn settling(url: &str, tasks: usize, note: &mut impl FnMut(&'static str, f64)) -> Result<()> {
    let store = open(url).await?;
    submit(&store, tasks).await?;
    let mut sets = Vec::new();
    for _ in 0..tasks / SET {
        sets.push(settled(&store.claim(&request()).await?.tasks));
    }
    let (by_function, pipelined) = sets.split_at(sets.len() / 2);
    let clients = [Pipelined::open(url).await?, Pipelined::open(url).await?];
    let settled = by_function.len() * SET;
    let since = Instant::now();
    try_join_all((0..CONNECTIONS).map(|part| {
        let store = &store;
        async move {
            for batches in by_function.iter().skip(part).step_by(CONNECTIONS) {
                store.apply(batches).await?;
            }
            Ok::<_, steadfast_core::Error>(())
        }
    }))
    .await?;
    note("settle_function", rate(settled, since));
    let since = Instant::now();
    try_join_all(clients.iter().enumerate().map(|(part, client)| async move {
        for batches in pipelined.iter().skip(part).step_by(CONNECTIONS) {
            client.settle(batches).await?;
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    }))
    .await?;
    note("settle_pipelined", rate(pipelined.len() * SET, since));
    Ok(())
}

/// The other shape: the same statements, sent one after the other without waiting.
struct Pipelined {
    client: Client,
    transition: (Statement, Vec<&'static str>),
    children: Statement,
}

impl Pipelined {
    async fn open(url: &str) -> Result<Self> {
        let client = connect(url, "shapes").await?;
        let settings =
            "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
            SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off";
        client.batch_execute(settings).await?;
        let (text, names) = statements::MOVE.numbered();
        let transition = (client.prepare(&text).await?, names);
        let children = client.prepare(&statements::LOCK_CHILDREN.numbered().0).await?;
        Ok(Self { client, transition, children })
    }

    async fn settle(&self, batches: &[Batch]) -> Result<()> {
        let plan = Plan::new(batches, None)?;
        let [wave] = plan.waves.as_slice() else { return Err("settles don't meet".into()) };
        let values = values(wave, &self.transition.1);
        let ended = wave.value("m_task").expect("a parameter").0;
        let ended = [ended];
        let (_, moved, _, _) = try_join!(
            self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
            self.client.query(&self.transition.0, &values),
            self.client.query(&self.children, &ended),
            self.client.batch_execute("COMMIT"),
        )?;
        let steps: Vec<i32> = moved[0].get(0);
        if steps.len() == batches.len() { Ok(()) } else { Err("a settle was refused".into()) }
    }
}

fn values<'a>(wave: &'a Columns<'_>, names: &[&str]) -> Vec<&'a (dyn ToSql + Sync)> {
    const NOW: &i64 = &0;
    const NONE: &[i32] = &[];
    let value = |name: &&str| match *name {
        "now" => NOW as &(dyn ToSql + Sync),
        "refused" => &NONE,
        name => wave.value(name).expect("the other parameters are the call's").0,
    };
    names.iter().map(value).collect()
}
