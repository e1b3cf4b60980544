//! Made histories, by which each checker shows that it can fail.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::name::{Kind, Queue, TaskId, WorkerId};
use steadfast_core::task::{Backoff, Task};
use steadfast_core::{State, Timestamp};

use super::{Facts, Found, Property};
use crate::history::{Awaited, Entry, Event};

/// A ready task of the name `t`.
pub(crate) fn task() -> Task {
    Task {
        id: TaskId::trusted("t"),
        kind: Kind::trusted("work"),
        queue: Queue::default_queue(),
        state: State::Ready,
        cause: None,
        error: None,
        rev: 1,
        attempt: 0,
        attempts_max: 3,
        rescues: 0,
        rescues_max: 5,
        fence: 0,
        slot: None,
        slot_waiting: false,
        key: None,
        priority: 0,
        payload: (*b"t").into(),
        output: None,
        submitted_at: at(0),
        due_at: at(0),
        deadline_at: None,
        claimed_at: None,
        entered_at: None,
        progress: None,
        reported_at: None,
        finished_at: None,
        lease_expires_at: None,
        worker: None,
        timeout: Duration::from_secs(60),
        backoff: Backoff::default(),
        cancel: None,
        parents_pending: 0,
        digest: 0,
        mark: 0,
    }
}

/// The task as its first claim leaves it, leased for 30 s at second 0.
pub(crate) fn running() -> Task {
    Task {
        state: State::Running,
        rev: 2,
        attempt: 1,
        fence: 1,
        worker: Some(WorkerId::trusted("w")),
        claimed_at: Some(at(0)),
        lease_expires_at: Some(at(30)),
        ..task()
    }
}

/// A point in time, in seconds.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// Changes of one task, one after the other, at these seconds.
pub(super) fn changes(steps: &[(i64, Task)]) -> Vec<Entry> {
    let mut before: Option<Arc<Task>> = None;
    let mut entries = Vec::new();
    for (seconds, task) in steps {
        let after = Arc::new(task.clone());
        entries.push(Entry { at: at(*seconds), event: Event::Changed { before, after: after.clone() } });
        before = Some(after);
    }
    entries
}

/// An event at this second.
pub(crate) fn event(seconds: i64, event: Event) -> Entry {
    Entry { at: at(seconds), event }
}

/// What the property finds wrong with a history that came to rest.
pub(super) fn complaints(property: &Property, entries: &[Entry]) -> usize {
    let mut found = Found::default();
    (property.check)(&Facts::new(entries, true), &mut found);
    found.0.len()
}

/// The property complains of who waits too long for this, and not for that.
#[track_caller]
pub(super) fn overdue_is_noticed(property: &Property, this: Awaited, that: Awaited) {
    let waits = |what| [event(1, Event::Overdue { task: task().id, what })];
    tells_apart(property, &waits(that), &waits(this));
}

/// The property accepts the one history and not the other.
#[track_caller]
pub(super) fn tells_apart(property: &Property, good: &[Entry], bad: &[Entry]) {
    assert_eq!(complaints(property, good), 0, "{} refuses a good history", property.name);
    assert!(complaints(property, bad) > 0, "{} can't fail", property.name);
}
