//! The registry: which attempts live in this process, so that a cancel or a replacement made here reaches them at
//! once. The truth about tasks and slots is in the store; this is the short way.
//!
//! The lock is private to this module, its guard can't leave it, and nothing awaits under it: stopping an attempt
//! gives an order, and its cleanup is the supervisor's business, outside any lock.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use tokio::sync::watch;

use crate::sync::{Arc, Mutex, MutexGuard};

use crate::handler::{Orders, StopReason};
use crate::name::TaskId;
use crate::task::Fence;
use crate::wake::{Hint, Hints, Wake};

/// The live attempts of a process. Clones are one registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    attempts: Arc<Mutex<Attempts>>,
    stops: Wake,
}

/// With a number of its own for each entry, because a fence may come twice.
#[derive(Debug, Default)]
struct Attempts {
    live: BTreeMap<(TaskId, Fence), (u64, watch::Sender<Orders>)>,
    made: u64,
}

/// An attempt's entry; dropping it takes the attempt out.
#[derive(Debug)]
pub struct Registered {
    registry: Registry,
    key: (TaskId, Fence),
    number: u64,
    orders: watch::Sender<Orders>,
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an attempt in. One under the same fence is told that its lease is lost, and makes room: a store gives each
    /// fence once, unless it went back to an earlier state, as after a failover, and then it knows nothing of that attempt.
    pub fn register(&self, task: TaskId, fence: Fence, orders: Orders) -> Registered {
        let orders = watch::Sender::new(orders);
        let key = (task, fence);
        let (number, before) = {
            let mut attempts = self.lock();
            attempts.made += 1;
            let number = attempts.made;
            (number, attempts.live.insert(key.clone(), (number, orders.clone())))
        };
        if let Some((_, before)) = before {
            stop(&before, StopReason::LeaseLost);
            self.stops.notify(Hint::CHANGED);
        }
        Registered { registry: self.clone(), key, number, orders }
    }

    /// Tells the attempts of a task up to this fence to stop; says whether there was one.
    pub fn stop(&self, task: &TaskId, through: Fence, reason: &StopReason) -> bool {
        let orders: Vec<_> = {
            let attempts = self.lock();
            let of_task = attempts.live.range((task.clone(), Fence::MIN)..=(task.clone(), through));
            of_task.map(|(_, (_, orders))| orders.clone()).collect()
        };
        for orders in &orders {
            stop(orders, reason.clone());
        }
        if !orders.is_empty() {
            self.stops.notify(Hint::CHANGED);
        }
        !orders.is_empty()
    }

    /// Tells when [`stop`](Self::stop) has reached an attempt.
    pub fn stops(&self) -> Hints {
        self.stops.listen()
    }

    /// How many attempts live.
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        // Nothing under this lock can panic half-way.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// Tells the attempt to stop. The first reason stays, but for a lost lease, which overrides every other.
    pub fn stop(&self, reason: StopReason) {
        if stop(&self.orders, reason) {
            self.registry.stops.notify(Hint::CHANGED);
        }
    }

    /// Passes a new lease on to the attempt.
    pub fn renewed(&self, lease_until: crate::time::Moment) {
        self.orders.send_modify(|orders| orders.lease_until = lease_until);
    }

    /// The orders as they stand.
    pub fn orders(&self) -> Orders {
        self.orders.borrow().clone()
    }

    /// A receiver for the attempt's context.
    pub fn subscribe(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut attempts = self.registry.lock();
        // Unless another has taken its place.
        if attempts.live.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            attempts.live.remove(&self.key);
        }
    }
}

fn stop(orders: &watch::Sender<Orders>, reason: StopReason) -> bool {
    orders.send_if_modified(|orders| {
        let changes = orders.stop.is_none()
            || (reason == StopReason::LeaseLost && orders.stop != Some(StopReason::LeaseLost));
        if changes {
            orders.stop = Some(reason);
        }
        changes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Moment;
    use std::time::Duration;

    fn orders() -> Orders {
        Orders { stop: None, lease_until: Moment::from_origin(Duration::ZERO) }
    }

    #[test]
    fn stopping_a_task_reaches_each_of_its_attempts_and_no_other() {
        let registry = Registry::new();
        let task = |id: &str| TaskId::trusted(id);
        let zombie = registry.register(task("a"), 1, orders());
        let current = registry.register(task("a"), 2, orders());
        let other = registry.register(task("b"), 1, orders());
        assert!(registry.stop(&task("a"), Fence::MAX, &StopReason::Drained));
        assert!(!registry.stop(&task("c"), Fence::MAX, &StopReason::Drained));
        assert_eq!(zombie.orders().stop, Some(StopReason::Drained));
        assert_eq!(current.orders().stop, Some(StopReason::Drained));
        assert_eq!(other.orders().stop, None);
        drop((zombie, current, other));
        assert!(registry.is_empty());
    }

    #[test]
    fn the_loss_of_an_old_attempt_leaves_its_successor_alone() {
        let registry = Registry::new();
        let lost = registry.register(TaskId::trusted("a"), 1, orders());
        let successor = registry.register(TaskId::trusted("a"), 2, orders());
        assert!(registry.stop(&TaskId::trusted("a"), 1, &StopReason::LeaseLost));
        assert_eq!(lost.orders().stop, Some(StopReason::LeaseLost));
        assert_eq!(successor.orders().stop, None);
    }

    #[test]
    fn a_fence_that_comes_again_replaces_the_attempt_that_had_it() {
        let registry = Registry::new();
        let id = TaskId::trusted("a");
        let forgotten = registry.register(id.clone(), 1, orders());
        let current = registry.register(id.clone(), 1, orders());
        assert_eq!(forgotten.orders().stop, Some(StopReason::LeaseLost));
        drop(forgotten);
        assert!(registry.stop(&id, 1, &StopReason::Drained), "the one that goes leaves the other in");
        assert_eq!(current.orders().stop, Some(StopReason::Drained));
        drop(current);
        assert!(registry.is_empty());
    }

    #[test]
    fn the_first_reason_stays_unless_the_lease_is_lost() {
        let registry = Registry::new();
        let attempt = registry.register(TaskId::trusted("a"), 1, orders());
        attempt.stop(StopReason::Cancelled("enough".into()));
        attempt.stop(StopReason::Drained);
        assert_eq!(attempt.orders().stop, Some(StopReason::Cancelled("enough".into())));
        attempt.stop(StopReason::LeaseLost);
        assert_eq!(attempt.orders().stop, Some(StopReason::LeaseLost));
    }
}
