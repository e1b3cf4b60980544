//! Requests' digests, and the words of states and causes.

use super::*;

#[test]
fn a_digest_tells_requests_apart_and_ignores_the_id() {
    let task = |id: &str| NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{}");
    assert_eq!(task("a").digest(), task("b").digest());
    let mut other = task("a");
    other.payload = (*b"{ }").into();
    assert_ne!(task("a").digest(), other.digest());
    type Edit = fn(&mut NewTask);
    let edits: [(&str, Edit); 17] = [
        ("kind", |task| task.kind = Kind::trusted("other")),
        ("queue", |task| task.queue = Queue::trusted("other")),
        ("slot", |task| task.slot = Some((Slot::trusted("s"), OnConflict::Reject))),
        ("on conflict", |task| task.slot = Some((Slot::trusted("s"), OnConflict::Queue))),
        ("key", |task| task.key = Some(Key::trusted("k"))),
        ("priority", |task| task.priority = 1),
        ("payload", |task| task.payload = (*b"{ }").into()),
        ("due after", |task| task.due = Due::After(Duration::from_secs(1))),
        ("due at", |task| task.due = Due::At(Timestamp::from_micros(1_000_000))),
        ("deadline", |task| task.deadline = Some(Due::After(Duration::from_secs(1)))),
        ("attempts", |task| task.attempts_max += 1),
        ("rescues", |task| task.rescues_max += 1),
        ("timeout", |task| task.timeout += Duration::from_secs(1)),
        ("backoff", |task| task.backoff.min += Duration::from_secs(1)),
        ("largest backoff", |task| task.backoff.max += Duration::from_secs(1)),
        ("a parent", |task| task.parents = vec![after("p", OnParentFailure::Fail)]),
        ("a parent that may fail", |task| task.parents = vec![after("p", OnParentFailure::Run)]),
    ];
    let mut digests = std::collections::BTreeMap::from([(task("a").digest(), "nothing")]);
    for (what, edit) in edits {
        let mut other = task("a");
        edit(&mut other);
        if let Some(same) = digests.insert(other.digest(), what) {
            panic!("{what} is the same request as {same}");
        }
    }
}

fn after(parent: &str, on_failure: OnParentFailure) -> Parent {
    Parent { id: TaskId::trusted(parent), on_failure }
}

#[test]
fn a_digest_ignores_what_nobody_asked_for() {
    let all = Defaulted { queue: true, attempts_max: true, rescues_max: true, timeout: true };
    let task = |attempts_max, defaulted| NewTask {
        queue: Queue::trusted(format!("q{attempts_max}")),
        attempts_max,
        rescues_max: attempts_max,
        timeout: Duration::from_secs(attempts_max.into()),
        defaulted,
        ..NewTask::new(TaskId::trusted("a"), Kind::trusted("scan"), *b"{}")
    };
    assert_eq!(task(1, all).digest(), task(2, all).digest());
    assert_ne!(task(1, Defaulted::default()).digest(), task(2, Defaulted::default()).digest());
    assert_ne!(
        task(1, Defaulted::default()).digest(),
        task(1, all).digest(),
        "asked for, it is another request"
    );
}

#[test]
fn states_and_causes_come_back_from_what_stores_keep() {
    for state in State::ALL {
        assert_eq!(State::from_code(i64::from(state.code())), Some(state));
        assert_eq!(
            u8::from(state.is_terminal()) + u8::from(state.is_waiting()) + u8::from(state == State::Running),
            1
        );
    }
    assert_eq!(State::from_code(7), None);
    for cause in Cause::ALL {
        assert_eq!(Cause::from_word(cause.as_str()), Some(*cause));
    }
}
