//! Where measuring happens: stores that hold nothing else, one for each round.
//!
//! Nobody's tasks are touched, because no store that exists is opened: an SQLite URL says on which disk (the files are
//! made in a temporary directory beside the named one, which itself is left alone), a PostgreSQL URL in which database
//! (the tables are in a schema of this run's own). Both are removed at the end. A run that is killed leaves them
//! behind, called `steadfast-bench…` and `steadfast_bench_…`.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use steadfast::{AnyStorage, Host, StoreUrl};
use steadfast_postgres::PostgresStorage;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::Error;

/// A place for stores.
#[derive(Debug)]
pub(super) enum Place {
    /// Files in a temporary directory.
    Files { directory: TempDir, made: AtomicUsize },
    /// SQLite in memory.
    Memory,
    /// A schema in this database.
    Postgres { url: String, schema: String },
}

impl Place {
    pub(super) async fn new(store: Option<&StoreUrl>) -> Result<Self, Error> {
        let files = |beside: &Path| {
            let directory = tempfile::Builder::new().prefix("steadfast-bench").tempdir_in(beside)?;
            Ok(Place::Files { directory, made: AtomicUsize::new(0) })
        };
        match store {
            None => files(&std::env::temp_dir()),
            Some(StoreUrl::Sqlite(path)) => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                files(parent.unwrap_or(Path::new(".")))
            }
            Some(StoreUrl::SqliteInMemory) => Ok(Place::Memory),
            Some(StoreUrl::Postgres(url)) => {
                let random = steadfast::task_id();
                let random = random.as_str().rsplit('-').next().unwrap_or_default().to_owned();
                Ok(Place::Postgres { url: url.clone(), schema: format!("steadfast_bench_{random}") })
            }
        }
    }

    /// A host on a new, empty store.
    pub(super) async fn fresh(&self) -> Result<Host<AnyStorage>, Error> {
        match self {
            Place::Files { .. } => {
                Ok(Host::open(&StoreUrl::Sqlite(self.file().expect("files are in a directory"))).await?)
            }
            Place::Memory => Ok(Host::open(&StoreUrl::SqliteInMemory).await?),
            Place::Postgres { url, schema } => {
                self.drop_schemas().await?;
                let options = steadfast_postgres::Options {
                    schema: schema.clone(),
                    ..steadfast_postgres::Options::new(url)
                };
                let open = async move || PostgresStorage::open(options).await.map(AnyStorage::Postgres);
                Ok(Host::start(open).await?)
            }
        }
    }

    /// A new file's path, where there are files.
    pub(super) fn file(&self) -> Option<std::path::PathBuf> {
        let Place::Files { directory, made } = self else { return None };
        Some(directory.path().join(format!("{}.db", made.fetch_add(1, Ordering::Relaxed))))
    }

    /// What an acknowledged write survived, in the store's words.
    pub(super) async fn synchronous(&self) -> Result<String, Error> {
        match self {
            Place::Files { .. } => Ok("FULL".into()),
            Place::Memory => Ok("none: in memory".into()),
            Place::Postgres { url, .. } => {
                let client = connect(url).await?;
                let query = "SELECT 'fsync ' || current_setting('fsync') || ', synchronous_commit '
                    || current_setting('synchronous_commit')";
                Ok(client.query_one(query, &[]).await?.get(0))
            }
        }
    }

    /// What the figures are about, for people.
    pub(super) fn url(&self) -> String {
        match self {
            Place::Files { .. } => "a temporary SQLite file".into(),
            Place::Memory => StoreUrl::SqliteInMemory.to_string(),
            Place::Postgres { url, .. } => StoreUrl::Postgres(url.clone()).to_string(),
        }
    }

    /// The schema for the floor.
    pub(super) fn floor_schema(schema: &str) -> String {
        format!("{schema}_floor")
    }

    /// Removes all that was made.
    pub(super) async fn remove(self) -> Result<(), Error> {
        self.drop_schemas().await?;
        match self {
            Place::Files { directory, .. } => Ok(directory.close()?),
            Place::Memory | Place::Postgres { .. } => Ok(()),
        }
    }

    async fn drop_schemas(&self) -> Result<(), Error> {
        let Place::Postgres { url, schema } = self else { return Ok(()) };
        let floor = Self::floor_schema(schema);
        let client = connect(url).await?;
        let drop = format!(
            "SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE; DROP SCHEMA IF EXISTS {floor} CASCADE"
        );
        Ok(client.batch_execute(&drop).await?)
    }
}

/// A connection of its own for raw SQL.
pub(super) async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
