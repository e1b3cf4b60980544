//! The private PostgreSQL server that other tests rely on.

use steadfast_tests::postgres_server::{Options, PostgresServer};
use steadfast_tests::postgres_session::PostgresSession;

#[test]
fn a_private_server_keeps_commits_over_a_crash_and_leaves_nothing_behind() {
    let options = Options { fsync: true, settings: &[("max_connections", "20")] };
    let Some(server) = PostgresServer::start_or_skip("a_private_server_keeps_commits", options) else {
        return;
    };
    assert!(server.create_database("crash").unwrap().ends_with("/crash"));
    let mut before = PostgresSession::connect(&server, "crash").unwrap();
    assert_eq!(before.query("create table t(id int); insert into t values (7)").unwrap().error, None);
    server.crash_and_restart().unwrap();
    assert!(before.query("select 1").is_err());
    let mut after = PostgresSession::connect(&server, "crash").unwrap();
    let shown = after.query("select id, current_setting('fsync'), current_setting('max_connections') from t");
    let row: Vec<String> = shown.unwrap().rows[0].iter().flatten().cloned().collect();
    assert_eq!(row, ["7", "on", "20"]);
    let directory = server.socket().parent().unwrap().to_owned();
    drop(server);
    assert!(!directory.exists());
}
