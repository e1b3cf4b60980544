//! A service that charges orders: how a service embeds Steadfast, and how the simulator finds its bug.
//!
//! The bug is in [`charge_naively`]; [`charge_once`] is right. `tests/orders.rs` shows that the simulator tells them
//! apart. The guide to both is `docs/embedding-the-simulator.md`.

use std::fmt;

use steadfast::{Context, Handler, Handlers, Host, InvalidStoreUrl, Kind, Verdict, Worker};

/// What the service needs of a bank. In production that is a client of the bank's interface, in tests a fake.
pub trait Bank: Clone + Send + Sync + 'static {
    /// Charges so many cents, every time that it is called.
    fn charge(&self, cents: u32) -> impl Future<Output = Result<(), Declined>> + Send;

    /// Charges so many cents, and does nothing for a key that it has seen.
    fn charge_once(&self, key: &str, cents: u32) -> impl Future<Output = Result<(), Declined>> + Send;
}

/// The bank says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declined;

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bank declined the charge")
    }
}

impl std::error::Error for Declined {}

/// Charges an order, whose payload is its price in cents. **Wrong**: a worker that is lost between the charge and the
/// commit that settles the task leaves a task that runs again.
pub fn charge_naively(bank: impl Bank) -> impl Handler {
    move |task: Context| {
        let bank = bank.clone();
        async move {
            let Some(cents) = cents(&task) else { return Verdict::fail("the payload is no number of cents") };
            match bank.charge(cents).await {
                Ok(()) => Verdict::done(*b"charged"),
                Err(declined) => Verdict::error(declined),
            }
        }
    }
}

/// The same, right: every attempt of a task has the task's id, by which the bank knows an order that it has charged.
pub fn charge_once(bank: impl Bank) -> impl Handler {
    move |task: Context| {
        let bank = bank.clone();
        async move {
            let Some(cents) = cents(&task) else { return Verdict::fail("the payload is no number of cents") };
            match bank.charge_once(task.task_id().as_str(), cents).await {
                Ok(()) => Verdict::done(*b"charged"),
                Err(declined) => Verdict::error(declined),
            }
        }
    }
}

fn cents(task: &Context) -> Option<u32> {
    std::str::from_utf8(task.payload()).ok()?.parse().ok()
}

/// All handlers of the service: in production and in tests the same.
///
/// # Panics
/// Never: the kind is a valid name.
pub fn handlers(bank: impl Bank) -> Handlers {
    Handlers::new().with(Kind::new("charge").expect("it is a word"), charge_once(bank))
}

/// Runs the service on a store, such as `sqlite:orders.db`, until the host is closed.
///
/// # Errors
/// The text names no store, or the store can't be opened.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn serve(store: &str, bank: impl Bank) -> Result<(Host, Worker), Box<dyn std::error::Error>> {
    let store = store.parse().map_err(|invalid: InvalidStoreUrl| invalid)?;
    let host = Host::open(&store).await?;
    let worker = host.work(handlers(bank), host.worker_config())?;
    Ok((host, worker))
}
