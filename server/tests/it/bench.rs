//! `bench`: what it answers and what it leaves behind. How fast it is is for people to judge.

use serde_json::Value;

use crate::place::Place;

const FIGURES: [&str; 4] =
    ["submit_single_per_s", "submit_concurrent16_per_s", "submit_bulk_per_s", "process_per_s"];

#[test]
fn every_figure_has_its_name_and_nothing_is_left_behind() {
    let place = Place::new();
    let store = format!("sqlite:{}", place.path().join("named.db").display());
    let report = place.json(&["bench", "--store", &store, "--tasks", "200", "--floor"]);
    for figure in FIGURES {
        assert!(report[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {report}");
    }
    for (of, figure) in [
        ("latency_ms", "p50"),
        ("latency_ms", "p99"),
        ("floor", "submit_per_s"),
        ("floor", "process_per_s"),
        ("ratio", "submit"),
        ("ratio", "process"),
    ] {
        assert!(report[of][figure].as_f64().is_some_and(|figure| figure > 0.0), "{of}.{figure}: {report}");
    }
    assert_eq!(report["synchronous"], "FULL");
    assert!(report["rss_mb"].is_number() || cfg!(not(target_os = "linux")), "{report}");
    let left: Vec<_> = place.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name.to_string_lossy().contains("bench") || name == "named.db"),
        "{left:?}"
    );
}

#[test]
fn what_was_not_measured_is_null() {
    let report = Place::new().json(&["bench", "--tasks", "100", "--mode", "process"]);
    assert!(report["process_per_s"].is_number(), "{report}");
    for figure in ["submit_single_per_s", "submit_bulk_per_s", "latency_ms", "floor", "ratio"] {
        assert_eq!(report[figure], Value::Null, "{figure}: {report}");
    }
}
