//! Opening: the schema, its versions, and servers that are set up for something else.

use std::time::Duration;

use futures_util::future::join_all;
use steadfast_core::name::Slot;
use steadfast_core::step::{Change, Guard, Outcome, Prune, States, Step, Transition};
use steadfast_core::storage::{Error, ErrorKind, Storage};
use steadfast_core::task::{NewTask, OnConflict, State};
use steadfast_postgres::{Options, PostgresStorage};
use tokio::task::JoinHandle;

use crate::bench::*;

#[tokio::test]
async fn eight_who_open_an_empty_database_at_once_find_one_store() {
    let Some(database) = Database::new("eight_who_open_an_empty_database_at_once_find_one_store") else {
        return;
    };
    let stores = join_all((0..8).map(|_| database.open())).await;
    assert!(stores.iter().all(|store| store.store() == stores[0].store()));
    let again = database.open().await;
    assert_eq!(again.store(), stores[0].store());
    let options = Options { schema: "other".into(), ..Options::new(&database.url) };
    let other = PostgresStorage::open(options).await.expect("another schema is another store");
    assert_ne!(other.store(), stores[0].store());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let Some(database) = Database::new("a_newer_schema_is_refused") else { return };
    drop(database.open().await);
    let stranger = database.stranger().await;
    stranger.batch_execute("UPDATE meta SET version = 99").await.expect("updated");
    let error = PostgresStorage::open(Options::new(&database.url)).await.expect_err("it is newer");
    assert_eq!(error.kind(), ErrorKind::Broken);
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[tokio::test]
async fn a_bad_name_or_address_is_refused() {
    let Some(database) = Database::new("a_bad_name_or_address_is_refused") else { return };
    for options in [
        Options { schema: "Robert'); DROP".into(), ..Options::new(&database.url) },
        Options { schema: String::new(), ..Options::new(&database.url) },
        Options::new("not an address"),
    ] {
        let error = PostgresStorage::open(options).await.expect_err("it makes no sense");
        assert_eq!(error.kind(), ErrorKind::Broken, "{error:?}");
    }
    let nobody = Options::new("postgres://steadfast@127.0.0.1:1/nobody");
    let error = PostgresStorage::open(nobody).await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

/// The adapter is right at READ COMMITTED only, and an acknowledged task must survive a crash.
#[tokio::test]
async fn a_database_with_other_defaults_is_overruled() {
    let Some(database) = Database::new("a_database_with_other_defaults_is_overruled") else { return };
    let name = &database.name;
    let defaults = format!(
        "ALTER DATABASE {name} SET default_transaction_isolation = 'serializable';
        ALTER DATABASE {name} SET default_transaction_read_only = on;
        ALTER DATABASE {name} SET synchronous_commit = off;
        ALTER DATABASE {name} SET statement_timeout = 1;
        ALTER DATABASE {name} SET lock_timeout = 1;
        ALTER DATABASE {name} SET search_path = 'nowhere'"
    );
    stranger(&database.server.url("postgres")).await.batch_execute(&defaults).await.expect("altered");
    let store = database.open().await;
    assert_all_applied(&store.apply(&[put(task("a"))]).await.expect("applied"));
    assert_eq!(claim(&store, 1).await.expect("claimed").tasks.len(), 1);
    assert_eq!(find(&store, "a").await.expect("stored").state, State::Running);
}

/// The functions say so themselves, should somebody call them in another way.
#[tokio::test]
async fn a_function_refuses_another_isolation_level() {
    let Some(database) = Database::new("a_function_refuses_another_isolation_level") else { return };
    database.open().await;
    let stranger = database.stranger().await;
    let name = "SELECT proname::text FROM pg_proc WHERE proname LIKE 'claim_%'";
    let name: String = stranger.query_one(name, &[]).await.expect("there is one").get(0);
    stranger.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begun");
    let claim = format!("SELECT * FROM {name}('w', '{{}}', '{{}}', 1, 1, NULL)");
    let error = stranger.batch_execute(&claim).await.expect_err("the wrong level");
    assert_eq!(error.code().map(|code| code.code()), Some("SF002"), "{error}");
}

/// What version 1 stored goes on working, and a program of version 1 that still runs can't write by its old rules.
#[tokio::test]
async fn a_store_of_version_1_goes_on_working() {
    let Some(database) = Database::new("a_store_of_version_1_goes_on_working") else { return };
    let old = stranger(&database.url).await;
    old.batch_execute(include_str!("version-1.sql")).await.expect("an empty database takes the dump");
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'steadfast'::regnamespace
        AND proname IN ('apply_ca9dda3598ae0920', 'claim_35723444540f847b')";
    let old_functions = async || old.query_one(functions, &[]).await.expect("counted").get::<_, i64>(0);
    assert_eq!(old_functions().await, 2);
    let store = database.open().await;
    assert_eq!(store.store().as_str(), "e2a2684f-1633-46be-b6b0-afdd3c52b44f");
    assert_eq!(old_functions().await, 0);

    for (id, state) in [
        ("succeeded", State::Succeeded),
        ("retried", State::Ready),
        ("running", State::Running),
        ("blocked", State::Blocked),
        ("scheduled", State::Scheduled),
        ("ready", State::Ready),
        ("cancelled", State::Cancelled),
    ] {
        let task = find(&store, id).await.expect("it is still there");
        assert_eq!(task.state, state, "{id}");
        assert!(!task.slot_waiting && task.deadline_at.is_none() && task.progress.is_none(), "{id}");
    }
    // Idempotency, slots, leases and edges of before hold.
    let known = store.apply(&[put(keyed("again", "k"))]).await.expect("answered");
    assert_eq!(stands(&known[0]), "succeeded");
    let slot = |id: &str, on_conflict| NewTask { slot: Some((Slot::trusted("s"), on_conflict)), ..task(id) };
    let refused = store.apply(&[put(slot("rejected", OnConflict::Reject))]).await.expect("answered");
    assert!(matches!(&refused[..], [Outcome::Refused(_)]), "{refused:?}");
    assert_all_applied(&store.apply(&[put(slot("waiting", OnConflict::Queue))]).await.expect("applied"));
    assert!(find(&store, "waiting").await.expect("stored").slot_waiting);
    let running = find(&store, "running").await.expect("it is still there");
    let end = Transition::new(running.id, fenced(running.fence), Change::to(State::Succeeded));
    assert_all_applied(&store.apply(&[Step::Transition(end).into()]).await.expect("applied"));
    assert_eq!(find(&store, "blocked").await.expect("stored").state, State::Ready);
    assert_eq!(find(&store, "waiting").await.expect("stored").state, State::Ready);
    let leases = claim(&store, 10).await.expect("claimed").tasks;
    let mut claimed: Vec<&str> = leases.iter().map(|lease| lease.task.as_str()).collect();
    claimed.sort_unstable();
    assert_eq!(claimed, ["blocked", "ready", "retried", "waiting"]);
    let prune = Prune { succeeded: Duration::ZERO, otherwise: Duration::ZERO, limit: 10 };
    assert_all_applied(&store.apply(&[Step::Prune(prune).into()]).await.expect("applied"));
    assert!(find(&store, "cancelled").await.is_none());
}

fn fenced(fence: u64) -> Guard {
    Guard {
        from: States::RUNNING,
        fence: Some(fence),
        unless_cancel_requested: false,
        lease_lapsed: false,
        overdue: false,
    }
}

/// A migration waits for those who work on the tables, longer than a statement waits for a lock.
#[tokio::test]
async fn a_migration_waits_for_an_open_transaction() {
    let Some(database) = Database::new("a_migration_waits_for_an_open_transaction") else { return };
    let old = stranger(&database.url).await;
    old.batch_execute(include_str!("version-1.sql")).await.expect("an empty database takes the dump");
    old.batch_execute("BEGIN; UPDATE steadfast.task SET rev = rev + 1 WHERE id = 'ready'")
        .await
        .expect("updated");
    let opens = opens_and_waits(&database).await;
    old.batch_execute("COMMIT").await.expect("committed");
    let store = opens.await.expect("no panic").expect("it opens once it can");
    assert_eq!(find(&store, "ready").await.expect("it is still there").rev, 1);
}

/// Opens the store, and waits until that waits for somebody's lock.
async fn opens_and_waits(database: &Database) -> JoinHandle<Result<PostgresStorage, Error>> {
    let url = database.url.clone();
    let opens = tokio::spawn(async move { PostgresStorage::open(Options::new(url)).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'steadfast'
        AND datname = current_database() AND wait_event_type = 'Lock'
        AND clock_timestamp() - query_start > interval '400 ms'";
    let witness = database.stranger().await;
    while witness.query_one(waits, &[]).await.expect("counted").get::<_, i64>(0) == 0 {
        assert!(!opens.is_finished(), "it waits");
        tokio::task::yield_now().await;
    }
    opens
}

/// A call of an older program's function that began before the migration and gets the table after it would end a task
/// and list it nowhere.
#[tokio::test]
async fn a_call_of_an_older_program_that_waits_behind_a_migration_ends_nothing() {
    let Some(database) = Database::new("a_call_of_an_older_program_behind_a_migration") else { return };
    let old = stranger(&database.url).await;
    old.batch_execute(include_str!("version-1.sql")).await.expect("an empty database takes the dump");
    // The end of the old function: its other guards have nothing to do with it.
    let end = "CREATE FUNCTION steadfast.ends() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        UPDATE steadfast.task SET state = 4, lease_expires_at = NULL, finished_at = 1 WHERE id = 'running'; END $$";
    old.batch_execute(end).await.expect("created");
    let hold = "BEGIN; UPDATE steadfast.task SET rev = rev + 1 WHERE id = 'ready'";
    old.batch_execute(hold).await.expect("updated");
    let opens = opens_and_waits(&database).await;
    let late = database.stranger().await;
    let ends = tokio::spawn(async move { late.batch_execute("SELECT steadfast.ends()").await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT steadfast.ends()'
        AND datname = current_database() AND wait_event_type = 'Lock'";
    while old.query_one(waits, &[]).await.expect("counted").get::<_, i64>(0) == 0 {
        assert!(!ends.is_finished(), "it waits behind the migration");
        old.batch_execute("SELECT pg_stat_clear_snapshot()").await.expect("cleared");
    }
    old.batch_execute("COMMIT").await.expect("committed");
    let store = opens.await.expect("no panic").expect("it opens once it can");
    let error = ends.await.expect("no panic").expect_err("it uses a name that is gone");
    assert_eq!(error.code().map(|code| code.code()), Some("42703"), "{error}");
    assert_eq!(find(&store, "running").await.expect("it is still there").state, State::Running);
}
