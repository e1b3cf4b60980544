//! How a worker works, and what makes no sense.

use std::time::Duration;

use crate::name::{Queue, WorkerId};

/// How a worker works. The defaults are those of the published interface.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// This incarnation: made anew at each start.
    pub id: WorkerId,
    /// From which queues to claim; at least one.
    pub queues: Vec<Queue>,
    /// How many attempts at once; at least 1.
    pub concurrency: usize,
    /// How long a lease lasts; renewed every third of it.
    pub lease: Duration,
    /// How often to look for tasks when no hint comes.
    pub poll: Duration,
    /// How long an attempt may go on after it was told to stop.
    pub grace: Duration,
    /// How many tasks to claim in one call at most; at least 1.
    pub claim_max: u32,
}

/// What is wrong with a configuration: which field, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker's {field} {why}")]
pub struct InvalidConfig {
    /// Which field.
    pub field: &'static str,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl WorkerConfig {
    /// Lease 30 s, poll 1 s, grace 10 s, 16 attempts at once, from the queue `default`.
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            queues: vec![Queue::default_queue()],
            concurrency: 16,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            claim_max: 500,
        }
    }

    /// Finds what would let a worker do nothing, or nothing else.
    ///
    /// # Errors
    /// The first such field.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let least = "must be at least 1";
        let longer = "must be longer than nothing";
        let rules = [
            ("queues", !self.queues.is_empty(), "must name at least one"),
            ("concurrency", self.concurrency > 0, least),
            ("claim_max", self.claim_max > 0, least),
            ("lease", !self.lease.is_zero(), longer),
            ("poll", !self.poll.is_zero(), longer),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, why)) => Err(InvalidConfig { field, why }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_let_a_worker_do_nothing_is_named() {
        let broken = |change: fn(&mut WorkerConfig)| {
            let mut config = WorkerConfig::new(WorkerId::trusted("w"));
            assert_eq!(config.check(), Ok(()));
            change(&mut config);
            config.check().expect_err("it makes no sense").to_string()
        };
        assert_eq!(broken(|c| c.queues.clear()), "the worker's queues must name at least one");
        assert_eq!(broken(|c| c.concurrency = 0), "the worker's concurrency must be at least 1");
        assert_eq!(broken(|c| c.claim_max = 0), "the worker's claim_max must be at least 1");
        assert_eq!(broken(|c| c.lease = Duration::ZERO), "the worker's lease must be longer than nothing");
        assert_eq!(broken(|c| c.poll = Duration::ZERO), "the worker's poll must be longer than nothing");
    }
}
