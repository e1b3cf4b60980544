//! `check` obeys the environment, and keeps what fails beside the test: seen from outside, in a process of its own.

use std::process::Command;

use steadfast_core::{Context, Verdict};
use steadfast_sim::{Task, check};

/// Fails where the seed makes it; the runs without faults hold. Only the tests below ask for it.
const BAD: &str = "STEADFAST_TESTS_A_BAD_SERVICE";

#[test]
fn a_service() {
    let is_bad = std::env::var_os(BAD).is_some();
    check("environment::a_service", move |world| async move {
        world.workers(1).handle("work", |_: Context| async { Verdict::done(*b"") });
        let task = world.client().submit(Task::new("work")).await?;
        let ended = world.client().wait(&task.id).await?;
        assert!(!is_bad || ended.fence == 1, "it ran twice");
        Ok(())
    });
}

/// What the test above says with these variables, and whether it passes.
fn run(variables: &[(&str, &str)]) -> (bool, String) {
    let mut test = Command::new(std::env::current_exe().expect("this is one"));
    test.args(["--exact", "environment::a_service", "--nocapture", "--test-threads=1"]);
    for name in ["SEED", "SEEDS", "TIME", "PROFILE", "REPLAY"] {
        test.env_remove(format!("STEADFAST_{name}"));
    }
    let output = test.envs(variables.iter().copied()).output().expect("it starts");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    (output.status.success(), said.concat())
}

#[test]
fn a_variable_that_makes_no_sense_is_told() {
    let (passes, said) = run(&[("STEADFAST_SEED", "five")]);
    assert!(
        !passes && said.contains("STEADFAST_SEED=\"five\" makes no sense: it must be one seed"),
        "{said}"
    );
    let (passes, said) = run(&[("STEADFAST_SEED", "0x5eed"), ("STEADFAST_PROFILE", "sqlite")]);
    assert!(passes, "{said}");
}

#[test]
fn what_fails_is_kept_beside_the_test_and_comes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    // The package is where the source is found: here it is a copy's.
    let source = folder.path().join("tests/it/environment.rs");
    std::fs::create_dir_all(source.parent().expect("it has one")).expect("the folder is ours");
    std::fs::write(&source, "").expect("the folder is ours");
    let package = folder.path().to_str().expect("a plain path");
    let bad = [("CARGO_MANIFEST_DIR", package), (BAD, "1")];
    let (passes, first) = run(&bad);
    assert!(!passes && first.contains("it ran twice"), "{first}");
    let kept = source.with_extension("regressions.jsonl");
    assert!(first.contains(&format!("Kept in {}", kept.display())), "{first}");
    let (passes, again) = run(&bad);
    assert!(!passes && again.contains(&format!("It is kept in {}, line 1.", kept.display())), "{again}");
    // A seed of one's own doesn't look there.
    let (passes, said) = run(&[("CARGO_MANIFEST_DIR", package), ("STEADFAST_SEED", "1")]);
    assert!(passes && !said.contains("is kept in"), "{said}");
}
