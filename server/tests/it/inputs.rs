//! What makes no sense is refused with a reason, and nothing is stored.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::place::{LONG, Place, Server};

#[test]
fn a_bad_command_line_is_told_and_stores_nothing() {
    let place = Place::new();
    std::fs::write(place.path().join("no-toml"), "handlers = 7").unwrap();
    let bad = [r#"{"kind":"scan""#, r#"{"kind":"scan","frobnicate":1}"#, r#"{"kind":"scan","delay":"-1s"}"#];
    std::fs::write(place.path().join("bad.jsonl"), bad.join("\n")).unwrap();
    // It takes no room on the disk.
    std::fs::File::create(place.path().join("huge")).unwrap().set_len(2 << 30).unwrap();
    for (args, code, part) in [
        (vec![], 2, "Usage"),
        (vec!["frobnicate"], 2, "frobnicate"),
        (vec!["submit"], 2, "KIND"),
        (vec!["submit", "a b"], 2, "may contain only"),
        (vec!["submit", "_run"], 2, "reserved"),
        (vec!["submit", "scan", "--id", "../../x"], 2, "may contain only"),
        (vec!["submit", "scan", "--id", ""], 2, "1 to 128"),
        (vec!["submit", "scan", "--payload", "{"], 2, "no JSON"),
        (vec!["submit", "scan", "--payload", "hello"], 2, "quotes of its own"),
        (vec!["submit", "scan", "--payload", "@nowhere"], 2, "nowhere"),
        (vec!["submit", "scan", "--payload", "@huge"], 2, "huge holds more than"),
        (vec!["submit", "scan", "--delay", "soon"], 2, "no duration"),
        (vec!["submit", "scan", "--delay=-1s"], 2, "no duration"),
        (vec!["submit", "scan", "--timeout=-1s"], 2, "no duration"),
        (vec!["submit", "scan", "--at", "tomorrow"], 2, "2026-01-31T18:00:00Z"),
        (vec!["submit", "scan", "--delay", "1s", "--at", "2026-01-31T18:00:00Z"], 2, "cannot be used with"),
        (vec!["submit", "scan", "--priority", "99999"], 2, "99999"),
        (vec!["submit", "scan", "--attempts", "0"], 2, "--attempts"),
        (vec!["submit", "scan", "--timeout", "0s"], 2, "longer than nothing"),
        (vec!["submit", "scan", "--slot", "s", "--on-conflict", "share"], 2, "queue or join"),
        (vec!["submit", "scan", "--deadline", "tomorrow"], 2, "no duration"),
        (vec!["submit", "scan", "--deadline=-5m"], 2, "no duration"),
        (vec!["submit", "--bulk", "nowhere.jsonl"], 2, "nowhere.jsonl"),
        (vec!["submit", "scan", "--bulk", "tasks.jsonl"], 2, "cannot be used with"),
        (vec!["run", "--slot", "s", "--on-conflict", "join", "--", "true"], 2, "replace, reject or queue"),
        (vec!["queue", "limit", "q", "many"], 2, "or none"),
        (vec!["slots", "--cancel"], 2, "SLOT"),
        (vec!["prune"], 2, "--older"),
        (vec!["submit", "scan", "--on-conflict", "replace"], 2, "--slot"),
        (vec!["submit", "scan", "--after", "nobody"], 2, "no task nobody"),
        (vec!["submit", "scan", "--config", "nowhere.toml"], 2, "nowhere.toml"),
        (vec!["submit", "scan", "--config", "no-toml"], 2, "no-toml:1:"),
        (vec!["list", "--state", "sleeping"], 2, "blocked, scheduled, ready"),
        (vec!["list", "--limit", "0"], 2, "from 1 to 1000"),
        (vec!["worker"], 2, "no handler is configured"),
        (vec!["--store", "sqlite:a", "--server", "http://b", "list"], 2, "which is meant"),
        (vec!["--server", "ftp://b", "list"], 2, "no http URL"),
        (vec!["--server", "https://b", "list"], 2, "https isn't there yet"),
        (vec!["--server", "http://127.0.0.1:1", "list"], 5, "refused"),
        (vec!["--store", "postgres://nobody@127.0.0.1:1/x", "list"], 5, "is it running"),
    ] {
        let done = place.run(&args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.stderr.contains(part), "{args:?}: {done:?}");
        assert_eq!(done.stdout, "", "{args:?}");
    }
    let bulk = place.run(&["submit", "--bulk", "bad.jsonl"]);
    assert_eq!((bulk.code, &*bulk.stdout), (2, "0 submitted, 0 known already, 3 refused\n"), "{bulk:?}");
    for part in ["line 1: ", "line 2: frobnicate: ", "line 3: delay: "] {
        assert!(bulk.stderr.contains(part), "{part} is missing in {bulk:?}");
    }
    let huge = place.run(&["submit", "--bulk", "huge"]);
    assert_eq!(huge.code, 2, "{huge:?}");
    assert!(huge.stderr.contains("line 1"), "{huge:?}");
    assert!(!place.has_tasks());
}

#[test]
fn looking_makes_no_store() {
    let place = Place::new();
    for args in [vec!["list"], vec!["status", "a"], vec!["wait", "a"], vec!["cancel", "a"]] {
        let done = place.run(&args);
        assert_eq!(done.code, 5, "{args:?}: {done:?}");
        assert!(done.stderr.contains("there is no store at sqlite:steadfast.db"), "{done:?}");
    }
    assert!(!place.path().join("steadfast.db").exists());
}

#[test]
fn what_is_not_there_or_not_possible_has_its_exit_code() {
    let place = Place::new();
    place.json(&["submit", "scan", "--id", "a", "--slot", "s"]);
    for (args, code, part) in [
        (vec!["status", "b"], 3, "no task b"),
        (vec!["wait", "b"], 3, "no task b"),
        (vec!["cancel", "b"], 3, "no task b"),
        (vec!["submit", "scan", "--id", "a", "--payload", "1"], 4, "another request"),
        (vec!["submit", "scan", "--slot", "s"], 4, "the slot is held by task a"),
        (vec!["wait", "a", "--timeout", "20ms"], 1, "is still ready after 20ms"),
        (vec!["cancel", "a"], 0, ""),
        (vec!["cancel", "a"], 0, ""),
        (vec!["wait", "a"], 1, ""),
    ] {
        let done = place.run(&args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.stderr.contains(part), "{args:?}: {done:?}");
    }
    let done = place.run(&["status", "b", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!((&error["exit"], done.code), (&3.into(), 3));
}

#[test]
fn a_bad_request_is_told_by_its_field_and_stores_nothing() {
    let place = Place::with("[handlers.scan]\nexec = [\"true\"]\n[server]\npayload_bytes_max = 1000\n");
    let server = Server::start(&place, &[]);
    let large = format!(r#"{{"kind":"scan","payload":"{}"}}"#, "x".repeat(1000));
    let many = format!("[{}1]", "1,".repeat(10_000));
    for (body, status, field, part) in [
        ("", 400, "", "EOF"),
        ("{", 400, "", "EOF"),
        ("7", 400, "", "an object"),
        ("{} {}", 400, "", "trailing"),
        ("{}", 400, "kind", "is missing"),
        (r#"{"kind":"nope"}"#, 422, "kind", "these are: scan"),
        (r#"{"kind":"_run","payload":{"argv":["true"],"cwd":"/"}}"#, 400, "kind", "reserved"),
        (r#"{"kind":"scan","frobnicate":1}"#, 400, "frobnicate", "is no field"),
        (r#"{"kind":"scan","id":"../../x"}"#, 400, "id", "may contain only"),
        (r#"{"kind":"scan","payload":1,"payload":2}"#, 400, "payload", "twice"),
        (r#"{"kind":"scan","payload":NaN}"#, 400, "", "expected"),
        (r#"{"kind":"scan","attempts":0}"#, 400, "attempts", "at least 1"),
        (r#"{"kind":"scan","timeout":"0s"}"#, 400, "timeout", "longer than nothing"),
        (r#"{"kind":"scan","slot":"a\u0000b"}"#, 400, "slot", "control"),
        (r#"{"kind":"scan","slot":"s","on_conflict":"share"}"#, 400, "on_conflict", "queue or join"),
        (r#"{"kind":"scan","delay":"-1s"}"#, 400, "delay", "no duration"),
        (r#"{"kind":"scan","deadline":"-1s"}"#, 400, "deadline", "no duration"),
        (r#"{"kind":"scan","after":["nobody"]}"#, 400, "after", "no task nobody"),
        (&large, 413, "payload", "at most 1000"),
        (&many, 413, "", "10000"),
    ] {
        let answer = server.post("/v1/tasks", body);
        let problem = answer.json();
        assert_eq!(answer.status, status, "{body:.80}: {problem}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{body:.80}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{body:.80}: {problem}");
    }
    let body = "x".repeat(17 << 20);
    assert_eq!(server.post("/v1/tasks", &body).status, 413);
    for (path, status, field) in [
        ("/v1/tasks?state=sleeping", 400, "state"),
        ("/v1/tasks?limit=0", 400, "limit"),
        ("/v1/tasks?colour=red", 400, "colour"),
        ("/v1/tasks/a?wait=soon", 400, "wait"),
        ("/v1/tasks/a?after=-1", 400, "after"),
        ("/v1/tasks/a%20b", 400, "id"),
        ("/v1/tasks/%ff", 400, ""),
        ("/v1/tasks?limit=1&limit=2", 400, "limit"),
        ("/v1/tasks?cursor=a%20b", 400, "cursor"),
        ("/v1/tasks?cursor=nobody", 410, "cursor"),
        ("/v1/tasks/a/log?after=1", 400, "after"),
        ("/v1/tasks/a/attempts?wait=1s", 400, "wait"),
        ("/v1/tasks/a/events?since=1", 400, "since"),
        ("/v1/tasks/a/events", 404, ""),
        ("/v1/tasks/a/log", 404, ""),
        ("/v1/tasks/a/attempts", 404, ""),
        ("/v1/slots/a", 404, ""),
        ("/v1/queues?queue=a", 400, "queue"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["field"].as_str().unwrap_or_default(), field, "{path}");
    }
    assert!(server.get("/v1/tasks?limit=1&limit=2").text.contains("twice"));
    assert!(!place.has_tasks());
}

#[test]
fn a_key_or_an_id_that_stands_for_another_request_is_refused_and_stores_nothing() {
    let place = Place::new();
    let server = Server::start(&place, &["--allow-unknown-kinds"]);
    let through = ["--server", &server.url];
    for (number, way) in [&[][..], &through].into_iter().enumerate() {
        for name in ["key", "id"] {
            let (option, value) = (format!("--{name}"), format!("{name}-{number}"));
            let submit = [way, &["submit", "scan", &option, &value, "--payload"]].concat();
            let first = place.json(&[&submit[..], &["1"]].concat());
            let again = place.json(&[&submit[..], &["1"]].concat());
            assert_eq!((&again["id"], &again["new"]), (&first["id"], &false.into()));
            let on_store = place.run(&[&submit[..], &["2"]].concat());
            assert_eq!(on_store.code, 4, "{on_store:?}");
            let over_http =
                server.post("/v1/tasks", &format!(r#"{{"kind":"scan","{name}":"{value}","payload":2}}"#));
            assert_eq!(over_http.status, 409, "{over_http:?}");
            for said in [on_store.stderr, over_http.text] {
                assert!(said.contains("another request"), "{name}: {said}");
            }
        }
    }
    assert_eq!(server.get("/v1/tasks").json()["tasks"].as_array().unwrap().len(), 4);
}

/// As much as no machine should be made to hold: it is refused as soon as it is announced, or as soon as it is too much.
#[test]
fn a_body_of_two_gigabytes_is_refused_before_it_has_come() {
    let place = Place::with("[handlers.scan]\nexec = [\"true\"]\n");
    let server = Server::start(&place, &[]);
    for length in ["content-length: 2147483648\r\nexpect: 100-continue", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        write!(stream, "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n").unwrap();
        if length.contains("chunked") {
            // It may stop to read at any moment.
            let _ = write!(stream, "80000000\r\n").and_then(|()| stream.write_all(&vec![b'x'; 20 << 20]));
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 413"), "{length}: {line:?}");
    }
    assert!(!place.has_tasks());
}

#[test]
fn an_unknown_kind_is_accepted_where_the_operator_says_so() {
    let place = Place::new();
    let server = Server::start(&place, &["--allow-unknown-kinds"]);
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"elsewhere"}"#).status, 201);
    assert_eq!(server.post("/v1/tasks", r#"{"kind":"_run"}"#).status, 400);
}

#[test]
fn a_wait_ends_in_time() {
    let place = Place::new();
    let server = Server::start(&place, &["--allow-unknown-kinds"]);
    server.post("/v1/tasks", r#"{"kind":"elsewhere","id":"a"}"#);
    let begun = Instant::now();
    assert_eq!(server.get("/v1/tasks/a?wait=300ms").json()["state"], "ready");
    assert!(begun.elapsed().as_millis() >= 300);
}
