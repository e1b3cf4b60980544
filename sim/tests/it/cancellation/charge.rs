//! A user's handler, lost at each of its await points: one that charges a card each time, and one that can't twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::name::{Kind, TaskId};
use steadfast_core::{Context, Handler, sweeper};
use steadfast_sim::cancel::{Everywhere, Trial, cancel_everywhere, noted};
use steadfast_sim::world::Profile;

use super::bench::{Bench, SECOND, done, task};

/// A fake of what is outside.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<BTreeMap<TaskId, u32>>>);

impl Bank {
    async fn charge(&self, order: &TaskId) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        *self.lock().entry(order.clone()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// With an idempotency key, as banks have it.
    async fn charge_once(&self, order: &TaskId) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.lock().entry(order.clone()).or_insert(1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn charges(&self) -> u32 {
        self.lock().values().sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskId, u32>> {
        self.0.lock().expect("not poisoned")
    }
}

/// How often a card was charged, wherever the worker was lost.
fn charges<H: Handler>(handler: impl Fn(Bank) -> H + Copy + Send + 'static) -> Everywhere<u32> {
    cancel_everywhere(Profile::Postgres, move |trial: Trial| async move {
        let (bench, bank) = (Bench::new(&trial), Bank::default());
        let lost = bench.process("lost");
        let handlers =
            lost.handlers().with(Kind::trusted("charge"), trial.handler(&lost.node, handler(bank.clone())));
        let (supervisor, _drain) = lost.supervisor(handlers);
        lost.node.spawn("supervisor", supervisor.run());
        bench.submit(task("order", "charge")).await;
        tokio::time::sleep(SECOND).await;
        let next = bench.process("next");
        let (supervisor, _drain) = next.supervisor(
            next.handlers().with(Kind::trusted("charge"), noted(&next.node, handler(bank.clone()))),
        );
        next.node.spawn("supervisor", supervisor.run());
        next.node.spawn("sweeper", sweeper::run(next.engine.clone(), SECOND));
        bench.rest().await;
        bank.charges()
    })
}

#[test]
fn a_charge_without_a_key_is_made_twice_where_the_worker_is_lost_behind_it() {
    let everywhere = charges(|bank: Bank| {
        move |context: Context| {
            let bank = bank.clone();
            async move {
                bank.charge(context.task_id()).await;
                done(&context)
            }
        }
    });
    everywhere.assert_holds();
    let outcomes: Vec<u32> = everywhere.outcomes().into_keys().collect();
    assert_eq!(outcomes, [1, 2], "dropped before the charge it is made once, behind it twice");
}

#[test]
fn a_charge_with_a_key_is_made_once_wherever_the_worker_is_lost() {
    let everywhere = charges(|bank: Bank| {
        move |context: Context| {
            let bank = bank.clone();
            async move {
                bank.charge_once(context.task_id()).await;
                done(&context)
            }
        }
    });
    everywhere.assert_holds();
    assert_eq!(everywhere.points, 2);
    assert_eq!(everywhere.outcomes().into_keys().collect::<Vec<_>>(), [1]);
}
