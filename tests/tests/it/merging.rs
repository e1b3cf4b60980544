//! The core's committer on real stores: a hundred callers share a call, and one among them that can't be stored, or
//! waits for somebody else's lock, harms nobody but itself.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, poll};
use steadfast_core::engine::Submitted;
use steadfast_core::name::{Key, Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Batch, Insert, Outcome, Refusal, Step};
use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::task::{Cause, NewTask};
use steadfast_core::wake::Hints;
use steadfast_core::{Clock, Engine, Error, ErrorKind, Moment, Storage, Verdict, committer, decide};
use steadfast_postgres::PostgresStorage;
use steadfast_sqlite::SqliteStorage;
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;
use tokio::sync::Semaphore;

const CALLERS: usize = 100;
/// The first call, the hundred, and both halves of each group that the culprit was in: 50, 25, 13, 7, 4, 2, 1.
const CALLS_MAX: usize = 2 + 2 * 7;

/// A storage that notes how many batches each call has, and holds the first call until it is let go.
#[derive(Clone)]
struct Watched<S> {
    inner: S,
    sizes: Arc<Mutex<Vec<usize>>>,
    gate: Arc<Semaphore>,
}

impl<S> Watched<S> {
    fn new(inner: S) -> Self {
        Self { inner, sizes: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }

    /// Waits until the first call is held.
    async fn is_held(&self) {
        while self.sizes().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    fn let_go(&self) {
        self.gate.close();
    }
}

impl<S: Storage> Storage for Watched<S> {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.inner.claim(request).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.sizes.lock().unwrap().push(batches.len());
        // Once it is closed it lets everybody through.
        let _ = self.gate.acquire().await;
        self.inner.apply(batches).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        self.inner.read(query).await
    }

    fn hints(&self) -> Hints {
        self.inner.hints()
    }
}

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

fn new_task(number: usize) -> NewTask {
    NewTask::new(TaskId::trusted(format!("task-{number:03}")), Kind::trusted("scan"), *b"{}")
}

/// One of a hundred merged settles has an error text that no store takes.
async fn a_culprit_stands_alone(store: impl Storage) {
    let puts: Vec<Batch> = (0..=CALLERS).map(|n| Step::Insert(new_task(n).into()).into()).collect();
    store.apply(&puts).await.unwrap();
    let request = ClaimRequest {
        worker: WorkerId::trusted("worker-1"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("scan")],
        limit: 1_000,
        lease: Duration::from_secs(600),
    };
    let leases = store.claim(&request).await.unwrap().tasks;
    let culprit = leases[42].task.clone();
    let mut settles = leases.iter().map(|lease| {
        let nul = Verdict::Fail { cause: Cause::Error, error: "nul: \0".into() };
        let verdict = if lease.task == culprit { nul } else { Verdict::done(*b"42") };
        Batch::from(Step::Transition(decide::settle(lease, verdict, None)))
    });

    let store = Watched::new(store);
    let (lane, committer) = committer::lane(store.clone(), TokioClock(Instant::now()));
    tokio::spawn(committer.run());
    let first = lane.commit(settles.next().unwrap());
    let mut first = Box::pin(first);
    assert!(poll!(&mut first).is_pending());
    store.is_held().await;
    let mut all = Box::pin(join_all(settles.map(|batch| lane.commit(batch))));
    assert!(poll!(&mut all).is_pending(), "they queue up behind the first");
    store.let_go();
    assert!(matches!(first.await, Ok(Outcome::Applied(_))));
    for (lease, answer) in leases[1..].iter().zip(all.await) {
        if lease.task == culprit {
            assert_eq!(answer.expect_err("it can't be stored").kind(), ErrorKind::Rejected);
        } else {
            assert!(matches!(answer, Ok(Outcome::Applied(_))), "{}: {answer:?}", lease.task);
        }
    }
    let sizes = store.sizes();
    assert_eq!(sizes[..2], [1, CALLERS], "they were merged");
    assert!(sizes.len() <= CALLS_MAX, "{sizes:?}");
}

#[tokio::test]
async fn a_culprit_stands_alone_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let options = steadfast_sqlite::Options::file(directory.path().join("tasks.db"));
    a_culprit_stands_alone(SqliteStorage::open(options).unwrap()).await;
}

async fn open(test: &str) -> Option<(PostgresStorage, PostgresSession)> {
    let server = PostgresServer::shared(test)?;
    let options = steadfast_postgres::Options::new(server.create_database(test).unwrap());
    let store = PostgresStorage::open(options).await.unwrap();
    let mut beside = PostgresSession::connect(server, test).unwrap();
    assert_eq!(beside.query("set search_path = steadfast").unwrap().error, None);
    Some((store, beside))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_culprit_stands_alone_on_postgres() {
    let Some((store, _)) = open("culprit").await else { return };
    a_culprit_stands_alone(store).await;
}

/// How somebody's open transaction that holds a key ends, and what that means for whoever waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// It is rolled back: the waiting task is stored.
    RollsBack,
    /// It had stored the same request: that one is the answer.
    StoresTheSame,
    /// It had stored another: the key is taken.
    StoresAnother,
}

async fn a_held_key_holds_up_nobody_else(test: &str, holder: Holder) {
    let Some((store, mut beside)) = open(test).await else { return };
    let store = Watched::new(store);
    let (engine, commits) = Engine::new(store.clone(), TokioClock(Instant::now()));
    tokio::spawn(commits);
    let mut held = NewTask { key: Some(Key::trusted("k")), ..new_task(42) };
    let digest = if holder == Holder::StoresAnother { 1 } else { Insert::from(held.clone()).digest };
    let digest = digest.cast_signed();
    let hold = format!(
        "begin; insert into task (id, kind, queue, key, digest, submitted_at, due_at, timeout, backoff_min, \
            backoff_max, attempts_max, rescues_max, priority, state, payload) \
         values ('holder', 'scan', 'default', 'k', {digest}, 0, 0, 1, 1, 1, 3, 5, 0, 2, '')"
    );
    assert_eq!(beside.query(&hold).unwrap().message, None);

    let mut first = Box::pin(engine.submit(new_task(CALLERS)));
    assert!(poll!(&mut first).is_pending());
    store.is_held().await;
    let mut submits = FuturesUnordered::new();
    for number in 0..CALLERS {
        let task = if number == 42 { std::mem::replace(&mut held, new_task(0)) } else { new_task(number) };
        submits.push(engine.submit(task).map(move |answer| (number, answer)));
    }
    assert!(poll!(submits.next()).is_pending(), "they queue up behind the first");
    store.let_go();
    assert!(matches!(first.await, Ok(Submitted::Accepted(_))));
    // All others are answered while the holder still holds.
    for _ in 1..CALLERS {
        let (number, answer) = submits.next().await.unwrap();
        let Ok(Submitted::Accepted(accepted)) = answer else { panic!("{number}: {answer:?}") };
        assert!(number != 42 && accepted.is_new);
    }
    let sizes = store.sizes();
    assert_eq!(sizes[..2], [1, CALLERS], "they were merged");
    assert!(sizes.len() <= CALLS_MAX + 1, "{sizes:?}");
    assert!(poll!(submits.next()).is_pending(), "the key is still held");

    let end = if holder == Holder::RollsBack { "rollback" } else { "commit" };
    assert_eq!(beside.query(end).unwrap().tags, [end.to_uppercase()]);
    let (number, answer) = submits.next().await.unwrap();
    assert_eq!(number, 42);
    let shown = match &answer {
        Ok(Submitted::Accepted(accepted)) => (accepted.id.as_str(), accepted.is_new),
        Ok(Submitted::Refused(Refusal::KeyTaken(id, _))) => (id.as_str(), false),
        other => panic!("{other:?}"),
    };
    let expected = if holder == Holder::RollsBack { ("task-042", true) } else { ("holder", false) };
    assert_eq!(shown, expected);
    assert_eq!(matches!(answer, Ok(Submitted::Refused(_))), holder == Holder::StoresAnother);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_holds_up_nobody_else_and_is_free_after_a_rollback() {
    a_held_key_holds_up_nobody_else("held_rollback", Holder::RollsBack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_holds_up_nobody_else_and_is_known_after_a_commit() {
    a_held_key_holds_up_nobody_else("held_same", Holder::StoresTheSame).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_holds_up_nobody_else_and_is_taken_after_a_commit_of_another_request() {
    a_held_key_holds_up_nobody_else("held_another", Holder::StoresAnother).await;
}
