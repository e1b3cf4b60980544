//! The tables, and how a file comes to have them: opened, checked, created or migrated.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use steadfast_core::{Error, ErrorKind, StoreId};

use crate::error::classed;
use crate::{Options, Synchronous};

/// How long a statement waits for a lock that another process holds, before the call fails with
/// [`ErrorKind::Conflict`].
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it looks: short, because another process's commit takes well under a millisecond.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// `Stfa`, in the file's header: says that the file is one of ours.
const APPLICATION_ID: i32 = 0x5374_6661;

/// Each brings the schema from its index to the next version. Only ever added to.
const MIGRATIONS: [&str; 4] = [
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
];

/// The version that this program makes, and the newest that it opens.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The connection that writes, and what is known of the store when it is opened.
pub(crate) struct Opened {
    pub(crate) conn: Connection,
    pub(crate) store: StoreId,
    /// Rises, as this connection sees it, with every commit of another.
    pub(crate) data_version: i64,
}

/// Opens the connection that writes, creating or migrating the store.
pub(crate) fn open_writer(options: &Options) -> Result<Opened, Error> {
    let doing = format!("open {}", options.name());
    let mut conn = match &options.path {
        Some(path) => open_file(path, &doing)?,
        None => Connection::open_in_memory().map_err(|e| classed(&doing, &e))?,
    };
    configure(&mut conn, options).map_err(|e| classed(&doing, &e))?;
    let journal = write_ahead(&conn).map_err(|e| classed(&doing, &e))?;
    if options.path.is_some() && journal != "wal" {
        let message = format!(
            "could not {doing}: its journal stays in mode {journal:?}, not \"wal\"; is it on a network file system?"
        );
        return Err(Error::new(ErrorKind::Broken, message));
    }
    migrate(&mut conn, &doing)?;
    tune(&conn, options).map_err(|e| classed(&doing, &e))?;
    let store: String =
        conn.query_one("SELECT store FROM meta", [], |row| row.get(0)).map_err(|e| classed(&doing, &e))?;
    let data_version =
        conn.query_one("PRAGMA data_version", [], |row| row.get(0)).map_err(|e| classed(&doing, &e))?;
    Ok(Opened { conn, store: StoreId::trusted(store), data_version })
}

/// Opens one of the connections that read.
pub(crate) fn open_reader(path: &Path, options: &Options) -> Result<Connection, Error> {
    let doing = format!("open {}", options.name());
    let mut conn = open_file(path, &doing)?;
    configure(&mut conn, options)
        .and_then(|()| conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;"))
        .map_err(|e| classed(&doing, &e))?;
    Ok(conn)
}

fn open_file(path: &Path, doing: &str) -> Result<Connection, Error> {
    let no = |kind, why: String| Err(Error::new(kind, format!("could not {doing}: {why}")));
    if path.as_os_str().is_empty() {
        return no(ErrorKind::Unavailable, "the path is empty; name a file".into());
    }
    if path.is_dir() {
        return no(ErrorKind::Unavailable, "it is a directory; name a file in it".into());
    }
    // An absolute path, because SQLite takes `:memory:` and `file:…` for something else than names of files.
    let path = match std::path::absolute(path) {
        Ok(path) => path,
        Err(error) => return no(ErrorKind::Unavailable, format!("the path can't be made absolute: {error}")),
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        let why = format!("there is no directory {}; create it first", directory.display());
        return no(ErrorKind::Unavailable, why);
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&path, flags).map_err(|e| classed(doing, &e))?;
    if conn.is_readonly("main").map_err(|e| classed(doing, &e))? {
        let why = "it is read-only; make it and its directory writable for this user".into();
        return no(ErrorKind::Unavailable, why);
    }
    Ok(conn)
}

fn configure(conn: &mut Connection, options: &Options) -> rusqlite::Result<()> {
    conn.busy_handler(Some(|calls: i32| {
        thread::sleep(BUSY_POLL);
        BUSY_POLL * calls.unsigned_abs() < BUSY_WAIT_MAX
    }))?;
    let synchronous = match options.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    // Plans by the statement alone, and not by what is bound to it: SQLite would else prepare a claim's statements anew
    // each time that another time or limit is bound to them.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // On macOS a plain sync leaves what was written in the drive's cache. Elsewhere these say nothing.
    conn.execute_batch(&format!(
        "PRAGMA temp_store = MEMORY; PRAGMA synchronous = {synchronous};
         PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;"
    ))
}

/// Turns the write-ahead log on, and says which journal there is. Two processes that do so at the same time can get
/// BUSY without having waited.
fn write_ahead(conn: &Connection) -> rusqlite::Result<String> {
    let attempts_max = BUSY_WAIT_MAX.as_millis() / BUSY_POLL.as_millis();
    for _ in 1..attempts_max {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                thread::sleep(BUSY_POLL)
            }
            other => return other,
        }
    }
    conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
}

fn tune(conn: &Connection, options: &Options) -> rusqlite::Result<()> {
    // The busy pages of a large store fit into 64 MiB. A checkpoint every 16 MiB writes a page that has changed often
    // only once. The limit on the log gives back what a burst took.
    conn.execute_batch(
        "PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;",
    )?;
    if let Some(bytes) = options.bytes_max {
        let page_bytes: u32 = conn.query_one("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = (bytes / u64::from(page_bytes)).max(1);
        conn.query_one(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Brings the schema up to date, with every other writer locked out.
fn migrate(conn: &mut Connection, doing: &str) -> Result<(), Error> {
    // Looked at first without a lock: the store is mostly as it should be, and perhaps busy.
    if missing(conn, doing)?.is_empty() {
        return Ok(());
    }
    let tx = conn
        .transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)
        .map_err(|e| classed(doing, &e))?;
    // Another process may have been faster.
    for migration in missing(&tx, doing)? {
        tx.execute_batch(migration).map_err(|e| classed(doing, &e))?;
    }
    tx.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"))
        .and_then(|()| tx.commit())
        .map_err(|e| classed(doing, &e))
}

/// The migrations that the file still needs, if it is one of ours or empty.
fn missing(conn: &Connection, doing: &str) -> Result<&'static [&'static str], Error> {
    // One statement, so that all three are from one snapshot.
    let (application_id, version, tables): (i32, i64, i64) = conn
        .query_one(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
             FROM pragma_application_id, pragma_user_version",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|e| classed(doing, &e))?;
    if tables == 0 {
        return Ok(&MIGRATIONS);
    }
    if application_id != APPLICATION_ID {
        let message =
            format!("could not {doing}: it is an SQLite database of another program; choose another path");
        return Err(Error::new(ErrorKind::Broken, message));
    }
    usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..)).ok_or_else(|| {
        let message = format!(
            "could not {doing}: its schema has version {version}, and this program knows those up to {VERSION}; \
             run the newer program that made it"
        );
        Error::new(ErrorKind::Broken, message)
    })
}
