//! Threads that serve calls, each with a connection of its own: SQLite blocks, and callers are asynchronous.
//!
//! A caller may go away at any time. Its call isn't begun then, or runs to its end with nobody to answer: the threads
//! never notice more than that.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use steadfast_core::{Error, ErrorKind};

use crate::answer::{Answer, Limits};

/// Calls that wait for a thread; one more is refused. So many wait only while the disk is stuck.
const CALLS_MAX: usize = 4096;

/// Threads that serve calls until this is dropped, which waits for them.
pub(crate) struct Threads<C> {
    /// Taken at the end, which tells the threads.
    calls: Option<SyncSender<C>>,
    threads: Vec<JoinHandle<()>>,
}

/// The calls that wait. Threads take turns at waiting for the next.
pub(crate) struct Calls<C>(Mutex<Receiver<C>>);

impl<C: Send + 'static> Threads<C> {
    /// Starts a thread for each connection.
    pub(crate) fn start(
        name: &str,
        connections: Vec<Connection>,
        run: impl Fn(&Connection, &Calls<C>) + Clone + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::sync_channel(CALLS_MAX);
        let calls = Arc::new(Calls(Mutex::new(receiver)));
        let mut threads = Self { calls: Some(sender), threads: Vec::new() };
        for conn in connections {
            let (calls, run) = (calls.clone(), run.clone());
            let thread = thread::Builder::new().name(name.into()).spawn(move || run(&conn, &calls));
            threads.threads.push(thread.map_err(|error| {
                let message = format!("could not start a thread for the store: {error}");
                Error::new(ErrorKind::Unavailable, message)
            })?);
        }
        Ok(threads)
    }

    /// Has a call served and waits for its answer, within the limit. `lost` is what it means if a thread dies over the
    /// call.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limits: &Limits,
        lost: ErrorKind,
        call: impl FnOnce(Answer<T>) -> C,
    ) -> Result<T, Error> {
        self.call_then(limits, lost, call, || {}).await
    }

    /// The same, and does something else as soon as the call is in its place among the others.
    pub(crate) async fn call_then<T: Send + 'static>(
        &self,
        limits: &Limits,
        lost: ErrorKind,
        call: impl FnOnce(Answer<T>) -> C,
        then: impl FnOnce(),
    ) -> Result<T, Error> {
        let (answer, answered) = limits.answer(lost);
        self.sender().try_send(call(answer)).map_err(|error| match error {
            TrySendError::Full(_) => {
                let message = format!("{CALLS_MAX} calls wait for the store already; is its disk stuck?");
                Error::new(ErrorKind::Unavailable, message)
            }
            TrySendError::Disconnected(_) => {
                Error::new(ErrorKind::Broken, "the store's thread has ended: this is a bug")
            }
        })?;
        then();
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(lost, "the store's thread ended during the call: this is a bug"))
        })
    }

    /// Sends a call that has no answer, and that may be lost.
    pub(crate) fn tell(&self, call: C) {
        let _ = self.sender().try_send(call);
    }

    fn sender(&self) -> &SyncSender<C> {
        self.calls.as_ref().expect("taken only by the drop")
    }
}

impl<C> Drop for Threads<C> {
    fn drop(&mut self) {
        self.calls = None;
        for thread in self.threads.drain(..) {
            // Answering a call can drop the caller's task, and with it the last handle, on the thread that answers.
            if thread.thread().id() != thread::current().id() {
                // A thread that panicked has said so, and there is nothing left to do for it.
                let _ = thread.join();
            }
        }
    }
}

impl<C> Calls<C> {
    /// The next call; a timeout where none comes for this long, and `Disconnected` at the end.
    pub(crate) fn next(&self, patience: Duration) -> Result<C, RecvTimeoutError> {
        self.lock().recv_timeout(patience)
    }

    /// The call that waits already, if one does.
    pub(crate) fn now(&self) -> Option<C> {
        self.lock().try_recv().ok()
    }

    /// Serves every call, up to the end.
    pub(crate) fn each(&self, mut serve: impl FnMut(C)) {
        loop {
            // The lock is held until a call comes, and not while it is served.
            let call = self.lock().recv();
            match call {
                Ok(call) => serve(call),
                Err(_) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Receiver<C>> {
        // Nothing under this lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
