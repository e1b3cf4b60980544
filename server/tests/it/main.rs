//! The command `steadfast` as a user has it: real processes, real stores.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod attempts;
mod place;

mod acts;
mod again;
mod bench;
mod clock_set;
mod crash;
mod events;
mod half_done;
mod health;
mod disk_full;
mod inputs;
mod interrupts;
mod logs;
mod lost;
#[cfg(feature = "sim")]
mod network;
mod pages;
mod postgres;
mod restarts;
mod run;
mod serve;
mod silent;
#[cfg(feature = "sim")]
mod sim;
mod slots;
mod storm;
