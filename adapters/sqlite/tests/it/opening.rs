//! What can be wrong with a path, and what is said about it.

use std::path::Path;

use steadfast_core::ErrorKind;
use steadfast_sqlite::{Options, SqliteStorage};

use crate::{directory, open};

#[track_caller]
fn check_refused(path: &Path, kind: ErrorKind, words: &str) {
    let error = SqliteStorage::open(Options::file(path)).expect_err("it can't be opened");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn a_path_that_cannot_be_a_store_is_refused_with_the_reason() {
    let (guard, path) = directory();
    check_refused(Path::new(""), ErrorKind::Unavailable, "the path is empty");
    check_refused(guard.path(), ErrorKind::Unavailable, "it is a directory");
    check_refused(&guard.path().join("no/such/file.db"), ErrorKind::Unavailable, "there is no directory");

    std::fs::write(
        &path,
        "This is a text, and quite a long one, for SQLite looks at a hundred bytes.".repeat(2),
    )
    .expect("written");
    check_refused(&path, ErrorKind::Broken, "file is not a database");
}

#[test]
fn a_read_only_file_is_refused() {
    let (_guard, path) = directory();
    drop(open(&path));
    let mut permissions = std::fs::metadata(&path).expect("it exists").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).expect("set");
    if std::fs::OpenOptions::new().append(true).open(&path).is_ok() {
        println!("skipped: this user may write to read-only files");
        return;
    }
    check_refused(&path, ErrorKind::Unavailable, "it is read-only");
}

#[test]
fn a_newer_schema_is_refused() {
    let (_guard, path) = directory();
    drop(open(&path));
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.execute_batch("PRAGMA user_version = 99").expect("set");
    check_refused(&path, ErrorKind::Broken, "its schema has version 99");
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let (_guard, path) = directory();
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.execute_batch("CREATE TABLE customer (name TEXT)").expect("made");
    check_refused(&path, ErrorKind::Broken, "of another program");
    let tables: i64 =
        conn.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).expect("read");
    assert_eq!(tables, 1);
}

#[test]
fn names_that_sqlite_takes_for_something_else_are_names_of_files() {
    let (guard, _) = directory();
    for name in [":memory:", "file:x?mode=memory", "a b%20c.db"] {
        let path = guard.path().join(name);
        drop(open(&path));
        assert!(path.is_file(), "{name}");
    }
}

#[test]
fn many_may_create_the_same_store_at_once() {
    let (_guard, path) = directory();
    let stores: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&path).store().clone())).collect();
        threads.into_iter().map(|thread| thread.join().expect("opened")).collect()
    });
    assert!(stores.windows(2).all(|two| two[0] == two[1]), "{stores:?}");
}
