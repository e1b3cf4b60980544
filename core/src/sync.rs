//! The locks of the registry and the wake-up cell: the standard library's, or loom's while it checks their models
//! (`--cfg loom`, core/tests/loom.rs).
//!
//! What loom doesn't see: tokio's `watch`, in which an attempt's orders lie. In the models a call of it is one
//! indivisible step, which it is to those who use it: it takes its own lock, runs our closure, which takes none, and
//! wakes after it has let go. What its waiters miss or not is for tokio's own loom tests.

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
