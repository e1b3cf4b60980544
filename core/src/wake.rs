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

    /// Whether it says something to whoever is interested in this.
    fn concerns(self, interest: Hint) -> bool {
        (self.ready && interest.ready) || (self.changed && interest.changed)
    }
}

#[derive(Debug, Default)]
struct Cell {
    ready: u64,
    changed: u64,
    sleepers: Vec<Sleeper>,
    listeners: u64,
}

#[derive(Debug)]
struct Sleeper {
    listener: u64,
    interest: Hint,
    waker: Waker,
}

/// The notifying side. Clones are one cell.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Mutex<Cell>>);

impl Wake {
    /// A new cell.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes every listener that is interested.
    pub fn notify(&self, hint: Hint) {
        let woken: Vec<Sleeper> = {
            let mut cell = self.lock();
            cell.ready += u64::from(hint.ready);
            cell.changed += u64::from(hint.changed);
            cell.sleepers.extract_if(.., |sleeper| hint.concerns(sleeper.interest)).collect()
        };
        for sleeper in woken {
            sleeper.waker.wake();
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
        self.wait_for(Hint::BOTH)
    }

    /// The same for whoever has no use for every hint: a hint of the other kind wakes nobody, and is kept until one that
    /// is of interest comes, or the interest does.
    pub fn wait_for(&mut self, interest: Hint) -> impl Future<Output = Hint> + Send + '_ {
        Next { hints: self, interest }
    }

    /// The hint that came since the last, if it is of interest; where none is, this waker is told of the next.
    fn take_or_sleep(&mut self, interest: Hint, waker: &Waker) -> Option<Hint> {
        let mut cell = self.wake.lock();
        let hint = Hint { ready: cell.ready != self.ready_seen, changed: cell.changed != self.changed_seen };
        if !hint.concerns(interest) {
            // Under the lock that whoever notifies takes: nothing can come in between.
            match cell.sleepers.iter_mut().find(|sleeper| sleeper.listener == self.number) {
                Some(sleeper) => {
                    sleeper.interest = interest;
                    sleeper.waker.clone_from(waker);
                }
                None => {
                    let (listener, waker) = (self.number, waker.clone());
                    cell.sleepers.push(Sleeper { listener, interest, waker });
                }
            }
            return None;
        }
        self.ready_seen = cell.ready;
        self.changed_seen = cell.changed;
        Some(hint)
    }
}

struct Next<'a> {
    hints: &'a mut Hints,
    interest: Hint,
}

impl Future for Next<'_> {
    type Output = Hint;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Hint> {
        let interest = self.interest;
        self.hints.take_or_sleep(interest, context.waker()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let number = self.number;
        self.wake.lock().sleepers.retain(|sleeper| sleeper.listener != number);
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
    fn a_hint_of_no_interest_wakes_nobody_and_is_kept() {
        let wake = Wake::new();
        let mut hints = wake.listen();
        let woken = std::sync::Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let count = || woken.0.load(std::sync::atomic::Ordering::Relaxed);
        {
            let mut ready = std::pin::pin!(hints.wait_for(Hint::READY));
            assert!(ready.as_mut().poll(&mut context).is_pending());
            wake.notify(Hint::CHANGED);
            assert_eq!(count(), 0);
            assert!(ready.as_mut().poll(&mut context).is_pending());
            wake.notify(Hint::READY);
            assert_eq!(count(), 1);
            assert_eq!(ready.as_mut().poll(&mut context), Poll::Ready(Hint::BOTH));
        }
        wake.notify(Hint::CHANGED);
        assert_eq!(hints.wait_for(Hint::READY).now_or_never(), None);
        assert_eq!(hints.wait_for(Hint::CHANGED).now_or_never(), Some(Hint::CHANGED));
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicU32);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
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
