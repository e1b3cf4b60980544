//! The supervisor: one plain future that is a worker. It claims, owns the attempts' futures, renews their leases,
//! passes on orders to stop, enforces timeouts and graces, and gives everything back when it is drained.
//!
//! It owns every attempt: none can be lost while it lives, and all are dropped with it. It spawns nothing; a host that
//! wants each attempt in a task of its own wraps the handlers ([`Handlers::map`]).

mod attempt;
mod config;
mod parts;
mod tick;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Fuse;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, select_biased};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::handler::{Handlers, Orders, StopReason};
use crate::name::{Kind, TaskId};
use crate::report::Now;
use crate::step::{Batch, Beat, Head, Outcome, Receipt, Renewal, Step};
use crate::storage::{Answer, ClaimRequest, Claimed, Error, ErrorKind, Lease, Query, Storage};
use crate::task::State;
use crate::time::{Clock, Moment};
use crate::wake::Hint;
use attempt::Attempt;
use parts::in_parts;
use tick::Tick;

pub use config::{InvalidConfig, WorkerConfig};

/// The first renewal, which also says that the handler was entered, comes after this time or a third of the lease.
const FIRST_RENEWAL_MAX: Duration = Duration::from_secs(1);
/// Renewals due within this share of the lease of each other go in one call.
const RENEWAL_SLACK_DIVISOR: u32 = 30;
/// After a hint that something changed, attempts are checked for orders to stop; not more often than this.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// How often a worker says that it lives.
pub const BEAT: Duration = Duration::from_secs(10);
/// How long a drained worker tries to say that it is gone.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// The wait after a failed claim; it doubles up to the poll interval.
const CLAIM_RETRY_MIN: Duration = Duration::from_millis(20);

/// Tells a supervisor to drain. Clones tell the same one; dropping them all changes nothing.
#[derive(Debug, Clone)]
pub struct DrainHandle(watch::Sender<bool>);

impl DrainHandle {
    /// Claims nothing more, tells every attempt to stop, gives back those that don't end within the grace; then
    /// [`Supervisor::run`] returns.
    pub fn drain(&self) {
        self.0.send_replace(true);
    }
}

/// A worker. Run it with [`run`](Self::run).
pub struct Supervisor<S: Storage, C: Clock> {
    engine: Engine<S, C>,
    handlers: Handlers,
    kinds: Vec<Kind>,
    config: WorkerConfig,
    /// The engine's clock, for handlers.
    now: Now,
    drain: watch::Receiver<bool>,
    draining: bool,
    /// A drained worker renews no lease after this: by then no handler runs, and whose outcome couldn't be recorded leaves
    /// it to whoever rescues the task.
    renews_until: Option<Moment>,

    /// Every attempt that hasn't ended, by a number of our own.
    attempts: BTreeMap<u64, Live>,
    attempts_made: u64,
    /// The attempts by when they are to be renewed; those in the call under way are absent.
    renewals: BTreeSet<(Moment, u64)>,
    /// Told to stop: they don't count against the concurrency, so that a slow end holds nobody up.
    stopping: BTreeSet<u64>,

    /// A claim may find something.
    hungry: bool,
    /// When to claim without being told to.
    poll_at: Moment,
    claim_failures: u32,
    /// How many tasks are claimed at once: fewer where so many didn't fit into one answer.
    claim_max: u32,
    /// When attempts may be checked for orders again, and whether there is a reason to.
    check_at: Moment,
    check_wanted: bool,
    /// When to say again that the worker lives.
    beat_at: Moment,
}

struct Live {
    attempt: Arc<Attempt>,
    /// Its place in `renewals`.
    renew_at: Option<Moment>,
}

type Call<T> = Fuse<Pin<Box<dyn Future<Output = T> + Send>>>;

/// The answer to a call, and when it was sent.
struct Sent<T> {
    at: Moment,
    /// How many things were asked for.
    asked: usize,
    result: Result<T, Error>,
}

/// Which attempts were to be renewed, and what became of each.
type Renewed = (Vec<u64>, Sent<Vec<Result<Outcome, Error>>>);

/// What is under way. Apart from the supervisor, so that both can be borrowed at once.
struct Calls {
    claim: Call<Sent<Claimed>>,
    claiming: bool,
    renewal: Call<Renewed>,
    renewing: bool,
    check: Call<Result<Vec<(TaskId, Head)>, Error>>,
    checking: bool,
    beat: Call<Result<Vec<Outcome>, Error>>,
    beating: bool,
}

impl Calls {
    fn none() -> Self {
        Self {
            claim: Fuse::terminated(),
            claiming: false,
            renewal: Fuse::terminated(),
            renewing: false,
            check: Fuse::terminated(),
            checking: false,
            beat: Fuse::terminated(),
            beating: false,
        }
    }
}

impl<S: Storage, C: Clock> std::fmt::Debug for Supervisor<S, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<S: Storage, C: Clock> Supervisor<S, C> {
    /// A worker for these handlers, and the handle that drains it.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn new(
        engine: Engine<S, C>,
        handlers: Handlers,
        config: WorkerConfig,
    ) -> Result<(Self, DrainHandle), InvalidConfig> {
        config.check()?;
        let (sender, drain) = watch::channel(false);
        let now = engine.clock().now();
        let clock = engine.clock().clone();
        let claim_max = config.claim_max;
        let supervisor = Self {
            kinds: handlers.kinds().cloned().collect(),
            now: Arc::new(move || clock.now()),
            engine,
            handlers,
            config,
            drain,
            draining: false,
            renews_until: None,
            attempts: BTreeMap::new(),
            attempts_made: 0,
            renewals: BTreeSet::new(),
            stopping: BTreeSet::new(),
            hungry: true,
            poll_at: now,
            claim_failures: 0,
            claim_max,
            check_at: now,
            check_wanted: false,
            beat_at: now,
        };
        Ok((supervisor, DrainHandle(sender)))
    }

    /// Works until it is drained.
    ///
    /// # Cancellation
    /// Dropping it is a crash: attempts are dropped where they stand and their leases lapse.
    pub async fn run(mut self) {
        let mut hints = self.engine.hints();
        let mut stops = self.engine.registry().stops();
        let mut drain = self.drain.clone();
        let mut ended = FuturesUnordered::new();
        let mut calls = Calls::none();
        let mut tick = Tick::none();
        tracing::info!(worker = %self.config.id, queues = ?self.config.queues, kinds = ?self.kinds, "worker started");
        loop {
            self.start_calls(&mut calls);
            if self.draining && self.attempts.is_empty() && !calls.claiming && !calls.beating {
                break;
            }
            tick.set(self.engine.clock(), self.next_tick(&calls));
            select_biased! {
                // First, so that the store claims the next tasks while these are being started.
                sent = &mut calls.claim => {
                    calls.claiming = false;
                    let sent_at = sent.at;
                    for lease in self.take_claimed(sent) {
                        ended.push(self.start(lease, sent_at));
                    }
                }
                number = ended.select_next_some() => {
                    self.forget(number);
                    // The others that ended with it: a group is settled in one commit.
                    while let Some(Some(number)) = ended.next().now_or_never() {
                        self.forget(number);
                    }
                }
                (numbers, sent) = &mut calls.renewal => {
                    calls.renewing = false;
                    self.take_renewed(&numbers, sent);
                }
                heads = &mut calls.check => {
                    calls.checking = false;
                    self.take_checked(heads);
                }
                beaten = &mut calls.beat => {
                    calls.beating = false;
                    self.note_beat(&beaten);
                }
                hint = hints.wait_for(self.interest()).fuse() => {
                    self.hungry |= hint.ready;
                    self.check_wanted |= hint.changed;
                }
                _ = stops.wait().fuse() => self.note_stopping(),
                () = wait_for_drain(&mut drain, self.draining).fuse() => self.start_draining(),
                () = &mut tick.sleep => {
                    tick = Tick::none();
                    self.stop_lapsed();
                }
            }
        }
        self.say_farewell().await;
        tracing::info!(worker = %self.config.id, "worker drained");
    }

    /// Sends what is due and isn't under way.
    fn start_calls(&mut self, calls: &mut Calls) {
        let now = self.engine.clock().now();
        let busy = self.attempts.len() - self.stopping.len();
        let free = self.config.concurrency.saturating_sub(busy);
        if !self.draining && !calls.claiming && free > 0 && (self.hungry || now >= self.poll_at) {
            self.hungry = false;
            calls.claiming = true;
            calls.claim = self.claim(u32::try_from(free).unwrap_or(u32::MAX), now);
        }
        let due = self.renewals.first().is_some_and(|(at, _)| *at <= now);
        if due && !calls.renewing {
            calls.renewing = true;
            calls.renewal = self.renew(now);
        }
        if self.check_wanted && !calls.checking && now >= self.check_at && !self.attempts.is_empty() {
            self.check_wanted = false;
            self.check_at = now + CHECK_INTERVAL_MIN;
            calls.checking = true;
            calls.check = self.check();
        }
        if !calls.beating && now >= self.beat_at {
            self.beat_at = now + BEAT;
            calls.beating = true;
            calls.beat = self.beat(false);
        }
    }

    /// When there will be something to do, if nothing happens before.
    fn next_tick(&self, calls: &Calls) -> Option<Moment> {
        let has_room = self.attempts.len() - self.stopping.len() < self.config.concurrency;
        let poll = (!self.draining && !calls.claiming && has_room).then_some(self.poll_at);
        let renew = if calls.renewing {
            // A renewal that hangs must not keep us from noticing that leases lapse.
            let orders = self.attempts.values().map(|live| live.attempt.registered.orders());
            orders.filter(|orders| orders.stop.is_none()).map(|orders| orders.lease_until).min()
        } else {
            self.renewals.first().map(|(at, _)| *at)
        };
        let check =
            (self.check_wanted && !calls.checking && !self.attempts.is_empty()).then_some(self.check_at);
        let beat = (!calls.beating).then_some(self.beat_at);
        [poll, renew, check, beat].into_iter().flatten().min()
    }

    /// Which hints would make us do something.
    fn interest(&self) -> Hint {
        let has_room = self.attempts.len() - self.stopping.len() < self.config.concurrency;
        Hint {
            ready: has_room && !self.hungry && !self.draining,
            changed: !self.attempts.is_empty() && !self.check_wanted,
        }
    }

    fn claim(&self, free: u32, now: Moment) -> Call<Sent<Claimed>> {
        let request = ClaimRequest {
            worker: self.config.id.clone(),
            queues: self.config.queues.clone(),
            kinds: self.kinds.clone(),
            limit: free.min(self.claim_max),
            lease: self.config.lease,
        };
        let storage = self.engine.storage().clone();
        let call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let asked = request.limit as usize;
            Sent { at: now, asked, result: storage.claim(&request).await }
        });
        call.fuse()
    }

    /// What was claimed, and when to claim again.
    fn take_claimed(&mut self, sent: Sent<Claimed>) -> Vec<Lease> {
        let now = self.engine.clock().now();
        match sent.result {
            Ok(claimed) => {
                self.claim_failures = 0;
                if claimed.tasks.len() >= sent.asked {
                    let more = self.claim_max.saturating_add(self.claim_max / 8 + 1);
                    self.claim_max = more.min(self.config.claim_max);
                }
                self.poll_at =
                    now + claimed.next_due.map_or(self.config.poll, |due| due.min(self.config.poll));
                // There may be more where so many came from.
                self.hungry |= claimed.tasks.len() >= sent.asked;
                claimed.tasks
            }
            Err(error) => {
                let delay = CLAIM_RETRY_MIN * 2u32.pow(self.claim_failures.min(10));
                self.claim_failures += 1;
                // It may have been too much for one answer: payloads can be large.
                if matches!(error.kind(), ErrorKind::Contended | ErrorKind::Unknown) {
                    self.claim_max = u32::try_from(sent.asked / 2).unwrap_or(u32::MAX).max(1);
                }
                self.poll_at = now + delay.min(self.config.poll);
                tracing::warn!(worker = %self.config.id, ?error, "the claim failed and will be repeated");
                Vec::new()
            }
        }
    }

    /// Begins an attempt: from here on it is in the registry and in our hands until it has ended.
    fn start(&mut self, lease: Lease, claim_sent: Moment) -> impl Future<Output = u64> + Send + use<S, C> {
        self.attempts_made += 1;
        let number = self.attempts_made;
        tracing::debug!(task = %lease.task, worker = %self.config.id, fence = lease.fence, attempt = lease.attempt, "task claimed");
        let orders = Orders { stop: None, lease_until: claim_sent + self.config.lease };
        let registered = self.engine.registry().register(lease.task.clone(), lease.fence, orders);
        let attempt = Arc::new(Attempt::new(lease, registered, claim_sent));
        self.attempts.insert(number, Live { attempt: attempt.clone(), renew_at: None });
        self.renew_at(number, claim_sent + FIRST_RENEWAL_MAX.min(self.config.lease / 3));
        let now = self.engine.clock().now();
        let unwanted = if claim_sent + self.config.lease <= now {
            // The answer took longer than the lease lasts.
            Some(StopReason::LeaseLost)
        } else if attempt.deadline.is_some_and(|deadline| deadline <= now) {
            Some(StopReason::Deadline)
        } else {
            self.draining.then_some(StopReason::Drained)
        };
        if let Some(reason) = unwanted {
            attempt.registered.stop(reason);
            self.stopping.insert(number);
        }
        let handler = self.handlers.find(&attempt.lease.kind).cloned();
        let engine = self.engine.clone();
        let grace = self.config.grace;
        let now = self.now.clone();
        async move {
            attempt::run(&engine, &attempt, handler, grace, now).await;
            number
        }
    }

    fn forget(&mut self, number: u64) {
        let live = self.attempts.remove(&number).expect("an attempt ends once");
        if let Some(at) = live.renew_at {
            self.renewals.remove(&(at, number));
        }
        self.stopping.remove(&number);
    }

    /// Plans the next renewal of an attempt no later than then.
    fn renew_at(&mut self, number: u64, at: Moment) {
        // One that has ended meanwhile needs none.
        let Some(live) = self.attempts.get_mut(&number) else { return };
        if live.renew_at.is_some_and(|planned| planned <= at) {
            return;
        }
        if let Some(later) = live.renew_at.replace(at) {
            self.renewals.remove(&(later, number));
        }
        self.renewals.insert((at, number));
    }

    /// Renews, in one call, all leases that are due about now.
    fn renew(&mut self, now: Moment) -> Call<Renewed> {
        let due_until = (now + self.config.lease / RENEWAL_SLACK_DIVISOR, u64::MAX);
        let rest = self.renewals.split_off(&due_until);
        let due = std::mem::replace(&mut self.renewals, rest);
        let is_over = self.renews_until.is_some_and(|until| until <= now);
        let mut numbers = Vec::with_capacity(due.len());
        let mut batches: Vec<Batch> = Vec::with_capacity(due.len());
        for (_, number) in due {
            let live =
                self.attempts.get_mut(&number).expect("an attempt that ends takes its renewal with it");
            live.renew_at = None;
            let attempt = &live.attempt;
            if is_over || attempt.registered.orders().stop == Some(StopReason::LeaseLost) {
                // Its outcome is void; a renewal would keep the task from whoever rescues it.
                continue;
            }
            let renewal = Renewal {
                task: attempt.lease.task.clone(),
                fence: attempt.lease.fence,
                lease: self.config.lease,
                entered: attempt.entered_ago(now),
            };
            batches.push(Step::Renew(renewal).into());
            numbers.push(number);
        }
        let storage = self.engine.storage().clone();
        let call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let asked = batches.len();
            (numbers, Sent { at: now, asked, result: Ok(in_parts(&storage, &batches).await) })
        });
        call.fuse()
    }

    /// One failed renewal cancels nothing: it is repeated well within the lease.
    fn take_renewed(&mut self, numbers: &[u64], sent: Sent<Vec<Result<Outcome, Error>>>) {
        let now = self.engine.clock().now();
        let outcomes = sent.result.unwrap_or_default();
        assert_eq!(outcomes.len(), numbers.len(), "each renewal is answered");
        for (number, outcome) in numbers.iter().zip(outcomes) {
            let Some(live) = self.attempts.get(number) else { continue };
            let attempt = live.attempt.clone();
            match outcome {
                // Renewed after it was lost: nobody waits for the next.
                Ok(Outcome::Applied(_) | Outcome::Already(_))
                    if attempt.registered.orders().stop == Some(StopReason::LeaseLost) => {}
                Ok(Outcome::Applied(receipts) | Outcome::Already(receipts)) => {
                    attempt.registered.renewed(sent.at + self.config.lease);
                    self.renew_at(*number, sent.at + self.config.lease / 3);
                    if let Some(Receipt::Renewed { cancel: Some(reason) }) = receipts.into_iter().next() {
                        attempt.registered.stop(StopReason::Cancelled(reason));
                        self.stopping.insert(*number);
                    }
                }
                Ok(Outcome::Refused(_)) => {
                    attempt.registered.stop(StopReason::LeaseLost);
                    self.stopping.insert(*number);
                }
                Err(error) => {
                    let task = &attempt.lease.task;
                    tracing::warn!(worker = %self.config.id, %task, ?error, "the renewal failed and will be repeated");
                    // Not after the lease has lapsed, which is to be noticed then.
                    let lapses = attempt.registered.orders().lease_until;
                    self.renew_at(*number, (now + self.config.lease / 12).min(lapses));
                }
            }
        }
        self.stop_lapsed();
    }

    /// Says that the worker lives, or is gone. By itself: what becomes of it must not hold up anything else.
    fn beat(&self, gone: bool) -> Call<Result<Vec<Outcome>, Error>> {
        let beat = Beat {
            worker: self.config.id.clone(),
            queues: self.config.queues.clone(),
            kinds: self.kinds.clone(),
            concurrency: u32::try_from(self.config.concurrency).unwrap_or(u32::MAX),
            running: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            gone,
        };
        let storage = self.engine.storage().clone();
        let call: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { storage.apply(&[Step::Beat(beat).into()]).await });
        call.fuse()
    }

    /// A beat that failed is made up for by the next.
    fn note_beat(&self, beaten: &Result<Vec<Outcome>, Error>) {
        if let Err(error) = beaten {
            tracing::warn!(worker = %self.config.id, ?error, "the sign of life failed and will be repeated");
        }
    }

    /// Says, after the last attempt has been settled, that the worker won't come back; while that takes no long time.
    async fn say_farewell(&self) {
        let mut patience = Box::pin(self.engine.clock().sleep(FAREWELL_MAX)).fuse();
        select_biased! {
            beaten = self.beat(true) => self.note_beat(&beaten),
            () = patience => {}
        }
    }

    fn check(&self) -> Call<Result<Vec<(TaskId, Head)>, Error>> {
        let tasks = self.attempts.values().map(|live| live.attempt.lease.task.clone()).collect();
        let storage = self.engine.storage().clone();
        let call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            match storage.read(&Query::Heads(tasks)).await?.answer {
                Answer::Heads(heads) => Ok(heads),
                other => unreachable!("heads were asked for, not {other:?}"),
            }
        });
        call.fuse()
    }

    /// Tells attempts to stop that were cancelled, replaced or rescued elsewhere.
    fn take_checked(&mut self, heads: Result<Vec<(TaskId, Head)>, Error>) {
        let heads: BTreeMap<TaskId, Head> = match heads {
            Ok(heads) => heads.into_iter().collect(),
            Err(error) => {
                tracing::debug!(?error, "the check for orders failed; the next renewal will tell");
                return;
            }
        };
        let mut asked_to_stop = Vec::new();
        for (number, Live { attempt, .. }) in &self.attempts {
            let Some(head) = heads.get(&attempt.lease.task) else { continue };
            // Under a lower fence the answer is older than this attempt.
            let ended = head.fence == attempt.lease.fence && head.state != State::Running;
            if head.fence > attempt.lease.fence || ended {
                attempt.registered.stop(StopReason::LeaseLost);
                self.stopping.insert(*number);
            } else if head.cancel_requested && attempt.registered.orders().stop.is_none() {
                asked_to_stop.push(*number);
            }
        }
        // The renewal brings the reason.
        let now = self.engine.clock().now();
        for number in asked_to_stop {
            self.renew_at(number, now);
        }
    }

    /// Attempts that were told to stop through the registry don't count against the concurrency either.
    fn note_stopping(&mut self) {
        for (number, Live { attempt, .. }) in &self.attempts {
            if attempt.registered.orders().stop.is_some() {
                self.stopping.insert(*number);
            }
        }
    }

    fn start_draining(&mut self) {
        self.draining = true;
        self.renews_until = Some(self.engine.clock().now() + self.config.grace + self.config.lease);
        for (number, Live { attempt, .. }) in &self.attempts {
            attempt.registered.stop(StopReason::Drained);
            self.stopping.insert(*number);
        }
    }

    /// Stops attempts whose lease must have lapsed by our own clock: a zombie knows before others find out.
    fn stop_lapsed(&mut self) {
        let now = self.engine.clock().now();
        for (number, Live { attempt, .. }) in &self.attempts {
            if attempt.registered.orders().lease_until <= now {
                attempt.registered.stop(StopReason::LeaseLost);
                self.stopping.insert(*number);
            }
        }
    }
}

/// Waits for the order to drain, once.
async fn wait_for_drain(drain: &mut watch::Receiver<bool>, draining: bool) {
    if draining || drain.wait_for(|drain| *drain).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
