//! A value that tasks wait for. Not tokio's `watch`: that wakes those who wait in an order drawn at random, and a seed
//! must be a run.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A value, and those who wait until it is as they want it; they are woken in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Board<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Board<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    /// Looks at the value.
    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the value.
    pub(super) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    /// Waits until it shows something.
    pub(super) async fn until<R>(&self, mut shows: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look: no change in between goes unheard.
            changed.as_mut().enable();
            if let Some(shown) = self.look(&mut shows) {
                return shown;
            }
            changed.await;
        }
    }
}
