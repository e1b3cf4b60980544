//! The wake-up cell: tells sleepers that something changed, and loses no wake-up that came before they slept.
//!
//! A cell counts; a listener remembers the count that it has seen. `notify` never blocks and never waits for a
//! listener. The lock is private to this module and held for a few instructions.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, Mutex, MutexGuard};

/// What is worth waking up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    /// A task may have become ready.
    pub ready: bool,
    /// Some task has changed: a cancel may have been asked for, a task that somebody waits for may have ended.
    pub changed: bool,
}

impl Hint {
    /// A task may have become ready.
    pub const READY: Hint = Hint { ready: true, changed: false };
    /// Some task has changed.
    pub const CHANGED: Hint = Hint { ready: false, changed: true };
    /// Both.
    pub const BOTH: Hint = Hint { ready: true, changed: true };
}

#[derive(Debug, Default)]
struct Cell {
    ready: u64,
    changed: u64,
    sleepers: Vec<(u64, Waker)>,
    listeners: u64,
}

/// The notifying side. Clones are one cell.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Mutex<Cell>>);

impl Wake {
    /// A new cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes every listener.
    pub fn notify(&self, hint: Hint) {
        let sleepers = {
            let mut cell = self.lock();
            cell.ready += u64::from(hint.ready);
            cell.changed += u64::from(hint.changed);
            std::mem::take(&mut cell.sleepers)
        };
        for (_, waker) in sleepers {
            waker.wake();
        }
    }

    /// A listener that has seen all that came before.
    pub fn listen(&self) -> Hints {
        let mut cell = self.lock();
        cell.listeners += 1;
        Hints {
            wake: self.clone(),
            number: cell.listeners,
            ready_seen: cell.ready,
            changed_seen: cell.changed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        // Nothing under this lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listening side: a stream of hints, folded together while nobody looks.
#[derive(Debug)]
pub struct Hints {
    wake: Wake,
    number: u64,
    ready_seen: u64,
    changed_seen: u64,
}

impl Hints {
    /// Waits for the next hint; returns at once if there was one since the last. Cancellation safe: a hint is
    /// taken only when it is returned.
    pub fn wait(&mut self) -> impl Future<Output = Hint> + Send + '_ {
        Next(self)
    }

    fn take(&mut self) -> Option<Hint> {
        let cell = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hint = Hint { ready: cell.ready != self.ready_seen, changed: cell.changed != self.changed_seen };
        self.ready_seen = cell.ready;
        self.changed_seen = cell.changed;
        (hint != Hint::default()).then_some(hint)
    }
}

struct Next<'a>(&'a mut Hints);

impl Future for Next<'_> {
    type Output = Hint;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Hint> {
        if let Some(hint) = self.0.take() {
            return Poll::Ready(hint);
        }
        let number = self.0.number;
        {
            let mut cell = self.0.wake.lock();
            match cell.sleepers.iter_mut().find(|(sleeper, _)| *sleeper == number) {
                Some((_, waker)) => waker.clone_from(context.waker()),
                None => cell.sleepers.push((number, context.waker().clone())),
            }
        }
        // A hint that came between the look and the registration would otherwise be slept through.
        match self.0.take() {
            Some(hint) => Poll::Ready(hint),
            None => Poll::Pending,
        }
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let number = self.number;
        self.wake.lock().sleepers.retain(|(sleeper, _)| *sleeper != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_hint_that_came_before_the_wait_is_not_lost() {
        let wake = Wake::new();
        let mut hints = wake.listen();
        assert_eq!(hints.wait().now_or_never(), None);
        wake.notify(Hint::READY);
        wake.notify(Hint::CHANGED);
        assert_eq!(hints.wait().now_or_never(), Some(Hint::BOTH));
        assert_eq!(hints.wait().now_or_never(), None);
    }

    #[test]
    fn sleepers_do_not_pile_up() {
        let wake = Wake::new();
        let mut hints = wake.listen();
        for _ in 0..10 {
            assert_eq!(hints.wait().now_or_never(), None);
        }
        assert_eq!(wake.lock().sleepers.len(), 1);
        drop(hints);
        assert_eq!(wake.lock().sleepers.len(), 0);
    }
}
