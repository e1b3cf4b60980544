//! Every storage against the conformance suite.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use steadfast_core::time::ManualClock;
use steadfast_postgres::PostgresStorage;
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, NodeId, Scheduler};
use steadfast_sim::storage::SimStorage;
use steadfast_sim::world::{Faults, Kind, Profile, World};
use steadfast_sqlite::{Options, SqliteStorage};
use steadfast_tests::conformance::{self, Builder, Host, TokioHost};
use steadfast_tests::postgres_server::PostgresServer;

struct Sqlite;

impl Builder for Sqlite {
    type Guard = tempfile::TempDir;
    type Storage = SqliteStorage;

    async fn create(&self) -> Self::Guard {
        tempfile::tempdir().expect("a temporary directory can be made")
    }

    async fn open(&self, store: &Self::Guard, clock: &ManualClock) -> SqliteStorage {
        let options = Options { clock: Some(clock.clone()), ..Options::file(store.path().join("tasks.db")) };
        SqliteStorage::open(options).expect("the store opens")
    }

    fn host(&self) -> Arc<dyn Host> {
        Arc::new(TokioHost)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    conformance::run("sqlite", &Sqlite).await;
}

/// A store in memory is its handle: every client is a clone of the first.
struct SqliteInMemory;

impl Builder for SqliteInMemory {
    type Guard = OnceLock<SqliteStorage>;
    type Storage = SqliteStorage;

    async fn create(&self) -> Self::Guard {
        OnceLock::new()
    }

    async fn open(&self, store: &Self::Guard, clock: &ManualClock) -> SqliteStorage {
        let options = Options { clock: Some(clock.clone()), ..Options::in_memory() };
        store.get_or_init(|| SqliteStorage::open(options).expect("the store opens")).clone()
    }

    fn host(&self) -> Arc<dyn Host> {
        Arc::new(TokioHost)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_in_memory_conforms() {
    conformance::run("sqlite in memory", &SqliteInMemory).await;
}

/// One database, with a schema for each store.
struct Postgres {
    url: String,
    stores: AtomicUsize,
}

impl Builder for Postgres {
    /// The schema; it goes with its server.
    type Guard = String;
    type Storage = PostgresStorage;

    async fn create(&self) -> Self::Guard {
        format!("store_{}", self.stores.fetch_add(1, Ordering::Relaxed))
    }

    async fn open(&self, store: &Self::Guard, clock: &ManualClock) -> PostgresStorage {
        let options = steadfast_postgres::Options {
            schema: store.clone(),
            clock: Some(clock.clone()),
            ..steadfast_postgres::Options::new(&self.url)
        };
        PostgresStorage::open(options).await.expect("the store opens")
    }

    fn host(&self) -> Arc<dyn Host> {
        Arc::new(TokioHost)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    let Some(server) = PostgresServer::shared("postgres_conforms") else { return };
    let url = server.create_database("conformance").expect("a database can be made");
    conformance::run("postgres", &Postgres { url, stores: AtomicUsize::new(0) }).await;
}

/// Simulated stores, all on one scheduler.
struct Simulated {
    profile: Profile,
    choices: Choices,
    scheduler: Scheduler,
    host: Arc<SimulatedHost>,
}

impl Builder for Simulated {
    /// The world's clock is the first client's: a world is made when that is known.
    type Guard = OnceLock<World>;
    type Storage = SimStorage;

    async fn create(&self) -> Self::Guard {
        OnceLock::new()
    }

    async fn open(&self, store: &Self::Guard, clock: &ManualClock) -> SimStorage {
        let make = || {
            // Nothing goes wrong, but others come in between.
            let faults = Faults { latency: 2_000, ..Faults::default() };
            let kind = Kind { faults, clock: Some(clock.clone()), ..Kind::of(self.profile) };
            World::on(self.scheduler.clone(), self.choices.clone(), kind)
        };
        store.get_or_init(make).start("client", 100).storage()
    }

    fn host(&self) -> Arc<dyn Host> {
        self.host.clone()
    }
}

/// The scheduler as a host: each group of parts is a node of its own.
struct SimulatedHost {
    scheduler: Scheduler,
    nodes: AtomicU32,
}

/// Far from the nodes of the worlds.
const FIRST_GROUP: u32 = 1 << 20;

/// A group of parts, which end with it.
struct Group(Scheduler, NodeId);

impl Drop for Group {
    fn drop(&mut self) {
        self.0.kill(self.1);
    }
}

impl Host for SimulatedHost {
    fn together(&self, parts: Vec<BoxFuture<'static, ()>>) -> BoxFuture<'static, ()> {
        let node = NodeId(self.nodes.fetch_add(1, Ordering::Relaxed));
        let group = Group(self.scheduler.clone(), node);
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        for part in parts {
            let ended = ended.clone();
            self.scheduler.spawn(node, "part", async move {
                let end = AssertUnwindSafe(part).catch_unwind().await;
                // Nobody may be waiting any more.
                let _ = ended.send(end);
            });
        }
        drop(ended);
        Box::pin(async move {
            let _group = group;
            while let Some(end) = ends.recv().await {
                end.unwrap_or_else(|panic| resume_unwind(panic));
            }
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

fn simulated_conforms(profile: Profile) {
    let choices = Choices::from_seed(1);
    let scheduler = Scheduler::new(choices.clone(), 2_000);
    let nodes = AtomicU32::new(FIRST_GROUP);
    let host = Arc::new(SimulatedHost { scheduler: scheduler.clone(), nodes });
    let suite = format!("simulated {}", profile.as_str());
    let builder = Simulated { profile, choices, scheduler: scheduler.clone(), host };
    let bounds = Bounds { polls: u64::MAX, time: Duration::from_secs(1_000_000) };
    let run = async move { conformance::run(&suite, &builder).await };
    scheduler.run(bounds, run).expect("each case has a limit of its own");
}

#[test]
fn the_simulated_postgres_conforms() {
    simulated_conforms(Profile::Postgres);
}

#[test]
fn the_simulated_sqlite_conforms() {
    simulated_conforms(Profile::Sqlite);
}
