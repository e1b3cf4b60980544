//! A process's connection to the simulated store, on which a script may lay hands: lose an answer, fail a call, make it
//! late.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steadfast_core::step::{Batch, Outcome, Step};
use steadfast_core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast_core::wake::Hints;
use steadfast_core::{Error, ErrorKind, Storage, TaskId};

use crate::history::Event;
use crate::storage::SimStorage;
use crate::world::Node;

/// A call to the store.
#[derive(Debug)]
pub enum Call<'a> {
    /// Tasks are claimed.
    Claim,
    /// Steps are committed.
    Apply(&'a [Batch]),
    /// Something is read.
    Read(&'a Query),
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Nothing but what the store does.
    Fine,
    /// It is carried out, and nobody hears of it: [`ErrorKind::Unknown`].
    LoseAnswer,
    /// Nothing happens, but for this error.
    Fail(ErrorKind),
    /// It is carried out this much later.
    Late(Duration),
    /// It is carried out, and answered this much later.
    LateAnswer(Duration),
}

/// Says what becomes of each call.
pub(super) type CallScript = Arc<Mutex<dyn FnMut(&Call<'_>) -> Deed + Send>>;

/// A process's connection to the simulated store. Clones are one connection.
#[derive(Clone)]
pub struct Connection {
    inner: SimStorage,
    node: Node,
    script: Option<CallScript>,
    /// Tasks whose submit was noted.
    submitted: Arc<Mutex<BTreeSet<TaskId>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.node.name()).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(node: &Node, script: Option<CallScript>) -> Self {
        Self { inner: node.storage(), node: node.clone(), script, submitted: Arc::default() }
    }

    /// A stranger's transaction on this connection: locks a task's row for so long, then rolls back.
    ///
    /// # Errors
    /// The row can't be locked in time.
    ///
    /// # Cancellation
    /// A dropped future lets go of the row.
    pub async fn hold(&self, task: &TaskId, time: Duration) -> Result<(), Error> {
        self.inner.hold(task, time).await
    }

    async fn meet<T>(
        &self,
        call: Call<'_>,
        doing: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let deed = self
            .script
            .as_ref()
            .map_or(Deed::Fine, |script| (script.lock().unwrap_or_else(PoisonError::into_inner))(&call));
        match deed {
            Deed::Fine => doing.await,
            Deed::LoseAnswer => {
                let _ = doing.await;
                Err(Error::new(ErrorKind::Unknown, "scripted: the answer is lost"))
            }
            Deed::Fail(kind) => Err(Error::new(kind, "scripted")),
            Deed::Late(time) => {
                tokio::time::sleep(time).await;
                doing.await
            }
            Deed::LateAnswer(time) => {
                let answer = doing.await;
                tokio::time::sleep(time).await;
                answer
            }
        }
    }

    /// The oracle knows by it what was submitted, and that nothing comes from nowhere.
    fn note_submits(&self, batches: &[Batch]) {
        let steps = batches.iter().flat_map(|batch| &batch.steps);
        let mut submitted = self.submitted.lock().unwrap_or_else(PoisonError::into_inner);
        for step in steps {
            if let Step::Insert(insert) = step
                && submitted.insert(insert.task.id.clone())
            {
                self.node.record(Event::Submitting { task: insert.task.id.clone() });
            }
        }
    }
}

impl Storage for Connection {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.meet(Call::Claim, self.inner.claim(request)).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.note_submits(batches);
        self.meet(Call::Apply(batches), self.inner.apply(batches)).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        self.meet(Call::Read(query), self.inner.read(query)).await
    }

    fn hints(&self) -> Hints {
        self.inner.hints()
    }
}
