//! A store named by a URL: one type for every storage that ships.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::wake::Hints;
use steadfast_core::{Batch, Error, Outcome, Storage};
use steadfast_postgres::PostgresStorage;
use steadfast_sqlite::SqliteStorage;

/// Where a store is: `sqlite:PATH`, `sqlite::memory:` or `postgres://USER:PASSWORD@HOST/DATABASE`.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// SQLite in memory: one process's, and gone with it.
    SqliteInMemory,
    /// A PostgreSQL database, by its URL. It is shown without its password.
    Postgres(String),
}

/// Why a text names no store: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no store: {why}")]
pub struct InvalidStoreUrl {
    /// The text, without what may be a password.
    pub text: String,
    /// What is wrong with it, and what a good one looks like.
    pub why: &'static str,
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        let invalid = |why| Err(InvalidStoreUrl { text: redacted(text), why });
        let Some((scheme, rest)) = text.split_once(':') else {
            return invalid("write sqlite:PATH, such as sqlite:steadfast.db");
        };
        match scheme {
            "sqlite" if rest == ":memory:" => Ok(StoreUrl::SqliteInMemory),
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() {
                    return invalid("a path is missing: write sqlite:PATH, such as sqlite:steadfast.db");
                }
                Ok(StoreUrl::Sqlite(path.into()))
            }
            "postgres" | "postgresql" if rest.starts_with("//") => Ok(StoreUrl::Postgres(text.into())),
            "postgres" | "postgresql" => {
                invalid("a host is missing: write postgres://USER:PASSWORD@HOST/DATABASE")
            }
            _ => invalid(
                "the part before the colon must be sqlite or postgres, as in sqlite:steadfast.db or \
                 postgres://USER:PASSWORD@HOST/DATABASE",
            ),
        }
    }
}

/// The text without what stands before the last `@`, but for the scheme: it may be a password, also where the rest is
/// no URL.
fn redacted(text: &str) -> String {
    let scheme = text.find(':').map_or(0, |at| at + 1);
    let from = text.len() - text[scheme..].trim_start_matches('/').len();
    match text.rfind('@') {
        Some(to) if from < to => format!("{}…{}", &text[..from], &text[to..]),
        Some(_) | None => text.to_owned(),
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StoreUrl::SqliteInMemory => f.write_str("sqlite::memory:"),
            StoreUrl::Postgres(url) => f.write_str(&redacted(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Any of the storages that ship.
#[derive(Debug, Clone)]
pub enum AnyStorage {
    /// SQLite.
    Sqlite(SqliteStorage),
    /// PostgreSQL.
    Postgres(PostgresStorage),
}

impl AnyStorage {
    /// Opens the store, and creates or migrates it first where necessary. Blocks for a few file operations.
    ///
    /// # Errors
    /// As the storage says; the message says what to do.
    pub async fn open(url: &StoreUrl) -> Result<Self, Error> {
        match url {
            StoreUrl::Sqlite(path) => {
                SqliteStorage::open(steadfast_sqlite::Options::file(path)).map(AnyStorage::Sqlite)
            }
            StoreUrl::SqliteInMemory => {
                SqliteStorage::open(steadfast_sqlite::Options::in_memory()).map(AnyStorage::Sqlite)
            }
            StoreUrl::Postgres(url) => {
                PostgresStorage::open(steadfast_postgres::Options::new(url)).await.map(AnyStorage::Postgres)
            }
        }
    }
}

impl Storage for AnyStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        match self {
            AnyStorage::Sqlite(storage) => storage.claim(request).await,
            AnyStorage::Postgres(storage) => storage.claim(request).await,
        }
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        match self {
            AnyStorage::Sqlite(storage) => storage.apply(batches).await,
            AnyStorage::Postgres(storage) => storage.apply(batches).await,
        }
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        match self {
            AnyStorage::Sqlite(storage) => storage.read(query).await,
            AnyStorage::Postgres(storage) => storage.read(query).await,
        }
    }

    fn hints(&self) -> Hints {
        match self {
            AnyStorage::Sqlite(storage) => storage.hints(),
            AnyStorage::Postgres(storage) => storage.hints(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_a_url() {
        let sqlite = |path: &str| Ok(StoreUrl::Sqlite(path.into()));
        for (text, expected) in [
            ("sqlite:steadfast.db", sqlite("steadfast.db")),
            ("sqlite:/var/lib/s.db", sqlite("/var/lib/s.db")),
            ("sqlite:///var/lib/s.db", sqlite("/var/lib/s.db")),
            ("sqlite::memory:", Ok(StoreUrl::SqliteInMemory)),
            ("postgres://me@host/db", Ok(StoreUrl::Postgres("postgres://me@host/db".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn what_names_no_store_says_why_and_keeps_passwords_to_itself() {
        for (text, parts) in [
            ("steadfast.db", ["names no store", "sqlite:PATH"]),
            ("sqlite:", ["a path is missing", "sqlite:PATH"]),
            ("mysql://me:secret@host/db", ["mysql://…@host/db", "must be sqlite"]),
            ("postgres:me:secret@host//db", ["postgres:…@host//db", "a host is missing"]),
            ("postgres:db", ["a host is missing", "postgres://USER"]),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let url: StoreUrl = "postgres://me:secret@host/db".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "postgres://…@host/db postgres://…@host/db");
    }
}
