//! What a service writes: a [`Handler`], called once for each attempt with a [`Context`], answering a [`Verdict`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::name::{Kind, TaskId};
use crate::report::{Desk, ReportError, Steps};
use crate::step::Report;
use crate::storage::Lease;
use crate::task::{Cause, Checkpoint, Payload, Stream};
use crate::time::Moment;

/// How an attempt ended, in the handler's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is done; this is the output.
    Done(Payload),
    /// It went wrong; try again while attempts remain.
    Retry {
        /// What kind of failure.
        cause: Cause,
        /// What went wrong, for people.
        error: String,
        /// How long to wait; by the task's backoff where it isn't said.
        after: Option<Duration>,
    },
    /// It went wrong for good; don't try again.
    Fail {
        /// What kind of failure.
        cause: Cause,
        /// What went wrong, for people.
        error: String,
    },
    /// It isn't wanted any more.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Not yet: give this attempt back and come again.
    Snooze {
        /// How long to wait.
        after: Duration,
    },
    /// It is lost, as in a crash: what it did isn't known, so nothing is recorded. Its lease isn't renewed any more, and
    /// once that has lapsed the task is rescued, while its rescues last.
    Lost,
}

impl Verdict {
    /// Done, with this output.
    pub fn done(output: impl Into<Payload>) -> Self {
        Verdict::Done(output.into())
    }

    /// Went wrong; retried after the task's backoff while attempts remain.
    pub fn error(error: impl fmt::Display) -> Self {
        Verdict::Retry { cause: Cause::Error, error: error.to_string(), after: None }
    }

    /// Went wrong for good.
    pub fn fail(error: impl fmt::Display) -> Self {
        Verdict::Fail { cause: Cause::Error, error: error.to_string() }
    }
}

impl From<ReportError> for Verdict {
    /// For handlers whose steps end in a verdict: what couldn't be reported is tried again by another attempt.
    fn from(error: ReportError) -> Self {
        Verdict::error(error)
    }
}

/// A boxed attempt.
pub type Running = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Runs the tasks of a kind.
///
/// The supervisor owns the returned future: it polls it, and drops it when the attempt has to end: at a timeout or a
/// cancel after a grace, and at once when the worker goes away. Everything that a handler does between two awaits
/// happens at least once for each attempt that entered; fence side effects with [`Context::fence`].
pub trait Handler: Send + Sync + 'static {
    /// Starts one attempt.
    fn call(&self, context: Context) -> Running;
}

impl<F, R> Handler for F
where
    F: Fn(Context) -> R + Send + Sync + 'static,
    R: Future<Output = Verdict> + Send + 'static,
{
    fn call(&self, context: Context) -> Running {
        Box::pin(self(context))
    }
}

/// Which handler runs which kind.
#[derive(Clone, Default)]
pub struct Handlers(BTreeMap<Kind, Arc<dyn Handler>>);

impl Handlers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the handler of a kind, in place of an earlier one.
    #[must_use]
    pub fn with(mut self, kind: Kind, handler: impl Handler) -> Self {
        self.0.insert(kind, Arc::new(handler));
        self
    }

    /// The handler of a kind.
    pub fn find(&self, kind: &Kind) -> Option<&Arc<dyn Handler>> {
        self.0.get(kind)
    }

    /// All kinds, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.0.keys()
    }

    /// Wraps every handler, for example to run each attempt in a task of an executor.
    #[must_use]
    pub fn map<H: Handler>(self, wrap: impl Fn(Arc<dyn Handler>) -> H) -> Self {
        Self(
            self.0
                .into_iter()
                .map(|(kind, handler)| (kind, Arc::new(wrap(handler)) as Arc<dyn Handler>))
                .collect(),
        )
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why an attempt should stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody wants the task to stop, for this reason.
    Cancelled(String),
    /// It took longer than this.
    Timeout(Duration),
    /// The task's deadline passed.
    Deadline,
    /// The worker is being drained: the attempt is given back.
    Drained,
    /// The attempt isn't this worker's any more: it was replaced or rescued, or its lease must have lapsed.
    LeaseLost,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Cancelled(reason) => write!(f, "cancelled: {reason}"),
            StopReason::Timeout(after) => write!(f, "timed out after {after:?}"),
            StopReason::Deadline => f.write_str("the task's deadline passed"),
            StopReason::Drained => f.write_str("the worker is being drained"),
            StopReason::LeaseLost => f.write_str("the lease was lost"),
        }
    }
}

/// What the supervisor tells a live attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// Why to stop; nothing while all is well. Once set it stays, but for a lost lease, which overrides every other
    /// reason: from then on the outcome is void.
    pub stop: Option<StopReason>,
    /// When the lease lapses unless it is renewed, by the process's clock, counted from the moment when the claim or
    /// the renewal was sent.
    pub lease_until: Moment,
}

/// What a handler knows about its attempt, and where it says how it is getting on. Clones are one attempt's.
#[derive(Debug, Clone)]
pub struct Context {
    lease: Arc<Lease>,
    orders: watch::Receiver<Orders>,
    desk: Arc<Desk>,
}

impl Context {
    /// A context for tests of handlers: what is reported to it is kept ([`reported`](Self::reported)) and sent nowhere.
    pub fn new(lease: Arc<Lease>, orders: watch::Receiver<Orders>) -> Self {
        Self { lease, orders, desk: Arc::new(Desk::unattended(Steps::new())) }
    }

    /// The same for a later attempt, whose task has these finished steps.
    #[must_use]
    pub fn with_checkpoints(self, checkpoints: impl IntoIterator<Item = Checkpoint>) -> Self {
        let steps = checkpoints.into_iter().map(|checkpoint| (checkpoint.name, checkpoint.value)).collect();
        Self { desk: Arc::new(Desk::unattended(steps)), ..self }
    }

    /// A live attempt's.
    pub(crate) fn attended(lease: Arc<Lease>, orders: watch::Receiver<Orders>, desk: Arc<Desk>) -> Self {
        Self { lease, orders, desk }
    }

    /// The task and this attempt of it: id, kind, payload, attempt, slot.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The task's id.
    pub fn task_id(&self) -> &TaskId {
        &self.lease.task
    }

    /// What the task was submitted with.
    pub fn payload(&self) -> &[u8] {
        &self.lease.payload
    }

    /// This attempt's number, from 1.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// Rises with every claim of the task: a side effect that checks it can't be made by a zombie.
    pub fn fence(&self) -> u64 {
        self.lease.fence
    }

    /// Why to stop, if the attempt was told to.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.orders.borrow().stop.clone()
    }

    /// Waits until the attempt is told to stop. A grace period remains from then on, but where the lease is lost.
    /// Cancellation safe.
    pub async fn stopped(&self) -> StopReason {
        let mut orders = self.orders.clone();
        let stop =
            orders.wait_for(|orders| orders.stop.is_some()).await.ok().and_then(|orders| orders.stop.clone());
        // The supervisor is gone: so is the lease.
        stop.unwrap_or(StopReason::LeaseLost)
    }

    /// The orders, for handlers that pass the lease on to a process of their own.
    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.clone()
    }
}

/// Reporting. Nothing here blocks; only what is awaited waits for the store.
impl Context {
    /// Says how far the attempt is: `percent` from 0 to 100, and a message of at most
    /// [`PROGRESS_BYTES_MAX`](crate::task::PROGRESS_BYTES_MAX) bytes, which is cut. Call it as often as you like: it is
    /// sent about twice a second, and of several the last.
    pub fn progress(&self, percent: u8, message: impl AsRef<str>) {
        self.desk.progress(percent, message.as_ref());
    }

    /// Writes to the task's log. A text of several lines is as many; a line of more than
    /// [`LOG_LINE_BYTES_MAX`](crate::task::LOG_LINE_BYTES_MAX) bytes is cut; beyond
    /// [`LOG_BYTES_MAX`](crate::task::LOG_BYTES_MAX) an attempt's lines are dropped, and the last line says how many.
    pub fn log(&self, text: impl AsRef<str>) {
        self.log_from(Stream::Log, text);
    }

    /// The same for what came from somewhere else, for example a program's output.
    pub fn log_from(&self, stream: Stream, text: impl AsRef<str>) {
        self.desk.log(stream, text.as_ref());
    }

    /// Stores the result of a finished step, for the attempts that follow: in place of an earlier one of this name. It
    /// is stored, by this attempt and no zombie, when this returns.
    ///
    /// # Errors
    /// The lease was lost; the name or the value makes no sense; or the store failed while the lease lasted.
    ///
    /// # Cancellation
    /// A dropped future leaves it stored or not.
    pub async fn checkpoint(
        &self,
        name: impl AsRef<str>,
        value: impl Into<Payload>,
    ) -> Result<(), ReportError> {
        self.desk.checkpoint(name.as_ref(), value.into()).await
    }

    /// The finished steps by name: those of earlier attempts, which are read once, and this one's.
    ///
    /// # Errors
    /// The store failed while the lease lasted, or the lease was lost.
    pub async fn checkpoints(&self) -> Result<BTreeMap<String, Payload>, ReportError> {
        self.desk.steps().await
    }

    /// A durable step: does the work, stores its result under this name, and returns it; where an attempt has finished
    /// the step before, returns what is stored, without doing it again. A step that was done but not stored is done
    /// again. Each step of a task has a name of its own.
    ///
    /// ```
    /// # use steadfast_core::{Context, Verdict};
    /// # async fn fetch() -> Result<Vec<u8>, Verdict> { Ok(Vec::new()) }
    /// # async fn handler(context: Context) -> Result<(), Verdict> {
    /// let page = context.step("fetch", || fetch()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The work's own, which stores nothing; those of [`checkpoint`](Self::checkpoint).
    ///
    /// # Cancellation
    /// A dropped future drops the work, or leaves its result stored or not.
    pub async fn step<T, E, F, W>(&self, name: impl AsRef<str>, work: W) -> Result<Payload, E>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>>,
        T: Into<Payload>,
        E: From<ReportError>,
    {
        let name = name.as_ref();
        if let Some(value) = self.desk.step(name).await? {
            return Ok(value);
        }
        let value: Payload = work().await?.into();
        self.desk.checkpoint(name, value.clone()).await?;
        Ok(value)
    }

    /// Makes the task findable under another id, for example one that another system gave to it.
    ///
    /// # Errors
    /// Another task has that id or alias; the lease was lost; or the store failed while the lease lasted.
    ///
    /// # Cancellation
    /// A dropped future leaves it stored or not.
    pub async fn alias(&self, id: TaskId) -> Result<(), ReportError> {
        self.desk.alias(id).await
    }

    /// What was reported and not sent: for tests of handlers, everything.
    pub fn reported(&self) -> Report {
        self.desk.said(&self.lease)
    }
}
