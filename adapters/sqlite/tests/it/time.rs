//! The store's clock, across handles and restarts.

use std::time::Duration;

use steadfast_core::storage::{Answer, Query};
use steadfast_core::time::ManualClock;
use steadfast_core::{State, Storage, Timestamp};
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{claim, directory, new_task, open, submit, task};

async fn now(storage: &SqliteStorage) -> Timestamp {
    storage.read(&Query::Lapsed { limit: 1 }).await.expect("read").as_of
}

#[tokio::test]
async fn the_clock_does_not_go_back_behind_what_other_processes_have_stored() {
    let (_guard, path) = directory();
    let storage = open(&path);
    // As if a process had written an hour from now, and the host's clock had been set back since.
    let ahead = now(&storage).await + Duration::from_secs(3600);
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.execute("UPDATE meta SET high_mark = ?1", [ahead.as_micros()]).expect("set");

    assert!(now(&storage).await >= ahead);
    submit(&storage, new_task("t1")).await;
    assert!(task(&storage, "t1").await.expect("stored").submitted_at >= ahead);
    drop(storage);
    assert!(now(&open(&path)).await >= ahead);
}

#[tokio::test]
async fn the_mark_is_kept_while_work_goes_on_and_not_by_idle_polls() {
    let (_guard, path) = directory();
    let storage = open(&path);
    let conn = rusqlite::Connection::open(&path).expect("opened");
    let mark = || conn.query_one("SELECT high_mark FROM meta", [], |row| row.get::<_, i64>(0)).expect("read");
    assert_eq!(claim(&storage, 1).await.tasks, []);
    assert_eq!(mark(), 0);
    submit(&storage, new_task("t1")).await;
    let submitted_at = task(&storage, "t1").await.expect("stored").submitted_at;
    assert_eq!(mark(), submitted_at.as_micros());
}

#[tokio::test]
async fn a_manual_clock_decides_what_is_due_and_what_has_lapsed() {
    let (_guard, path) = directory();
    let clock = ManualClock::at(Timestamp::from_micros(1_000_000));
    let options = Options { clock: Some(clock.clone()), ..Options::file(&path) };
    let storage = SqliteStorage::open(options).expect("it opens");
    let mut later = new_task("t1");
    later.due = steadfast_core::task::Due::After(Duration::from_secs(60));
    assert_eq!(submit(&storage, later).await.state, State::Scheduled);
    assert_eq!(claim(&storage, 1).await.next_due, Some(Duration::from_secs(60)));

    clock.advance(Duration::from_secs(60));
    assert_eq!(claim(&storage, 1).await.tasks.len(), 1);
    clock.advance(Duration::from_secs(31));
    let view = storage.read(&Query::Lapsed { limit: 9 }).await.expect("read");
    assert_eq!(view.as_of, clock.now());
    let Answer::Lapsed(lapsed) = view.answer else { panic!("not what was asked for") };
    assert_eq!(lapsed[0].since, Duration::from_secs(1));
}
