//! The calls to the store that are under way: a caller that has gone away, or given up, may still have one, and what was
//! asked for while there were faults may only now be answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Server, World};
use crate::history::Event;

/// A committer that will send a call again does so within this time: the longest of its waits, by a slow clock, is shorter.
const LULL: Duration = Duration::from_millis(500);

/// The calls of all processes.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    writing: u32,
    /// When the last that writes was over, or faults stopped, in virtual time.
    written_at: Duration,
    age: Age,
    /// Those that began in an age before this one: the ages of faults, and of their aftermath.
    began: [u32; 2],
}

/// What calls can meet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// Faults.
    #[default]
    Faults,
    /// Others that began while there were faults: they may stand still, with their locks.
    Aftermath,
    /// Others that had waited for those.
    Backlog,
    /// None of that.
    Calm,
}

/// A call, for as long as its caller waits for it or the store is at it.
pub(crate) struct UnderWayCall {
    server: Arc<Server>,
    writes: bool,
    age: Age,
}

impl Server {
    /// Counts a call until both its ends have dropped this; `writes`: whether it applies what somebody asked for.
    pub(crate) fn call_begins(self: &Arc<Self>, writes: bool) -> Arc<UnderWayCall> {
        let mut calls = self.calls.lock();
        let age = calls.age;
        calls.writing += u32::from(writes);
        if let Some(count) = calls.began.get_mut(age as usize) {
            *count += 1;
        }
        drop(calls);
        Arc::new(UnderWayCall { server: self.clone(), writes, age })
    }

    /// From here on calls don't meet any faults.
    pub(super) fn note_healed(&self) {
        let mut calls = self.calls.lock();
        calls.age = calls.age.max(Age::Aftermath);
        // Who went away at this instant has a committer that hasn't sent yet.
        calls.written_at = self.elapsed();
        drop(calls);
        self.grow_calm();
    }

    /// Goes on to the next age when all calls of the one before the last are over.
    fn grow_calm(&self) {
        let mut calls = self.calls.lock();
        let before = calls.age;
        if calls.age == Age::Aftermath && calls.began[0] == 0 {
            calls.age = Age::Backlog;
        }
        if calls.age == Age::Backlog && calls.began[1] == 0 {
            calls.age = Age::Calm;
        }
        let is_calm = calls.age == Age::Calm && before != Age::Calm;
        drop(calls);
        if is_calm {
            self.history.record(self.now(), Event::Calm);
        }
    }
}

impl World {
    /// Whether nothing that somebody asked for is on its way to the store.
    pub(crate) fn is_quiet(&self) -> bool {
        let calls = self.server.calls.lock();
        calls.writing == 0 && self.server.elapsed() >= calls.written_at + LULL
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWayCall {
    fn drop(&mut self) {
        let mut calls = self.server.calls.lock();
        if let Some(count) = calls.began.get_mut(self.age as usize) {
            *count -= 1;
        }
        if self.writes {
            calls.writing -= 1;
            calls.written_at = self.server.elapsed();
        }
        drop(calls);
        self.server.grow_calm();
    }
}
