//! Measures the storage against the floor: raw SQLite with one eight-column table and nothing else.
//!
//! `cargo run --release -p steadfast-sqlite --example speed [directory]`

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steadfast_core::storage::{ClaimRequest, Lease};
use steadfast_core::{
    Batch, Fence, Kind, NewTask, Outcome, Queue, Step, Storage, TaskId, Verdict, WorkerId, decide,
};
use steadfast_sqlite::{Options, SqliteStorage};

const TASKS: usize = 20_000;
const BATCH: usize = 500;
const ROUNDS: usize = 5;

fn main() {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("steadfast-speed-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory of our own can be made");
    println!("{TASKS} tasks, the best of {ROUNDS} rounds, in tasks a second");
    println!("{:24}{:>12}{:>12}{:>12}{:>12}", "", "submit", "claim", "settle", "process");
    report("floor, sets of 100", (0..ROUNDS).map(|round| floor(&directory.join(format!("f{round}")), 100)));
    report("floor, sets of 500", (0..ROUNDS).map(|round| floor(&directory.join(format!("g{round}")), 500)));
    for batch in [100, BATCH] {
        let rounds =
            (0..ROUNDS).map(|round| ours(&directory.join(format!("s{batch}-{round}")), batch, TASKS));
        report(&format!("storage, batches of {batch}"), rounds);
    }
    let singly = (0..2).map(|round| ours(&directory.join(format!("one{round}")), 1, 2_000));
    report("storage, singly (2,000)", singly);
    std::fs::remove_dir_all(&directory).expect("the directory is ours");
}

/// Tasks a second.
struct Speeds {
    submit: f64,
    claim: f64,
    settle: f64,
    process: f64,
}

fn report(what: &str, rounds: impl Iterator<Item = Speeds>) {
    let best = rounds
        .reduce(|a, b| Speeds {
            submit: a.submit.max(b.submit),
            claim: a.claim.max(b.claim),
            settle: a.settle.max(b.settle),
            process: a.process.max(b.process),
        })
        .expect("at least one round");
    println!("{what:24}{:12.0}{:12.0}{:12.0}{:12.0}", best.submit, best.claim, best.settle, best.process);
}

/// Submits, claims and settles through the contract, one call at a time.
fn ours(path: &Path, size: usize, tasks: usize) -> Speeds {
    let storage = SqliteStorage::open(Options::file(path)).expect("a new file can be opened");
    let kind = Kind::trusted("noop");
    let inserts: Vec<Vec<Batch>> = (0..tasks)
        .map(|n| {
            // As long as a UUID, and like one of version 7 in the order of time.
            let id = TaskId::trusted(format!("0190a1b2-c3d4-7e5f-8a9b-{n:012x}"));
            let task = NewTask::new(id, kind.clone(), *br#"{"i":1}"#);
            Batch::from(Step::Insert(task.into()))
        })
        .collect::<Vec<_>>()
        .chunks(size)
        .map(<[Batch]>::to_vec)
        .collect();
    let began = Instant::now();
    for batches in &inserts {
        applied(&wait(storage.apply(batches)).expect("stored"));
    }
    let submit = began.elapsed();

    let request = ClaimRequest {
        worker: WorkerId::trusted("worker-1"),
        queues: vec![Queue::default_queue()],
        kinds: vec![kind],
        limit: u32::try_from(size).expect("a small number"),
        lease: Duration::from_secs(30),
    };
    let (mut claim, mut settle) = (Duration::ZERO, Duration::ZERO);
    loop {
        let began = Instant::now();
        let leases = wait(storage.claim(&request)).expect("claimed").tasks;
        claim += began.elapsed();
        if leases.is_empty() {
            break;
        }
        let began = Instant::now();
        let batches: Vec<Batch> = leases.iter().map(settled).collect();
        applied(&wait(storage.apply(&batches)).expect("settled"));
        settle += began.elapsed();
    }
    speeds(tasks, submit, claim, settle)
}

fn settled(lease: &Lease) -> Batch {
    let _: Fence = lease.fence;
    let verdict = Verdict::done(*b"{}");
    Batch::from(Step::Transition(decide::settle(lease, verdict, Some(Duration::ZERO))))
}

fn applied(outcomes: &[Outcome]) {
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))), "{outcomes:?}");
}

fn speeds(tasks: usize, submit: Duration, claim: Duration, settle: Duration) -> Speeds {
    let speed = |took: Duration| f64::from(u32::try_from(tasks).expect("not that many")) / took.as_secs_f64();
    Speeds {
        submit: speed(submit),
        claim: speed(claim),
        settle: speed(settle),
        process: speed(claim + settle),
    }
}

/// The same with raw SQL, unfenced, on one narrow table.
fn floor(path: &Path, size: usize) -> Speeds {
    let conn = rusqlite::Connection::open(path).expect("a new file can be opened");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE task (id INTEGER PRIMARY KEY, queue TEXT, state INTEGER DEFAULT 0, payload TEXT,
             created INTEGER, worker TEXT, lease INTEGER, done INTEGER);
         CREATE INDEX ready ON task (queue, id) WHERE state = 0;",
    )
    .expect("a schema");
    let begin = || conn.execute_batch("BEGIN IMMEDIATE").expect("begun");
    let commit = || conn.execute_batch("COMMIT").expect("committed");
    let mut insert = conn
        .prepare("INSERT INTO task (queue, payload, created) VALUES ('default', ?1, ?2)")
        .expect("prepared");
    let mut take = conn
        .prepare(
            "UPDATE task SET state = 1, worker = ?1, lease = ?2 WHERE id IN
                 (SELECT id FROM task WHERE queue = 'default' AND state = 0 ORDER BY id LIMIT ?3) RETURNING id",
        )
        .expect("prepared");
    let mut complete =
        conn.prepare("UPDATE task SET state = 2, done = ?2 WHERE id = ?1 AND state = 1").expect("prepared");
    let began = Instant::now();
    for _ in 0..TASKS / size {
        begin();
        for _ in 0..size {
            insert.execute((r#"{"i":1}"#, 1_700_000_000_000_000_i64)).expect("stored");
        }
        commit();
    }
    let submit = began.elapsed();
    let (mut claim, mut settle) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TASKS / size {
        let began = Instant::now();
        let ids: Vec<i64> = take
            .query_map(("worker-1", 1_700_000_000_000_000_i64, i64::try_from(size).expect("small")), |row| {
                row.get(0)
            })
            .expect("claimed")
            .collect::<Result<_, _>>()
            .expect("claimed");
        claim += began.elapsed();
        let began = Instant::now();
        begin();
        for id in ids {
            assert_eq!(complete.execute((id, 1_700_000_000_000_000_i64)), Ok(1));
        }
        commit();
        settle += began.elapsed();
    }
    speeds(TASKS, submit, claim, settle)
}

fn wait<F: Future>(future: F) -> F::Output {
    use std::sync::OnceLock;
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"))
        .block_on(future)
}
