//! The service in the simulator, with a fake of its bank.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orders::{Bank, Declined, charge_naively, handlers};
use steadfast::{Kind, NewTask, State, task_id};
use steadfast_sim::{Check, Failed, Task, TestWorld, check, note, script, sleep};

/// The fake: it counts, and notes on the failure page what was done to it.
#[derive(Clone, Default)]
struct FakeBank {
    books: Arc<Mutex<Books>>,
    /// How long it takes before it charges.
    takes: Duration,
}

#[derive(Default)]
struct Books {
    charges: u32,
    keys: BTreeSet<String>,
}

impl FakeBank {
    fn charges(&self) -> u32 {
        self.books.lock().expect("not poisoned").charges
    }
}

impl Bank for FakeBank {
    async fn charge(&self, cents: u32) -> Result<(), Declined> {
        sleep(self.takes).await;
        note(format!("the bank charges {cents}"));
        self.books.lock().expect("not poisoned").charges += 1;
        Ok(())
    }

    async fn charge_once(&self, key: &str, cents: u32) -> Result<(), Declined> {
        sleep(self.takes).await;
        let mut books = self.books.lock().expect("not poisoned");
        if books.keys.insert(key.into()) {
            note(format!("the bank charges {cents} for {key}"));
            books.charges += 1;
        } else {
            note(format!("the bank has charged for {key}"));
        }
        Ok(())
    }
}

#[test]
fn an_order_is_charged_once() {
    check("an_order_is_charged_once", |world| async move {
        let bank = FakeBank::default();
        world.workers(3).handlers(handlers(bank.clone()));
        let order = world.client().submit(Task::new("charge").payload(&42_u32)).await?;
        world.client().wait(&order.id).await?;
        assert_eq!(bank.charges(), 1);
        Ok(())
    });
}

/// The same with the wrong handler.
async fn an_order_is_charged_naively(world: TestWorld) -> Result<(), Failed> {
    let bank = FakeBank::default();
    world.workers(3).handle("charge", charge_naively(bank.clone()));
    let order = world.client().submit(Task::new("charge").payload(&42_u32)).await?;
    world.client().wait(&order.id).await?;
    assert_eq!(bank.charges(), 1);
    Ok(())
}

/// What the guide shows: the page tells of a worker that is lost between the charge and the commit that settles it.
#[test]
fn the_simulator_finds_the_naive_handler() {
    let failure = Check::new("an_order_is_charged_once").run(an_order_is_charged_naively).unwrap_err();
    let page = failure.to_string();
    println!("{page}");
    assert!(page.starts_with("the test's own assertion is broken"), "{page}");
    assert!(page.contains("left: 2; right: 1 (examples/orders/tests/orders.rs:"), "{page}");
    assert!(page.contains("shrunk    from "), "{page}");
    let story = [
        "What happened:",
        "enters charge-1 fence 1",
        "the bank charges 42",
        "of charge-1 fence 1 says done",
        "crashes",
        "charge-1 running → ready",
        "enters charge-1 fence 2",
        "the bank charges 42",
        "══ the test's own assertion is broken",
    ];
    let mut rest = page.as_str();
    for line in story {
        rest = rest.split_once(line).unwrap_or_else(|| panic!("{line:?} doesn't follow:\n{page}")).1;
    }
    assert!(is_shown_by_the_guide(&page), "the guide shows another page than this:\n{page}");
    let command = rest.trim_end().lines().last().expect("the page ends with a command");
    assert!(command.trim().starts_with("STEADFAST_SEED=0x"), "{command}");
    assert!(command.ends_with("cargo test -p orders an_order_is_charged_once"), "{command}");
}

/// Line by line; an ellipsis of the guide stands for anything.
fn is_shown_by_the_guide(page: &str) -> bool {
    let guide = include_str!("../../../docs/embedding-the-simulator.md");
    let shown = guide.split("```\n").find(|block| block.starts_with("the test's own assertion is broken"));
    let shown: Vec<&str> = shown.into_iter().flat_map(str::lines).collect();
    let lines: Vec<&str> = page.lines().collect();
    shown.len() == lines.len()
        && shown.iter().zip(lines).all(|(shown, line)| is_like(line.trim_end(), shown.trim_end()))
}

fn is_like(line: &str, shown: &str) -> bool {
    let Some((before, after)) = shown.split_once('…') else { return line == shown };
    line.strip_prefix(before).is_some_and(|rest| {
        rest.char_indices().any(|(at, _)| is_like(&rest[at..], after)) || after.is_empty()
    })
}

/// The same race as a script, which says itself what goes wrong.
#[test]
fn a_frozen_worker_cannot_charge_again() {
    script("a_frozen_worker_cannot_charge_again", |world| async move {
        let bank = FakeBank { takes: Duration::from_secs(1), ..FakeBank::default() };
        let workers = world.workers(2);
        workers.handlers(handlers(bank.clone()));
        let (first, second) = (workers.worker(0), workers.worker(1));
        second.freeze();
        let order = world.client().submit(Task::new("charge").payload(&42_u32)).await?;
        first.enters(&order.id).await?;
        first.freeze();
        second.thaw();
        assert_eq!(second.enters(&order.id).await?, 2, "the second worker rescues it");
        let ended = world.client().wait(&order.id).await?;
        first.thaw();
        world.at_rest().await;
        assert_eq!((ended.state, ended.fence, bank.charges()), (State::Succeeded, 2, 1));
        Ok(())
    });
}

/// The handlers are the ones that run in production.
#[tokio::test]
async fn the_service_runs_on_a_real_store() {
    let bank = FakeBank::default();
    let (host, worker) = orders::serve("sqlite::memory:", bank.clone()).await.unwrap();
    let order = NewTask::new(task_id(), Kind::new("charge").unwrap(), *b"42");
    let order = host.submit(order).await.unwrap();
    let ended = host.engine().wait(&order.id, None, Duration::from_secs(30)).await.unwrap().unwrap();
    assert_eq!((ended.state, bank.charges()), (State::Succeeded, 1));
    worker.drain().await.unwrap();
    host.close().await;
}
