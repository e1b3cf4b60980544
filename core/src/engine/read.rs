//! What an engine reads: each question to the store as a method that gives its answer.

use std::time::Duration;

use super::Engine;
use crate::name::TaskId;
use crate::step::Head;
use crate::storage::{Answer, Error, ErrorKind, Query, Stats, Storage, TaskFilter, View, Worker};
use crate::task::{Attempt, Checkpoint, Fence, LogEntry, Parent, State, Task};
use crate::time::Clock;

/// Reads. Each is a snapshot of its own, and is cancellation safe.
impl<S: Storage, C: Clock> Engine<S, C> {
    /// Reads in a fresh snapshot.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn read(&self, query: &Query) -> Result<View, Error> {
        self.0.storage.read(query).await
    }

    /// One task as it is now, if there is one.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn task(&self, id: &TaskId) -> Result<Option<Task>, Error> {
        match self.read(&Query::Task(id.clone())).await?.answer {
            Answer::Task(task) => Ok(task.map(|task| *task)),
            other => Err(mismatch(&other)),
        }
    }

    /// Tasks by filter, newest first.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn tasks(&self, filter: TaskFilter) -> Result<Vec<Task>, Error> {
        match self.read(&Query::Tasks(filter)).await?.answer {
            Answer::Tasks(tasks) => Ok(tasks),
            other => Err(mismatch(&other)),
        }
    }

    /// The attempts of a task that others followed, oldest first.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn attempts(&self, id: &TaskId) -> Result<Vec<Attempt>, Error> {
        match self.read(&Query::Attempts(id.clone())).await?.answer {
            Answer::Attempts(attempts) => Ok(attempts),
            other => Err(mismatch(&other)),
        }
    }

    /// The parents of a task, in order of id, with their states: `None` for one that was pruned.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn parents(&self, id: &TaskId) -> Result<Vec<(Parent, Option<State>)>, Error> {
        match self.read(&Query::Parents(id.clone())).await?.answer {
            Answer::Parents(parents) => Ok(parents),
            other => Err(mismatch(&other)),
        }
    }

    /// Lines of a task's log after this place, by fence, then by number; (0, 0) is before the first. Fewer than `limit`
    /// are all there are.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn log(&self, id: &TaskId, after: (Fence, u32), limit: u32) -> Result<Vec<LogEntry>, Error> {
        match self.read(&Query::Log { task: id.clone(), after, limit }).await?.answer {
            Answer::Log(lines) => Ok(lines),
            other => Err(mismatch(&other)),
        }
    }

    /// The finished steps of a task, in order of name.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn checkpoints(&self, id: &TaskId) -> Result<Vec<Checkpoint>, Error> {
        match self.read(&Query::Checkpoints(id.clone())).await?.answer {
            Answer::Checkpoints(checkpoints) => Ok(checkpoints),
            other => Err(mismatch(&other)),
        }
    }

    /// The few facts about those of these tasks that exist, in any order.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn heads(&self, ids: Vec<TaskId>) -> Result<Vec<(TaskId, Head)>, Error> {
        match self.read(&Query::Heads(ids)).await?.answer {
            Answer::Heads(heads) => Ok(heads),
            other => Err(mismatch(&other)),
        }
    }

    /// The queues, and how their tasks are doing: `stale` is when a ready task has waited too long, `stuck` for how long
    /// a running one's handler may give no sign.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn stats(&self, stale: Duration, stuck: Duration) -> Result<Stats, Error> {
        match self.read(&Query::Stats { stale, stuck }).await?.answer {
            Answer::Stats(stats) => Ok(stats),
            other => Err(mismatch(&other)),
        }
    }

    /// The workers, in order of id.
    ///
    /// # Errors
    /// As the storage says.
    pub async fn workers(&self) -> Result<Vec<Worker>, Error> {
        match self.read(&Query::Workers).await?.answer {
            Answer::Workers(workers) => Ok(workers),
            other => Err(mismatch(&other)),
        }
    }
}

pub(crate) fn mismatch(answer: &Answer) -> Error {
    let shown: String = format!("{answer:?}").chars().take(40).collect();
    Error::new(ErrorKind::Broken, format!("the storage answered another question: {shown}"))
}
