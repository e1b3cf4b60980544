//! Every storage against the conformance suite.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use steadfast_core::time::ManualClock;
use steadfast_postgres::PostgresStorage;
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
