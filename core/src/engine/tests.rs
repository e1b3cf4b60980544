//! The engine on a fake store: what it decides from what it is answered.

use std::time::Duration;

use super::*;
use crate::fake::{FakeStore, ended, on_store, stored};
use crate::name::{Kind, Slot};

fn scan(id: &str) -> NewTask {
    let mut task = NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{\"a\": 1}");
    task.slot = Some((Slot::new("user:7").expect("a slot"), OnConflict::Replace));
    (task.attempts_max, task.priority) = (1, -3);
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
    assert_eq!((made.attempts_max, made.priority), (1, -3));
    assert_eq!((made.slot.unwrap().as_str(), &*made.payload), ("user:7", &b"{\"a\": 1}"[..]));
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
