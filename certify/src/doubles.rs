//! Serial step programs on the doubles of the adapters, with no I/O.

use std::time::Duration;

use steadfast_core::time::ManualClock;
use steadfast_sim::choices::Choices;
use steadfast_sim::scheduler::{Bounds, Scheduler};
use steadfast_sim::world::{Kind, Profile, World};
use steadfast_sqlite::{Options, SqliteStorage};

use super::serial::{self, Played, START, Style};

/// Draws a program on SQLite in memory, in each style in turn.
///
/// # Panics
/// If SQLite can't be opened in memory.
pub async fn drawn(seed: u64) -> (Style, Played) {
    let style = [Style::Plain, Style::Merged, Style::Rich][(seed % 3) as usize];
    let clock = ManualClock::at(START);
    let options = Options { clock: Some(clock.clone()), ..Options::in_memory() };
    let store = SqliteStorage::open(options).expect("the store opens");
    (style, serial::draw(seed, style, &store, &clock).await)
}

/// Plays the same calls on the double of a store.
///
/// # Panics
/// If the double does.
#[must_use]
pub fn on_double(program: &Played, profile: Profile) -> Played {
    let choices = Choices::from_seed(1);
    let scheduler = Scheduler::new(choices.clone(), 0);
    let clock = ManualClock::at(START);
    let kind = Kind { clock: Some(clock.clone()), ..Kind::of(profile) };
    let store = World::on(scheduler.clone(), choices, kind).start("client", 100).storage();
    let program = program.clone();
    let bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(3_600) };
    let replay = async move { serial::replay(&program, &store, &clock).await };
    // The scheduler brings a runtime of its own.
    let run = || scheduler.run(bounds, replay).expect("nothing waits for ever");
    std::thread::scope(|scope| scope.spawn(run).join().expect("the plan doesn't panic"))
}
