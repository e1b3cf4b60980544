//! Steadfast's storage on PostgreSQL: many workers on many machines over one database.
//!
//! Read [`statements`] first: they are what is true about this storage. The rest brings batches there and answers
//! back. What every storage must hold to is in ARCHITECTURE.md ("Storage contract").
//!
//! A claim and an apply are one call of a function on the server each: one statement, one transaction, one round trip.
//! Times are the server's. The connections are this crate's own: session-level settings, prepared statements and LISTEN
//! need a real session, so a pooler in between must pool sessions, not transactions.

pub mod statements;

mod columns;
mod errors;
mod functions;
mod keep;
mod link;
mod listener;
mod outcomes;
mod queries;
mod schema;
mod visit;
mod waves;

pub use columns::{Columns, Plan};
pub use keep::Keeping;
/// The driver, in the version whose transactions [`PostgresStorage::submit_within`] takes.
pub use tokio_postgres;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use steadfast_core::name::{Kind, Queue, Slot, StoreId, TaskId};
use steadfast_core::step::{Batch, Outcome};
use steadfast_core::storage::{ClaimRequest, Claimed, Error, ErrorKind, Lease, Query, Storage, View};
use steadfast_core::task::Backoff;
use steadfast_core::time::{ManualClock, micros};
use steadfast_core::wake::{Hints, Wake};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::functions::Function;
use crate::link::{CONNECT_TIME_MAX, Link, Shared, Text};
use crate::outcomes::field;
use crate::queries::{Reading, duration};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the database is, as a URL or as `key=value` pairs. The connection isn't encrypted.
    pub url: String,
    /// The schema that holds the tables: `[a-z_][a-z0-9_]*`, at most 40 characters. It is made where it is missing.
    /// Its name is also the channel of NOTIFY.
    pub schema: String,
    /// A clock set by hand, for tests, in place of the server's.
    pub clock: Option<ManualClock>,
    /// How many connections claim and apply, at least 1. Two keep one call under way while another commits.
    pub writers: usize,
    /// How many connections read, at least 1.
    pub readers: usize,
}

impl Options {
    /// With the schema `steadfast`, the server's clock, two connections that write and one that reads.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), schema: "steadfast".into(), clock: None, writers: 2, readers: 1 }
    }
}

/// A store in a PostgreSQL database. Clones are one store and share its connections.
#[derive(Debug, Clone)]
pub struct PostgresStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: StoreId,
    clock: Option<ManualClock>,
    writers: Vec<Link>,
    readers: Vec<Link>,
    apply: String,
    keep: String,
    submit: String,
    is_about: String,
    wake: Wake,
    listener: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl PostgresStorage {
    /// Opens a store; makes or upgrades its schema where that is needed. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the server can't be reached; [`ErrorKind::Broken`] if the options make no sense,
    /// or if the schema is newer than this program knows or can't be made.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let broken = |why: String| Error::new(ErrorKind::Broken, why);
        check_schema(&options.schema).map_err(broken)?;
        let config = options.url.parse().map_err(|error: tokio_postgres::Error| {
            broken("the database's address can't be understood".into()).with_source(error)
        })?;
        let (claim, apply) = (Function::claim(), Function::apply(&options.schema));
        let keep = Function::keep(&options.schema);
        let submit = Function::submit(&options.schema, &apply);
        let mut shared = Shared {
            config: link::configure(config),
            schema: options.schema,
            claim: format!("SELECT * FROM {}($1, $2, $3, $4, $5, $6)", claim.name),
            apply: apply_text(&apply.name, 1),
            store: None,
            own: Mutex::new(BTreeSet::new()),
        };
        let connected = timeout(CONNECT_TIME_MAX, link::connect(&shared)).await;
        let unreachable =
            || Error::new(ErrorKind::Unavailable, "PostgreSQL can't be reached: no answer in time");
        let (mut client, _task) = connected.map_err(|_| unreachable())??;
        let store = schema::ensure(&mut client, &shared.schema, &[&claim, &apply, &keep, &submit]).await?;
        shared.store = Some(store.clone());
        let shared = Arc::new(shared);
        let links = |count: usize| (0..count.max(1)).map(|_| Link::new(Arc::clone(&shared))).collect();
        let wake = Wake::new();
        let listening = listener::connect(&shared).await?;
        let listen = listener::listen(Arc::clone(&shared), wake.clone(), listening);
        let listener = tokio::spawn(listen).abort_handle();
        Ok(Self(Arc::new(Inner {
            store,
            clock: options.clock,
            writers: links(options.writers),
            readers: links(options.readers),
            apply: apply.name,
            keep: keep.name,
            submit: visit::text(&shared.schema, &submit.name),
            is_about: visit::is_about_text(&shared.schema),
            wake,
            listener,
        })))
    }

    /// The store's identity, made when it was created.
    pub fn store(&self) -> &StoreId {
        &self.0.store
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        if batches.iter().any(|batch| batch.steps.is_empty()) {
            return Err(Error::new(ErrorKind::Rejected, "a batch has at least one step"));
        }
        let plan = Plan::new(batches, self.0.clock.as_ref())?;
        let values = plan.values();
        let link = Link::idlest(&self.0.writers);
        let rows = match (plan.waves.len(), &plan.keeping) {
            (0, None) => return Ok(Vec::new()),
            (1, None) => link.call(Text::Apply, &values).await?,
            (waves, keeping) => {
                let keep = keeping.is_some().then_some(self.0.keep.as_str());
                link.call(Text::Write(&call_text(&self.0.apply, waves, keep)), &values).await?
            }
        };
        let answer = outcomes::read(batches, &plan, &rows)?;
        self.0.wake.notify(answer.hint);
        Ok(answer.outcomes)
    }
}

impl Storage for PostgresStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let queues: Vec<&str> = request.queues.iter().map(Queue::as_str).collect();
        let kinds: Vec<&str> = request.kinds.iter().map(Kind::as_str).collect();
        let (limit, lease) = (i64::from(request.limit), micros(request.lease).min(columns::LEASE_MAX));
        let clock = self.0.clock.as_ref().map(|clock| clock.now().as_micros());
        let values: [(&(dyn ToSql + Sync), Type); 6] = [
            (&request.worker.as_str(), Type::TEXT),
            (&queues, Type::TEXT_ARRAY),
            (&kinds, Type::TEXT_ARRAY),
            (&limit, Type::INT8),
            (&lease, Type::INT8),
            (&clock, Type::INT8),
        ];
        let rows = Link::idlest(&self.0.writers).call(Text::Claim, &values).await?;
        claimed(request, &rows)
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        PostgresStorage::apply(self, batches).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let reading = Reading::new(query, self.0.clock.as_ref().map(ManualClock::now));
        let values = reading.values();
        let link = Link::idlest(&self.0.readers);
        let rows = match link.call(Text::Read(&reading.text), &values).await {
            // A connection that was lost while nobody looked is found out by the first who uses it.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                link.call(Text::Read(&reading.text), &values).await?
            }
            rows => rows?,
        };
        queries::view(query, &rows)
    }

    fn hints(&self) -> Hints {
        self.0.wake.listen()
    }
}

/// The name goes into statements as it is.
fn check_schema(schema: &str) -> Result<(), String> {
    let letters = schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let begins = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if letters && begins && schema.len() <= 40 {
        return Ok(());
    }
    Err(format!("the schema {schema:?} must be [a-z_][a-z0-9_]* and have at most 40 characters"))
}

/// The statement that carries out some waves, one after the other.
fn apply_text(apply: &str, waves: usize) -> String {
    call_text(apply, waves, None)
}

/// The statement that carries out some waves, one after the other, and then keeps what is to be kept.
fn call_text(apply: &str, waves: usize, keep: Option<&str>) -> String {
    let mut text = String::new();
    let mut sent = 0;
    let mut call = |wave: i32, function: &str, count: usize| {
        let union = if sent > 0 { " UNION ALL " } else { "" };
        let numbers = numbers(sent + 1..=sent + count);
        text += &format!("{union}SELECT {wave} AS wave, answer.* FROM {function}({numbers}) AS answer");
        sent += count;
    };
    for wave in (0..).take(waves) {
        call(wave, apply, Columns::PARAMETERS.len());
    }
    if let Some(keep) = keep {
        call(outcomes::KEPT, keep, Keeping::PARAMETERS.len());
    }
    text
}

/// `$1, $2, …`
fn numbers(range: RangeInclusive<usize>) -> String {
    range.map(|at| format!("${at}")).collect::<Vec<_>>().join(", ")
}

/// Reads a claim's rows: the leases, in the order of the request's queues, and perhaps a last one with the next due.
fn claimed(request: &ClaimRequest, rows: &[Row]) -> Result<Claimed, Error> {
    let mut leases = Vec::with_capacity(rows.len());
    let mut next_due = None;
    for row in rows {
        if field::<Option<&str>>(row, 0)?.is_none() {
            next_due = field::<Option<i64>>(row, 14)?.map(duration);
            continue;
        }
        let (queue, lease) = lease(request, row)?;
        leases.push(((queue, field::<i16>(row, 11)?, field::<i64>(row, 12)?), lease));
    }
    leases.sort_by_key(|(order, _)| *order);
    Ok(Claimed { tasks: leases.into_iter().map(|(_, lease)| lease).collect(), next_due })
}

/// A lease, and the place of its queue in the request. Names that the request has are shared, not made anew.
fn lease(request: &ClaimRequest, row: &Row) -> Result<(usize, Lease), Error> {
    let strange = || Error::new(ErrorKind::Broken, "the store leased a task that wasn't asked for");
    let (kind, queue) = (field::<&str>(row, 2)?, field::<&str>(row, 3)?);
    let kind = request.kinds.iter().find(|one| one.as_str() == kind).ok_or_else(strange)?;
    let place = request.queues.iter().position(|one| one.as_str() == queue).ok_or_else(strange)?;
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let lease = Lease {
        task: TaskId::trusted(field::<&str>(row, 0)?),
        fence: field::<i64>(row, 1)?.cast_unsigned(),
        kind: kind.clone(),
        queue: request.queues[place].clone(),
        slot: field::<Option<&str>>(row, 4)?.map(Slot::trusted),
        payload: field::<&[u8]>(row, 5)?.into(),
        attempt: count(i64::from(field::<i32>(row, 6)?)),
        attempts_max: count(field(row, 7)?),
        timeout: duration(field(row, 8)?),
        backoff: Backoff { min: duration(field(row, 9)?), max: duration(field(row, 10)?) },
        deadline: field::<Option<i64>>(row, 13)?.map(duration),
    };
    Ok((place, lease))
}
