//! Locks that somebody else holds.

use std::time::{Duration, Instant};

use steadfast_core::storage::{ErrorKind, Storage};

use crate::bench::*;

#[tokio::test]
async fn a_stranger_who_holds_a_key_holds_up_only_those_who_need_it() {
    let Some(database) = Database::new("a_stranger_who_holds_a_key_holds_up_only_those_who_need_it") else {
        return;
    };
    let store = database.open().await;
    let stranger = database.stranger().await;
    stranger
        .batch_execute(
            "BEGIN; INSERT INTO task (id, kind, queue, key, priority, payload, attempts_max, rescues_max, timeout,
                backoff_min, backoff_max, digest, submitted_at, due_at, state)
            VALUES ('theirs', 'scan', 'default', 'k', 0, '', 1, 0, 1, 1, 1, 0, 0, 0, 2)",
        )
        .await
        .expect("nobody else has the key");
    let since = Instant::now();
    let merged = [put(task("innocent")), put(keyed("ours", "k"))];
    let error = store.apply(&merged).await.expect_err("the key is held");
    assert_eq!(error.kind(), ErrorKind::Contended, "{error:?}");
    assert!(since.elapsed() < Duration::from_millis(900), "it gave up soon");
    assert!(find(&store, "innocent").await.is_none(), "nothing was committed");
    assert_all_applied(&store.apply(&merged[..1]).await.expect("nobody holds up the innocent"));
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.apply(&[put(keyed("ours", "k"))]).await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'steadfast'
        AND datname = current_database() AND wait_event_type = 'Lock'";
    let witness = database.stranger().await;
    while witness.query_one(waiting, &[]).await.expect("counted").get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    stranger.batch_execute("ROLLBACK").await.expect("it can be taken back");
    let outcomes = waits.await.expect("no panic").expect("one that stands alone waits");
    assert_eq!(stands(&outcomes[0]), "ours");
}

#[tokio::test]
async fn what_can_not_be_stored_is_rejected_and_the_connection_goes_on() {
    let Some(database) = Database::new("what_can_not_be_stored_is_rejected_and_the_connection_goes_on")
    else {
        return;
    };
    let store = database.open().await;
    store.apply(&[put(task("a"))]).await.expect("applied");
    let lease = claim(&store, 1).await.expect("claimed").tasks.remove(0);
    let error = store.apply(&[settle(&lease, steadfast_core::Verdict::error("nul \0"))]).await;
    assert_eq!(error.expect_err("a text without NUL").kind(), ErrorKind::Rejected);
    assert_all_applied(&store.apply(&[settle(&lease, done())]).await.expect("applied"));
}
