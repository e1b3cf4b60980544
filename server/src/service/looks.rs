//! Looking at tasks: one, many, their logs and attempts.

use std::time::Duration;

use futures_util::future::try_join_all;
use steadfast::core::engine::WAIT_POLL;
use steadfast::core::storage::{Answer, Query, TaskFilter};
use steadfast::core::task::{Fence, Parent};
use steadfast::{Clock, Revision, State, Storage, Task, TaskId};

use super::{Service, mismatch, no_task};
use crate::wire::{AttemptJson, AttemptsJson, DiagnosisJson, LogJson, Problem, TaskJson, TasksJson};

/// The most tasks of one listing.
pub const LIST_MAX: u32 = 1_000;
/// Tasks that are read from the store at once for a listing; they come with their payloads and outputs.
const LIST_TOGETHER: u32 = 32;
/// A listing has no more tasks once their payloads and outputs are so large.
const LIST_BYTES_MAX: usize = 16 << 20;
/// The most lines of a log in one answer.
pub const LOG_LINES_MAX: u32 = 1_000;
/// How long after a look for lines the next one comes at the earliest: a busy store hints at something all the time.
const LOG_LOOKS_APART: Duration = Duration::from_millis(100);

impl<S: Storage, C: Clock> Service<S, C> {
    /// A task as soon as it has ended, or its revision is later than `after`, or `wait` is over.
    ///
    /// # Errors
    /// There is none, or the store can't be reached.
    pub async fn task(
        &self,
        id: &TaskId,
        after: Option<Revision>,
        wait: Duration,
    ) -> Result<TaskJson, Problem> {
        match self.engine.wait(id, after, wait).await? {
            Some(task) => self.shown(&task).await,
            None => Err(no_task(id)),
        }
    }

    /// A task as it is shown, with its parents.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn shown(&self, task: &Task) -> Result<TaskJson, Problem> {
        let parents: Vec<TaskId> =
            self.parents(&task.id).await?.into_iter().map(|(parent, _)| parent.id).collect();
        Ok(TaskJson::new(task, &parents, &self.store))
    }

    pub(super) async fn parents(&self, id: &TaskId) -> Result<Vec<(Parent, Option<State>)>, Problem> {
        match self.engine.read(&Query::Parents(id.clone())).await?.answer {
            Answer::Parents(parents) => Ok(parents),
            other => Err(mismatch(&other)),
        }
    }

    /// Tasks by filter, newest first; fewer than asked for where they are large.
    ///
    /// # Errors
    /// The cursor's task is gone, or the store can't be reached.
    pub async fn list(&self, filter: TaskFilter) -> Result<TasksJson, Problem> {
        let before = filter.before.clone();
        let (tasks, has_more) = self.some_of(filter).await?;
        if tasks.is_empty()
            && let Some(before) = before
            && self.engine.task(&before).await?.is_none()
        {
            let detail = format!("the task {before}, where the last page ended, isn't there any more");
            return Err(Problem::new(410, "cursor_gone", "the cursor is gone", detail)
                .field("cursor")
                .help("begin again without a cursor"));
        }
        let next = tasks.last().filter(|_| has_more).map(|task| task.id.to_string());
        let tasks = try_join_all(tasks.iter().map(|task| self.shown(task))).await?;
        Ok(TasksJson { tasks, next })
    }

    /// Tasks up to the limit, or to [`LIST_BYTES_MAX`]; and whether there may be more.
    async fn some_of(&self, mut filter: TaskFilter) -> Result<(Vec<Task>, bool), Problem> {
        let limit = filter.limit;
        let (mut tasks, mut bytes): (Vec<Task>, usize) = (Vec::new(), 0);
        loop {
            let left = limit.saturating_sub(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
            filter.limit = left.min(LIST_TOGETHER);
            let some = self.engine.tasks(filter.clone()).await?;
            if let (true, Some(last)) = (some.is_empty(), tasks.last()) {
                // The end; or the last one was forgotten meanwhile, and who goes on from it is told so.
                let is_gone = self.engine.task(&last.id).await?.is_none();
                return Ok((tasks, is_gone));
            }
            let is_full = some.len() >= filter.limit as usize;
            let size =
                |task: &Task| task.payload.len() + task.output.as_ref().map_or(0, |output| output.len());
            bytes += some.iter().map(size).sum::<usize>();
            tasks.extend(some);
            if !is_full || tasks.len() >= limit as usize || bytes >= LIST_BYTES_MAX {
                return Ok((tasks, is_full));
            }
            filter.before = tasks.last().map(|last| last.id.clone());
        }
    }

    /// Lines of a task's log after this place; as soon as there is one, or there can't be one, or `wait` is over.
    ///
    /// # Errors
    /// There is no such task, or the store can't be reached.
    pub async fn log(
        &self,
        id: &TaskId,
        after: (Fence, u32),
        limit: u32,
        wait: Duration,
    ) -> Result<LogJson, Problem> {
        let mut hints = self.engine.hints();
        let clock = self.engine.clock();
        let until = clock.now() + wait;
        // The state before the lines, here and below: once the task has ended nothing is added to them.
        let (task, mut state) = self.found(id).await?;
        loop {
            let looked_at = clock.now();
            let entries = self.engine.log(&task, after, limit).await?;
            let is_full = u64::try_from(entries.len()).is_ok_and(|found| found >= u64::from(limit));
            let complete = state.is_terminal() && !is_full;
            let left = until.since(clock.now());
            if !entries.is_empty() || complete || left.is_zero() {
                let (fence, number) = entries.last().map_or(after, |entry| (entry.fence, entry.number));
                let lines = entries.iter().map(Into::into).collect();
                return Ok(LogJson { lines, next: format!("{fence}.{number}"), complete });
            }
            tokio::select! {
                biased;
                _ = hints.wait() => {}
                () = clock.sleep(left.min(WAIT_POLL)) => {}
            }
            let now = clock.now();
            clock.sleep(LOG_LOOKS_APART.saturating_sub(now.since(looked_at)).min(until.since(now))).await;
            let heads = self.engine.heads(vec![task.clone()]).await?;
            let Some((_, head)) = heads.first() else { return Err(no_task(id)) };
            state = head.state;
        }
    }

    /// A task's own id, and its state. The whole task, which may be large, is read only of one that is named by an alias.
    async fn found(&self, id: &TaskId) -> Result<(TaskId, State), Problem> {
        if let Some((id, head)) = self.engine.heads(vec![id.clone()]).await?.into_iter().next() {
            return Ok((id, head.state));
        }
        match self.engine.task(id).await? {
            Some(task) => Ok((task.id, task.state)),
            None => Err(no_task(id)),
        }
    }

    /// All attempts of a task, the last one included.
    ///
    /// # Errors
    /// There is no such task, or the store can't be reached.
    pub async fn attempts(&self, id: &TaskId) -> Result<AttemptsJson, Problem> {
        let Some(task) = self.engine.task(id).await? else { return Err(no_task(id)) };
        let ended = self.engine.attempts(&task.id).await?;
        // It was ended and followed between the two reads, or its end left the task waiting.
        let last_is_there = ended.iter().any(|attempt| attempt.fence >= task.fence);
        let mut attempts: Vec<AttemptJson> = ended.iter().map(Into::into).collect();
        if task.fence > 0 && !last_is_there {
            attempts.push(AttemptJson::last(&task));
        }
        Ok(AttemptsJson { attempts })
    }

    /// Where a task is and why, and what happens next.
    ///
    /// # Errors
    /// There is no such task, or the store can't be reached.
    pub async fn diagnosis(&self, id: &TaskId) -> Result<DiagnosisJson, Problem> {
        match self.engine.diagnose(id).await? {
            Some(diagnosis) => Ok(DiagnosisJson::from(&diagnosis)),
            None => Err(no_task(id)),
        }
    }
}
