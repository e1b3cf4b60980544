//! Runs that failed are kept in a file, come first the next time, and outlive unrelated edits of the test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use steadfast_core::{Context, Verdict};
use steadfast_sim::embed::{Failure, Regressions, RegressionsError, Settings, TestWorld};
use steadfast_sim::{Check, Failed, Task};

/// What a test looks like, before and after it was edited.
#[derive(Clone, Copy)]
struct Edition {
    order: &'static str,
    /// The effect is made twice where an attempt is lost.
    is_naive: bool,
    /// A mail is sent before, by a worker of its own, and the test picks something.
    has_mail: bool,
}

const FIRST: Edition = Edition { order: "order", is_naive: true, has_mail: false };

fn test(
    edition: Edition,
) -> impl Fn(TestWorld) -> futures_util::future::BoxFuture<'static, Result<(), Failed>> {
    move |world| Box::pin(charge(world, edition))
}

async fn charge(world: TestWorld, edition: Edition) -> Result<(), Failed> {
    let charges = Arc::new(AtomicU32::new(0));
    let charged = charges.clone();
    if edition.has_mail {
        world.workers(1).handle("mail", |_: Context| async { Verdict::done(*b"") });
        let mail = Task::new("mail").payload(&world.pick("which mail", 3));
        world.client().submit(mail).await?;
    }
    world.workers(2).handle("charge", move |task: Context| {
        let charges = charged.clone();
        async move {
            if edition.is_naive || task.fence() == 1 {
                charges.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::done(*b"")
        }
    });
    let order = world.client().submit(Task::new("charge").id(edition.order)).await?;
    world.client().wait(&order.id).await?;
    assert!(charges.load(Ordering::Relaxed) <= 1, "charged twice");
    Ok(())
}

struct File(tempfile::TempDir);

impl File {
    /// With the run in it that the first edition failed in.
    fn kept() -> Self {
        let file = Self(tempfile::tempdir().expect("a folder"));
        let page = file.check().run(test(FIRST)).expect_err("it is naive").to_string();
        assert!(page.contains("Kept in ") && page.contains("STEADFAST_SEED=0x"), "{page}");
        assert_eq!(file.text().lines().count(), 1);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("orders.regressions.jsonl")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).expect("something was kept")
    }

    fn check(&self) -> Check {
        Check::new("orders").regressions(Regressions::In(self.path()))
    }

    /// Whether the kept run is what fails.
    fn fails_again(&self, edition: Edition) {
        let failure = self.check().run(test(edition)).expect_err("it is naive");
        let page = failure.to_string();
        assert!(page.contains("charged twice") && page.contains("It is kept in "), "{page}");
        let last = page.trim_end().lines().last().expect("a page has lines");
        assert_eq!(last.trim(), "cargo test -p steadfast-sim orders");
        let report = failure.page().expect("a run broke it").report();
        assert_eq!(report.unapplied, [], "{page}");
    }
}

#[test]
fn a_kept_run_comes_first_and_outlives_unrelated_edits() {
    let file = File::kept();
    file.fails_again(FIRST);
    file.fails_again(Edition { has_mail: true, ..FIRST });
    assert_eq!(file.text().lines().count(), 1, "it is kept once");
    // Another test's runs are none of its business.
    let other = Check::new("another").seeds(1).regressions(Regressions::In(file.path()));
    let passed =
        other.run(test(Edition { is_naive: false, ..FIRST })).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(passed.stale, []);
}

#[test]
fn a_kept_run_that_no_longer_applies_is_told() {
    let file = File::kept();
    let repaired = Edition { is_naive: false, ..FIRST };
    let passed = file.check().seeds(1).run(test(repaired)).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(passed.stale, [], "it is met, and holds");
    let renamed = Edition { order: "another", ..repaired };
    let passed = file.check().seeds(1).run(test(renamed)).unwrap_or_else(|failure| panic!("{failure}"));
    let stale = passed.stale.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(stale.contains("line 1: the run holds, but 1 of its decisions no longer apply"), "{stale}");
    assert!(stale.contains("faults \"worker: last word\""), "{stale}");
}

#[test]
fn a_run_is_replayed_from_a_file() {
    let file = File::kept();
    let settings = Settings { replay: Some(file.path()), ..Settings::default() };
    let replay = |name, edition| Check::new(name).settings(settings.clone()).run(test(edition));
    let page = replay("orders", FIRST).unwrap_err().to_string();
    let last = page.trim_end().lines().last().unwrap().trim();
    let command = format!("STEADFAST_REPLAY={} cargo test -p steadfast-sim orders", file.path().display());
    assert_eq!(last, command, "{page}");
    let held = replay("orders", Edition { is_naive: false, ..FIRST });
    assert_eq!(held.unwrap_or_else(|failure| panic!("{failure}")).runs, 1);
    // A page that was saved says the same, and so does a file in which another test's run comes first.
    let line = file.text();
    let others = line.replacen("\"scenario\":\"orders\"", "\"scenario\":\"invoices\"", 1);
    assert_ne!(line, others);
    let page = Check::new("orders").run(test(FIRST)).unwrap_err().to_string();
    for text in [page, format!("{others}{line}")] {
        std::fs::write(file.path(), text).unwrap();
        let again = replay("orders", FIRST).unwrap_err().to_string();
        assert!(again.contains("charged twice"), "{again}");
    }
    std::fs::write(file.path(), line).unwrap();
    let error = replay("invoices", FIRST).unwrap_err();
    assert!(matches!(error, Failure::Regressions(RegressionsError::OfAnother { .. })), "{error}");
    assert!(error.to_string().contains("no run of the test \"invoices\""), "{error}");
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let file = File(tempfile::tempdir().unwrap());
    let error = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        file.check().run(test(FIRST)).unwrap_err().to_string()
    };
    let broken = error("# a remark\n\n{}\n");
    assert!(broken.contains("orders.regressions.jsonl, line 3: this isn't a capsule"), "{broken}");
    let settings = Settings { replay: Some(file.0.path().join("gone")), ..Settings::default() };
    let gone = Check::new("orders").settings(settings).run(test(FIRST)).unwrap_err().to_string();
    assert!(gone.contains("gone: ") && gone.contains("give a file"), "{gone}");
    std::fs::write(file.path(), "no run\n").unwrap();
    let settings = Settings { replay: Some(file.path()), ..Settings::default() };
    let empty = Check::new("orders").settings(settings).run(test(FIRST)).unwrap_err().to_string();
    assert!(empty.contains("holds no run: give a failure page"), "{empty}");
}

#[test]
fn the_file_is_beside_the_test() {
    let check = Check::new("orders").regressions(Regressions::BesideTheTest);
    let file = check.regressions_file().expect("cargo says where the package is");
    assert!(file.ends_with("sim/tests/it/kept.regressions.jsonl"), "{}", file.display());
}
