//! What wakes a worker when nothing happens.

use futures_util::FutureExt;
use futures_util::future::Fuse;

use super::Call;
use crate::time::{Clock, Moment};

/// A timer for the next moment at which there is something to do.
pub(super) struct Tick {
    /// `None`: never.
    at: Option<Moment>,
    pub(super) sleep: Call<()>,
}

impl Tick {
    pub(super) fn none() -> Self {
        Self { at: None, sleep: Fuse::terminated() }
    }

    /// Sets it, where it isn't set to that moment already: most of what wakes a worker doesn't change it.
    pub(super) fn set<C: Clock>(&mut self, clock: &C, at: Option<Moment>) {
        if self.at == at {
            return;
        }
        let Some(moment) = at else {
            *self = Self::none();
            return;
        };
        let clock = clock.clone();
        let sleep: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { clock.sleep(moment.since(clock.now())).await });
        *self = Self { at, sleep: sleep.fuse() };
    }
}
