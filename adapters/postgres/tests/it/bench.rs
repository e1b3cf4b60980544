//! What the tests are written with: a database each, and short ways to say steps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use steadfast_core::name::{Key, Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Batch, Outcome, Receipt, Step};
use steadfast_core::storage::{Answer, ClaimRequest, Claimed, Error, ErrorKind, Lease, Query, Storage};
use steadfast_core::task::{NewTask, Task};
use steadfast_core::{Verdict, decide};
use steadfast_postgres::{Options, PostgresStorage};
use steadfast_tests::postgres_server::PostgresServer;
use tokio_postgres::{Client, NoTls};

/// Longer than anything here should take; only ever the bound of a wait for an event.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// An empty database on the server that the tests share.
pub(crate) struct Database {
    pub(crate) server: &'static PostgresServer,
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Database {
    /// `None` where PostgreSQL isn't installed; says so.
    pub(crate) fn new(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = PostgresServer::shared(test)?;
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = server.create_database(&name).expect("the server makes databases");
        Some(Self { server, name, url })
    }

    pub(crate) async fn open(&self) -> PostgresStorage {
        PostgresStorage::open(Options::new(&self.url)).await.expect("an empty database can be opened")
    }

    /// A session of somebody else, with the store's tables in sight.
    pub(crate) async fn stranger(&self) -> Client {
        stranger(&self.url).await
    }
}

pub(crate) async fn stranger(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("the server takes connections");
    tokio::spawn(connection);
    let settings = "SET application_name = 'stranger'; SET search_path = steadfast";
    client.batch_execute(settings).await.expect("they are good settings");
    client
}

pub(crate) fn task(id: &str) -> NewTask {
    NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{}")
}

pub(crate) fn keyed(id: &str, key: &str) -> NewTask {
    NewTask { key: Some(Key::trusted(key)), ..task(id) }
}

pub(crate) fn put(task: NewTask) -> Batch {
    Step::Insert(task.into()).into()
}

pub(crate) fn settle(lease: &Lease, verdict: Verdict) -> Batch {
    Step::Transition(decide::settle(lease, verdict, None)).into()
}

pub(crate) fn done() -> Verdict {
    Verdict::done(*b"null")
}

pub(crate) async fn claim(store: &PostgresStorage, limit: u32) -> Result<Claimed, Error> {
    let request = ClaimRequest {
        worker: WorkerId::trusted("worker-1"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("scan")],
        limit,
        lease: Duration::from_secs(30),
    };
    store.claim(&request).await
}

pub(crate) async fn find(store: &PostgresStorage, id: &str) -> Option<Task> {
    let view = store.read(&Query::Task(TaskId::trusted(id))).await.expect("a read is answered");
    let Answer::Task(task) = view.answer else { panic!("not a task: {view:?}") };
    task.map(|task| *task)
}

/// Sends a call until its fate is known.
pub(crate) async fn persist(store: &PostgresStorage, batches: &[Batch]) -> Vec<Outcome> {
    let persist = async {
        loop {
            match store.apply(batches).await {
                Ok(outcomes) => return outcomes,
                Err(error) if error.kind() <= ErrorKind::Contended => {}
                Err(error) if matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("not to be expected: {error:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, persist).await.expect("the store comes back")
}

#[track_caller]
pub(crate) fn assert_all_applied(outcomes: &[Outcome]) {
    let refused = outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Applied(_)));
    assert!(refused.is_none(), "{refused:?}");
}

/// The task that stands for a request.
#[track_caller]
pub(crate) fn stands(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Applied(receipts) | Outcome::Already(receipts) => match &receipts[..] {
            [Receipt::Inserted(task, _)] => task.as_str(),
            other => panic!("not one insert: {other:?}"),
        },
        Outcome::Refused(refused) => panic!("{refused:?}"),
    }
}
