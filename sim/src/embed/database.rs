//! A database of the service's own beside Steadfast's store, for handlers that keep rows: sessions on the simulated
//! kernel, in the ways of the world's store, with its waits, its conflicts, and commits whose answer is lost.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::choices::Stream;
use crate::db::{Answer, Begin, Db, Ended, ErrorClass, Mode, Progress, Row, SessionId, Statement, Table};
use crate::storage::point;
use crate::world::{Profile, World};

use super::board::Board;
use super::here;

/// Sites of choices; their words are in `page/embedded.rs`.
pub(crate) const STATEMENT: &str = "session: statement";
pub(crate) const COMMIT: &str = "session: commit";
pub(crate) const FATE: &str = "session: fate of a commit";

/// How long a statement waits for somebody else's lock before it is given up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// A database of the service's own. Clones are one database.
pub struct Database<R: Row>(Arc<Shared<R>>);

struct Shared<R: Row> {
    world: World,
    db: Mutex<Db<R>>,
    /// Rises whenever locks may have been freed.
    turns: Board<u64>,
}

/// Why a session's call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The statement failed, as the database says.
    #[error("the statement failed: {0}")]
    Statement(#[from] ErrorClass),
    /// A failed statement was overlooked: COMMIT answered ROLLBACK.
    #[error("nothing was committed: an earlier statement of the transaction had failed")]
    RolledBack,
    /// The connection was lost during the commit: it was committed or not.
    #[error(
        "the connection was lost during the commit, which went through or not: look, or make it safe to repeat"
    )]
    Unknown,
}

impl<R: Row> Clone for Database<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Row> fmt::Debug for Database<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl<R: Row> Database<R> {
    pub(super) fn new(world: &World, rows: impl IntoIterator<Item = R>) -> Self {
        let mode = match world.server().profile {
            Profile::Postgres => Mode::Postgres,
            Profile::Sqlite => Mode::Sqlite,
        };
        let mut db = Db::new(mode);
        db.load(rows);
        Self(Arc::new(Shared { world: world.clone(), db: Mutex::new(db), turns: Board::new(0) }))
    }

    /// Which database it imitates: statements that lock rows are PostgreSQL's alone.
    pub fn mode(&self) -> Mode {
        self.0.db().mode()
    }

    /// Opens a session. When it is dropped, or its process crashes, what it hasn't committed is taken back.
    pub fn connect(&self) -> Session<R> {
        Session { shared: self.0.clone(), id: self.0.db().connect(), actor: here::actor() }
    }

    /// The committed rows of a table, in the order of their keys: for what a test asserts.
    pub fn committed(&self, table: Table) -> Vec<R> {
        self.0.db().committed(table).cloned().collect()
    }
}

impl<R: Row> Shared<R> {
    fn db(&self) -> MutexGuard<'_, Db<R>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) {
        self.turns.change(|turns| *turns += 1);
    }
}

/// A session: one statement after the other. Others may come in between before each of them.
pub struct Session<R: Row> {
    shared: Arc<Shared<R>>,
    id: SessionId,
    actor: u64,
}

impl<R: Row> fmt::Debug for Session<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<R: Row> Session<R> {
    /// Begins a transaction; without one each statement commits itself.
    ///
    /// # Errors
    /// SQLite, [`Begin::Immediate`]: another session is writing.
    ///
    /// # Panics
    /// The session is in a transaction, or this way to begin is the other database's.
    pub fn begin(&mut self, begin: Begin) -> Result<(), SessionError> {
        Ok(self.shared.db().begin(self.id, begin)?)
    }

    /// Runs a statement to its answer, and waits where the database has it wait, at most for a second.
    ///
    /// # Errors
    /// As the database says. PostgreSQL accepts nothing but the transaction's end then.
    ///
    /// # Cancellation
    /// Drop the session as well: its statement is unfinished.
    pub async fn run(&mut self, statement: impl Into<Statement<R>> + Send) -> Result<Vec<R>, SessionError> {
        let statement = statement.into();
        point(self.shared.world.server(), STATEMENT, self.actor).await;
        let progress = self.shared.db().start(self.id, statement);
        let answer = match progress {
            Progress::Done(answer) => answer,
            Progress::Waiting => self.wait().await,
        };
        // A failed statement has freed its locks, and one that commits itself has as well.
        self.shared.progress();
        Ok(answer?)
    }

    async fn wait(&self) -> Answer<R> {
        let mut late = pin!(tokio::time::sleep(LOCK_TIMEOUT));
        loop {
            let seen = self.shared.turns.look(|turns| *turns);
            let progress = {
                let mut db = self.shared.db();
                let may_go_on = db.runnable().any(|runnable| runnable == self.id);
                may_go_on.then(|| db.resume(self.id))
            };
            match progress {
                Some(Progress::Done(answer)) => return answer,
                // It stands elsewhere in the queues now: others may have become first.
                Some(Progress::Waiting) => self.shared.progress(),
                None => {}
            }
            let turn = pin!(self.shared.turns.until(|turns| (*turns != seen).then_some(())));
            if let Either::Right(_) = select(turn, late.as_mut()).await {
                return self.shared.db().fail(self.id, ErrorClass::LockTimeout);
            }
        }
    }

    /// Commits the transaction. The failure page tells each row that was written.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] where the answer is lost; nothing was committed after any other.
    ///
    /// # Cancellation
    /// A dropped future leaves it uncommitted.
    pub async fn commit(&mut self) -> Result<(), SessionError> {
        let server = self.shared.world.server();
        point(server, COMMIT, self.actor).await;
        let fate = match server.is_faulty() {
            true => server.choices.depart(Stream::Faults, FATE, self.actor, server.faults.lost, 2),
            // Nor where choices are recorded or narrowed, whose odds are others.
            false => 0,
        };
        match fate {
            0 => self.end(),
            1 => {
                self.end()?;
                Err(SessionError::Unknown)
            }
            _ => {
                self.rollback();
                Err(SessionError::Unknown)
            }
        }
    }

    fn end(&mut self) -> Result<(), SessionError> {
        let ended = {
            let mut db = self.shared.db();
            let mut notes: Vec<String> =
                db.written(self.id).iter().map(|row| format!("row {row:?}")).collect();
            notes.extend(db.deleted(self.id).iter().map(|(_, key)| format!("no row {key:?}")));
            let ended = db.commit(self.id);
            if ended == Ended::Committed {
                notes.into_iter().for_each(here::note);
            }
            ended
        };
        self.shared.progress();
        match ended {
            Ended::Committed => Ok(()),
            Ended::RolledBack | Ended::NoTransaction => Err(SessionError::RolledBack),
        }
    }

    /// Takes back what the transaction has done.
    pub fn rollback(&mut self) {
        self.shared.db().rollback(self.id);
        self.shared.progress();
    }
}

impl<R: Row> Drop for Session<R> {
    fn drop(&mut self) {
        self.shared.db().kill(self.id);
        self.shared.progress();
    }
}
