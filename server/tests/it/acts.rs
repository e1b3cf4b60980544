//! What is done with tasks, slots and queues: the same on a store and through a server.

use std::io::Write;

use serde_json::{Value, json};

use crate::place::{Place, Server, Worker, agent, until};

/// `slow` says that it was entered by a file `entered.ID`, and waits for a file `go`.
const CONFIG: &str = r#"
[handlers.echo]
exec = ["sh", "-c", "cat > $STEADFAST_OUTPUT"]
[handlers.slow]
exec = ["sh", "-c", "touch entered.$STEADFAST_TASK_ID; while [ ! -e go ]; do sleep 0.01; done"]
[handlers.fails]
exec = ["sh", "-c", "echo out; echo err >&2; exit 9"]
attempts = 1
"#;

/// Runs a command on the store, and through the server.
struct Both<'p> {
    place: &'p Place,
    server: Server,
}

impl<'p> Both<'p> {
    fn new(place: &'p Place) -> Self {
        Self { place, server: Server::start(place, &["--no-worker"]) }
    }

    /// On which the test does one half, and then the other.
    fn ways(&self) -> [Vec<&str>; 2] {
        [Vec::new(), vec!["--server", &self.server.url]]
    }

    #[track_caller]
    fn same(&self, args: &[&str]) -> Value {
        let [here, there] = self.ways().map(|way| self.place.json(&[&way[..], args].concat()));
        assert_eq!(here, there, "{args:?}");
        here
    }
}

#[test]
fn a_held_slot_is_replaced_refused_waited_for_or_joined() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    for (number, way) in both.ways().into_iter().enumerate() {
        let slot = format!("user:{number}/chat");
        let submit = |id: &str, more: &[&str]| {
            let id = format!("{id}{number}");
            let args = ["submit", "slow", "--slot", &slot, "--id", &id];
            place.run(&[&way[..], &args, more, &["--json"]].concat())
        };
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(submit("a", &["--payload", "1"]).code, 0);
        let rejected = submit("b", &[]);
        assert_eq!(rejected.code, 4, "{rejected:?}");
        assert!(rejected.stderr.contains(&format!("held by task a{number}")), "{rejected:?}");
        assert_eq!(json(&submit("c", &["--on-conflict", "queue"]).stdout)["state"], "blocked");
        assert_eq!(json(&submit("d", &["--on-conflict", "queue"]).stdout)["state"], "blocked");
        // Who joins is answered with the holder; not with an id of its own, nor with another payload.
        let join = ["submit", "slow", "--slot", &slot, "--on-conflict", "join", "--payload"];
        let joined = place.json(&[&way[..], &join, &["1"]].concat());
        let holder = format!("a{number}");
        assert_eq!((&joined["id"], &joined["joined"]), (&holder.clone().into(), &true.into()));
        assert_eq!(joined["new"], false);
        let other = place.run(&[&way[..], &join, &["2"]].concat());
        assert_eq!(other.code, 4, "{other:?}");
        let named = submit("e", &["--on-conflict", "join", "--payload", "1"]);
        assert_eq!(named.code, 4, "{named:?}");
        assert!(named.stderr.contains("leave the id out"), "{named:?}");

        let shown = both.same(&["slots", &slot]);
        assert_eq!(shown["holder"], json!({ "id": holder, "kind": "slow", "state": "ready" }));
        assert_eq!(shown["waiting"], json!([format!("c{number}"), format!("d{number}")]));
        // Freed, it goes to the first that waits; replaced, to the newcomer.
        place.json(&[&way[..], &["slots", &slot, "--cancel"]].concat());
        assert_eq!(both.same(&["slots", &slot])["holder"]["id"], format!("c{number}"));
        let replaced = json(&submit("f", &["--on-conflict", "replace"]).stdout);
        assert_eq!(replaced["replaced"], format!("c{number}"));
        assert_eq!(both.same(&["status", &format!("c{number}")])["cause"], "replaced");
        assert_eq!(both.same(&["slots", &slot])["waiting"], json!([format!("d{number}")]));
    }
    assert_eq!(both.same(&["slots"]).as_array().unwrap().len(), 2);
    let free = place.run(&["slots", "nobody's"]);
    assert_eq!(free.code, 3, "{free:?}");
}

#[test]
fn joining_over_http_is_no_new_task() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker"]);
    let body = r#"{"kind":"slow","slot":"s","on_conflict":"join","payload":{"a": 1}}"#;
    let first = server.post("/v1/tasks", body);
    let second = server.post("/v1/tasks", body);
    assert_eq!((first.status, second.status), (201, 200), "{second:?}");
    assert_eq!((&first.json()["id"], &second.json()["joined"]), (&second.json()["id"], &true.into()));
    assert!(first.json().get("joined").is_none());
    let other = server.post("/v1/tasks", r#"{"kind":"slow","slot":"s","on_conflict":"join","payload":2}"#);
    assert_eq!((other.status, &other.json()["task"]), (409, &first.json()["id"]));
    assert_eq!(server.get("/v1/tasks").json()["tasks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_task_is_shown_with_its_parents_and_its_deadline() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    place.json(&["submit", "echo", "--id", "p"]);
    for (id, way) in ["a", "b"].into_iter().zip(both.ways()) {
        let args = ["submit", "echo", "--id", id, "--after", "p", "--deadline", "1h", "--priority", "-3"];
        place.json(&[&way[..], &args].concat());
        let task = both.same(&["status", id]);
        assert_eq!((&task["parents"], &task["state"]), (&json!(["p"]), &"blocked".into()));
        assert_eq!(task["priority"], -3);
        let time = |name: &str| task[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(time("deadline_at").duration_since(time("submitted_at")).as_secs(), 3600);
    }
    let listed = both.same(&["list", "--limit", "1"]);
    assert_eq!((&listed[0]["id"], &listed[0]["parents"]), (&"b".into(), &json!(["p"])));
}

#[test]
fn an_overdue_task_fails() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker", "--lease", "200ms"]);
    let task = place.json(&["--server", &server.url, "submit", "slow", "--deadline", "1ms"]);
    let id = task["id"].as_str().unwrap();
    let ended = server.get(&format!("/v1/tasks/{id}?wait=60s")).json();
    assert_eq!((&ended["state"], &ended["cause"]), (&"failed".into(), &"deadline".into()));
}

#[test]
fn lists_are_read_page_by_page() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    let ids: Vec<String> = (0..5).map(|number| format!("t{number}")).collect();
    for id in &ids {
        place.json(&["submit", "echo", "--id", id]);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = both.server.get(&format!("/v1/tasks?limit=2{cursor}")).json();
        let of_page = page["tasks"].as_array().unwrap();
        seen.extend(of_page.iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(seen.len() <= ids.len(), "{seen:?}");
    }
    seen.reverse();
    assert_eq!(seen, ids);
    assert_eq!(both.same(&["list", "--limit", "2", "--cursor", "t2"])[0]["id"], "t1");
}

#[test]
fn large_tasks_come_in_smaller_pages() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    let payload = "x".repeat(600_000);
    let lines = (0..40)
        .map(|number| format!("{{\"kind\":\"echo\",\"id\":\"t{number:02}\",\"payload\":\"{payload}\"}}\n"));
    std::fs::write(place.path().join("tasks.jsonl"), lines.collect::<String>()).unwrap();
    assert_eq!(place.run(&["submit", "--bulk", "tasks.jsonl"]).code, 0);
    let ids = |page: &Value| -> Vec<String> {
        page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().into()).collect()
    };
    let first = both.server.get("/v1/tasks?limit=1000").json();
    let next = first["next"].as_str().expect("there are more");
    let rest = both.server.get(&format!("/v1/tasks?limit=1000&cursor={next}")).json();
    assert_eq!(rest["next"], Value::Null);
    let seen = [ids(&rest), ids(&first)].concat().into_iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(seen.len(), 40);
    assert!(ids(&first).len() < 40 && ids(&first)[0] == "t39", "{:?}", ids(&first));
    // The command goes on from page to page until it has what was asked for.
    for way in both.ways() {
        for (limit, found) in [("100", 40), ("33", 33)] {
            let listed = place.json(&[&way[..], &["list", "--limit", limit]].concat());
            let ids = ids(&json!({ "tasks": listed }));
            let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
            assert_eq!((ids.len(), distinct.len()), (found, found), "{way:?}: {ids:?}");
        }
    }
    // Everybody is looked at who waits, page by page.
    let doctor = place.run(&["--server", &both.server.url, "doctor"]);
    assert!([doctor.stdout, doctor.stderr].concat().contains("where 40 tasks are ready"));
}

#[test]
fn lines_that_are_too_large_do_not_stop_those_beside_them() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker"]);
    let line = |bytes: usize| format!("{{\"kind\":\"echo\",\"payload\":\"{}\"}}\n", "x".repeat(bytes));
    let sizes = [[900_000; 8].as_slice(), &[10_000_000, 17_000_000, 5]].concat();
    let lines: String = sizes.into_iter().map(line).collect();
    std::fs::write(place.path().join("tasks.jsonl"), lines).unwrap();
    let done = place.run(&["--server", &server.url, "submit", "--bulk", "tasks.jsonl"]);
    assert_eq!((done.code, &*done.stdout), (2, "9 submitted, 0 known already, 2 refused\n"), "{done:?}");
    assert!(done.stderr.contains("line 9: ") && done.stderr.contains("line 10: "), "{done:?}");
}

#[test]
fn no_proxy_is_asked_for_the_server() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &["--no-worker"]);
    let mut list = place.command(&["--server", &server.url, "list"]);
    let list = list.envs(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")));
    assert!(list.status().unwrap().success());
}

#[test]
fn what_failed_is_retried_as_a_new_task() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    for (id, way) in ["a", "b"].into_iter().zip([vec![], vec!["--server", &server.url]]) {
        let failed = place.run(&["submit", "fails", "--id", id, "--payload", "[1,  2]", "--wait"]);
        assert_eq!(failed.code, 1, "{failed:?}");
        let retried = place.json(&[&way[..], &["retry", id]].concat());
        assert_eq!((&retried["id"], &retried["retry"]), (&id.into(), &"new".into()), "{retried}");
        let task = retried["task"].as_str().unwrap();
        assert_ne!(task, id);
        let again = server.get(&format!("/v1/tasks/{task}?wait=60s"));
        assert_eq!(again.json()["state"], "failed");
        assert!(again.text.contains(r#""payload":[1,  2],"#), "{again:?}");
        assert_eq!(place.json(&["status", id])["state"], "failed");
    }
    place.json(&["submit", "echo", "--id", "done", "--wait"]);
    let done = place.run(&["retry", "done", "nobody"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("has succeeded") && done.stderr.contains("no task nobody"), "{done:?}");
    assert_eq!(server.post("/v1/tasks/done/retry", "").status, 409);
    assert_eq!(server.post("/v1/tasks/nobody/retry", "").status, 404);
    assert_eq!(server.post("/v1/tasks/a/retry", r#"{"now":true}"#).status, 400);
}

#[test]
fn queues_are_paused_resumed_and_limited() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    let paused = place.json(&["queue", "pause", "default", "other"]);
    assert_eq!((&paused[0]["paused"], &paused[1]["queue"]), (&true.into(), &"other".into()));
    place.json(&["submit", "echo", "--id", "a"]);
    let shown = server.get("/v1/queues").json();
    let queue = &shown["queues"][0];
    assert_eq!((&queue["queue"], &queue["paused"]), (&"default".into(), &true.into()));
    assert_eq!(queue["tasks"]["ready"], 1);
    assert_eq!(server.get("/v1/tasks/a?wait=300ms").json()["state"], "ready");
    let resumed = server.post("/v1/queues/default/resume", "");
    assert_eq!((resumed.status, &resumed.json()["paused"]), (200, &false.into()));
    assert_eq!(server.get("/v1/tasks/a?wait=60s").json()["state"], "succeeded");

    let put = |body: &str| {
        let put = agent().put(format!("{}/v1/queues/default/limits", server.url));
        crate::place::Answer::of(put.send(body)).unwrap()
    };
    assert_eq!(put(r#"{"concurrency": 1}"#).json()["concurrency"], 1);
    for (id, file) in [("b", "entered.b"), ("c", "entered.c")] {
        place.json(&["submit", "slow", "--id", id]);
        if id == "b" {
            until("the handler was entered", || place.path().join(file).exists().then_some(()));
        }
    }
    assert_eq!(server.get("/v1/tasks/c?wait=300ms").json()["state"], "ready");
    let lifted = place.json(&["--server", &server.url, "queue", "limit", "default", "none"]);
    assert_eq!(lifted[0]["concurrency"], Value::Null);
    until("the handler was entered", || place.path().join("entered.c").exists().then_some(()));
    for (body, field) in
        [("{}", "concurrency"), (r#"{"concurrency":-1}"#, "concurrency"), (r#"{"rate":"1/s"}"#, "rate")]
    {
        let answer = put(body);
        assert_eq!((answer.status, &answer.json()["field"]), (400, &field.into()), "{body}");
    }
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(place.json(&["wait", "c"])["state"], "succeeded");
}

#[test]
fn attempts_are_shown_the_last_one_too() {
    let place = Place::with(&CONFIG.replace("attempts = 1", "attempts = 2"));
    let server = Server::start(&place, &[]);
    place.run(&["submit", "fails", "--id", "a", "--wait"]);
    let attempts = server.get("/v1/tasks/a/attempts").json();
    let facts = |name: &str| -> Vec<Value> {
        attempts["attempts"].as_array().unwrap().iter().map(|attempt| attempt[name].clone()).collect()
    };
    assert_eq!(facts("attempt"), [json!(1), json!(2)]);
    assert_eq!(facts("cause"), [json!("exit_code"), json!("exit_code")]);
    assert!(facts("ended_at").iter().all(Value::is_string), "{attempts}");
    place.json(&["submit", "slow", "--id", "b"]);
    until("the handler was entered", || place.path().join("entered.b").exists().then_some(()));
    let running = server.get("/v1/tasks/b/attempts").json();
    assert_eq!(
        (&running["attempts"][0]["attempt"], &running["attempts"][0]["ended_at"]),
        (&1.into(), &Value::Null)
    );
    std::fs::write(place.path().join("go"), "").unwrap();
}

#[test]
fn many_are_submitted_from_a_file() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    let lines = |way: usize| -> String {
        let good = (0..1_200)
            .map(|number| format!(r#"{{"kind":"echo","key":"{way}.{number}","payload":{number}}}"#));
        let bad = [String::new(), "{".into(), r#"{"kind":"echo","id":"../x"}"#.into()];
        let last = format!(r#"{{"kind":"echo","id":"last{way}","after":["first{way}"]}}"#);
        let first = format!(r#"{{"kind":"echo","id":"first{way}"}}"#);
        good.chain(bad).chain([first, last]).map(|line| line + "\n").collect()
    };
    for (number, way) in both.ways().into_iter().enumerate() {
        let mut file = std::fs::File::create(place.path().join("tasks.jsonl")).unwrap();
        file.write_all(lines(number).as_bytes()).unwrap();
        let done = place.run(&[&way[..], &["submit", "--bulk", "tasks.jsonl"]].concat());
        assert_eq!(done.code, 2, "{done:?}");
        assert_eq!(done.stdout, "1202 submitted, 0 known already, 2 refused\n");
        for part in ["line 1202: ", "line 1203: id: "] {
            assert!(done.stderr.contains(part), "{part} is missing in {done:?}");
        }
        // Again, with a line of JSON for each.
        let again = place.run(&[&way[..], &["submit", "--bulk", "tasks.jsonl", "--json"]].concat());
        let items: Vec<Value> =
            again.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(items.len(), 1_204);
        assert_eq!(
            (&items[0]["line"], &items[0]["status"], &items[0]["new"]),
            (&1.into(), &200.into(), &false.into())
        );
        assert_eq!((&items[1_201]["line"], &items[1_201]["status"]), (&1_203.into(), &400.into()));
        assert_eq!(
            place.json(&["status", &format!("last{number}")])["parents"],
            json!([format!("first{number}")])
        );
    }
    let tasks: u64 = both.server.get("/v1/stats").json()["tasks"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(tasks, 2 * 1_202);
    // Without a server half-way, it says how far it came.
    let lost = place.run(&["--server", "http://127.0.0.1:1", "submit", "--bulk", "tasks.jsonl"]);
    assert_eq!(lost.code, 5, "{lost:?}");
    assert!(lost.stderr.contains("at line 1 of tasks.jsonl"), "{lost:?}");
}

#[test]
fn tasks_that_ended_long_ago_are_forgotten() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "echo", "--id", "a", "--wait"]);
    place.json(&["submit", "echo", "--id", "b", "--key", "k", "--wait"]);
    assert_eq!(place.json(&["prune", "--older", "1h"])["pruned"], 0);
    assert_eq!(place.json(&["--server", &server.url, "prune", "--older", "0s"])["pruned"], 1);
    assert_eq!(place.run(&["status", "a"]).code, 3);
    // Its key is kept for a day.
    assert_eq!(place.run(&["status", "b"]).code, 0);
    assert_eq!(server.post("/v1/prune", r#"{"older":"-1s"}"#).status, 400);
}

#[test]
fn a_server_forgets_what_the_configuration_does_not_keep() {
    let place = Place::with(CONFIG);
    let server = Server::start(&place, &[]);
    place.json(&["submit", "echo", "--id", "a", "--wait"]);
    place.run(&["submit", "fails", "--id", "b", "--wait"]);
    // By default it is kept for days.
    server.stop();
    let server = Server::start(&place, &[]);
    assert_eq!(server.get("/v1/tasks/a").status, 200);
    server.stop();
    let config = format!("{CONFIG}[retention]\nsucceeded = \"1ms\"\n");
    std::fs::write(place.path().join("steadfast.toml"), config).unwrap();
    let server = Server::start(&place, &["--no-worker"]);
    until("it is forgotten", || (server.get("/v1/tasks/a").status == 404).then_some(()));
    assert_eq!(server.get("/v1/tasks/b").status, 200);
}

#[test]
fn a_store_is_made_by_migrating() {
    let place = Place::new();
    let made = place.json(&["migrate"]);
    assert_eq!(made["up_to_date"], true);
    assert_eq!(place.json(&["migrate"])["store"], made["store"]);
    assert_eq!(place.json(&["queues"]), json!([]));
}

#[test]
fn a_diagnosis_says_why_and_what_next() {
    let place = Place::with(CONFIG);
    let both = Both::new(&place);
    place.json(&["submit", "slow", "--id", "a"]);
    for way in both.ways() {
        let diagnosis = place.json(&[&way[..], &["diagnose", "a"]].concat());
        assert_eq!((&diagnosis["id"], &diagnosis["state"]), (&"a".into(), &"ready".into()));
        assert_eq!(diagnosis["finding"], "no_worker");
        assert_eq!(diagnosis["hops"][0]["passed"], true);
        let page = place.run(&[&way[..], &["diagnose", "a"]].concat());
        assert!(page.stdout.starts_with("a  ready\n"), "{page:?}");
    }
    assert_eq!(place.run(&["diagnose", "nobody"]).code, 3);
    assert_eq!(both.server.get("/v1/tasks/nobody/diagnosis").status, 404);
}

/// How long that is its worker knows, and nobody else.
#[test]
fn a_task_has_its_grace_at_its_deadline_also_where_another_process_sweeps() {
    let tidies = "trap 'sleep 3; echo tidied > $STEADFAST_OUTPUT; exit 0' TERM; while :; do sleep 0.1; done";
    let place = Place::with(&format!("[handlers.tidy]\nexec = [\"sh\", \"-c\", \"{tidies}\"]\n"));
    let server = Server::start(&place, &["--no-worker"]);
    let worker = Worker::start(&place, &[]);
    let task = place.json(&["--server", &server.url, "submit", "tidy", "--deadline", "2s"]);
    let ended = server.get(&format!("/v1/tasks/{}?wait=30s", task["id"].as_str().unwrap())).json();
    assert_eq!((&ended["state"], &ended["cause"]), (&"succeeded".into(), &"done".into()), "{ended}");
    worker.stop();
    server.stop();
}
