//! Sessions on the simulated database, for users' handlers and clients: transactions at the isolation level that they
//! choose, over rows of their own and the store's tasks.
//!
//! What a session does, it does like any client of the real database: it waits for locks, is the victim of deadlocks,
//! fails at REPEATABLE READ where a row was changed after its snapshot, and may lose its connection. So a handler that
//! reads, computes and writes is searched for lost updates and write skew like everything else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use steadfast_core::name::TaskId;
use steadfast_core::task::Task;
use steadfast_core::{Error, ErrorKind};

use crate::db::{Begin, Ended, ErrorClass, LockMode, Mode, Progress, Rows, Select, SessionId, Statement};
use crate::faults::{Side, Spot};
use crate::storage::rows::{ItemRow, RowKey, StoreRow, table};
use crate::storage::transaction::point;
use crate::world::{Node, Server};

/// How long a statement waits for somebody else's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of others a transaction sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Each statement has a snapshot of its own. (On SQLite there is only the other level.)
    ReadCommitted,
    /// The first statement's snapshot is that of all; what was changed since can't be written.
    RepeatableRead,
}

/// A connection of a process to the database, with at most one transaction. Dropping it rolls back.
#[derive(Debug)]
pub struct Session {
    server: Arc<Server>,
    node: Node,
    id: SessionId,
}

impl Node {
    /// A connection of this process to the database, beside its storage.
    pub fn session(&self) -> Session {
        let server = self.world().server().clone();
        let id = server.db().connect();
        Session { server, node: self.clone(), id }
    }
}

impl Session {
    /// Begins a transaction. Without one, each statement is one of its own.
    ///
    /// # Errors
    /// The database is down.
    ///
    /// # Panics
    /// If there is one already.
    ///
    /// # Cancellation
    /// None is begun, or one is.
    pub async fn begin(&self, level: Level) -> Result<(), Error> {
        self.reach("begin").await?;
        let mut db = self.server.db();
        self.look_alive(db.is_alive(self.id))?;
        let begin = match (db.mode(), level) {
            (Mode::Postgres, Level::ReadCommitted) => Begin::ReadCommitted,
            (Mode::Postgres, Level::RepeatableRead) => Begin::RepeatableRead,
            (Mode::Sqlite, Level::ReadCommitted | Level::RepeatableRead) => Begin::Deferred,
        };
        db.begin(self.id, begin).map_err(|class| self.server.failed(class))
    }

    /// A task as this transaction sees it.
    ///
    /// # Errors
    /// The connection or the transaction is lost.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn task(&self, id: &TaskId) -> Result<Option<Task>, Error> {
        let rows = Rows::by_keys(table::TASK, [RowKey::Task(id.clone())]);
        let found = self.run(Select::new(rows).into()).await?;
        Ok(found.first().map(|row| row.as_task().clone()))
    }

    /// A value of our own, as this transaction sees it.
    ///
    /// # Errors
    /// The connection or the transaction is lost.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let found = self.run(Select::new(items(key)).into()).await?;
        Ok(found.first().map(|row| row.as_item().value.clone()))
    }

    /// The same, `FOR UPDATE`: nobody else changes it before this transaction ends. (SQLite has no locks on rows.)
    ///
    /// # Errors
    /// As those of [`put`](Self::put).
    ///
    /// # Cancellation
    /// The lock is taken or not.
    pub async fn lock(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let select = Select::new(items(key));
        let is_postgres = self.server.db().mode() == Mode::Postgres;
        let select = if is_postgres { select.lock(LockMode::Update) } else { select };
        let found = self.run(select.into()).await?;
        Ok(found.first().map(|row| row.as_item().value.clone()))
    }

    /// Stores a value of our own.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: begin the transaction again, from the first read. [`ErrorKind::Contended`]: somebody
    /// holds it for long. [`ErrorKind::Unknown`]: the connection is lost.
    ///
    /// # Cancellation
    /// It is written or not, as far as the transaction has come.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        let value = value.into();
        let new = StoreRow::Item(Arc::new(ItemRow { key: key.to_owned(), value }));
        let row = new.clone();
        if self.run(Statement::insert_or_nothing([new])).await?.is_empty() {
            self.run(Statement::update(items(key), move |_| row.clone())).await?;
        }
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: a statement had failed, and nothing is left. [`ErrorKind::Unknown`]: the connection was
    /// lost before or after.
    ///
    /// # Cancellation
    /// It is committed or not.
    pub async fn commit(&self) -> Result<(), Error> {
        self.reach("commit").await?;
        self.server.strike(Spot::Commit, self.node.number(), Side::Caller).await?;
        let ended = {
            let mut db = self.server.db();
            self.look_alive(db.is_alive(self.id))?;
            db.commit(self.id)
        };
        self.server.progress();
        self.server.strike(Spot::Committed, self.node.number(), Side::Caller).await?;
        match ended {
            Ended::Committed => Ok(()),
            Ended::RolledBack | Ended::NoTransaction => {
                Err(Error::new(ErrorKind::Conflict, "COMMIT answered ROLLBACK: a statement had failed"))
            }
        }
    }

    /// Takes back what the transaction has done, if there is one.
    pub fn roll_back(&self) {
        let mut db = self.server.db();
        if db.is_alive(self.id) {
            db.rollback(self.id);
        }
        drop(db);
        self.server.progress();
    }

    async fn run(&self, statement: Statement<StoreRow>) -> Result<Vec<StoreRow>, Error> {
        self.reach("statement").await?;
        self.server.strike(Spot::Statement, self.node.number(), Side::Caller).await?;
        let progress = {
            let mut db = self.server.db();
            self.look_alive(db.is_alive(self.id))?;
            db.start(self.id, statement)
        };
        let answer = match progress {
            Progress::Done(answer) => answer,
            Progress::Waiting => self.wait().await?,
        };
        // A statement of its own has committed, and a failed one has freed its locks.
        self.server.progress();
        answer.map_err(|class| self.server.failed(class))
    }

    async fn wait(&self) -> Result<Result<Vec<StoreRow>, ErrorClass>, Error> {
        let mut turns = self.server.turns();
        let mut timeout = std::pin::pin!(tokio::time::sleep(LOCK_TIMEOUT));
        loop {
            let progress = {
                let mut db = self.server.db();
                self.look_alive(db.is_alive(self.id))?;
                let may = db.runnable().any(|session| session == self.id);
                may.then(|| db.resume(self.id))
            };
            match progress {
                Some(Progress::Done(answer)) => return Ok(answer),
                Some(Progress::Waiting) => self.server.progress(),
                None => {}
            }
            let turn = std::pin::pin!(turns.wait());
            if let Either::Right(_) = select(turn, timeout.as_mut()).await {
                let mut db = self.server.db();
                self.look_alive(db.is_alive(self.id))?;
                return Ok(db.fail(self.id, ErrorClass::LockTimeout));
            }
        }
    }

    /// Comes to the database, if it can be reached.
    async fn reach(&self, site: &'static str) -> Result<(), Error> {
        if !self.node.is_alive() {
            std::future::pending::<()>().await;
        }
        if self.server.is_down() {
            return Err(Error::new(ErrorKind::Unavailable, "the database is starting up"));
        }
        point(&self.server, site, self.node.number()).await;
        Ok(())
    }

    fn look_alive(&self, is_alive: bool) -> Result<(), Error> {
        let lost = || Error::new(ErrorKind::Unknown, "the connection was lost: open another session");
        if is_alive { Ok(()) } else { Err(lost()) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut db = self.server.db();
        if db.is_alive(self.id) {
            db.kill(self.id);
        }
        drop(db);
        self.server.progress();
    }
}

fn items(key: &str) -> Rows<StoreRow> {
    Rows::by_keys(table::ITEM, [RowKey::Item(key.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Choices;
    use crate::scheduler::{Bounds, Scheduler};
    use crate::world::{Faults, Kind, Profile, World};

    const BOUNDS: Bounds = Bounds { polls: 100_000, time: Duration::from_secs(600) };
    const CLERKS: u64 = 3;

    fn number(value: Option<Vec<u8>>) -> u64 {
        value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
    }

    /// Adds one, from what it reads, and again where that conflicts.
    async fn add_one(node: &Node, level: Level, locks: bool) {
        loop {
            let session = node.session();
            session.begin(level).await.unwrap();
            let read = if locks { session.lock("count").await } else { session.value("count").await };
            let Ok(count) = read else { continue };
            if session.put("count", (number(count) + 1).to_string()).await.is_err() {
                continue;
            }
            if session.commit().await.is_ok() {
                return;
            }
        }
    }

    /// What three clerks who add one each come to.
    fn counted(seed: u64, profile: Profile, level: Level, locks: bool) -> u64 {
        let choices = Choices::from_seed(seed);
        let scheduler = Scheduler::new(choices.clone(), 2_000);
        let faults = Faults { latency: 5_000, ..Faults::default() };
        let world = World::on(scheduler.clone(), choices, Kind { faults, ..Kind::of(profile) });
        let count = async move {
            let first = world.start("first", 100);
            first.session().put("count", "0").await.unwrap();
            let (done, mut all) = tokio::sync::mpsc::channel(1);
            for clerk in 0..CLERKS {
                let (node, done) = (world.start(format!("clerk {clerk}"), 100), done.clone());
                node.clone().spawn("adds", async move {
                    add_one(&node, level, locks).await;
                    done.send(()).await.unwrap();
                });
            }
            for _ in 0..CLERKS {
                all.recv().await;
            }
            number(first.session().value("count").await.unwrap())
        };
        scheduler.run(BOUNDS, count).expect("everybody gets through")
    }

    #[test]
    fn an_update_is_lost_at_read_committed_and_nowhere_else() {
        let lost =
            |profile, level, locks| (0..100).find(|seed| counted(*seed, profile, level, locks) != CLERKS);
        assert!(lost(Profile::Postgres, Level::ReadCommitted, false).is_some());
        assert_eq!(lost(Profile::Postgres, Level::ReadCommitted, true), None);
        assert_eq!(lost(Profile::Postgres, Level::RepeatableRead, false), None);
        assert_eq!(lost(Profile::Sqlite, Level::RepeatableRead, false), None);
    }
}
