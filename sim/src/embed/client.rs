//! The client of a test: it submits, waits and cancels as a patient caller does, through whatever befalls the store.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use steadfast_core::engine::{Accepted, Cancelled, Submitted};
use steadfast_core::{Engine, Error, ErrorKind, Kind, NewTask, TaskId};

use crate::history::{Event, SubmitAnswer};
use crate::scheduler::waiting_for;
use crate::world::SimClock;

use super::connection::Connection;
use super::failed::Failed;
use super::stage::Stage;

/// How long to wait before a call is made again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long one wait for a task lasts before the next.
const WAIT: Duration = Duration::from_secs(60);

/// A task to submit.
#[derive(Debug, Clone)]
pub struct Task(Result<Request, Failed>);

#[derive(Debug, Clone)]
struct Request {
    task: NewTask,
    has_id: bool,
}

impl Task {
    /// A task of this kind with every default, as [`NewTask::new`] makes it. The world gives it an id that says its kind
    /// and its number: `charge-1`.
    pub fn new(kind: &str) -> Self {
        let task = |kind| NewTask::new(TaskId::trusted("unnamed"), kind, *b"");
        Self(Kind::new(kind).map(|kind| Request { task: task(kind), has_id: false }).map_err(Failed::from))
    }

    /// Under an id of its own.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        Self(self.0.and_then(|request| {
            Ok(Request { task: NewTask { id: TaskId::new(id)?, ..request.task }, has_id: true })
        }))
    }

    /// With this payload, as JSON.
    #[must_use]
    pub fn payload(self, payload: &impl Serialize) -> Self {
        Self(self.0.and_then(|mut request| {
            request.task.payload = serde_json::to_vec(payload)?.into();
            Ok(request)
        }))
    }

    /// Changes anything else: slot, key, parents, deadline, attempts.
    #[must_use]
    pub fn with(self, change: impl FnOnce(&mut NewTask)) -> Self {
        Self(self.0.map(|mut request| {
            change(&mut request.task);
            request
        }))
    }
}

impl From<NewTask> for Task {
    /// Keeps the id, unless it is a UUIDv7: those are made at random, as `Job::task` does, and a seed must be a run. The
    /// world gives such a task an id instead; [`Client::submit`] answers with it.
    fn from(task: NewTask) -> Self {
        let has_id = !is_random(&task.id);
        Self(Ok(Request { task, has_id }))
    }
}

/// Whether it is a UUIDv7.
fn is_random(id: &TaskId) -> bool {
    let text = id.as_str().as_bytes();
    let is_fine = |(place, byte): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        14 => *byte == b'7',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.iter().enumerate().all(is_fine)
}

/// The client of a test. Clones are one client.
#[derive(Debug, Clone)]
pub struct Client(pub(super) Arc<Stage>);

impl Client {
    /// Submits a task, again and again until it is answered, as a patient caller does: an id or a key makes that safe.
    ///
    /// # Errors
    /// It makes no sense, or was refused: an id, key or slot that is taken, a parent that doesn't exist.
    ///
    /// # Cancellation
    /// A dropped future leaves the task stored or not.
    pub async fn submit(&self, task: impl Into<Task>) -> Result<Accepted, Failed> {
        let Request { mut task, has_id } = task.into().0?;
        if !has_id {
            task.id = self.0.name(&task.kind);
        }
        let id = task.id.clone();
        let answer = persist(|| self.engine().submit(task.clone())).await?;
        let told = match &answer {
            Submitted::Accepted(accepted) => SubmitAnswer::Accepted(accepted.id.clone()),
            Submitted::Refused(refusal) => SubmitAnswer::Refused(format!("{refusal:?}")),
            Submitted::Invalid(invalid) => {
                return Err(Failed::new(format!("{id} makes no sense: {invalid}")));
            }
        };
        self.0.client().node().record(Event::Submitted { task: id.clone(), answer: told });
        match answer {
            Submitted::Accepted(accepted) => Ok(accepted),
            Submitted::Refused(refusal) => Err(Failed::new(format!("{id} was refused: {refusal:?}"))),
            Submitted::Invalid(invalid) => unreachable!("answered before: {invalid}"),
        }
    }

    /// Waits until a task has ended, and answers with it.
    ///
    /// # Errors
    /// There is no such task.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn wait(&self, task: impl Borrow<TaskId>) -> Result<steadfast_core::Task, Failed> {
        let id = task.borrow();
        let ended = async {
            loop {
                match persist(|| self.engine().wait(id, None, WAIT)).await? {
                    Some(task) if task.state.is_terminal() => return Ok(task),
                    Some(_) => {}
                    None => return Err(unknown(id)),
                }
            }
        };
        waiting_for("a task to end", ended).await
    }

    /// One task as it is now.
    ///
    /// # Errors
    /// There is no such task.
    ///
    /// # Cancellation
    /// Safe: it only reads.
    pub async fn task(&self, task: impl Borrow<TaskId>) -> Result<steadfast_core::Task, Failed> {
        let id = task.borrow();
        persist(|| self.engine().task(id)).await?.ok_or_else(|| unknown(id))
    }

    /// Cancels a task, again and again until that is answered.
    ///
    /// # Errors
    /// The store is broken.
    ///
    /// # Cancellation
    /// A dropped future leaves the task cancelled or not.
    pub async fn cancel(&self, task: impl Borrow<TaskId>, reason: &str) -> Result<Cancelled, Failed> {
        let id = task.borrow();
        let cancelled = persist(|| self.engine().cancel(id, reason)).await?;
        let acknowledged = matches!(cancelled, Cancelled::Ended | Cancelled::Requested);
        self.0.client().node().record(Event::Cancelled { task: id.clone(), acknowledged });
        Ok(cancelled)
    }

    /// Its engine: the whole interface of Steadfast, with the errors that faults make. What is asked for here isn't asked
    /// for again.
    pub fn engine(&self) -> &Engine<Connection, SimClock> {
        self.0.client().engine()
    }
}

fn unknown(id: &TaskId) -> Failed {
    Failed::new(format!("there is no task {id}: use the id that `submit` answered with"))
}

/// Makes a call until it is answered.
async fn persist<T, F: Future<Output = Result<T, Error>>>(mut call: impl FnMut() -> F) -> Result<T, Failed> {
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => match error.kind() {
                ErrorKind::Conflict | ErrorKind::Contended | ErrorKind::Unknown | ErrorKind::Unavailable => {
                    tokio::time::sleep(AGAIN).await;
                }
                ErrorKind::Rejected | ErrorKind::Broken => return Err(error.into()),
            },
        }
    }
}
