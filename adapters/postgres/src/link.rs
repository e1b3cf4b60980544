//! Connections that are there when they are needed: made on first use, made anew when they are lost, and never waited
//! for without a limit.
//!
//! Calls on one connection are pipelined: the server carries them out one after the other, each a transaction of its
//! own. A future that is dropped leaves its answer to the driver, which reads and discards it, so that later calls get
//! their own. Since a call is one statement without BEGIN, there is nothing that a dropped call could leave open. A
//! future that is neither polled nor dropped holds up the answers behind its own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::name::StoreId;
use steadfast_core::storage::{Error, ErrorKind};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use crate::errors::{Connection, classify, unreachable};
use crate::functions::PLANNER;
use crate::outcomes::field;
use crate::schema;

/// How long a connection may take to be made, its settings and statements included.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a call may take, a connection that has to be made first included.
const CALL_TIME_MAX: Duration = Duration::from_secs(15);
/// How long a statement may run on the server: shorter than a call, so that most often the answer is definite.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a claim, or a call that stands alone, waits for a lock that somebody else holds.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);
/// How long a sent byte may stay unacknowledged, and how often an idle connection is probed, until it counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

/// What every connection has in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) schema: String,
    /// The names of the functions.
    pub(crate) claim: String,
    pub(crate) apply: String,
    /// The store's identity, once it is known: another one at the same address is refused.
    pub(crate) store: Option<StoreId>,
    /// The server processes whose notifications are our own, and told without them.
    pub(crate) own: Mutex<BTreeSet<i32>>,
}

impl Shared {
    /// The process numbers; nothing under this lock can panic half-way.
    pub(crate) fn own(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes a configuration with what the adapter needs to notice a dead peer.
pub(crate) fn configure(mut config: Config) -> Config {
    config.connect_timeout(CONNECT_TIME_MAX);
    config.tcp_user_timeout(SILENCE_MAX);
    config.keepalives(true).keepalives_idle(SILENCE_MAX).keepalives_interval(PROBE_EVERY);
    config.keepalives_retries(PROBES_MAX);
    if config.get_application_name().is_none() {
        config.application_name("steadfast");
    }
    config
}

/// What a session is set to, whatever the server's, the database's or the role's defaults are. A role may have been
/// given faster, weaker commits: an acknowledged task must survive a crash.
fn settings(schema: &str) -> String {
    let (statement, lock) = (STATEMENT_TIME_MAX.as_millis(), LOCK_WAIT_MAX.as_millis());
    let planner = PLANNER.map(|setting| format!("SET {setting}")).join("; ");
    format!(
        "SET search_path = {schema}, pg_temp;
        SET default_transaction_isolation = 'read committed';
        SET default_transaction_read_only = off;
        SET default_transaction_deferrable = off;
        SET statement_timeout = {statement};
        SET lock_timeout = {lock};
        SET idle_in_transaction_session_timeout = {statement};
        DO $$ BEGIN
            PERFORM set_config('client_connection_check_interval', '1000', false);
        EXCEPTION WHEN OTHERS THEN NULL; -- not on every platform
        END $$;
        SET client_min_messages = warning;
        {planner};
        SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// Makes a connection and sets it up. Its other half runs in a task of its own.
pub(crate) async fn connect(shared: &Shared) -> Result<(Client, AbortHandle), Error> {
    let (client, connection) = shared.config.connect(NoTls).await.map_err(unreachable)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "lost a connection to PostgreSQL");
        }
    });
    client.batch_execute(&settings(&shared.schema)).await.map_err(|error| classify(error, true).0)?;
    Ok((client, task.abort_handle()))
}

/// The error of a connection that wasn't made in time.
pub(crate) fn too_slow() -> Error {
    let why = format!("PostgreSQL can't be reached: no connection within {CONNECT_TIME_MAX:?}");
    Error::new(ErrorKind::Unavailable, why)
}

/// A connection with its statements.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    claim: Statement,
    apply: Statement,
    process: i32,
    task: AbortHandle,
    shared: Arc<Shared>,
}

impl Session {
    async fn open(shared: Arc<Shared>) -> Result<Self, Error> {
        let (client, task) = connect(&shared).await?;
        let found = schema::identify(&client).await?;
        if shared.store.as_ref().is_some_and(|store| *store != found) {
            return Err(Error::new(
                ErrorKind::Broken,
                format!("the database holds another store than before: {found}; was it replaced?"),
            ));
        }
        let failed = |error| classify(error, true).0;
        let row = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(failed)?;
        let process = field(&row, 0)?;
        let claim = client.prepare(&shared.claim).await.map_err(failed)?;
        let apply = client.prepare(&shared.apply).await.map_err(failed)?;
        shared.own().insert(process);
        Ok(Self { client, claim, apply, process, task, shared })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.own().remove(&self.process);
        self.task.abort();
    }
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text<'a> {
    Claim,
    Apply,
    /// A statement that isn't prepared, and only reads.
    Read(&'a str),
    /// One that isn't prepared, and writes.
    Write(&'a str),
}

/// A connection that makes itself anew.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    session: Mutex<Option<Arc<Session>>>,
    /// Held while a connection is made, so that it is made once.
    connecting: tokio::sync::Mutex<()>,
    under_way: AtomicUsize,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            session: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The one of several that has the least to do.
    pub(crate) fn idlest(links: &[Link]) -> &Link {
        let idlest = links.iter().min_by_key(|link| link.under_way.load(Ordering::Relaxed));
        idlest.expect("there is at least one link of each kind")
    }

    /// Sends a statement and waits for all that it answers.
    pub(crate) async fn call(
        &self,
        text: Text<'_>,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let deadline = Instant::now() + CALL_TIME_MAX;
        let mut flight = Flight::start(self);
        let session = self.session().await?;
        let reads = matches!(text, Text::Read(_));
        flight.session = (!reads).then(|| Arc::clone(&session));
        let result = timeout_at(deadline, send(&session, text, values)).await;
        let (error, connection) = match result {
            Ok(Ok(rows)) => {
                flight.session = None;
                return Ok(rows);
            }
            Ok(Err(error)) => classify(error, reads),
            Err(_) => {
                // The answers behind this one would be late as well.
                session.task.abort();
                let kind = if reads { ErrorKind::Unavailable } else { ErrorKind::Unknown };
                (
                    Error::new(kind, format!("PostgreSQL gave no answer within {CALL_TIME_MAX:?}")),
                    Connection::Spent,
                )
            }
        };
        if connection == Connection::Spent {
            self.retire(&session);
        }
        if error.kind() != ErrorKind::Unknown {
            flight.session = None;
        }
        Err(error)
    }

    /// The session, made if there is none.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let connect = async {
            let _turn = self.connecting.lock().await;
            if let Some(session) = self.current() {
                return Ok(session);
            }
            let session = Arc::new(Session::open(Arc::clone(&self.shared)).await?);
            *self.slot() = Some(Arc::clone(&session));
            Ok(session)
        };
        timeout(CONNECT_TIME_MAX, connect).await.unwrap_or_else(|_| Err(too_slow()))
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.slot().as_ref().filter(|session| !session.client.is_closed()).map(Arc::clone)
    }

    /// Lets the next call make a new session; calls that are under way on this one go on.
    fn retire(&self, session: &Arc<Session>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *slot = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        // Nothing under this lock can panic half-way.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(
    session: &Session,
    text: Text<'_>,
    values: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = match text {
        Text::Claim => &session.claim,
        Text::Apply => &session.apply,
        Text::Read(text) | Text::Write(text) => return session.client.query_typed(text, values).await,
    };
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|(value, _)| *value).collect();
    session.client.query(statement, &values).await
}

/// A call under way. Where its answer is never seen, others must hear of it by its notification: the session's then
/// count as a stranger's.
struct Flight<'a> {
    link: &'a Link,
    session: Option<Arc<Session>>,
}

impl<'a> Flight<'a> {
    fn start(link: &'a Link) -> Self {
        link.under_way.fetch_add(1, Ordering::Relaxed);
        Self { link, session: None }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.link.under_way.fetch_sub(1, Ordering::Relaxed);
        if let Some(session) = &self.session {
            self.link.shared.own().remove(&session.process);
        }
    }
}
