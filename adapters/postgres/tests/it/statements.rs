//! The statements, as the server sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steadfast_core::name::{Slot, TaskId};
use steadfast_core::step::{Batch, Prune, QueueLimit, Renewal, Report, Step};
use steadfast_core::storage::{Query, Storage, TaskFilter};
use steadfast_core::task::{
    Checkpoint, LogLine, NewTask, OnConflict, OnParentFailure, Parent, Progress, State, Stream,
};
use steadfast_core::{Verdict, decide};
use steadfast_postgres::{Columns, Keeping, Options, PostgresStorage, statements};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::*;

/// A session that sends the statements one by one needs each of them to be whole, and its parameters to be known.
#[tokio::test]
async fn every_statement_is_taken_by_the_server_as_it_stands() {
    let Some(database) = Database::new("every_statement_is_taken_by_the_server_as_it_stands") else { return };
    database.open().await;
    let client = database.stranger().await;
    for statement in statements::all() {
        let (text, names) = statement.numbered();
        let prepared =
            client.prepare(&text).await.unwrap_or_else(|error| panic!("{}: {error:?}", statement.name));
        assert_eq!(prepared.params().len(), names.len(), "{}", statement.name);
        for (name, kind) in names.iter().zip(prepared.params()) {
            let (columns, keeping) = (Columns::default(), Keeping::default());
            if let Some((_, expected)) = columns.value(name).or_else(|| keeping.value(name)) {
                assert_eq!(*kind, expected, "{}: {name}", statement.name);
            }
        }
    }
}

fn every_kind_of_step(leases: &[steadfast_core::storage::Lease]) -> Vec<Batch> {
    let [a, b, c, d, ..] = leases else { panic!("four tasks are claimed") };
    let child = |id: &str, on_failure| {
        let parents =
            vec![Parent { id: a.task.clone(), on_failure }, Parent { id: c.task.clone(), on_failure }];
        NewTask { parents, slot: Some((Slot::trusted(id), OnConflict::Reject)), ..keyed(id, id) }
    };
    let renewal =
        Renewal { task: d.task.clone(), fence: d.fence, lease: LONG, entered: Some(Duration::ZERO) };
    vec![
        put(child("runs", OnParentFailure::Run)),
        put(child("fails", OnParentFailure::Fail)),
        put(NewTask {
            parents: vec![Parent { id: a.task.clone(), on_failure: OnParentFailure::Run }],
            ..task("x")
        }),
        settle(b, Verdict::error("again")),
        Step::Renew(renewal).into(),
        Step::Limit(QueueLimit { queue: a.queue.clone(), concurrency: Some(100) }).into(),
        put(keyed("runs", "runs")),
    ]
}

/// A plan is made once and kept: it must be good for a table that has grown since, whatever the statistics say.
#[tokio::test]
async fn no_statement_ever_reads_a_whole_table() {
    let Some(database) = Database::new("no_statement_ever_reads_a_whole_table") else { return };
    drop(database.open().await);
    let before = scans(&database).await;
    let store = database.open().await;
    let tasks: Vec<Batch> = (0..1_000).map(|number| put(task(&format!("t{number}")))).collect();
    assert_all_applied(&store.apply(&tasks).await.expect("applied"));
    let leases = claim(&store, 4).await.expect("claimed").tasks;
    persist(&store, &every_kind_of_step(&leases)).await;
    persist(&store, &[settle(&leases[0], Verdict::fail("no")), settle(&leases[2], done())]).await;
    let limited = claim(&store, 500).await.expect("claimed").tasks;
    assert_eq!(limited.len(), 99, "one of a hundred still runs");
    assert_all_applied(
        &store
            .apply(&limited.iter().map(|one| settle(one, done())).collect::<Vec<_>>())
            .await
            .expect("applied"),
    );
    reporting(&store).await;
    waiting(&store).await;
    let prune = Prune { succeeded: Duration::ZERO, otherwise: Duration::ZERO, limit: 50 };
    assert_all_applied(&store.apply(&[Step::Prune(prune).into()]).await.expect("applied"));
    let unfinished = TaskFilter { unfinished: true, in_slot: true, limit: 5, ..TaskFilter::default() };
    for query in [
        Query::Lapsed { limit: 10 },
        Query::Overdue { limit: 10 },
        Query::Attempts(leases[1].task.clone()),
        Query::Parents(task("runs").id),
        Query::Log { task: task("reports").id, after: (0, 0), limit: 10 },
        Query::Checkpoints(task("reports").id),
        Query::Tasks(unfinished.clone()),
        Query::Tasks(TaskFilter { state: Some(State::Failed), limit: 5, ..TaskFilter::default() }),
        Query::Tasks(TaskFilter { slot: Some(Slot::trusted("s")), ..unfinished }),
    ] {
        store.read(&query).await.expect("read");
    }
    find(&store, "reports").await.expect("it is there");
    find(&store, "another-name").await.expect("it has that name too");
    drop(store);
    for ((table, whole, indexed), before) in scans(&database).await.into_iter().zip(before) {
        assert_eq!(whole, before.1, "{table}: how often it was read as a whole");
        assert!(indexed > before.2, "{table}: never read by an index");
    }
}

async fn reporting(store: &PostgresStorage) {
    assert_all_applied(&store.apply(&[put(task("reports"))]).await.expect("applied"));
    let lease = claim(store, 1).await.expect("claimed").tasks.remove(0);
    let report = Report {
        progress: Some(Progress { percent: 40, message: "scanning".into() }),
        lines: vec![LogLine {
            number: 1,
            ago: Duration::ZERO,
            stream: Stream::Stdout,
            text: "a line".into(),
        }],
        checkpoints: vec![Checkpoint { name: "first".into(), value: (*b"1").into() }],
        alias: Some(TaskId::trusted("another-name")),
        ..Report::new(lease.task, lease.fence)
    };
    let call = [Step::Report(report).into(), put(task("beside"))];
    assert_all_applied(&store.apply(&call).await.expect("applied"));
}

/// A slot is handed on while others wait for it.
async fn waiting(store: &PostgresStorage) {
    let slot = Some((Slot::trusted("s"), OnConflict::Queue));
    let queued = |number| put(NewTask { slot: slot.clone(), ..task(&format!("q{number}")) });
    let call: Vec<Batch> = (0..100).map(queued).collect();
    assert_all_applied(&store.apply(&call).await.expect("applied"));
    let cancel = decide::cancel(&task("q0").id, State::Ready, "enough").expect("it waits");
    assert_all_applied(&store.apply(&[Step::Transition(cancel).into()]).await.expect("applied"));
    assert_eq!(find(store, "q1").await.expect("stored").state, State::Ready);
}

/// For each table, how often it was read as a whole and by an index. Sessions hand in their counts when they end.
async fn scans(database: &Database) -> Vec<(String, i64, Option<i64>)> {
    let stranger = database.stranger().await;
    let left = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'steadfast' AND datname = current_database()";
    let gone = async {
        while stranger.query_one(left, &[]).await.expect("counted").get::<_, i64>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("sessions end with their storage");
    let scans = "SELECT relname::text, seq_scan, idx_scan FROM pg_stat_user_tables
        WHERE relname IN ('task', 'edge', 'attempt', 'queue', 'log', 'checkpoint', 'alias', 'ended')
        ORDER BY relname";
    let rows = stranger.query(scans, &[]).await.expect("counted");
    assert_eq!(rows.len(), 8);
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Counts how often the client speaks after the server did.
async fn proxy(to: u16, turns: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", to)).await.expect("the server listens");
            tokio::spawn(relay(client, server, Arc::clone(&turns)));
        }
    });
    port
}

async fn relay(mut client: TcpStream, mut server: TcpStream, turns: Arc<AtomicUsize>) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut server_spoke = true;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(count) if count > 0 => {
                    turns.fetch_add(usize::from(server_spoke), Ordering::SeqCst);
                    server_spoke = false;
                    if server.write_all(&asked[..count]).await.is_err() { return; }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(count) if count > 0 => {
                    server_spoke = true;
                    if client.write_all(&answered[..count]).await.is_err() { return; }
                }
                _ => return,
            },
        }
    }
}

#[tokio::test]
async fn five_hundred_settlings_are_one_round_trip() {
    let Some(database) = Database::new("five_hundred_settlings_are_one_round_trip") else { return };
    let turns = Arc::new(AtomicUsize::new(0));
    let port = proxy(database.server.port(), Arc::clone(&turns)).await;
    let url = database.url.replace(&database.server.port().to_string(), &port.to_string());
    let options = Options { writers: 1, ..Options::new(url) };
    let store = PostgresStorage::open(options).await.expect("it opens");
    let tasks: Vec<Batch> = (0..500).map(|number| put(task(&format!("t{number}")))).collect();
    store.apply(&tasks).await.expect("applied");
    // Nothing that the listener hears is counted: it is silent, and hears nothing from ourselves that it must answer.
    let mut before = turns.load(Ordering::SeqCst);
    let mut spent = || {
        let now = turns.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now).abs_diff(now)
    };
    let leases = claim(&store, 500).await.expect("claimed").tasks;
    assert_eq!((leases.len(), spent()), (500, 1), "a claim");
    let settlings: Vec<Batch> = leases.iter().map(|lease| settle(lease, done())).collect();
    assert_all_applied(&store.apply(&settlings).await.expect("applied"));
    assert_eq!(spent(), 1, "500 settlings");
    let outcomes = store.apply(&settlings).await.expect("answered");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, steadfast_core::Outcome::Already(_))));
    assert_eq!(spent(), 1, "500 settlings sent again");
    // Batches that wait for each other are carried out in their order, and still in one statement.
    let child = NewTask {
        parents: vec![Parent { id: task("p").id, on_failure: OnParentFailure::Fail }],
        ..task("c")
    };
    assert_all_applied(&store.apply(&[put(task("p")), put(child)]).await.expect("applied"));
    assert!(spent() <= 2, "one turn to have the statement described, one to send it");
}
