//! Checks as a service writes them: what must be found is found, what is right passes, and what was found once is found
//! again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::{Context, State, TaskId, Verdict};
use steadfast_sim::embed::{Failure, Settings, TestWorld};
use steadfast_sim::world::Profile;
use steadfast_sim::{Check, Failed, Task, note};

const SECOND: Duration = Duration::from_secs(1);

/// A fake: it counts, and says on the page what was done to it.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<BTreeMap<TaskId, u32>>>);

impl Bank {
    fn charge(&self, task: &TaskId) {
        note(format!("bank charges for {task}"));
        *self.0.lock().expect("not poisoned").entry(task.clone()).or_default() += 1;
    }

    fn charge_once(&self, task: &TaskId) {
        note(format!("bank charges once for {task}"));
        self.0.lock().expect("not poisoned").insert(task.clone(), 1);
    }

    fn charges(&self, task: &TaskId) -> u32 {
        self.0.lock().expect("not poisoned").get(task).copied().unwrap_or_default()
    }
}

async fn charge_naively(world: TestWorld) -> Result<(), Failed> {
    let bank = Bank::default();
    let charged = bank.clone();
    world.workers(3).handle("charge", move |task: Context| {
        let bank = charged.clone();
        async move {
            bank.charge(task.task_id());
            Verdict::done(*b"")
        }
    });
    let order = world.client().submit(Task::new("charge").payload(&42_u32)).await?;
    world.client().wait(&order.id).await?;
    assert_eq!(bank.charges(&order.id), 1);
    Ok(())
}

async fn charge_once(world: TestWorld) -> Result<(), Failed> {
    let bank = Bank::default();
    let charged = bank.clone();
    world.workers(3).handle("charge", move |task: Context| {
        let bank = charged.clone();
        async move {
            bank.charge_once(task.task_id());
            Verdict::done(*b"")
        }
    });
    let order = world.client().submit(Task::new("charge").payload(&42_u32)).await?;
    let ended = world.client().wait(&order.id).await?;
    assert_eq!((ended.state, bank.charges(&order.id)), (State::Succeeded, 1));
    Ok(())
}

#[test]
fn an_effect_that_is_made_twice_is_found_on_both_stores() {
    for profile in Profile::ALL {
        let failure = Check::new("naive").profiles([profile]).run(charge_naively).unwrap_err();
        let page = failure.to_string();
        eprintln!("{page}");
        assert!(page.starts_with("the test's own assertion is broken"), "{page}");
        assert!(page.contains("left: 2; right: 1 (sim/tests/it/embedded.rs:"), "{page}");
        assert!(failure.page().expect("a run broke it").report().decisions.len() <= 2, "{page}");
    }
}

#[test]
fn an_effect_that_is_made_once_passes() {
    let passed = Check::new("once").run(charge_once).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(passed.runs > 200, "{passed:?}");
}

/// Any kind, done at once.
async fn done(_: Context) -> Verdict {
    Verdict::done(*b"")
}

fn few(name: &'static str) -> Check {
    Check::new(name).seeds(3)
}

#[test]
fn an_assertion_in_a_fake_fails_the_test_unless_handlers_may_panic() {
    let test = |world: TestWorld| async move {
        world.workers(1).handle("broken", |_: Context| async { panic!("the fake\nis asked twice") });
        let task = world.client().submit(Task::new("broken").with(|task| task.attempts_max = 1)).await?;
        assert_eq!(world.client().wait(&task.id).await?.state, State::Failed);
        Ok(())
    };
    let page = few("panics").run(test).unwrap_err().to_string();
    assert!(
        page.contains("the handler of broken-1 panics: the fake; is asked twice (sim/tests/it/embedded.rs:"),
        "{page}"
    );
    few("panics").handlers_may_panic().run(test).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn an_error_of_the_test_is_told() {
    let test = |world: TestWorld| async move {
        world.client().wait(TaskId::trusted("nobody")).await?;
        Ok(())
    };
    let page = few("error").run(test).unwrap_err().to_string();
    assert!(page.contains("there is no task nobody: use the id that `submit` answered with"), "{page}");
    let page = few("refused")
        .run(|world| async move {
            let client = world.client();
            client.submit(Task::new("a").id("one").payload(&1)).await?;
            client.submit(Task::new("a").id("one").payload(&2)).await?;
            Ok(())
        })
        .unwrap_err()
        .to_string();
    assert!(page.contains("one was refused"), "{page}");
}

#[test]
fn a_test_that_waits_for_ever_is_stuck_and_says_for_what() {
    let test = |world: TestWorld| async move {
        let task = world.client().submit(Task::new("nobody-runs-this")).await?;
        world.client().wait(&task.id).await?;
        Ok(())
    };
    let page = few("stuck").profiles([Profile::Sqlite]).run(test).unwrap_err().to_string();
    assert!(page.starts_with("P1 is broken: an accepted task ends"), "{page}");
    assert!(
        page.contains("main waits for a task to end") && page.contains("nobody-runs-this-1 is ready"),
        "{page}"
    );
}

#[test]
fn a_handler_that_is_no_function_of_the_seed_is_caught() {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let test = |world: TestWorld| async move {
        world.workers(1).handle("leak", |_: Context| async {
            tokio::time::sleep(SECOND * u32::try_from(CALLS.fetch_add(1, Ordering::Relaxed)).unwrap()).await;
            Verdict::done(*b"")
        });
        let task = world.client().submit(Task::new("leak")).await?;
        world.client().wait(&task.id).await?;
        Ok(())
    };
    let failure = few("leak").run(test).unwrap_err();
    assert!(matches!(failure, Failure::Parted { .. }), "{failure}");
    let told = failure.to_string();
    assert!(told.contains("two runs of seed 0 of leak on postgres part at event"), "{told}");
    assert!(told.contains("STEADFAST_SEED=0x0 STEADFAST_PROFILE=postgres cargo test"), "{told}");
}

#[test]
fn a_test_that_fails_now_and_then_is_told_to_be_no_function_of_the_seed() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let test = |world: TestWorld| async move {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        world.workers(1).handle("quick", done);
        world.client().submit(Task::new("quick")).await?;
        // One without faults, the first seed twice, then the others.
        assert_ne!(run, 4, "it fails now and then");
        Ok(())
    };
    let check = few("now_and_then").profiles([Profile::Postgres]);
    let failure = check.run(test).unwrap_err();
    assert!(matches!(failure, Failure::Parted { .. }), "{failure}");
    assert!(failure.to_string().contains("it fails now and then"), "{failure}");
}

#[test]
fn a_panic_outside_of_every_handler_has_a_page() {
    struct Careless;
    impl Drop for Careless {
        fn drop(&mut self) {
            panic!("dropped carelessly");
        }
    }
    let test = |world: TestWorld| async move {
        world.world().start("careless", 100).spawn("drops", async { drop(Careless) });
        world.at_rest().await;
        Ok(())
    };
    let failure = few("careless").run(test).unwrap_err();
    let page = failure.page().unwrap_or_else(|| panic!("{failure}")).to_string();
    assert!(page.contains("panic is broken") && page.contains("dropped carelessly (sim/tests"), "{page}");
}

#[test]
fn ids_that_were_made_at_random_are_replaced() {
    let test = |world: TestWorld| async move {
        world.workers(1).handle("a", done).handle("b", done);
        let submit = |id: &str| {
            let task = steadfast_core::NewTask::new(TaskId::trusted(id), "a".parse().unwrap(), *b"");
            let client = world.client();
            async move { Ok::<_, Failed>(client.submit(task).await?.id.to_string()) }
        };
        assert_eq!(submit("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b").await?, "a-1");
        assert_eq!(submit("order-0190a1b2").await?, "order-0190a1b2");
        assert_eq!(world.client().submit(Task::new("b")).await?.id.as_str(), "b-1");
        assert_eq!(world.client().submit(Task::new("a")).await?.id.as_str(), "a-2");
        Ok(())
    };
    few("ids").run(test).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Who stood still overwrites what was written after its time: after the task's end, so it takes a rest to see it.
#[test]
fn a_zombies_effect_is_found_at_rest() {
    let test = |world: TestWorld| async move {
        let written = Arc::new(AtomicU64::new(0));
        let file = written.clone();
        world.workers(2).handle("write", move |task: Context| {
            let file = file.clone();
            async move {
                tokio::time::sleep(SECOND).await;
                note(format!("writes {}", task.fence()));
                file.store(task.fence(), Ordering::Relaxed);
                Verdict::done(*b"")
            }
        });
        let task = world.client().submit(Task::new("write")).await?;
        let ended = world.client().wait(&task.id).await?;
        world.at_rest().await;
        assert_eq!(written.load(Ordering::Relaxed), ended.fence, "overwritten by a zombie");
        Ok(())
    };
    let page = Check::new("zombie").run(test).unwrap_err().to_string();
    let story = ["freezes", "succeeded", "thaws", "note      writes", "══"];
    let (says, tells) = page.split_once("What happened").expect("a page tells the story");
    assert!(says.contains("overwritten by a zombie; left: "), "{page}");
    let places = story.map(|word| tells.rfind(word).unwrap_or_else(|| panic!("no {word}: {page}")));
    assert!(places.is_sorted(), "{page}");
}

#[test]
fn a_seed_is_asked_for_and_gives_the_same_page() {
    let first = Check::new("naive").run(charge_naively).unwrap_err();
    let report = first.page().expect("a run broke it").report();
    let command =
        first.to_string().lines().rfind(|line| line.contains("cargo test")).unwrap().trim().to_owned();
    let seed = report.seed.expect("the run without faults holds");
    let profile = report.setup.profile;
    let package = "cargo test -p steadfast-sim naive";
    assert_eq!(command, format!("STEADFAST_SEED={seed:#x} STEADFAST_PROFILE={} {package}", profile.as_str()));
    let settings = Settings { seed: Some(seed), profile: Some(profile), ..Settings::default() };
    let again = Check::new("naive").settings(settings).run(charge_naively).unwrap_err();
    assert_eq!(again.to_string(), first.to_string());
}

#[test]
fn time_is_a_budget() {
    let settings = Settings { time: Some(Duration::from_millis(200)), ..Settings::default() };
    let passed =
        few("time").settings(settings).run(charge_once).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(passed.runs > 2, "{passed:?}");
}
