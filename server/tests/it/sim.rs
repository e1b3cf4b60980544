//! `sim`: the same run in every process, what is found and replayed, and what an interrupted sweep still says.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
        &["sim", "sweep", "--flaw", "unfenced-transition", "--seeds", "100", "--jobs", "1", "--json"],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = lines(&output.stdout);
    let first = &found[0];
    assert_eq!(first["property"], "P4");
    assert!(first["shrunk"].as_u64() < first["decisions"].as_u64(), "{first}");
    let capsule = place.path().join("capsule.json");
    std::fs::write(&capsule, first["capsule"].to_string()).unwrap();
    let replayed = run(&place, &["sim", "replay", "capsule.json"]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let page = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(page.starts_with("P4 is broken"), "{page}");
    assert!(page.contains(first["capsule"]["hash"].as_str().unwrap()), "{page}");
    let gone = run(&place, &["sim", "replay", "gone.json"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
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
    assert!(first.contains("P4"), "{first}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
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
