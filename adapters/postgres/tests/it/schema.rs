//! Opening: the schema, its versions, and servers that are set up for something else.

use futures_util::future::join_all;
use steadfast_core::storage::{ErrorKind, Storage};
use steadfast_core::task::State;
use steadfast_postgres::{Options, PostgresStorage};

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
