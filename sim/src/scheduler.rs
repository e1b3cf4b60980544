//! The scheduler: one future that polls its tasks in chosen order, inside a paused current-thread tokio runtime.
//!
//! Whatever is due at the same instant is ready together and interleaved by choice; when nothing is ready, virtual time
//! jumps to the next timer. Traps that are closed here: tokio's cooperative budget (the future runs `unconstrained`),
//! timers that are only noticed when tokio is returned to (every `POLLS_BETWEEN_YIELDS` polls), livelock and deadlock
//! (bounds that name the tasks and what they wait for).

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::choices::{Choices, Stream};
use crate::strategy::Order;

/// Polls after which tokio gets its turn.
const POLLS_BETWEEN_YIELDS: u32 = 61;

/// How far a task falls whose priority is lowered: behind all that haven't been.
const LOWERED: u32 = 1_000;

thread_local! {
    /// What the task that is being polled on this thread says that it waits for.
    static WAITS_FOR: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// A group of tasks that freeze and die together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// One task of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskNo(u64);

type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handle to the scheduler, for those that spawn, freeze and kill. Clones are one scheduler.
#[derive(Clone)]
pub struct Scheduler(Arc<Mutex<State>>);

struct State {
    choices: Choices,
    tasks: BTreeMap<TaskNo, Task>,
    /// The name of every task that there ever was, by its number.
    names: Vec<Cow<'static, str>>,
    /// Woken and not polled since, by rank, then first come first served.
    ready: BTreeSet<(u32, u64, TaskNo)>,
    arrivals: u64,
    frozen: BTreeSet<NodeId>,
    root: Option<Waker>,
    polls: u64,
    /// In how many of ten thousand cases a woken task is set aside behind others.
    set_aside_odds: u32,
    order: Order,
    /// In how many of ten thousand wake-ups a task falls behind all others for good.
    lowered_odds: u32,
}

struct Task {
    node: NodeId,
    /// Where it stands among all, for as long as it lives; the smallest goes first.
    priority: u32,
    /// What it said that it waits for, at its last poll.
    waits_for: Option<&'static str>,
    /// `None` while it is being polled.
    future: Option<TaskFuture>,
    waker: Waker,
    is_ready: bool,
}

struct TaskWaker {
    task: TaskNo,
    scheduler: Scheduler,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let root = {
            let mut state = self.scheduler.lock();
            state.make_ready(self.task);
            state.root.take()
        };
        if let Some(root) = root {
            root.wake();
        }
    }
}

/// Why a run was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// More polls than allowed: something turns in a circle.
    Polls(String),
    /// More virtual time than allowed: something that should happen doesn't.
    Time(String),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stuck::Polls(tasks) => write!(f, "livelock: too many polls; alive: {tasks}"),
            Stuck::Time(tasks) => write!(f, "no progress: virtual time is over; alive: {tasks}"),
        }
    }
}

/// What a run may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Polls of all tasks together.
    pub polls: u64,
    /// Virtual time.
    pub time: Duration,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("polls", &self.polls()).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler without tasks. `set_aside_odds` of ten thousand arrivals are set aside.
    pub fn new(choices: Choices, set_aside_odds: u32) -> Self {
        let order = choices.order();
        let lowered_odds = order.lowered_odds(&choices);
        Self(Arc::new(Mutex::new(State {
            choices,
            tasks: BTreeMap::new(),
            names: Vec::new(),
            ready: BTreeSet::new(),
            arrivals: 0,
            frozen: BTreeSet::new(),
            root: None,
            polls: 0,
            set_aside_odds,
            order,
            lowered_odds,
        })))
    }

    /// Adds a task to a node. It is polled when its turn comes.
    pub fn spawn(
        &self,
        node: NodeId,
        name: impl Into<Cow<'static, str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> TaskNo {
        let mut state = self.lock();
        let task = TaskNo(state.names.len() as u64);
        state.names.push(name.into());
        let priority = state.order.priority(&state.choices, task.0);
        let waker = Waker::from(Arc::new(TaskWaker { task, scheduler: self.clone() }));
        let future: TaskFuture = Box::pin(future);
        state.tasks.insert(
            task,
            Task { node, priority, waits_for: None, future: Some(future), waker, is_ready: false },
        );
        state.make_ready(task);
        let root = state.root.take();
        drop(state);
        if let Some(root) = root {
            root.wake();
        }
        task
    }

    /// Drops every task of a node where it stands.
    pub fn kill(&self, node: NodeId) {
        let killed: Vec<Task> = {
            let mut state = self.lock();
            let numbers: Vec<TaskNo> =
                state.tasks.iter().filter(|(_, task)| task.node == node).map(|(no, _)| *no).collect();
            state.frozen.remove(&node);
            state.ready.retain(|(_, _, task)| !numbers.contains(task));
            numbers.iter().filter_map(|number| state.tasks.remove(number)).collect()
        };
        // Outside the lock: destructors may wake and spawn.
        drop(killed);
    }

    /// Stops polling a node's tasks until [`thaw`](Self::thaw); the world goes on.
    pub fn freeze(&self, node: NodeId) {
        self.lock().frozen.insert(node);
    }

    /// Lets a frozen node go on, a zombie that doesn't know that time has passed.
    pub fn thaw(&self, node: NodeId) {
        let root = {
            let mut state = self.lock();
            state.frozen.remove(&node);
            state.root.take()
        };
        if let Some(root) = root {
            root.wake();
        }
    }

    /// How many polls there were.
    pub fn polls(&self) -> u64 {
        self.lock().polls
    }

    /// The names of all tasks that there ever were, by their numbers.
    pub fn names(&self) -> Vec<Cow<'static, str>> {
        self.lock().names.clone()
    }

    /// Runs until `main` has finished, within bounds, then drops all that is left.
    ///
    /// # Errors
    /// [`Stuck`] where a bound was reached.
    pub fn run<T: Send + 'static>(
        &self,
        bounds: Bounds,
        main: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Stuck> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing from the system");
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        self.spawn(NodeId(0), "main", async move {
            let value = main.await;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        });
        let done = || result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = runtime.block_on(async {
            let polling = tokio::task::unconstrained(std::future::poll_fn(|context| {
                self.poll_tasks(context, bounds, &done)
            }));
            match tokio::time::timeout(bounds.time, polling).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Stuck::Time(self.alive())),
            }
        });
        runtime.block_on(async { self.kill_all() });
        assert_eq!(
            runtime.metrics().num_alive_tasks(),
            0,
            "a task that was spawned past the scheduler survives crashes"
        );
        outcome
    }

    /// Polls its tasks for ever, as one future of somebody else's paused runtime: for a simulated store that is a host
    /// among others, on a simulated network.
    ///
    /// # Cancellation
    /// The tasks stand still until it is driven again.
    pub async fn drive(&self) {
        let unbounded = Bounds { polls: u64::MAX, time: Duration::MAX };
        let polling = std::future::poll_fn(|context| self.poll_tasks(context, unbounded, &|| None::<()>));
        let _ = tokio::task::unconstrained(polling).await;
    }

    fn poll_tasks<T>(
        &self,
        context: &Context<'_>,
        bounds: Bounds,
        done: &impl Fn() -> Option<T>,
    ) -> Poll<Result<T, Stuck>> {
        for _ in 0..POLLS_BETWEEN_YIELDS {
            if let Some(value) = done() {
                return Poll::Ready(Ok(value));
            }
            let Some((number, mut future, waker)) = self.lock().take_next(context) else {
                return Poll::Pending;
            };
            WAITS_FOR.set(None);
            let finished = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            self.put_back(number, future, finished);
            if self.polls() > bounds.polls {
                return Poll::Ready(Err(Stuck::Polls(self.alive())));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn put_back(&self, number: TaskNo, future: TaskFuture, finished: bool) {
        let rest = {
            let mut state = self.lock();
            match state.tasks.get_mut(&number) {
                Some(task) if !finished => {
                    task.future = Some(future);
                    task.waits_for = WAITS_FOR.get();
                    None
                }
                // It was killed by its own poll, or is through.
                _ => Some((state.tasks.remove(&number), future)),
            }
        };
        drop(rest);
    }

    fn kill_all(&self) {
        let tasks = std::mem::take(&mut self.lock().tasks);
        drop(tasks);
    }

    fn alive(&self) -> String {
        let state = self.lock();
        let names: Vec<String> = state
            .tasks
            .iter()
            .map(|(number, task)| {
                let name = &state.names[usize::try_from(number.0).expect("a task has a name")];
                let frozen = if state.frozen.contains(&task.node) { " (frozen)" } else { "" };
                match (task.is_ready, task.waits_for) {
                    (true, _) => format!("{name} is ready{frozen}"),
                    (false, Some(what)) => format!("{name} waits for {what}{frozen}"),
                    (false, None) => format!("{name} waits{frozen}"),
                }
            })
            .collect();
        names.join(", ")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_ready(&mut self, number: TaskNo) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        if task.is_ready {
            return;
        }
        task.is_ready = true;
        if self.order.has_priorities()
            && self.choices.odds(Stream::Schedule, "lowered", number.0, self.lowered_odds)
        {
            task.priority += LOWERED;
        }
        let mut rank = task.priority;
        if self.order.sets_aside() {
            rank += self.choices.depart(Stream::Schedule, "set aside", number.0, self.set_aside_odds, 7);
        }
        self.arrivals += 1;
        self.ready.insert((rank, self.arrivals, number));
    }

    fn take_next(&mut self, context: &Context<'_>) -> Option<(TaskNo, TaskFuture, Waker)> {
        let next = self
            .ready
            .iter()
            .find(|(_, _, number)| {
                self.tasks.get(number).is_some_and(|task| !self.frozen.contains(&task.node))
            })
            .copied();
        let Some(entry) = next else {
            self.root = Some(context.waker().clone());
            return None;
        };
        self.ready.remove(&entry);
        self.polls += 1;
        let task = self.tasks.get_mut(&entry.2).expect("only tasks that are alive are ready");
        task.is_ready = false;
        let future = task.future.take().expect("a task is polled by nobody else");
        Some((entry.2, future, task.waker.clone()))
    }
}

/// Lets others go first: ready again at once, in an order that is chosen.
pub fn yield_now() -> impl Future<Output = ()> + Send {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Waits for a future, and says what for where a run gets stuck. The innermost word counts.
pub async fn waiting_for<F: Future>(what: &'static str, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        let polled = future.as_mut().poll(context);
        if polled.is_pending() && WAITS_FOR.get().is_none() {
            WAITS_FOR.set(Some(what));
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { polls: 10_000, time: Duration::from_secs(3600) };

    #[test]
    fn virtual_time_jumps_and_does_not_creep() {
        let scheduler = Scheduler::new(Choices::from_seed(1), 0);
        let elapsed = scheduler.run(BOUNDS, async {
            let start = tokio::time::Instant::now();
            for _ in 0..1_000 {
                yield_now().await;
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
            start.elapsed()
        });
        assert_eq!(elapsed, Ok(Duration::from_secs(600)));
    }

    #[test]
    fn what_is_due_at_the_same_instant_is_interleaved_by_choice() {
        let order = |seed| {
            let scheduler = Scheduler::new(Choices::from_seed(seed), 5_000);
            let log = Arc::new(Mutex::new(Vec::new()));
            for name in ["a", "b", "c"] {
                let log = log.clone();
                scheduler.spawn(NodeId(1), name, async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    log.lock().expect("not poisoned").push(name);
                });
            }
            let ran = scheduler.run(BOUNDS, async { tokio::time::sleep(Duration::from_secs(2)).await });
            assert_eq!(ran, Ok(()));
            log.lock().expect("not poisoned").join("")
        };
        let orders: BTreeSet<String> = (0..200).map(order).collect();
        assert_eq!(orders.len(), 6, "{orders:?}");
        assert_eq!(order(3), order(3));
    }

    #[test]
    fn bounds_name_what_is_stuck() {
        let scheduler = Scheduler::new(Choices::from_seed(1), 0);
        scheduler.spawn(NodeId(1), "w1/supervisor", waiting_for("an answer", std::future::pending()));
        let stuck = scheduler.run(BOUNDS, std::future::pending::<()>());
        assert_eq!(stuck, Err(Stuck::Time("w1/supervisor waits for an answer, main waits".into())));
        let stuck = Scheduler::new(Choices::from_seed(1), 0).run(BOUNDS, async {
            loop {
                yield_now().await;
            }
        });
        assert!(matches!(stuck, Err::<(), _>(Stuck::Polls(_))));
    }

    #[test]
    fn a_frozen_node_goes_on_when_it_thaws_and_a_killed_one_never() {
        let scheduler = Scheduler::new(Choices::from_seed(1), 0);
        let log = Arc::new(Mutex::new(Vec::new()));
        for node in [1, 2] {
            let log = log.clone();
            scheduler.spawn(NodeId(node), "worker", async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                log.lock().expect("not poisoned").push((node, tokio::time::Instant::now()));
            });
        }
        let handle = scheduler.clone();
        let start = scheduler.run(BOUNDS, async move {
            let start = tokio::time::Instant::now();
            handle.freeze(NodeId(1));
            handle.kill(NodeId(2));
            tokio::time::sleep(Duration::from_secs(30)).await;
            handle.thaw(NodeId(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
            start
        });
        let expected = start.expect("not stuck") + Duration::from_secs(30);
        assert_eq!(*log.lock().expect("not poisoned"), [(1, expected)]);
    }
}
