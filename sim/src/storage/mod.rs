//! Storage of the simulated world: the twin of `SqliteStorage` and `PostgresStorage`.
//!
//! Each call is a short plan of statements on the simulated database, with a scheduling point at every statement, lock
//! wait and commit. A call runs on the server's side of the connection: a caller that goes away, or loses the
//! connection, doesn't stop it. With PostgreSQL it even outlives the caller's process; with SQLite it dies with it.

mod apply;
mod claim;
mod decisions;
pub mod flaws;
pub mod gate;
mod house;
mod insert;
mod read;
mod release;
mod report;
pub mod rows;
mod slots;
mod transaction;
mod transition;
mod waves;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::name::TaskId;
use steadfast_core::step::{Batch, Outcome};
use steadfast_core::storage::{Answer, ClaimRequest, Claimed, Query, View};
use steadfast_core::task::Task;
use steadfast_core::wake::{Hints, Wake};
use steadfast_core::{Error, ErrorKind, Storage};
use tokio::sync::oneshot;

use crate::choices::Stream;
use crate::db::{LockMode, Rows, Select};
use crate::scheduler::yield_now;
use crate::world::{DATABASE, Node, Profile, Server};
use flaws::Flaw;
use transaction::Transaction;
pub(crate) use transaction::point;

/// A process's handle to the simulated store.
#[derive(Debug, Clone)]
pub struct SimStorage {
    server: Arc<Server>,
    node: Node,
    hints: Wake,
    /// Only for [`Flaw::RowCacheInClient`].
    cache: Arc<Mutex<BTreeMap<TaskId, Box<Task>>>>,
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
        Self { server, node, hints, cache: Arc::default() }
    }

    /// A stranger's transaction: locks a task's row for so long, then rolls back.
    ///
    /// # Errors
    /// If the row can't be locked in time.
    pub async fn hold(&self, task: &TaskId, time: Duration) -> Result<(), Error> {
        let transaction = Transaction::begin(self.server.clone(), self.actor()).await?;
        let row = Rows::by_keys(rows::table::TASK, [rows::RowKey::Task(task.clone())]);
        transaction.lock(LockMode::Update, Select::new(row)).await?;
        tokio::time::sleep(time).await;
        Ok(())
    }

    fn actor(&self) -> u64 {
        u64::from(self.node.id.0)
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

    /// What a client with an object cache makes of an answer: it prefers what it has seen of a task before.
    fn recall(&self, query: &Query, view: View) -> View {
        let (Query::Task(id), Answer::Task(Some(task))) = (query, &view.answer) else { return view };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = cache.entry(id.clone()).or_insert_with(|| task.clone()).clone();
        View { answer: Answer::Task(Some(seen)), ..view }
    }

    /// Sends a call to the server's side, and lets it meet its fate.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        writes: bool,
        plan: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if !self.node.is_alive() {
            std::future::pending::<()>().await;
        }
        let fate = self.fate(what, writes);
        match fate {
            Fate::Refused => {
                return Err(Error::new(ErrorKind::Unavailable, "injected: the store can't be reached"));
            }
            Fate::Conflict => return Err(Error::new(ErrorKind::Conflict, "injected: conflict")),
            Fate::Fine | Fate::Severed | Fate::Ghost | Fate::AnswerLost | Fate::Slow => {}
        }
        let patience = self.server.choices.pick(Stream::Faults, "noticed after", self.actor(), 8);
        let (answer, answered) = oneshot::channel();
        let place = match self.server.profile {
            Profile::Postgres => DATABASE,
            Profile::Sqlite => self.node.id,
        };
        self.server.scheduler.spawn(place, what, async move {
            let result = if fate == Fate::Severed { sever(plan, patience).await } else { Some(plan.await) };
            // The caller may be gone.
            if let Some(result) = result {
                let _ = answer.send(result);
            }
        });
        let lost = || Error::new(ErrorKind::Unknown, "injected: the connection was lost");
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
                tokio::time::sleep(Duration::from_millis(u64::from(patience) * 200)).await;
                result.unwrap_or_else(|_| Err(lost()))
            }
            Fate::Fine | Fate::Refused | Fate::Conflict => answered.await.unwrap_or_else(|_| Err(lost())),
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
        let (server, actor, request) = (self.server.clone(), self.actor(), request.clone());
        let plan = async move {
            let transaction = Transaction::begin(server, actor).await?;
            claim::claim(transaction, &request).await
        };
        self.call("claim", true, plan).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        let (server, actor, batches) =
            (self.server.clone(), self.actor(), decisions::alter(&self.server, batches));
        let plan = async move {
            let transaction = Transaction::begin(server, actor).await?;
            apply::apply(transaction, &batches).await
        };
        self.call("apply", true, plan).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        let (server, actor, asked) = (self.server.clone(), self.actor(), query.clone());
        let plan = async move {
            transaction::point(&server, "read", actor).await;
            Ok(read::read(&server, &asked))
        };
        let view = self.call("read", false, plan).await?;
        Ok(if self.server.has(Flaw::RowCacheInClient) { self.recall(query, view) } else { view })
    }

    fn hints(&self) -> Hints {
        self.hints.listen()
    }
}
