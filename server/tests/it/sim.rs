//! `sim`: the same run in every process, what is found and replayed, and what an interrupted sweep still says.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;

use crate::place::Place;

fn run(place: &Place, args: &[&str]) -> Output {
    place.command(args).output().unwrap()
}

fn lines(output: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_seed_is_the_same_run_in_every_process() {
    let place = Place::new();
    for profile in ["postgres", "sqlite"] {
        let args = ["sim", "run", "--seed", "0x5eed", "--profile", profile, "--json"];
        let (first, second) = (run(&place, &args), run(&place, &args));
        assert_eq!(first.status.code(), Some(0), "{first:?}");
        assert_eq!(first.stdout, second.stdout);
        let report = &lines(&first.stdout)[0];
        assert_eq!((&report["seed"], &report["profile"]), (&Value::from(0x5eed), &Value::from(profile)));
        assert_eq!(report["violations"], Value::Array(Vec::new()));
        assert!(report["steps"].as_u64() > Some(100) && report["virtual_s"].as_f64() > Some(1.0), "{report}");
    }
}

#[test]
fn a_sweep_counts_what_it_saw() {
    let place = Place::new();
    let sweep = |jobs: &str| {
        let output =
            run(&place, &["sim", "sweep", "--profile", "all", "--seeds", "20", "--jobs", jobs, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        lines(&output.stdout).pop().unwrap()
    };
    let (one, two) = (sweep("1"), sweep("2"));
    assert_eq!((&one["seeds"], &one["runs"], &one["violations"]), (&20.into(), &40.into(), &0.into()));
    assert!(one["sometimes"]["a worker crashed while it ran a task"].as_u64() > Some(0), "{one}");
    for same in ["hash", "steps", "sometimes"] {
        assert_eq!(one[same], two[same], "{same} differs between one thread and two");
    }
}

#[test]
fn what_a_sweep_finds_replays_from_its_capsule() {
    let place = Place::new();
    let output = run(
        &place,
        &[
            "sim",
            "sweep",
            "--flaw",
            "unfenced-transition",
            "--seeds",
            "100",
            "--jobs",
            "1",
            "--json",
            "--keep",
            "kept",
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = lines(&output.stdout);
    let first = &found[0];
    assert_eq!(first["property"], "P4");
    let kept = format!("kept/workers-postgres-P4-{}", first["seed"]);
    let read = |ending: &str| std::fs::read_to_string(place.path().join(format!("{kept}.{ending}"))).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("json")).unwrap(), first["capsule"]);
    assert!(read("txt").starts_with("P4 is broken"), "{}", read("txt"));
    assert!(first["shrunk"].as_u64() < first["decisions"].as_u64(), "{first}");
    let replayed = run(&place, &["sim", "replay", &format!("{kept}.json")]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let page = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(page.starts_with("P4 is broken"), "{page}");
    assert!(page.contains(first["capsule"]["hash"].as_str().unwrap()), "{page}");
    let gone = run(&place, &["sim", "replay", "gone.json"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[test]
fn the_command_on_the_page_of_a_specimen_runs_it_again() {
    let place = Place::new();
    let page = run(&place, &["sim", "specimens", "await-under-lock"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    let command = page.lines().find_map(|line| line.trim().strip_prefix("steadfast ")).expect("a command");
    let again = run(&place, &command.split(' ').collect::<Vec<_>>());
    assert_eq!(again.status.code(), Some(1), "{command}: {again:?}");
}

#[test]
fn seeds_that_there_are_not_are_refused_and_an_end_that_is_far_is_none() {
    let place = Place::new();
    let nowhere = run(&place, &["sim", "sweep", "--start", "0xffffffffffffffff", "--seeds", "1"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    let unkept = run(&place, &["sim", "sweep", "--seeds", "1", "--keep", "/dev/null/kept"]);
    assert_eq!(unkept.status.code(), Some(1), "{unkept:?}");
    assert_eq!(String::from_utf8_lossy(&unkept.stdout), "", "it isn't begun");
    let all = u64::MAX.to_string();
    let args = ["sim", "sweep", "--scenario", "plain", "--profile", "all", "--seeds", &all, "--time", "10ms"];
    let swept = run(&place, &[&args[..], &["--json"]].concat());
    let summary = lines(&swept.stdout).pop().unwrap();
    assert_eq!(summary["runs"].as_u64(), summary["seeds"].as_u64().map(|seeds| seeds * 2), "{summary}");
    let of = |rate: &str| summary[rate].as_f64().unwrap();
    assert!((of("runs_per_s") / of("seeds_per_s") - 2.0).abs() < 0.01, "{summary}");
}

#[test]
fn an_exhaustive_search_says_how_much_it_has_seen() {
    let place = Place::new();
    let search =
        ["sim", "run", "--scenario", "incident-3-no-dispatcher", "--strategy", "exhaustive", "--departures"];
    let all = run(&place, &[&search[..], &["0"]].concat());
    let told = String::from_utf8_lossy(&all.stdout).into_owned();
    assert!(told.contains("holds in all 1 runs with at most 0 departures"), "{told}");
    let sweep = ["sim", "sweep", "--strategy", "exhaustive", "--seeds", "1", "--time", "2s", "--json"];
    let swept = run(
        &place,
        &[&sweep[..], &["--scenario", "incident-3-no-dispatcher", "--profile", "sqlite"]].concat(),
    );
    let summary = lines(&swept.stdout).pop().unwrap();
    assert_eq!((swept.status.code(), &summary["seeds"]), (Some(0), &1.into()), "{summary}");
    assert!(summary["runs"].as_u64() >= Some(1), "{summary}");
}

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    let output = run(&Place::new(), &["sim", "run", "--scenario", "gone"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("gone") && error.contains("workers"), "{error}");
}

#[test]
fn an_interrupted_sweep_says_what_it_found_so_far() {
    let place = Place::new();
    let args =
        ["sim", "sweep", "--flaw", "unfenced-transition", "--seeds", "100000000", "--no-shrink", "--json"];
    let mut child = place.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // Of two threads either may be the first to find one, of P4 or of what comes of it.
    assert!(first.contains(r#""property":"P"#), "{first}");
    let summary: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!(summary["interrupted"], true);
    assert!(summary["violations"].as_u64() > Some(0), "{summary}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_bench_names_its_figures() {
    let report = Place::new().json(&["sim", "bench", "--time", "50ms"]);
    for figure in ["seeds_per_s", "steps_per_s", "virtual_over_wall", "hash_overhead"] {
        assert!(report[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {report}");
    }
}

#[test]
fn the_simulated_stores_are_certified_without_a_postgres_and_with_one() {
    let place = Place::new();
    let args = ["sim", "certify", "--programs", "6", "--seed", "100"];
    let alone = place.json(&args);
    for figure in ["programs", "steps"] {
        assert!(alone[figure].as_u64() > Some(50), "{figure}: {alone}");
    }
    assert!(alone["blocked_steps"].as_u64() > Some(10), "{alone}");
    assert_eq!(alone["divergences"], 0, "{alone}");
    assert_eq!(alone["stores"], serde_json::json!(["sqlite", "postgres (recorded answers)"]));
    let told = run(&place, &args);
    assert!(String::from_utf8_lossy(&told.stdout).contains("no PostgreSQL was asked"), "{told:?}");
    let test = "the_simulated_stores_are_certified_without_a_postgres_and_with_one";
    let Some(server) = PostgresServer::shared(test) else { return };
    let url = server.create_database("certify").unwrap();
    let output = run(&place, &[&args[..], &["--store", &url, "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let both = &lines(&output.stdout)[0];
    assert_eq!((&both["divergences"], &both["stores"][1]), (&0.into(), &"postgres".into()), "{both}");
    assert!(both["programs"].as_u64() > alone["programs"].as_u64(), "{both}");
    // What was made for it is gone.
    let mut session = PostgresSession::connect(server, "certify").unwrap();
    let left = session
        .query("select nspname from pg_namespace where nspname like 'steadfast_certify%' union select datname from pg_database where datname like 'steadfast_certify%'")
        .unwrap();
    assert_eq!((left.message, left.rows), (None, Vec::new()));
    let nowhere = run(&place, &[&args[..], &["--store", "postgres://nobody@127.0.0.1:1/nothing"]].concat());
    assert_eq!(nowhere.status.code(), Some(5), "{nowhere:?}");
}

#[test]
fn every_specimen_is_named_with_its_property() {
    let output = run(&Place::new(), &["sim", "specimens", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all = lines(&output.stdout);
    let named = |name: &str| all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(named("await-under-lock")["source"], "incident 2");
    assert_eq!(named("unfenced-transition")["source"], "flaw");
    assert_eq!(named("unfenced-transition")["property"], "P4");
    assert!(all.iter().all(|one| one["property"].as_str().is_some_and(|property| property.starts_with('P'))));
}

#[test]
fn a_specimen_is_found_and_its_page_replays() {
    let place = Place::new();
    for name in ["stale-status", "unfenced-transition"] {
        let shown = run(&place, &["sim", "specimens", name]);
        assert_eq!(shown.status.code(), Some(0), "{shown:?}");
        let page = String::from_utf8_lossy(&shown.stdout).into_owned();
        let found = place.json(&["sim", "specimens", name]);
        assert!(page.starts_with(&format!("{} is broken", found["property"].as_str().unwrap())), "{page}");
        assert!(found["shrunk"].as_u64() < found["decisions"].as_u64(), "{found}");
        std::fs::write(place.path().join("capsule.json"), found["capsule"].to_string()).unwrap();
        let replayed = run(&place, &["sim", "replay", "capsule.json"]);
        assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
        assert!(page.contains(found["capsule"]["hash"].as_str().unwrap()), "{page}");
    }
}

#[test]
fn a_specimen_that_goes_unfound_is_a_failure() {
    let place = Place::new();
    // In no seed alone; the first that breaks it comes later.
    let args = ["--seeds-max", "1", "--repeat", "1", "--json"];
    let name = "limit-counted-before-lock";
    let table = run(&place, &[&["sim", "table", "--specimen", name], &args[..]].concat());
    assert_eq!(table.status.code(), Some(1), "{table:?}");
    let random = &lines(&table.stdout)[0];
    assert_eq!((&random["found"], &random["seeds_median"]), (&0.into(), &Value::Null));
    let shown = run(&place, &["sim", "specimens", name, "--seeds-max", "1"]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stderr).contains("goes unfound"), "{shown:?}");
    let gone = run(&place, &["sim", "specimens", "gone"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[test]
fn the_table_has_a_line_for_each_specimen_and_strategy() {
    let args = ["sim", "table", "--specimen", "stale-status", "--specimen", "unfenced-transition"];
    let output =
        run(&Place::new(), &[&args[..], &["--repeat", "3", "--seeds-max", "1000", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = lines(&output.stdout);
    let keys: Vec<_> = table.iter().map(|line| (&line["specimen"], &line["strategy"])).collect();
    let (status, fence): (Value, Value) = ("stale-status".into(), "unfenced-transition".into());
    let (random, pct): (Value, Value) = ("random".into(), "pct".into());
    assert_eq!(keys, [(&status, &random), (&status, &pct), (&fence, &random), (&fence, &pct)]);
    for line in &table {
        assert_eq!(line["found"], 3, "{line}");
        for figure in ["seeds_median", "wall_s_median", "virtual_s_median", "decisions_median"] {
            assert!(line[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {line}");
        }
    }
}

/// Reporting itself: what fails on purpose is told by page, exit code and capsule.
#[test]
fn the_canary_is_reported() {
    let place = Place::new();
    let shown = run(&place, &["sim", "sweep", "--scenario", "canary", "--profile", "all", "--seeds", "20"]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let page = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(page.starts_with("P15 is broken: an acknowledged cancel is kept"), "{page}");
    let capsule =
        page.lines().find(|line| line.starts_with("{\"format\"")).expect("a page ends with its capsule");
    std::fs::write(place.path().join("capsule.json"), capsule).unwrap();
    let replayed = run(&place, &["sim", "replay", "capsule.json"]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let again = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(again.starts_with("P15 is broken") && again.contains(capsule), "{again}");
    let all = run(&place, &["sim", "sweep", "--scenario", "all", "--seeds", "5", "--json"]);
    assert_eq!(all.status.code(), Some(0), "who runs all isn't given the canary: {all:?}");
}

#[test]
fn the_table_is_shown_again_from_what_it_wrote() {
    let place = Place::new();
    let args = ["sim", "table", "--specimen", "stale-status", "--repeat", "1", "--seeds-max", "100"];
    let json = run(&place, &[&args[..], &["--json"]].concat());
    std::fs::write(place.path().join("table.jsonl"), &json.stdout).unwrap();
    let shown = run(&place, &["sim", "table", "--from", "table.jsonl", "--markdown"]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("| specimen |") && lines[1].starts_with("| --- |"), "{table}");
    assert!(lines[2].starts_with("| stale-status | random | P7 | 1/1 |"), "{table}");
    let again = run(&place, &["sim", "table", "--from", "table.jsonl", "--json"]);
    assert_eq!(again.stdout, json.stdout);
    std::fs::write(place.path().join("table.jsonl"), "{}").unwrap();
    let broken = run(&place, &["sim", "table", "--from", "table.jsonl"]);
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    assert!(String::from_utf8_lossy(&broken.stderr).contains("line 1"), "{broken:?}");
}
