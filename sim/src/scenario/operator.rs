//! The operator: looks at everything that can be asked of a store, tries again what ended, sets limits and cancels.

use std::time::Duration;

use steadfast_core::Error;
use steadfast_core::engine::Retried;
use steadfast_core::name::{Queue, TaskId};
use steadfast_core::step::QueueLimit;
use steadfast_core::storage::TaskFilter;
use steadfast_core::task::Task;
use tokio::time::Instant;

use crate::choices::Stream;
use crate::history::{Event, SubmitAnswer};

use super::client::{Client, LIMITED, TASKS, dropped_after, id};

/// How often it acts.
const ACTS: u64 = 10;
/// Its choices are numbered from here, beyond those of the client and the rival.
const FIRST: u64 = 300;

pub(crate) const RETRIED_DUE: &str = "api: a retry made a waiting task due";
pub(crate) const RETRIED_ANEW: &str = "api: a retry ran an ended task anew";
pub(crate) const GOT: &str = "api: get";
pub(crate) const LISTED: &str = "api: list";
pub(crate) const WAITED_FOR_END: &str = "api: wait for the end";
pub(crate) const WAITED_FOR_REVISION: &str = "api: wait for a later revision";
pub(crate) const LIMITED_ANEW: &str = "api: a limit was changed";
pub(crate) const LOOKED_BEHIND: &str = "api: attempts, parents, log and checkpoints";
pub(crate) const COUNTED: &str = "api: stats, workers and heads";
pub(crate) const DIAGNOSED: &str = "api: diagnose";
pub(crate) const GONE_AWAY: &str = "api: a caller of something else than submit went away";

#[derive(Debug)]
pub(super) struct Operator(pub(super) Client);

impl Operator {
    /// Acts until then, in every other seed.
    pub(super) async fn run(self, until: Instant) {
        if self.pick("swarm: operator", 0, 2) == 0 {
            return;
        }
        let goes_away = [0, 0, 2_000][self.pick("swarm: operator goes away", 0, 3) as usize];
        for number in FIRST..FIRST + ACTS {
            let pause = [1_000, 100, 3_000, 9_000][self.pick("operator's pause", number, 4) as usize];
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if Instant::now() > until {
                return;
            }
            let choices = self.0.choices();
            let patience = choices.depart(Stream::Faults, "operator goes away", number, goes_away, 12);
            // An error is a store that is out of reach for now.
            if dropped_after(patience, self.act(number)).await.is_none() {
                self.did(GONE_AWAY);
            }
        }
    }

    async fn act(&self, number: u64) -> Result<(), Error> {
        let engine = &self.0.engine;
        let tasks = u32::try_from(TASKS).expect("few");
        let which = id(u64::from(self.pick("operator's task", number, tasks)));
        match self.pick("operator", number, 12) {
            0 => self.get(&which).await,
            1..=3 => self.retry(&which).await,
            4 => self.list(number).await,
            5 => self.wait(&which, None, WAITED_FOR_END).await,
            6 => {
                let seen = engine.task(&which).await?.map_or(0, |task| task.rev);
                self.wait(&which, Some(seen), WAITED_FOR_REVISION).await
            }
            7 => self.limit(number).await,
            8 => {
                engine.attempts(&which).await?;
                engine.parents(&which).await?;
                engine.log(&which, (0, 0), 10).await?;
                engine.checkpoints(&which).await?;
                self.did(LOOKED_BEHIND);
                Ok(())
            }
            9 => {
                engine.stats(Duration::from_secs(5), Duration::from_secs(10)).await?;
                engine.workers().await?;
                engine.heads(vec![which]).await?;
                self.did(COUNTED);
                Ok(())
            }
            10 => {
                self.0.cancel(&which).await;
                Ok(())
            }
            _ => self.diagnose(&which).await,
        }
    }

    async fn get(&self, which: &TaskId) -> Result<(), Error> {
        let asked_at = self.0.node.world().now();
        if let Some(task) = self.0.engine.task(which).await? {
            self.looked(&task, asked_at);
            self.did(GOT);
        }
        Ok(())
    }

    async fn list(&self, number: u64) -> Result<(), Error> {
        let asked_at = self.0.node.world().now();
        let unfinished = self.pick("list unfinished", number, 2) == 1;
        let filter = TaskFilter { unfinished, limit: 8, ..TaskFilter::default() };
        for task in self.0.engine.tasks(filter).await? {
            self.looked(&task, asked_at);
            self.did(LISTED);
        }
        Ok(())
    }

    async fn wait(&self, which: &TaskId, after: Option<u64>, what: &'static str) -> Result<(), Error> {
        let asked_at = self.0.node.world().now();
        let Some(task) = self.0.engine.wait(which, after, Duration::from_secs(6)).await? else {
            return Ok(());
        };
        self.looked(&task, asked_at);
        if task.state.is_terminal() || after.is_some_and(|after| task.rev > after) {
            self.did(what);
        }
        Ok(())
    }

    async fn limit(&self, number: u64) -> Result<(), Error> {
        let concurrency = [2, 1, 3][self.pick("new limit", number, 3) as usize];
        let limit = QueueLimit { queue: Queue::trusted(LIMITED), concurrency: Some(concurrency) };
        self.0.engine.limit(limit).await?;
        self.did(LIMITED_ANEW);
        Ok(())
    }

    async fn retry(&self, which: &TaskId) -> Result<(), Error> {
        self.0.node.record(Event::Retrying { task: which.clone() });
        match self.0.engine.retry(which).await? {
            Retried::Due => self.did(RETRIED_DUE),
            Retried::Anew(accepted) => {
                let task = accepted.id.clone();
                self.0.node.record(Event::Submitted { task, answer: SubmitAnswer::Accepted(accepted.id) });
                self.did(RETRIED_ANEW);
            }
            Retried::Unfinished(_)
            | Retried::Succeeded
            | Retried::NotFound
            | Retried::TooOften
            | Retried::Refused(_) => {}
        }
        Ok(())
    }

    async fn diagnose(&self, which: &TaskId) -> Result<(), Error> {
        if self.0.engine.diagnose(which).await?.is_some() {
            self.did(DIAGNOSED);
        }
        Ok(())
    }

    fn looked(&self, task: &Task, asked_at: steadfast_core::Timestamp) {
        let reader = self.0.node.name().to_owned();
        let (task, rev, state) = (task.id.clone(), task.rev, task.state);
        self.0.node.record(Event::Looked { reader, task, rev, state, asked_at });
    }

    fn did(&self, what: &'static str) {
        self.0.node.record(Event::Did { what });
    }

    fn pick(&self, site: &'static str, number: u64, n: u32) -> u32 {
        self.0.choices().pick(Stream::Workload, site, number, n)
    }
}
