//! PostgreSQL seen from the wire: how often a call waits for the server, and what is true after a connection was lost
//! at its worst moments.

use std::future::Future;

use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::step::{Batch, Outcome, QueueLimit, Step};
use steadfast_core::storage::{ClaimRequest, ErrorKind, Storage};
use steadfast_core::task::NewTask;
use steadfast_postgres::{Options, PostgresStorage};
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;
use steadfast_tests::settles::{Settles, task_id};
use steadfast_tests::wire::{Cut, Trips, Wire};

/// A store whose every byte goes through a proxy, with one connection that writes, and a session beside it.
struct Bench {
    store: PostgresStorage,
    wire: Wire,
    beside: PostgresSession,
    schema: String,
}

impl Bench {
    async fn open(test: &str) -> Option<Self> {
        let server = PostgresServer::shared(test)?;
        let url = server.create_database(test).expect("a database can be made");
        let wire = Wire::open(server.port()).await.expect("the proxy listens");
        let url = url.replace(&format!(":{}/", server.port()), &format!(":{}/", wire.port()));
        let options = Options { writers: 1, schema: test.to_owned(), ..Options::new(url) };
        let store = PostgresStorage::open(options).await.expect("the store opens");
        let beside = PostgresSession::connect(server, test).expect("a session opens");
        let mut bench = Self { store, wire, beside, schema: test.to_owned() };
        bench.ask(&format!("set search_path = {test}"));
        Some(bench)
    }

    /// What the session beside answers, first row, first column.
    fn ask(&mut self, sql: &str) -> Option<String> {
        let reply = self.beside.query(sql).expect("the server is there");
        assert_eq!(reply.message, None, "{sql}");
        reply.rows.first().and_then(|row| row[0].clone())
    }

    /// Asks until the answer is this one.
    async fn until(&mut self, sql: &str, answer: &str) {
        while self.ask(sql).as_deref() != Some(answer) {
            tokio::task::yield_now().await;
        }
    }

    /// Runs a call and says how often it waited for the server.
    async fn trips<T>(&self, call: impl Future<Output = T>) -> (T, Trips) {
        let before = self.wire.trips();
        let answer = call.await;
        let after = self.wire.trips();
        let trips = Trips { asked: after.asked - before.asked, answered: after.answered - before.answered };
        (answer, trips)
    }

    /// Loses the connection of a call, which therefore is unknown.
    async fn lose(&self, batches: &[Batch], cut: Cut) {
        let cuts = self.wire.cuts();
        self.wire.cut_next(cut);
        let error = self.store.apply(batches).await.expect_err("the answer is lost");
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        assert_eq!(self.wire.cuts(), cuts + 1);
    }

    /// Stops whoever updates this task, until the gate is opened: however short it waits for locks otherwise.
    fn shut_gate(&mut self, task: &TaskId) {
        let schema = self.schema.clone();
        self.ask(&format!(
            "create function gate() returns trigger language plpgsql as $$ begin \
                 perform set_config('lock_timeout', '0', true); \
                 perform pg_advisory_xact_lock_shared(1); return new; end $$; \
             create trigger gate before update on {schema}.task \
                 for each row when (new.id = '{task}') execute function gate(); \
             select pg_advisory_lock(1)"
        ));
    }

    fn open_gate(&mut self) {
        self.ask("select pg_advisory_unlock(1)");
    }
}

const ONE: Trips = Trips { asked: 1, answered: 1 };
/// How many sessions wait at the gate, or have work to do.
const AT_GATE: &str = "select count(*) from pg_locks where locktype = 'advisory' and not granted \
    and database = (select oid from pg_database where datname = current_database())";
const AT_WORK: &str = "select count(*) from pg_stat_activity where datname = current_database() \
    and state = 'active' and pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_settles_are_one_round_trip() {
    let Some(bench) = Bench::open("five_hundred_settles").await else { return };
    let settles = Settles::prepare(&bench.store).await;
    for is_first in [true, false] {
        let (outcomes, trips) = bench.trips(bench.store.apply(&settles.batches)).await;
        assert_eq!(trips, ONE);
        settles.check(&outcomes.expect("the call is answered"), is_first);
        settles.check_rows(&bench.store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_never_sent_is_applied_by_the_next() {
    let Some(bench) = Bench::open("never_sent").await else { return };
    let settles = Settles::prepare(&bench.store).await;
    bench.lose(&settles.batches, Cut::Unsent).await;
    settles.check_untouched(&bench.store).await;
    settles.check(&bench.store.apply(&settles.batches).await.expect("it reconnects"), true);
    settles.check_rows(&bench.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_session_was_killed_before_its_end_is_applied_by_the_next() {
    let Some(mut bench) = Bench::open("killed").await else { return };
    let settles = Settles::prepare(&bench.store).await;
    bench.shut_gate(&task_id(300));
    bench.lose(&settles.batches, Cut::Unanswered).await;
    bench.until(AT_GATE, "1").await;
    bench.ask(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted \
            and database = (select oid from pg_database where datname = current_database())",
    );
    bench.until(AT_WORK, "0").await;
    bench.open_gate();
    settles.check_untouched(&bench.store).await;
    settles.check(&bench.store.apply(&settles.batches).await.expect("it reconnects"), true);
    settles.check_rows(&bench.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_went_on_without_its_client_is_answered_already() {
    let Some(mut bench) = Bench::open("went_on").await else { return };
    let settles = Settles::prepare(&bench.store).await;
    bench.shut_gate(&task_id(300));
    bench.lose(&settles.batches, Cut::Unanswered).await;
    bench.until(AT_GATE, "1").await;
    settles.check_untouched(&bench.store).await;
    bench.open_gate();
    bench.until(AT_WORK, "0").await;
    settles.check_rows(&bench.store).await;
    settles.check(&bench.store.apply(&settles.batches).await.expect("it reconnects"), false);
    settles.check_rows(&bench.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_was_lost_is_answered_already() {
    let Some(bench) = Bench::open("answer_lost").await else { return };
    let settles = Settles::prepare(&bench.store).await;
    bench.lose(&settles.batches, Cut::Answered).await;
    settles.check_rows(&bench.store).await;
    settles.check(&bench.store.apply(&settles.batches).await.expect("it reconnects"), false);
    settles.check_rows(&bench.store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_one_round_trip_also_from_a_limited_queue() {
    let Some(bench) = Bench::open("one_claim").await else { return };
    let (free, limited) = (Queue::default_queue(), Queue::trusted("limited"));
    let task = |number: usize, queue: &Queue| {
        let task = NewTask::new(task_id(number), Kind::trusted("scan"), *b"{}");
        Batch::from(Step::Insert(NewTask { queue: queue.clone(), ..task }.into()))
    };
    let limit = QueueLimit { queue: limited.clone(), concurrency: Some(3) };
    let mut call: Vec<Batch> = vec![Step::Limit(limit).into()];
    call.extend((0..10).map(|n| task(n, if n < 5 { &free } else { &limited })));
    let outcomes = bench.store.apply(&call).await.expect("the call is answered");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(_))));
    for (from, expected) in [
        (vec![&free], 2),
        (vec![&limited], 2),
        (vec![&limited, &free], 2),
        (vec![&free, &limited], 2),
        (vec![&limited, &free], 0),
    ] {
        let request = ClaimRequest {
            worker: WorkerId::trusted("worker-1"),
            queues: from.into_iter().cloned().collect(),
            kinds: vec![Kind::trusted("scan")],
            limit: 2,
            lease: std::time::Duration::from_secs(30),
        };
        let (claimed, trips) = bench.trips(bench.store.claim(&request)).await;
        assert_eq!(trips, ONE);
        assert_eq!(claimed.expect("the claim is answered").tasks.len(), expected, "{request:?}");
    }
}
