//! Storage of the simulated world: the twin of `SqliteStorage` and `PostgresStorage`.
//!
//! Each call is a short plan of statements on the simulated database, with a scheduling point at every statement, lock
//! wait and commit. A call runs on the server's side of the connection: a caller that goes away, or loses the
//! connection, doesn't stop it. With PostgreSQL it even outlives the caller's process; with SQLite it dies with it.

mod apply;
mod claim;
mod client;
mod decisions;
pub mod flaws;
pub mod gate;
mod house;
mod insert;
mod read;
mod release;
mod release_flaws;
mod report;
pub mod rows;
mod slots;
pub(crate) mod transaction;
mod transition;
pub mod waves;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Outcome, Step};
use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::wake::{Hints, Wake};
use steadfast_core::{Error, ErrorKind, Storage};
use tokio::sync::oneshot;

use crate::choices::Stream;
use crate::db::{LockMode, Rows, Select, Statement};
use crate::faults::{Fault, Side, Spot};
use crate::scheduler::yield_now;
use crate::world::{DATABASE, Node, Profile, Server};
use client::Client;
use transaction::Transaction;
pub(crate) use transaction::point;

/// A process's handle to the simulated store.
#[derive(Debug, Clone)]
pub struct SimStorage {
    server: Arc<Server>,
    node: Node,
    hints: Wake,
    /// Only for flaws.
    client: Client,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Reading,
    Claiming,
    /// Steps that somebody asked for, or nothing but that a worker lives.
    Applying {
        asked_for: bool,
    },
}

impl About {
    /// Its site in choices, and its task's name.
    fn site(self) -> &'static str {
        match self {
            About::Reading => "read",
            About::Claiming => "claim",
            About::Applying { .. } => "apply",
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Refused,
    Conflict,
    /// The connection is lost: the server notices after a while and takes back what isn't committed.
    Severed,
    /// The connection is lost: the server goes on, and commits later.
    Ghost,
    /// The answer is lost: it is committed.
    AnswerLost,
    Slow,
}

impl SimStorage {
    pub(crate) fn new(server: Arc<Server>, node: Node) -> Self {
        let hints = server.listener();
        let client = Client::new(&hints);
        Self { server, node, hints, client }
    }

    /// A stranger's transaction: locks a task's row for so long, then rolls back.
    ///
    /// # Errors
    /// If the row can't be locked in time.
    pub async fn hold(&self, task: &TaskId, time: Duration) -> Result<(), Error> {
        let transaction = Transaction::begin(self.server.clone(), &self.node).await?;
        let row = Rows::by_keys(rows::table::TASK, [rows::RowKey::Task(task.clone())]);
        transaction.lock(LockMode::Update, Select::new(row)).await?;
        tokio::time::sleep(time).await;
        Ok(())
    }

    /// A stranger's transaction: writes a task's row, and dies without an end. After so long the store notices, and takes
    /// it back.
    ///
    /// # Errors
    /// If the row can't be written.
    pub async fn write_and_die(&self, task: &TaskId, time: Duration) -> Result<(), Error> {
        let transaction = Transaction::begin(self.server.clone(), &self.node).await?;
        let row = Rows::by_keys(rows::table::TASK, [rows::RowKey::Task(task.clone())]);
        let scribble = |row: &rows::StoreRow| row.with(|task| task.error = Some("scribbled".to_owned()));
        let written = transaction.run(Statement::update(row, scribble)).await?;
        tokio::time::sleep(time).await;
        drop(transaction);
        if !written.is_empty() {
            self.server.met(Fault::DeadSession);
        }
        Ok(())
    }

    fn actor(&self) -> u64 {
        self.node.number()
    }

    fn fate(&self, what: &'static str, writes: bool) -> Fate {
        let Server { choices, faults, .. } = &*self.server;
        if !self.server.is_faulty() {
            return Fate::Fine;
        }
        let draw = |odds, n| choices.depart(Stream::Faults, what, self.actor(), odds, n);
        if draw(faults.unavailable, 1) == 1 {
            return Fate::Refused;
        }
        if draw(faults.slow, 1) == 1 {
            return Fate::Slow;
        }
        if !writes {
            return Fate::Fine;
        }
        if draw(faults.conflict, 1) == 1 {
            return Fate::Conflict;
        }
        match draw(faults.lost, 3) {
            0 => Fate::Fine,
            1 => Fate::AnswerLost,
            2 => Fate::Severed,
            _ => Fate::Ghost,
        }
    }

    /// Sends a call to the server's side, and lets it meet its fate.
    async fn call<T: Send + 'static>(
        &self,
        about: About,
        plan: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if !self.node.is_alive() {
            std::future::pending::<()>().await;
        }
        let what = about.site();
        let under_way = self.server.call_begins(about == About::Applying { asked_for: true });
        let fate = self.fate(what, about != About::Reading);
        match fate {
            Fate::Refused => {
                self.server.met(Fault::Unavailable);
                return Err(Error::new(ErrorKind::Unavailable, "injected: the store can't be reached"));
            }
            Fate::Conflict => {
                self.server.met(Fault::Conflict);
                return Err(Error::new(ErrorKind::Conflict, "injected: conflict"));
            }
            Fate::Fine | Fate::Severed | Fate::Ghost | Fate::AnswerLost | Fate::Slow => {}
        }
        self.server.strike(Spot::Sent, self.actor(), Side::Caller).await?;
        if self.server.is_down() {
            return Err(Error::new(ErrorKind::Unavailable, "the database is starting up"));
        }
        let late = if fate == Fate::Ghost { self.late_by() } else { Duration::ZERO };
        let patience = self.server.choices.pick(Stream::Faults, "noticed after", self.actor(), 8);
        let (answer, answered) = oneshot::channel();
        let place = match self.server.profile {
            Profile::Postgres => DATABASE,
            Profile::Sqlite => self.node.id(),
        };
        let server = self.server.clone();
        let of_server = under_way.clone();
        self.server.scheduler.spawn(place, what, async move {
            let _under_way = of_server;
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            let result = if fate == Fate::Severed { sever(plan, patience).await } else { Some(plan.await) };
            server.note(fate, result.as_ref().map(Result::is_ok), answer.is_closed());
            // The caller may be gone.
            if let Some(result) = result {
                let _ = answer.send(result);
            }
        });
        let kind = self.server.kind_of_lost_answer();
        let lost = || Error::new(kind, "injected: the connection was lost");
        match fate {
            Fate::Ghost => {
                wait_a_little(patience).await;
                Err(lost())
            }
            Fate::Severed | Fate::AnswerLost => {
                let _ = answered.await;
                Err(lost())
            }
            Fate::Slow => {
                let result = answered.await;
                self.server.met(Fault::SlowAnswer);
                tokio::time::sleep(Duration::from_millis(u64::from(patience) * 200)).await;
                result.unwrap_or_else(|_| Err(lost()))
            }
            Fate::Fine | Fate::Refused | Fate::Conflict => {
                let result = answered.await.unwrap_or_else(|_| Err(lost()));
                self.server.strike(Spot::Answered, self.actor(), Side::Caller).await?;
                result
            }
        }
    }

    /// How long a call is under way before it reaches the store, whose caller gives it up. No longer than a caller of
    /// the real store would wait for its answer.
    fn late_by(&self) -> Duration {
        let which = self.server.choices.pick(Stream::Faults, "in doubt for", self.actor(), 6);
        Duration::from_millis([0, 0, 20, 700, 4_000, 14_000][which as usize])
    }
}

impl Server {
    /// Notes what a call met.
    fn note(&self, fate: Fate, committed: Option<bool>, given_up: bool) {
        match (fate, committed) {
            (Fate::Ghost, Some(true)) if given_up => self.met(Fault::InDoubt),
            (Fate::Ghost | Fate::AnswerLost | Fate::Severed, Some(true)) => {
                self.met(Fault::LostAfterCommit);
            }
            (Fate::Severed, None) => self.met(Fault::LostBeforeCommit),
            (Fate::Fine | Fate::Refused | Fate::Conflict | Fate::Slow, _)
            | (Fate::Ghost | Fate::AnswerLost | Fate::Severed, Some(false))
            | (Fate::Ghost | Fate::AnswerLost, None) => {}
        }
    }
}

/// Runs a plan until the server notices that its client is gone.
async fn sever<T>(
    plan: impl Future<Output = Result<T, Error>> + Send,
    patience: u32,
) -> Option<Result<T, Error>> {
    let (plan, noticed) = (std::pin::pin!(plan), std::pin::pin!(wait_a_little(patience)));
    match select(plan, noticed).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}

async fn wait_a_little(patience: u32) {
    for _ in 0..patience {
        yield_now().await;
    }
    if patience > 4 {
        tokio::time::sleep(Duration::from_millis(u64::from(patience))).await;
    }
}

impl Storage for SimStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        if let Some(due) = self.client.claims_later(&self.server) {
            return Ok(Claimed { tasks: Vec::new(), next_due: due });
        }
        let (server, node, asked) = (self.server.clone(), self.node.clone(), request.clone());
        let plan = async move {
            let transaction = Transaction::begin(server, &node).await?;
            Box::pin(claim::claim(transaction, &asked)).await
        };
        let claimed = self.call(About::Claiming, plan).await;
        self.client.has_claimed(&self.server, &claimed);
        claimed
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let mut batches = decisions::alter(&self.server, batches);
        self.client.sends(&self.server, &self.node, &mut batches).await;
        let sent = self.client.remembers(&self.server, &batches);
        let mut steps = batches.iter().flat_map(|batch| &batch.steps);
        let asked_for = steps.any(|step| !matches!(step, Step::Beat(_)));
        let (server, node) = (self.server.clone(), self.node.clone());
        let plan = async move {
            let transaction = Transaction::begin(server, &node).await?;
            // Boxed where it is made: it is large, and a plan is moved on its way to the scheduler.
            Box::pin(apply::apply(transaction, &batches)).await
        };
        let outcomes = self.call(About::Applying { asked_for }, plan).await;
        self.client.is_answered(sent, &outcomes);
        outcomes
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let (server, node, asked) = (self.server.clone(), self.node.clone(), query.clone());
        let plan = async move {
            transaction::point(&server, "read", node.number()).await;
            let lapsed_by = server.lapsed_by(&node);
            Ok(read::read(&server, &asked, lapsed_by))
        };
        let view = self.call(About::Reading, plan).await?;
        Ok(self.client.understands(&self.server, query, view))
    }

    fn hints(&self) -> Hints {
        self.hints.listen()
    }
}
