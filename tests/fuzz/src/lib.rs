//! What is fuzzed: the code that reads bytes from outside, and the simulator, for which bytes are choices.
//!
//! A target is a function of bytes that panics where something doesn't hold. libFuzzer searches for such bytes
//! (`fuzz/`, a workspace of its own); what it found worth keeping is the corpus, `fuzz/corpus/TARGET/`, on which
//! every `cargo test` calls the same functions. Each says of what it reads more than that it doesn't panic.

mod config;
mod http;
mod lines;
mod names;
mod simulation;
mod units;

pub use simulation::{SIMULATED, Simulated, simulate};

/// Something to be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the fuzzer's binary and of the corpus.
    pub name: &'static str,
    /// What the bytes are, in a few words.
    pub about: &'static str,
    /// Panics where something doesn't hold of these bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    simulation::TARGET,
    http::SUBMIT,
    http::BODY,
    http::EVENT_ID,
    config::TARGET,
    units::TARGET,
    names::TARGET,
    lines::TARGET,
];

/// The target of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| panic!("there is no target {name:?}: see `TARGETS`"))
}
