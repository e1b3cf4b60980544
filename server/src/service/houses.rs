//! Queues, workers, figures of the whole store, and forgetting what ended long ago.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::core::diagnose::{STALE, STUCK};
use steadfast::core::step::{Prune, QueueLimit, QueuePause};
use steadfast::core::storage::{Answer, Query, QueueStats, Stats, Worker};
use steadfast::{Clock, Queue, Storage, Timestamp};

use super::{Service, mismatch};
use crate::units::time_text;
use crate::wire::{Problem, PrunedJson, QueueJson, QueuesJson, StatsJson, WorkerJson, WorkersJson};

/// Tasks that are forgotten in one transaction.
const PRUNED_TOGETHER: u32 = 1_000;
/// What the queues of single commands are called together. No queue can have this name.
const RUN_QUEUES: &str = "_run.*";

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
        self.queue(&queue).await.map_err(after_the_change)
    }

    /// Sets or lifts a queue's limit.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn limit(&self, queue: Queue, concurrency: Option<u32>) -> Result<QueueJson, Problem> {
        self.engine.limit(QueueLimit { queue: queue.clone(), concurrency }).await?;
        self.queue(&queue).await.map_err(after_the_change)
    }

    async fn queue(&self, queue: &Queue) -> Result<QueueJson, Problem> {
        let (stats, _) = self.figures_of_each().await?;
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

    /// The figures of the store's queues, and its time. The queues in which `run` keeps its commands, one for each, are one
    /// here, `_run.*`, unless somebody has paused or limited them: a list and a metric need a bound.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn figures(&self) -> Result<(Stats, Timestamp), Problem> {
        let (stats, as_of) = self.figures_of_each().await?;
        Ok((folded(stats), as_of))
    }

    async fn figures_of_each(&self) -> Result<(Stats, Timestamp), Problem> {
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
            let count = self.engine.prune(prune.clone()).await.map_err(|error| {
                Problem::from(error)
                    .help("what was forgotten until then stays so: send it again for the rest")
            })?;
            pruned += u64::from(count);
            if count < PRUNED_TOGETHER {
                return Ok(PrunedJson { pruned });
            }
        }
    }
}

/// The figures that an answer shows couldn't be read.
fn after_the_change(problem: Problem) -> Problem {
    problem.help("it is set; only the queue's figures can't be read now")
}

/// Whether `run` keeps a command in the queue of this name.
fn is_of_run(queue: &str) -> bool {
    queue.starts_with("_run.")
}

/// The name of a queue in figures: those in which `run` keeps its commands have one together.
pub fn name_in_figures(queue: &str) -> &str {
    if is_of_run(queue) { RUN_QUEUES } else { queue }
}

/// The figures, with the queues of single commands as one.
fn folded(stats: Stats) -> Stats {
    let is_of_one =
        |stats: &QueueStats| is_of_run(stats.queue.as_str()) && !stats.paused && stats.concurrency.is_none();
    let (of_one, mut queues): (Vec<_>, Vec<_>) = stats.queues.into_iter().partition(is_of_one);
    if let Some(mut all) = of_one.into_iter().reduce(together) {
        all.queue = Queue::trusted(RUN_QUEUES);
        let place = queues.partition_point(|stats| stats.queue < all.queue);
        queues.insert(place, all);
    }
    Stats { queues }
}

fn together(mut all: QueueStats, one: QueueStats) -> QueueStats {
    for (all, one) in all.tasks.iter_mut().zip(one.tasks) {
        *all += one;
    }
    all.oldest_ready = all.oldest_ready.max(one.oldest_ready);
    all.stale += one.stale;
    all.stuck += one.stuck;
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_single_commands_are_one() {
        let queue = |name: &str, ready, oldest: Option<u64>| QueueStats {
            queue: Queue::trusted(name),
            concurrency: None,
            paused: false,
            tasks: [0, 0, ready, 0, 1, 0, 0],
            oldest_ready: oldest.map(Duration::from_secs),
            stale: ready,
            stuck: 1,
        };
        let paused = QueueStats { paused: true, ..queue("_run.c", 1, None) };
        let before =
            vec![queue("_run.a", 1, Some(7)), queue("_run.b", 2, None), paused.clone(), queue("a", 1, None)];
        let all =
            QueueStats { tasks: [0, 0, 3, 0, 2, 0, 0], stale: 3, stuck: 2, ..queue("_run.*", 3, Some(7)) };
        let after = vec![all, paused, queue("a", 1, None)];
        assert_eq!(folded(Stats { queues: before }).queues, after);
        let none = Stats { queues: vec![queue("_runs", 1, None)] };
        assert_eq!(folded(none.clone()), none);
    }
}
