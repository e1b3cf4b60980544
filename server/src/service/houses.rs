//! Queues, workers, figures of the whole store, and forgetting what ended long ago.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::core::diagnose::{STALE, STUCK};
use steadfast::core::step::{Prune, QueueLimit, QueuePause};
use steadfast::core::storage::{Answer, Query, Stats, Worker};
use steadfast::{Clock, Queue, Storage, Timestamp};

use super::{Service, mismatch};
use crate::units::time_text;
use crate::wire::{Problem, PrunedJson, QueueJson, QueuesJson, StatsJson, WorkerJson, WorkersJson};

/// Tasks that are forgotten in one transaction.
const PRUNED_TOGETHER: u32 = 1_000;

impl<S: Storage, C: Clock> Service<S, C> {
    /// The queues.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn queues(&self) -> Result<QueuesJson, Problem> {
        let (stats, _) = self.figures().await?;
        Ok(QueuesJson { queues: stats.queues.iter().map(QueueJson::from).collect() })
    }

    /// Pauses or resumes a queue.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn pause(&self, queue: Queue, paused: bool) -> Result<QueueJson, Problem> {
        self.engine.pause(QueuePause { queue: queue.clone(), paused }).await?;
        self.queue(&queue).await
    }

    /// Sets or lifts a queue's limit.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn limit(&self, queue: Queue, concurrency: Option<u32>) -> Result<QueueJson, Problem> {
        self.engine.limit(QueueLimit { queue: queue.clone(), concurrency }).await?;
        self.queue(&queue).await
    }

    async fn queue(&self, queue: &Queue) -> Result<QueueJson, Problem> {
        let (stats, _) = self.figures().await?;
        let found = stats.queues.iter().find(|stats| stats.queue == *queue);
        // One without tasks, limit and pause isn't there.
        let empty = QueueJson {
            queue: queue.to_string(),
            concurrency: None,
            paused: false,
            tasks: BTreeMap::new(),
            oldest_ready_s: None,
            stale: 0,
            stuck: 0,
        };
        Ok(found.map_or(empty, QueueJson::from))
    }

    /// The workers.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn workers(&self) -> Result<WorkersJson, Problem> {
        let (workers, as_of) = self.known_workers().await?;
        Ok(WorkersJson { workers: workers.iter().map(|worker| WorkerJson::new(worker, as_of)).collect() })
    }

    /// The workers as the store knows them, and its time.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn known_workers(&self) -> Result<(Vec<Worker>, Timestamp), Problem> {
        let view = self.engine.read(&Query::Workers).await?;
        match view.answer {
            Answer::Workers(workers) => Ok((workers, view.as_of)),
            other => Err(mismatch(&other)),
        }
    }

    /// The figures of the store's queues, and its time.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn figures(&self) -> Result<(Stats, Timestamp), Problem> {
        let view = self.engine.read(&Query::Stats { stale: STALE, stuck: STUCK }).await?;
        match view.answer {
            Answer::Stats(stats) => Ok((stats, view.as_of)),
            other => Err(mismatch(&other)),
        }
    }

    /// The store as a whole.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn stats(&self) -> Result<StatsJson, Problem> {
        let (stats, as_of) = self.figures().await?;
        let workers = self.workers().await?.workers;
        let queues: Vec<QueueJson> = stats.queues.iter().map(QueueJson::from).collect();
        let mut tasks: BTreeMap<String, u64> = BTreeMap::new();
        for (state, count) in queues.iter().flat_map(|queue| &queue.tasks) {
            *tasks.entry(state.clone()).or_default() += count;
        }
        Ok(StatsJson {
            store: self.store.to_string(),
            as_of: time_text(as_of),
            tasks,
            stale: queues.iter().map(|queue| queue.stale).sum(),
            stuck: queues.iter().map(|queue| queue.stuck).sum(),
            queues,
            workers_alive: workers.iter().map(|worker| u64::from(worker.alive)).sum(),
        })
    }

    /// Forgets tasks that ended at least so long ago.
    ///
    /// # Errors
    /// The store can't be reached; what was forgotten before stays so.
    ///
    /// # Cancellation
    /// What was forgotten until then stays so.
    pub async fn prune(&self, older: Duration) -> Result<PrunedJson, Problem> {
        let prune = Prune { succeeded: older, otherwise: older, limit: PRUNED_TOGETHER };
        let mut pruned = 0;
        // Ends: each turn but the last forgets some, and what ends meanwhile isn't old enough.
        loop {
            let count = self.engine.prune(prune.clone()).await?;
            pruned += u64::from(count);
            if count < PRUNED_TOGETHER {
                return Ok(PrunedJson { pruned });
            }
        }
    }
}
