//! The lists of what has ended, and what pruning takes from them.

use std::time::Duration;

use steadfast_core::step::{Outcome, Prune, Receipt, Step};
use steadfast_core::storage::Storage;
use steadfast_core::task::State;
use steadfast_postgres::PostgresStorage;

use crate::bench::*;

/// Stores these tasks and ends them in one call.
async fn end(store: &PostgresStorage, ids: &[&str]) {
    let tasks: Vec<_> = ids.iter().map(|id| put(task(id))).collect();
    assert_all_applied(&store.apply(&tasks).await.expect("applied"));
    let leases = claim(store, 100).await.expect("claimed").tasks;
    assert_eq!(leases.len(), ids.len());
    let ends: Vec<_> = leases.iter().map(|lease| settle(lease, done())).collect();
    assert_all_applied(&store.apply(&ends).await.expect("applied"));
}

/// Forgets what is older than this, and says how many that were.
async fn prune(store: &PostgresStorage, age: Duration, limit: u32) -> u32 {
    let prune = Prune { succeeded: age, otherwise: age, limit };
    match store.apply(&[Step::Prune(prune).into()]).await.expect("applied").remove(0) {
        Outcome::Applied(receipts) => match receipts[..] {
            [Receipt::Pruned(count)] => count,
            _ => panic!("{receipts:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_prune_leaves_of_a_list_stays_listed() {
    let Some(database) = Database::new("what_a_prune_leaves_of_a_list_stays_listed") else { return };
    let store = database.open().await;
    end(&store, &["a", "b", "c", "d", "e"]).await;
    end(&store, &["f", "g"]).await;
    assert_eq!(prune(&store, Duration::ZERO, 2).await, 2);
    assert!(find(&store, "b").await.is_none(), "in the order in which they are listed");
    assert_eq!(find(&store, "c").await.expect("not yet").state, State::Succeeded);
    assert_eq!(prune(&store, Duration::ZERO, 4).await, 4, "from two lists");
    assert_eq!(prune(&store, Duration::ZERO, 4).await, 1);
    assert_eq!(prune(&store, Duration::ZERO, 4).await, 0);
    let lists = "SELECT count(*) FROM steadfast.ended";
    let lists: i64 = database.stranger().await.query_one(lists, &[]).await.expect("counted").get(0);
    assert_eq!(lists, 0, "nothing is listed for ever");
}

#[tokio::test]
async fn what_somebody_holds_is_left_and_forgotten_another_time() {
    let Some(database) = Database::new("what_somebody_holds_is_left_and_forgotten_another_time") else {
        return;
    };
    let store = database.open().await;
    end(&store, &["a", "b", "c"]).await;
    let stranger = database.stranger().await;
    let hold = "BEGIN; SELECT 1 FROM steadfast.task WHERE id = 'b' FOR SHARE";
    stranger.batch_execute(hold).await.expect("held");
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 2);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 0);
    stranger.batch_execute("ROLLBACK").await.expect("let go");
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 1);
}

/// Somebody has deleted a task by hand; its id is used again.
#[tokio::test]
async fn an_old_list_does_not_age_a_new_task_of_the_same_id() {
    let Some(database) = Database::new("an_old_list_does_not_age_a_new_task_of_the_same_id") else { return };
    let store = database.open().await;
    let day = Duration::from_secs(86_400);
    end(&store, &["a", "b"]).await;
    let by_hand = "DELETE FROM steadfast.task WHERE id = 'a'; UPDATE steadfast.ended SET at = 0;
        UPDATE steadfast.task SET finished_at = 0";
    database.stranger().await.batch_execute(by_hand).await.expect("deleted");
    end(&store, &["a"]).await;
    assert_eq!(prune(&store, day, 9).await, 1, "the other one");
    assert_eq!(find(&store, "a").await.expect("it is young").state, State::Succeeded);
    assert_eq!(prune(&store, day, 9).await, 0);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 1);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 0);
}
