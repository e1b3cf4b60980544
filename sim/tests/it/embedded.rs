//! Checks as a service writes them: what must be found is found, what is right passes, and what was found once is found
//! again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::{Context, State, TaskId, Verdict};
use steadfast_sim::embed::{Failure, Regressions, Settings, TestWorld};
use steadfast_sim::world::Profile;
use steadfast_sim::{Check, Failed, Task, note};

const SECOND: Duration = Duration::from_secs(1);

/// A fake: it counts, and says on the page what was done to it.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<BTreeMap<TaskId, u32>>>);

impl Bank {
    fn charge(&self, task: &TaskId) {
        note(format!("bank charges for {task}"));
        *self.0.lock().unwrap().entry(task.clone()).or_default() += 1;
    }

    fn charge_once(&self, task: &TaskId) {
        note(format!("bank charges once for {task}"));
        self.0.lock().unwrap().insert(task.clone(), 1);
    }

    fn charges(&self, task: &TaskId) -> u32 {
        self.0.lock().unwrap().get(task).copied().unwrap_or_default()
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
