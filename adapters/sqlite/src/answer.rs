//! Where the answer to a call goes, and the limit of time after which a caller is answered in any case.
//!
//! SQLite blocks: a disk that hangs holds up the thread that waits for it, for as long as it hangs. The callers must not
//! hang with it. So a thread of its own looks after calls that are late. One that hasn't begun is struck off, and never
//! will be begun: nothing was stored. One that has begun is interrupted, as far as SQLite can be, and its outcome is
//! unknown where it writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};
use steadfast_core::{Error, ErrorKind};
use tokio::sync::oneshot;

/// So long that it is no limit: a hundred years.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How much later than its limit a call may be noticed, at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Answers one call, once.
pub(crate) struct Answer<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    /// `None` once it is answered.
    sender: Option<oneshot::Sender<Result<T, Error>>>,
    /// How to stop the call, once it has begun.
    begun: Option<InterruptHandle>,
    /// What it means if the answer is lost after that.
    lost: ErrorKind,
}

/// What the caller waits on.
pub(crate) type Answered<T> = oneshot::Receiver<Result<T, Error>>;

impl<T> Answer<T> {
    /// Whether anybody still waits. If so, the call counts as begun from here on.
    pub(crate) fn begin(&self, conn: &Connection) -> bool {
        let mut state = lock(&self.0);
        let is_wanted = state.sender.as_ref().is_some_and(|sender| !sender.is_closed());
        if is_wanted {
            state.begun = Some(conn.get_interrupt_handle());
        }
        is_wanted
    }

    /// A caller that is gone doesn't mind.
    pub(crate) fn send(self, answer: Result<T, Error>) {
        let sender = lock(&self.0).sender.take();
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

/// A call that may be late.
trait Late: Send + Sync {
    fn end(&self, store: &str, limit: Duration);
}

impl<T: Send> Late for Mutex<State<T>> {
    fn end(&self, store: &str, limit: Duration) {
        let (sender, error) = {
            let mut state = lock(self);
            let Some(sender) = state.sender.take() else { return };
            // Under the lock: the thread can't have gone on to another transaction, which would be interrupted in its
            // place. (A claim that shares this one shares its fate.)
            if let Some(call) = &state.begun {
                call.interrupt();
            }
            (sender, late(store, limit, state.begun.is_some().then_some(state.lost)))
        };
        let _ = sender.send(Err(error));
    }
}

fn late(store: &str, limit: Duration, begun: Option<ErrorKind>) -> Error {
    let advice = "is its disk stuck, or another process holding its lock for long?";
    match begun {
        Some(ErrorKind::Unknown) => {
            let message = format!(
                "no answer from {store} within {limit:?}: what was to be written may have been stored or not; {advice}"
            );
            Error::new(ErrorKind::Unknown, message)
        }
        Some(_) => Error::new(
            ErrorKind::Unavailable,
            format!("no answer from {store} within {limit:?}: ask for less, or later; {advice}"),
        ),
        None => Error::new(
            ErrorKind::Unavailable,
            format!("{store} had no time for a call within {limit:?}, and nothing of it was done; {advice}"),
        ),
    }
}

/// The calls under way, and the thread that looks after them until this is dropped.
pub(crate) struct Limits {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    limit: Duration,
}

struct Shared {
    calls: Mutex<Calls>,
    ended: Condvar,
}

#[derive(Default)]
struct Calls {
    /// In the order in which they came, which is that of their limits. An answered one is gone.
    under_way: VecDeque<(Instant, Weak<dyn Late>)>,
    is_over: bool,
}

impl Limits {
    /// Starts looking after the calls of the store that goes by this name.
    pub(crate) fn start(store: String, limit: Duration) -> Result<Self, Error> {
        let shared = Arc::new(Shared { calls: Mutex::default(), ended: Condvar::new() });
        let look = {
            let shared = shared.clone();
            move || shared.look_until_over(&store, limit)
        };
        let thread = thread::Builder::new().name("steadfast-limit".into()).spawn(look).map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("could not start a thread for the store: {error}"))
        })?;
        Ok(Self { shared, thread: Some(thread), limit })
    }

    /// A place for the answer to a call, from now on within the limit. `lost` is what it means if the answer is lost
    /// after the call has begun.
    pub(crate) fn answer<T: Send + 'static>(&self, lost: ErrorKind) -> (Answer<T>, Answered<T>) {
        let (sender, answered) = oneshot::channel();
        let state = Arc::new(Mutex::new(State { sender: Some(sender), begun: None, lost }));
        let late: Weak<dyn Late> = Arc::downgrade(&(state.clone() as Arc<dyn Late>));
        let mut calls = lock(&self.shared.calls);
        while calls.under_way.front().is_some_and(|(_, call)| call.strong_count() == 0) {
            calls.under_way.pop_front();
        }
        let now = Instant::now();
        // A limit that no clock reaches is none.
        let until = now.checked_add(self.limit).unwrap_or(now + NO_LIMIT);
        calls.under_way.push_back((until, late));
        (Answer(state), answered)
    }
}

impl Shared {
    fn look_until_over(&self, store: &str, limit: Duration) {
        let mut calls = lock(&self.calls);
        while !calls.is_over {
            let now = Instant::now();
            let count = calls.under_way.partition_point(|(until, _)| *until <= now);
            let due: Vec<_> = calls.under_way.drain(..count).collect();
            if !due.is_empty() {
                // Answering wakes a caller, who may call again.
                drop(calls);
                for call in due.into_iter().filter_map(|(_, call)| call.upgrade()) {
                    call.end(store, limit);
                }
                calls = lock(&self.calls);
                continue;
            }
            let patience = LOOK_EVERY.min(limit);
            calls = self.ended.wait_timeout(calls, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        lock(&self.shared.calls).is_over = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take()
            // Answering a late call can drop the caller's task, and with it the last handle, on the thread that answers.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;

    struct Count(String, Answer<i64>);

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_late_call_is_interrupted_and_its_thread_goes_on_with_the_next() {
        const ENDLESS: &str =
            "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c";
        let limits = Limits::start("the store".into(), Duration::from_millis(100)).expect("started");
        let conn = Connection::open_in_memory().expect("opened");
        let threads = Threads::start("count", vec![conn], |conn: &Connection, calls: &_| {
            let calls: &crate::threads::Calls<Count> = calls;
            calls.each(|Count(sql, answer)| {
                if answer.begin(conn) {
                    let count = conn.query_one(&sql, [], |row| row.get(0));
                    answer.send(count.map_err(|error| Error::new(ErrorKind::Broken, error.to_string())));
                }
            });
        })
        .expect("started");
        let ask = |sql: &str, lost| {
            let sql = sql.to_owned();
            run(threads.call(&limits, lost, |answer| Count(sql, answer)))
        };
        for (lost, expected) in
            [(ErrorKind::Unknown, ErrorKind::Unknown), (ErrorKind::Broken, ErrorKind::Unavailable)]
        {
            let error = ask(ENDLESS, lost).expect_err("it never ends");
            assert_eq!(error.kind(), expected, "{error}");
            assert!(error.to_string().contains("no answer from the store within 100ms"), "{error}");
            assert_eq!(ask("SELECT 42", lost).expect("the thread is free again"), 42);
        }
    }

    #[test]
    fn answered_calls_do_not_pile_up() {
        let limits = Limits::start("the store".into(), Duration::from_secs(60)).expect("started");
        for _ in 0..100 {
            let (answer, answered) = limits.answer(ErrorKind::Unknown);
            answer.send(Ok(1));
            assert_eq!(run(answered).expect("answered").expect("well"), 1);
        }
        assert_eq!(lock(&limits.shared.calls).under_way.len(), 1);
    }
}
