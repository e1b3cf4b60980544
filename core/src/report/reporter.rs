//! Sends what an attempt says: what nobody waits for in rounds that all attempts share, what somebody waits for at once.

use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use super::{Desk, Due, Parcel, ReportError};
use crate::engine::Engine;
use crate::handler::StopReason;
use crate::registry::Registered;
use crate::step::{Outcome, Refusal, Report};
use crate::storage::{Error, ErrorKind, Lease, Storage};
use crate::time::{Clock, Moment};

/// How often what nobody waits for is sent.
const ROUND: Duration = Duration::from_millis(500);
/// The wait before a report is repeated; it doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a report is repeated.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// An attempt's end of its [`Desk`]: one report at a time is under way, so that a later one can't be overtaken.
#[derive(Debug)]
pub(crate) struct Reporter<'a, S, C> {
    pub(crate) engine: &'a Engine<S, C>,
    pub(crate) lease: &'a Lease,
    pub(crate) registered: &'a Registered,
    pub(crate) desk: &'a Desk,
}

impl<S: Storage, C: Clock> Reporter<'_, S, C> {
    /// Sends until the handler is done and all is sent, or the lease is lost. Costs the store nothing where nothing is
    /// said.
    ///
    /// # Cancellation
    /// What is under way is stored or not.
    pub(crate) async fn run(&self) {
        loop {
            match self.desk.due() {
                Due::Over => return,
                Due::Never => self.desk.wake.notified().await,
                // Boxed, because most attempts say nothing, and each would carry the room for it.
                Due::Soon => Box::pin(self.wait_for_round()).await,
                Due::Now => Box::pin(self.send()).await,
            }
        }
    }

    /// Waits for the next round, then sends; or until somebody waits.
    async fn wait_for_round(&self) {
        let clock = self.engine.clock();
        let now = clock.now();
        let mut round = pin!(clock.sleep(next_round(now).since(now)).fuse());
        while self.desk.due() == Due::Soon {
            select_biased! {
                () = round => return self.send().await,
                () = self.desk.wake.notified().fuse() => {}
            }
        }
    }

    async fn send(&self) {
        match self.desk.take(self.lease) {
            Parcel::Report(report, answers) => {
                let result = self.store(&report).await;
                match &result {
                    Ok(()) => self.desk.learn(report.checkpoints),
                    Err(ReportError::Store(error)) => {
                        let Lease { task, fence, .. } = self.lease;
                        tracing::warn!(%task, fence, ?error, "a report could not be stored and is dropped");
                    }
                    Err(ReportError::LeaseLost | ReportError::AliasTaken(_) | ReportError::Invalid(_)) => {}
                }
                for answer in answers {
                    // Whoever asked may have gone.
                    let _ = answer.send(result.clone());
                }
                if matches!(result, Err(ReportError::LeaseLost)) {
                    self.registered.stop(StopReason::LeaseLost);
                    self.desk.close();
                }
            }
            Parcel::Steps(answer) => {
                let read = self.while_leased(|| self.engine.checkpoints(&self.lease.task)).await;
                let _ = answer.send(read.map(|steps| self.desk.learn(steps)).map_err(ReportError::Store));
            }
        }
    }

    async fn store(&self, report: &Report) -> Result<(), ReportError> {
        match self.while_leased(|| self.engine.report(report.clone())).await? {
            Outcome::Applied(_) | Outcome::Already(_) => Ok(()),
            Outcome::Refused(refused) => Err(match refused.why {
                Refusal::Stale(_) | Refusal::NotFound => ReportError::LeaseLost,
                Refusal::AliasTaken(task) => ReportError::AliasTaken(task),
                why @ (Refusal::IdTaken(_)
                | Refusal::KeyTaken(..)
                | Refusal::SlotTaken(..)
                | Refusal::ParentMissing(_)) => {
                    let text = format!("the storage refused a report for {why:?}, which is a bug");
                    ReportError::Store(Error::new(ErrorKind::Broken, text))
                }
            }),
        }
    }

    /// Makes a call, again and again while that may help and the lease lasts.
    async fn while_leased<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let clock = self.engine.clock();
        let mut delay = RETRY_MIN;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_help = match error.kind() {
                ErrorKind::Conflict | ErrorKind::Contended | ErrorKind::Unknown | ErrorKind::Unavailable => {
                    true
                }
                ErrorKind::Rejected | ErrorKind::Broken => false,
            };
            if !may_help || clock.now() >= self.registered.orders().lease_until {
                return Err(error);
            }
            clock.sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }
}

/// The rounds are the same for every attempt of a process, so that they share a call.
fn next_round(now: Moment) -> Moment {
    let round = ROUND.as_nanos();
    let passed = now.since_origin().as_nanos() / round * round;
    let next = u64::try_from(passed + round).unwrap_or(u64::MAX);
    Moment::from_origin(Duration::from_nanos(next))
}
