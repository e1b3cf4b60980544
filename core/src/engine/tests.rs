//! The engine on a fake store: what it decides from what it is answered.

use std::time::Duration;

use super::*;
use crate::fake::{FakeClock, FakeStore, Run, ended, on_store, stored};
use crate::name::{Key, Kind, Queue, Slot};

fn scan(id: &str) -> NewTask {
    let mut task = NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{\"a\": 1}");
    task.slot = Some((Slot::new("user:7").expect("a slot"), OnConflict::Replace));
    (task.attempts_max, task.rescues_max, task.priority) = (1, 0, -3);
    task.queue = Queue::new("gpu").expect("a queue");
    task.timeout = Duration::from_secs(7);
    task.backoff.min = Duration::from_secs(9);
    task.key = Some(Key::new("k").expect("a key"));
    task
}

fn retry(store: &FakeStore, id: &str) -> Retried {
    let id = TaskId::trusted(id);
    on_store(store, |engine| async move { engine.retry(&id).await }).unwrap()
}

#[track_caller]
fn anew(retried: Retried) -> (String, bool) {
    match retried {
        Retried::Anew(accepted) => (accepted.id.to_string(), accepted.is_new),
        other => panic!("{other:?}"),
    }
}

fn set(store: &FakeStore, id: &str, state: State) {
    store.lock().tasks.iter_mut().find(|task| task.id.as_str() == id).unwrap().state = state;
}

#[test]
fn a_failed_task_is_tried_again_as_a_new_one_that_is_the_answer_until_it_ends() {
    let store = FakeStore::default();
    store.lock().tasks = vec![ended(scan("a"), State::Failed)];
    assert_eq!(anew(retry(&store, "a")), ("a.retry".into(), true));
    assert_eq!(anew(retry(&store, "a")), ("a.retry".into(), false));
    let made = store.lock().tasks[1].clone();
    let first = stored(&Insert::from(scan("a")));
    assert_eq!(
        Task { id: first.id.clone(), key: first.key.clone(), digest: 0, ..made },
        Task { digest: 0, ..first },
        "it is what was asked for"
    );
    // It fails as well: both it and the first lead to the next.
    set(&store, "a.retry", State::Failed);
    assert_eq!(anew(retry(&store, "a.retry")), ("a.retry2".into(), true));
    assert_eq!(anew(retry(&store, "a")), ("a.retry2".into(), false));
    set(&store, "a.retry2", State::Succeeded);
    assert_eq!(anew(retry(&store, "a")), ("a.retry3".into(), true));
    assert_eq!(retry(&store, "a.retry2"), Retried::Succeeded);
}

#[test]
fn numbers_go_on_where_earlier_retries_were_pruned() {
    let store = FakeStore::default();
    store.lock().tasks = vec![ended(scan("a.retry2"), State::Failed)];
    assert_eq!(anew(retry(&store, "a.retry2")), ("a.retry3".into(), true));
}

#[test]
fn another_request_under_the_id_of_a_retry_is_left_alone() {
    let store = FakeStore::default();
    let mut other = scan("a.retry");
    other.payload = (*b"else").into();
    store.lock().tasks = vec![ended(scan("a"), State::Cancelled), stored(&Insert::from(other))];
    assert_eq!(anew(retry(&store, "a")), ("a.retry2".into(), true));
}

#[test]
fn a_task_that_waits_for_its_time_is_due_at_once() {
    let store = FakeStore::default();
    store.lock().tasks = vec![stored(&Insert::from(scan("a")))];
    set(&store, "a", State::Scheduled);
    assert_eq!(retry(&store, "a"), Retried::Due);
    let hastened = store.settled();
    assert_eq!((hastened[0].to, hastened[0].delay), (State::Ready, Duration::ZERO));
}

#[test]
fn there_is_nothing_to_retry_where_a_task_runs_or_waits_for_others() {
    let store = FakeStore::default();
    assert_eq!(retry(&store, "a"), Retried::NotFound);
    store.lock().tasks = vec![stored(&Insert::from(scan("a")))];
    for state in [State::Blocked, State::Ready, State::Running] {
        set(&store, "a", state);
        assert_eq!(retry(&store, "a"), Retried::Unfinished(state));
    }
    set(&store, "a", State::Succeeded);
    assert_eq!(retry(&store, "a"), Retried::Succeeded);
    assert!(store.lock().calls.is_empty());
}

#[test]
fn tasks_that_are_too_much_for_one_transaction_are_pruned_in_several() {
    let store = FakeStore::default();
    (store.lock().old, store.lock().old_max) = (600, Some(70));
    let prune = || {
        let prune = Prune { succeeded: Duration::ZERO, otherwise: Duration::ZERO, limit: 500 };
        on_store(&store, |engine| async move { engine.prune(prune).await })
    };
    assert_eq!((prune().unwrap(), store.lock().old), (500, 100));
    assert_eq!(prune().unwrap(), 100);
    store.lock().old_max = Some(0);
    assert_eq!(prune().unwrap_err().kind(), ErrorKind::Contended);
}

#[test]
fn an_id_that_ends_like_a_retry_with_a_large_number_can_be_retried() {
    let store = FakeStore::default();
    store.lock().tasks = vec![ended(scan("report.retry2024"), State::Failed)];
    assert_eq!(anew(retry(&store, "report.retry2024")), ("report.retry2024.retry".into(), true));
}

#[test]
fn a_task_can_be_retried_a_thousand_times_and_then_no_more() {
    let store = FakeStore::default();
    store.lock().tasks = vec![ended(scan("a.retry1000"), State::Failed)];
    assert_eq!(retry(&store, "a.retry1000"), Retried::TooOften);
}

#[test]
fn who_waits_reads_the_task_whole_only_at_first_and_when_it_has_ended() {
    let clock = FakeClock::default();
    let store = FakeStore::default();
    store.lock().tasks = vec![stored(&Insert::from(scan("a")))];
    let (engine, _commits) = Engine::new(store.clone(), clock.clone());
    let a = TaskId::trusted("a");
    let mut wait = Run::new(async move { engine.wait(&a, None, Duration::from_secs(60)).await });
    for _ in 0..100 {
        assert!(!wait.go());
        clock.advance(WAIT_POLL);
    }
    assert_eq!(store.lock().tasks_read, 1);
    set(&store, "a", State::Succeeded);
    assert_eq!(wait.end().unwrap().unwrap().state, State::Succeeded);
    assert_eq!(store.lock().tasks_read, 2);
}
