//! The command `steadfast` as a user has it: real processes, real stores.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod place;

mod bench;
mod crash;
mod inputs;
mod pages;
mod run;
mod serve;
#[cfg(feature = "sim")]
mod sim;
