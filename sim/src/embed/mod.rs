//! The simulator for services that embed Steadfast: a test of ten lines, with the service's own handlers and fakes, in
//! hundreds of worlds with every fault.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use steadfast_core::{Context, Verdict};
//! use steadfast_sim::{Task, check};
//!
//! check("a_greeting_is_said", |world| async move {
//!     let said = Arc::new(Mutex::new(Vec::new())); // the test's own fake
//!     let ears = said.clone();
//!     world.workers(3).handle("greet", move |task: Context| {
//!         let ears = ears.clone();
//!         async move {
//!             steadfast_sim::note("says hello");
//!             ears.lock().expect("not poisoned").push(task.task_id().clone());
//!             Verdict::done(*b"hello")
//!         }
//!     });
//!     let task = world.client().submit(Task::new("greet").payload(&"world")).await?;
//!     world.client().wait(&task.id).await?;
//!     assert!(said.lock().expect("not poisoned").contains(&task.id));
//!     Ok(())
//! });
//! ```
//!
//! Each run has a world of its own: a client, workers that crash, freeze, are drained and start again, a simulated
//! database on which calls fail, are late, or lose their answers. The closure is called once for each run, so what it
//! makes, such as the fake, is the run's own. What the closure asserts must hold in all of them; so must everything
//! that Steadfast promises.
//!
//! The guide is `docs/embedding-the-simulator.md`.

mod board;
mod check;
mod client;
mod connection;
pub(crate) mod database;
mod failed;
mod here;
mod regressions;
mod settings;
mod stage;
pub(crate) mod trouble;
mod watched;
mod workers;

pub use check::{Check, Failure, Passed, SEEDS};
pub use client::{Client, Task};
pub use connection::{Call, Connection, Deed};
pub use database::{Database, Session, SessionError};
pub use failed::Failed;
pub use here::note;
pub use regressions::{Regressions, RegressionsError, Stale};
pub use settings::{InvalidSetting, Settings};
pub(crate) use stage::TEST;
pub use stage::TestWorld;
pub use workers::{Process, Worker, Workers};

/// Waits for so long, in virtual time: for fakes that take their time. The same as `tokio::time::sleep`, for crates that
/// don't depend on tokio.
///
/// # Panics
/// Outside of a run, and of any tokio runtime.
pub async fn sleep(time: std::time::Duration) {
    tokio::time::sleep(time).await;
}

/// Runs a test in many worlds: on both stores, with all faults, from 100 seeds each, and before these in whatever has
/// failed before. `name` is the name of the test function, which the failure page names.
///
/// The environment says more: `STEADFAST_SEED` one seed, `STEADFAST_SEEDS` how many, `STEADFAST_TIME` for how long,
/// `STEADFAST_PROFILE` on which store, `STEADFAST_REPLAY` a recorded run. [`Check`] is the same for those who want to
/// say it themselves.
///
/// # Panics
/// Something failed: with its page.
#[track_caller]
pub fn check<F, T>(name: &'static str, test: F)
where
    F: Fn(TestWorld) -> T + Send + Sync + 'static,
    T: Future<Output = Result<(), Failed>> + Send + 'static,
{
    Check::from_env(name).passes(test);
}

/// Plays a script, once on each store, in a world where nothing goes wrong but what the script does: for a known race,
/// whose story survives edits where a seed doesn't.
///
/// ```
/// use std::time::Duration;
///
/// use steadfast_core::{Context, State, Verdict};
/// use steadfast_sim::{Task, script};
///
/// script("a_frozen_workers_task_is_rescued", |world| async move {
///     let workers = world.workers(2);
///     workers.handle("steady", |task: Context| async move {
///         tokio::time::sleep(Duration::from_secs(20)).await;
///         Verdict::done(task.fence().to_string().into_bytes())
///     });
///     let (first, second) = (workers.worker(0), workers.worker(1));
///     second.freeze();
///     let task = world.client().submit(Task::new("steady")).await?;
///     first.enters(&task.id).await?;
///     first.freeze();
///     second.thaw();
///     assert_eq!(second.enters(&task.id).await?, 2, "it is rescued");
///     first.thaw();
///     let task = world.client().wait(&task.id).await?;
///     assert_eq!((task.state, task.output.as_deref()), (State::Succeeded, Some(&b"2"[..])));
///     Ok(())
/// });
/// ```
///
/// # Panics
/// Something failed: with its page.
#[track_caller]
pub fn script<F, T>(name: &'static str, script: F)
where
    F: Fn(TestWorld) -> T + Send + Sync + 'static,
    T: Future<Output = Result<(), Failed>> + Send + 'static,
{
    Check::new(name).script().passes(script);
}
