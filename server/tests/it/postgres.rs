//! The command line and the API on PostgreSQL: everything goes the same way as on SQLite.

use serde_json::Value;
use steadfast_tests::postgres_server::{Options, PostgresServer};

use crate::place::{Place, Server, until};

const CONFIG: &str = r#"
[handlers.echo]
exec = ["sh", "-c", "echo on; cat > $STEADFAST_OUTPUT"]
[handlers.slow]
exec = ["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done"]
"#;

#[test]
fn a_deployment_on_postgres() {
    let options = Options { fsync: true, settings: &[] };
    let Some(postgres) = PostgresServer::start_or_skip("a_deployment_on_postgres", options) else { return };
    let store = postgres.create_database("deployment").unwrap();
    let place = Place::with(CONFIG);
    let on_store = |args: &[&str]| place.json(&[&["--store", &store], args].concat());
    on_store(&["migrate"]);
    let server = Server::start(&place, &["--store", &store]);
    let through = |args: &[&str]| place.json(&[&["--server", &server.url], args].concat());

    let done = through(&["submit", "echo", "--id", "a", "--payload", "[1,  2]", "--wait"]);
    assert_eq!((&done["state"], &done["output"]), (&"succeeded".into(), &serde_json::json!([1, 2])));
    assert_eq!(on_store(&["status", "a"]), through(&["status", "a"]));
    let logs = place.run(&["--store", &store, "logs", "a"]);
    assert_eq!(logs.stdout, "on\n", "{logs:?}");

    let payload = r#"{"a": 12345678901234567890123,"a" :[1 ,2.50]}"#;
    let done = place.run(&["--store", &store, "submit", "echo", "--payload", payload, "--wait", "--json"]);
    assert!(done.stdout.contains(&format!(r#""payload":{payload},"output":{payload},"#)), "{done:?}");

    through(&["submit", "slow", "--id", "h", "--slot", "s"]);
    through(&["submit", "slow", "--id", "w", "--slot", "s", "--on-conflict", "queue"]);
    through(&["submit", "echo", "--id", "c", "--after", "h", "--deadline", "1h"]);
    assert_eq!(on_store(&["slots", "s"])["waiting"], serde_json::json!(["w"]));
    assert_eq!(on_store(&["list", "--limit", "1", "--cursor", "c"])[0]["id"], "w");
    assert_eq!(on_store(&["queues"])[0]["tasks"]["blocked"], 2);
    assert_eq!(through(&["status", "c"])["parents"], serde_json::json!(["h"]));
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(through(&["wait", "w"])["state"], "succeeded");
    assert_eq!(through(&["wait", "c"])["state"], "succeeded");
    assert_eq!(on_store(&["queue", "pause", "default"])[0]["paused"], true);

    let kinds = until("the worker has been seen", || {
        server.get("/v1/workers").json()["workers"]
            .as_array()
            .unwrap()
            .first()
            .map(|worker| worker["kinds"].clone())
    });
    assert_eq!(kinds, serde_json::json!(["echo", "slow"]));
    let doctor = place.run(&["--store", &store, "--server", &server.url, "doctor", "--json"]);
    let checks: Vec<Value> = doctor.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let level =
        |name: &str| checks.iter().find(|check| check["check"] == name).map(|check| check["level"].clone());
    for (check, expected) in [
        ("same store", "PASS"),
        ("schema", "PASS"),
        ("durability", "PASS"),
        ("clock", "PASS"),
        ("paused", "WARN"),
    ] {
        assert_eq!(level(check), Some(expected.into()), "{check}: {doctor:?}");
    }
    assert_eq!(through(&["diagnose", "c"])["state"], "succeeded");
    assert_eq!(through(&["prune", "--older", "0s"])["pruned"], 5);
    server.stop();
}

#[test]
fn a_database_that_wants_encryption_is_told() {
    let test = "a_database_that_wants_encryption_is_told";
    let place = Place::new();
    // Read by another user, too.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), mode).unwrap();
    let rules = place.path().join("pg_hba.conf");
    std::fs::write(&rules, "local all all trust\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
    let options = Options { fsync: false, settings: &[("hba_file", rules.to_str().unwrap())] };
    let Some(postgres) = PostgresServer::start_or_skip(test, options) else { return };
    let store = postgres.create_database("encrypted").unwrap();
    for store in [store.clone(), format!("{store}?sslmode=require")] {
        let done = place.run(&["--store", &store, "list"]);
        assert_eq!(done.code, 5, "{done:?}");
        for part in ["wants an encrypted connection", "pg_hba.conf", "sslmode"] {
            assert!(done.stderr.contains(part), "{part} is missing in {done:?}");
        }
    }
}
