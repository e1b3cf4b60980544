//! Which kinds there are: a task that nobody can run is refused at once, rather than left to wait for ever.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast::core::time::Moment;
use steadfast::{Clock, Kind, Storage};

use crate::service::Service;
use crate::wire::Problem;

/// How long an answer about an unknown kind stands before the workers are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The kinds that are configured here, and those that workers of this store have ever registered.
#[derive(Debug)]
pub(super) struct Kinds {
    configured: BTreeSet<Kind>,
    registered: Mutex<Registered>,
}

#[derive(Debug, Default)]
struct Registered {
    kinds: BTreeSet<Kind>,
    looked_at: Option<Moment>,
}

impl Kinds {
    pub(super) fn new(configured: BTreeSet<Kind>) -> Self {
        Self { configured, registered: Mutex::default() }
    }

    /// Whether some worker can run this kind.
    ///
    /// # Errors
    /// None that is known; or the store can't be reached.
    pub(super) async fn check<S: Storage, C: Clock>(
        &self,
        kind: &Kind,
        service: &Service<S, C>,
    ) -> Result<(), Problem> {
        if self.configured.contains(kind) || self.registered().kinds.contains(kind) {
            return Ok(());
        }
        let now = service.engine.clock().now();
        let is_fresh = self.registered().looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY);
        if !is_fresh {
            let (workers, _) = service.known_workers().await?;
            let mut registered = self.registered();
            registered.kinds.extend(workers.into_iter().flat_map(|worker| worker.kinds));
            registered.looked_at = Some(now);
            if registered.kinds.contains(kind) {
                return Ok(());
            }
        }
        Err(self.unknown(kind))
    }

    fn unknown(&self, kind: &Kind) -> Problem {
        let registered = self.registered();
        let known: BTreeSet<&str> =
            self.configured.iter().chain(&registered.kinds).map(Kind::as_str).collect();
        let known: Vec<&str> = known.into_iter().filter(|kind| !kind.starts_with('_')).collect();
        let known =
            if known.is_empty() { "none is".into() } else { format!("these are: {}", known.join(", ")) };
        let detail = format!("no handler for kind {kind:?} is known here; {known}");
        Problem::new(422, "unknown_kind", "unknown kind", detail).field("kind").help(format!(
            "add [handlers.{kind}] to steadfast.toml and start the server again; or start a worker that has the handler; \
             or start the server with --allow-unknown-kinds"
        ))
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        // Nothing under this lock can panic half-way.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
