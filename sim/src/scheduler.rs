//! The scheduler: one future that polls its tasks in chosen order, inside a paused current-thread tokio runtime.
//!
//! Whatever is due at the same instant is ready together and interleaved by choice; when nothing is ready, virtual time
//! jumps to the next timer. Traps that are closed here: tokio's cooperative budget (the future runs `unconstrained`),
//! timers that are only noticed when tokio is returned to (every `POLLS_BETWEEN_YIELDS` polls), livelock and deadlock
//! (bounds that name the tasks and what they wait for).

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
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
    /// How often it has read a clock.
    static CLOCK_READS: Cell<u32> = const { Cell::new(0) };
    /// What the clock shows while tasks are being polled: virtual time stands still until nothing is ready.
    static NOW: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
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

/// A task and the place where it is kept while it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    number: TaskNo,
    slot: usize,
}

/// Where a task stands among those that are ready: by rank, then first come first served.
type Turn = Reverse<(u32, u64, Seat)>;

struct State {
    choices: Choices,
    /// Those that are alive, by their slots, which are used again.
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    /// The name of every task that there ever was, by its number.
    names: Vec<Cow<'static, str>>,
    /// Woken and not polled since. Some may have been killed.
    ready: BinaryHeap<Turn>,
    /// Those of them whose turn came while they were frozen.
    held: Vec<Turn>,
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
    number: TaskNo,
    node: NodeId,
    /// How often it was woken.
    arrivals: u32,
    /// Where it stands among all, for as long as it lives; the smallest goes first.
    priority: u32,
    /// What it said that it waits for, at its last poll.
    waits_for: Option<&'static str>,
    /// `None` while it is being polled.
    body: Option<Body>,
    is_ready: bool,
}

/// What is taken out of a task while it is being polled.
struct Body {
    future: TaskFuture,
    waker: Waker,
}

struct TaskWaker {
    task: Seat,
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
            tasks: Vec::new(),
            free: Vec::new(),
            names: Vec::new(),
            ready: BinaryHeap::new(),
            held: Vec::new(),
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
        let future: TaskFuture = Box::pin(future);
        let mut state = self.lock();
        let number = TaskNo(state.names.len() as u64);
        state.names.push(name.into());
        let priority = state.order.priority(&state.choices, number.0);
        let slot = state.free.pop().unwrap_or(state.tasks.len());
        let task = Seat { number, slot };
        let waker = Waker::from(Arc::new(TaskWaker { task, scheduler: self.clone() }));
        let body = Some(Body { future, waker });
        let new = Task { number, node, arrivals: 0, priority, waits_for: None, body, is_ready: false };
        if slot == state.tasks.len() {
            state.tasks.push(Some(new));
        } else {
            state.tasks[slot] = Some(new);
        }
        state.make_ready(task);
        let root = state.root.take();
        drop(state);
        if let Some(root) = root {
            root.wake();
        }
        number
    }

    /// Drops every task of a node where it stands.
    pub fn kill(&self, node: NodeId) {
        let killed: Vec<Task> = {
            let mut state = self.lock();
            state.frozen.remove(&node);
            let alive =
                state.tasks.iter().enumerate().filter_map(|(slot, task)| Some((slot, task.as_ref()?)));
            let mut killed: Vec<Seat> = alive
                .filter(|(_, task)| task.node == node)
                .map(|(slot, task)| Seat { number: task.number, slot })
                .collect();
            killed.sort_unstable();
            killed.into_iter().filter_map(|id| state.remove(id)).collect()
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
            let held = std::mem::take(&mut state.held);
            state.ready.extend(held);
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
        let main = self.spawn(NodeId(0), "main", async move {
            let value = main.await;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        });
        let outcome = runtime.block_on(async {
            let polling = tokio::task::unconstrained(std::future::poll_fn(|context| {
                self.poll_tasks(context, bounds, Some(main))
            }));
            match tokio::time::timeout(bounds.time, polling).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Stuck::Time(self.describe())),
            }
        });
        let value = || result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = outcome.map(|()| value().expect("the main task leaves its value"));
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
        let polling = std::future::poll_fn(|context| self.poll_tasks(context, unbounded, None));
        let _ = tokio::task::unconstrained(polling).await;
    }

    /// Polls what is ready, until `main` has finished, if there is one.
    fn poll_tasks(
        &self,
        context: &Context<'_>,
        bounds: Bounds,
        main: Option<TaskNo>,
    ) -> Poll<Result<(), Stuck>> {
        NOW.set(Some(tokio::time::Instant::now()));
        let polled = self.poll_some(context, bounds, main);
        NOW.set(None);
        polled
    }

    fn poll_some(
        &self,
        context: &Context<'_>,
        bounds: Bounds,
        main: Option<TaskNo>,
    ) -> Poll<Result<(), Stuck>> {
        for _ in 0..POLLS_BETWEEN_YIELDS {
            let (id, mut body) = {
                let mut state = self.lock();
                match state.take_next() {
                    Some(next) => next,
                    None => {
                        state.root = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            WAITS_FOR.set(None);
            CLOCK_READS.set(0);
            let finished = body.future.as_mut().poll(&mut Context::from_waker(&body.waker)).is_ready();
            let polls = self.put_back(id, body, finished);
            if finished && main == Some(id.number) {
                return Poll::Ready(Ok(()));
            }
            if polls > bounds.polls {
                return Poll::Ready(Err(Stuck::Polls(self.describe())));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Puts a task back that has been polled; answers with how many polls there were.
    fn put_back(&self, id: Seat, body: Body, finished: bool) -> u64 {
        let mut state = self.lock();
        let polls = state.polls;
        match seated(&mut state.tasks, id) {
            Some(task) if !finished => {
                task.body = Some(body);
                task.waits_for = WAITS_FOR.get();
            }
            // It was killed by its own poll, or is through.
            _ => {
                state.remove(id);
                drop(state);
                drop(body);
            }
        }
        polls
    }

    /// Drops all that is left after a panic that ended [`run`](Self::run) half-way.
    pub(crate) fn abandon(&self) {
        NOW.set(None);
        // What a future does when it is dropped may well panic too, in a world that has ended like this.
        let _ = crate::panics::catch(|| self.kill_all());
    }

    fn kill_all(&self) {
        let mut tasks: Vec<Task> = std::mem::take(&mut self.lock().tasks).into_iter().flatten().collect();
        tasks.sort_unstable_by_key(|task| task.number);
        drop(tasks);
    }

    /// Those that are alive, and what each waits for.
    fn describe(&self) -> String {
        let state = self.lock();
        let mut alive: Vec<&Task> = state.tasks.iter().flatten().collect();
        alive.sort_unstable_by_key(|task| task.number);
        let names: Vec<String> = alive
            .into_iter()
            .map(|task| {
                let name = &state.names[usize::try_from(task.number.0).expect("a task has a name")];
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
    fn make_ready(&mut self, id: Seat) {
        let Some(task) = seated(&mut self.tasks, id) else { return };
        if task.is_ready {
            return;
        }
        task.is_ready = true;
        let arrival = task.arrivals;
        task.arrivals += 1;
        let choice = |site, odds, n| {
            self.choices.depart_again((Stream::Schedule, site, id.number.0), arrival, odds, n)
        };
        if self.order.has_priorities() && choice("lowered", self.lowered_odds, 1) == 1 {
            task.priority += LOWERED;
        }
        let mut rank = task.priority;
        if self.order.sets_aside() {
            rank += choice("set aside", self.set_aside_odds, 7);
        }
        self.arrivals += 1;
        self.ready.push(Reverse((rank, self.arrivals, id)));
    }

    /// The task whose turn it is.
    fn take_next(&mut self) -> Option<(Seat, Body)> {
        while let Some(turn) = self.ready.pop() {
            let Reverse((_, _, id)) = turn;
            // Some have been killed since they were woken.
            let Some(task) = seated(&mut self.tasks, id) else { continue };
            if self.frozen.contains(&task.node) {
                self.held.push(turn);
                continue;
            }
            self.polls += 1;
            task.is_ready = false;
            return Some((id, task.body.take().expect("a task is polled by nobody else")));
        }
        None
    }

    fn remove(&mut self, id: Seat) -> Option<Task> {
        seated(&mut self.tasks, id)?;
        self.free.push(id.slot);
        self.tasks[id.slot].take()
    }
}

/// The task in its seat, if it is alive.
fn seated(tasks: &mut [Option<Task>], id: Seat) -> Option<&mut Task> {
    tasks.get_mut(id.slot)?.as_mut().filter(|task| task.number == id.number)
}

/// Virtual time. Cheaper than to ask tokio each time.
pub(crate) fn now() -> tokio::time::Instant {
    NOW.get().unwrap_or_else(tokio::time::Instant::now)
}

/// Counts a read of a clock by the task that is being polled; says how many there were in this poll.
pub(crate) fn count_clock_read() -> u32 {
    CLOCK_READS.set(CLOCK_READS.get() + 1);
    CLOCK_READS.get()
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
