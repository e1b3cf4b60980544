//! The lists of what has ended, and what pruning takes from them.

use std::time::Duration;

use steadfast_core::step::{Outcome, Prune, Receipt, Step};
use steadfast_core::storage::Storage;
use steadfast_core::task::{NewTask, OnParentFailure, Parent, State};
use steadfast_core::{TaskId, Verdict};
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
    assert!(sizes(&database).await.is_empty(), "nothing is listed for ever");
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
        UPDATE steadfast.task SET ended_at = 0";
    database.stranger().await.batch_execute(by_hand).await.expect("deleted");
    end(&store, &["a"]).await;
    assert_eq!(prune(&store, day, 9).await, 1, "the other one");
    assert_eq!(find(&store, "a").await.expect("it is young").state, State::Succeeded);
    assert_eq!(prune(&store, day, 9).await, 0);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 1);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 0);
}

/// What a parent's failure ends is one list, however many they are.
#[tokio::test]
async fn a_long_list_is_parted_by_the_first_who_prunes() {
    let Some(database) = Database::new("a_long_list_is_parted_by_the_first_who_prunes") else { return };
    let store = database.open().await;
    assert_all_applied(&store.apply(&[put(task("parent"))]).await.expect("applied"));
    let lease = claim(&store, 1).await.expect("claimed").tasks.remove(0);
    let parents = vec![Parent { id: lease.task.clone(), on_failure: OnParentFailure::Fail }];
    for hundreds in 0..5 {
        let child =
            |number| put(NewTask { parents: parents.clone(), ..task(&format!("c{hundreds}-{number:03}")) });
        let children: Vec<_> = (0..500).map(child).collect();
        assert_all_applied(&store.apply(&children).await.expect("applied"));
    }
    assert_all_applied(&store.apply(&[settle(&lease, Verdict::fail("no"))]).await.expect("applied"));
    assert_eq!(sizes(&database).await, [2_501]);
    assert_eq!(prune(&store, Duration::ZERO, 100).await, 100);
    assert_eq!(sizes(&database).await, [501, 900, 1_000]);
    assert_eq!(prune(&store, Duration::ZERO, 5_000).await, 2_401);
    assert!(sizes(&database).await.is_empty());
}

async fn sizes(database: &Database) -> Vec<i64> {
    let sizes = "SELECT cardinality(tasks)::bigint FROM steadfast.ended ORDER BY 1";
    let rows = database.stranger().await.query(sizes, &[]).await.expect("read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// In a settling, with its parent, and as it begins; with a key and without.
#[tokio::test]
async fn however_a_task_ends_it_is_listed() {
    let Some(database) = Database::new("however_a_task_ends_it_is_listed") else { return };
    let store = database.open().await;
    assert_all_applied(
        &store.apply(&[put(task("fails")), put(keyed("succeeds", "a"))]).await.expect("applied"),
    );
    let leases = claim(&store, 2).await.expect("claimed").tasks;
    let parents = vec![Parent { id: TaskId::trusted("fails"), on_failure: OnParentFailure::Fail }];
    let child = |task| put(NewTask { parents: parents.clone(), ..task });
    let waiting = [child(task("waits")), child(keyed("waits-keyed", "b"))];
    assert_all_applied(&store.apply(&waiting).await.expect("applied"));
    let verdict = |id: &str| if id == "fails" { Verdict::fail("no") } else { done() };
    let ends: Vec<_> = leases.iter().map(|lease| settle(lease, verdict(lease.task.as_str()))).collect();
    assert_all_applied(&store.apply(&ends).await.expect("applied"));
    let born = [child(task("born")), child(keyed("born-keyed", "c"))];
    assert_all_applied(&store.apply(&born).await.expect("applied"));
    let listed = "SELECT shelf, array_agg(id ORDER BY id) FROM steadfast.ended, unnest(tasks) AS id
        GROUP BY shelf ORDER BY shelf";
    let rows = database.stranger().await.query(listed, &[]).await.expect("read");
    let listed: Vec<(i16, Vec<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expected = [
        (1, names(&["born", "fails", "waits"])),
        (2, names(&["succeeds"])),
        (3, names(&["born-keyed", "waits-keyed"])),
    ];
    assert_eq!(listed, expected);
    assert_eq!(prune(&store, Duration::ZERO, 9).await, 3, "those without a key");
}
