//! Connections that are lost, and what is heard over those that aren't.

use std::time::Duration;

use futures_util::FutureExt;
use steadfast_core::step::Outcome;
use steadfast_core::storage::{ErrorKind, Storage};
use steadfast_core::wake::Hint;
use steadfast_postgres::{Options, PostgresStorage};
use steadfast_tests::postgres_server::{self, PostgresServer};
use tokio::time::timeout;

use crate::bench::*;

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'steadfast' AND datname = current_database()";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'steadfast'
    AND datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test]
async fn a_connection_lost_while_idle_is_replaced() {
    let Some(database) = Database::new("a_connection_lost_while_idle_is_replaced") else { return };
    let store = database.open().await;
    assert_all_applied(&store.apply(&[put(task("a"))]).await.expect("applied"));
    find(&store, "a").await.expect("stored");
    let stranger = database.stranger().await;
    for id in ["b", "c"] {
        stranger.execute(TERMINATE, &[]).await.expect("terminated");
        persist(&store, &[put(task(id))]).await;
        find(&store, id).await.expect("a read never fails for a connection that was lost before it");
    }
}

#[tokio::test]
async fn a_call_whose_connection_is_lost_is_unknown_and_may_be_sent_again() {
    let Some(database) = Database::new("a_call_whose_connection_is_lost_is_unknown_and_may_be_sent_again")
    else {
        return;
    };
    let store = database.open().await;
    assert_all_applied(&store.apply(&[put(task("a"))]).await.expect("applied"));
    let lease = claim(&store, 1).await.expect("claimed").tasks.remove(0);
    let settling = [settle(&lease, done())];
    let holder = database.stranger().await;
    holder.batch_execute("BEGIN; SELECT FROM task WHERE id = 'a' FOR UPDATE").await.expect("locked");
    let under_way = tokio::spawn({
        let (store, settling) = (store.clone(), settling.clone());
        async move { store.apply(&settling).await }
    });
    let stranger = database.stranger().await;
    while stranger.query_one(WAITING, &[]).await.expect("counted").get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    stranger.execute(TERMINATE, &[]).await.expect("terminated");
    let error = under_way.await.expect("no panic").expect_err("its connection is lost");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    holder.batch_execute("COMMIT").await.expect("released");
    assert_all_applied(&persist(&store, &settling).await);
    assert!(matches!(persist(&store, &settling).await[0], Outcome::Already(_)));
}

/// What was acknowledged is there after a crash; who listened is woken, for who knows what was missed.
#[tokio::test]
async fn a_server_that_crashes_and_comes_back_is_used_again() {
    let options = postgres_server::Options { fsync: true, settings: &[] };
    let server = PostgresServer::start(options).expect("an installed PostgreSQL starts");
    let Some(server) = server else {
        PostgresServer::shared("a_server_that_crashes_and_comes_back_is_used_again");
        return;
    };
    let url = server.create_database("crash").expect("made");
    let store = PostgresStorage::open(Options::new(url)).await.expect("opened");
    assert_all_applied(&store.apply(&[put(task("a"))]).await.expect("applied"));
    let mut hints = store.hints();
    server.crash_and_restart().expect("it comes back");
    while timeout(LONG, hints.wait()).await.expect("the listener comes back") != Hint::BOTH {}
    assert_eq!(stands(&persist(&store, &[put(task("a"))]).await[0]), "a");
    assert_eq!(claim(&store, 1).await.expect("claimed").tasks.len(), 1);
}

#[tokio::test]
async fn each_process_hears_of_a_ready_task_once() {
    let Some(database) = Database::new("each_process_hears_of_a_ready_task_once") else { return };
    let (one, other) = (database.open().await, database.open().await);
    let (mut own, mut others) = (one.hints(), other.hints());
    assert_all_applied(&one.apply(&[put(task("a"))]).await.expect("applied"));
    assert_eq!(timeout(LONG, own.wait()).await.expect("told at once"), Hint::BOTH);
    assert_eq!(timeout(LONG, others.wait()).await.expect("told by the server"), Hint::READY);
    assert_eq!(own.wait().now_or_never(), None, "its own notification is no news");
    let lease = claim(&other, 1).await.expect("claimed").tasks.remove(0);
    assert_all_applied(&other.apply(&[settle(&lease, done())]).await.expect("applied"));
    assert_eq!(timeout(LONG, others.wait()).await.expect("told at once"), Hint::CHANGED);
    assert_eq!(
        timeout(Duration::from_millis(50), own.wait()).await.ok(),
        None,
        "nobody waits for that elsewhere"
    );
}

#[tokio::test]
async fn another_store_at_the_same_address_is_found_out() {
    let Some(database) = Database::new("another_store_at_the_same_address_is_found_out") else { return };
    let store = database.open().await;
    assert_all_applied(&store.apply(&[put(task("a"))]).await.expect("applied"));
    let stranger = database.stranger().await;
    stranger.batch_execute("DROP SCHEMA steadfast CASCADE").await.expect("dropped");
    let replaced = database.open().await;
    assert_ne!(replaced.store(), store.store());
    stranger.execute(TERMINATE, &[]).await.expect("terminated");
    let found_out = async {
        loop {
            match store.apply(&[put(task("b"))]).await {
                Err(error) if error.kind() == ErrorKind::Broken => return error.to_string(),
                Err(error) if matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let why = timeout(LONG, found_out).await.expect("in bounded time");
    assert!(why.contains("another store"), "{why}");
}
