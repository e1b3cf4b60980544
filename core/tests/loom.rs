//! Every interleaving, by loom, of the registry and the wake-up cell: the code that ships, on loom's locks.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p steadfast-core --release --test loom
//! ```
//!
//! A wake-up that is lost, or a lock that is held while somebody waits for it, shows as a deadlock, which loom reports.
//! What it doesn't see is said in `src/sync.rs`.
#![cfg(loom)]

use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::thread;
use steadfast_core::handler::{Orders, StopReason};
use steadfast_core::registry::{Registered, Registry};
use steadfast_core::time::Moment;
use steadfast_core::wake::{Hint, Hints, Wake};
use steadfast_core::{Fence, TaskId};

/// Threads are taken off at most so often at a place where they could go on: what loom's authors advise, where all
/// interleavings are too many. Being switched off while waiting isn't counted.
const PREEMPTIONS_MAX: usize = 3;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

fn task() -> TaskId {
    TaskId::trusted("t")
}

fn register(registry: &Registry, fence: Fence) -> Registered {
    let orders = Orders { stop: None, lease_until: Moment::from_origin(Duration::ZERO) };
    registry.register(task(), fence, orders)
}

fn cancelled() -> StopReason {
    StopReason::Cancelled("enough".into())
}

/// Whether a hint came that nobody has taken.
fn has_hint(hints: &mut Hints) -> bool {
    use futures_util::FutureExt;
    hints.wait().now_or_never().is_some()
}

#[test]
fn a_notified_listener_wakes() {
    check(|| {
        let wake = Wake::new();
        let mut hints = wake.listen();
        let notifier = thread::spawn(move || wake.notify(Hint::READY));
        assert_eq!(block_on(hints.wait()), Hint::READY);
        notifier.join().unwrap();
    });
}

#[test]
fn hints_of_two_notifiers_are_folded_and_none_is_lost() {
    check(|| {
        let wake = Wake::new();
        let mut hints = wake.listen();
        let notifiers = [Hint::READY, Hint::CHANGED].map(|hint| {
            let wake = wake.clone();
            thread::spawn(move || wake.notify(hint))
        });
        let mut seen = Hint::default();
        while seen != Hint::BOTH {
            let hint = block_on(hints.wait());
            seen = Hint { ready: seen.ready | hint.ready, changed: seen.changed | hint.changed };
        }
        for notifier in notifiers {
            notifier.join().unwrap();
        }
        assert!(!has_hint(&mut hints), "each is told once");
    });
}

#[test]
fn one_notification_wakes_every_listener_and_one_that_gives_up_takes_nothing_from_the_others() {
    check(|| {
        let wake = Wake::new();
        let listeners = [wake.listen(), wake.listen()];
        let mut gives_up = wake.listen();
        let threads = listeners.map(|mut hints| thread::spawn(move || block_on(hints.wait())));
        assert!(!has_hint(&mut gives_up));
        drop(gives_up);
        wake.notify(Hint::CHANGED);
        for listener in threads {
            assert_eq!(listener.join().unwrap(), Hint::CHANGED);
        }
    });
}

/// The old attempt lives until it hears that it was replaced, while the new one is registered and begins: nobody waits
/// for anybody else's lock, and the newcomer isn't hit.
#[test]
fn a_newcomer_displaces_the_old_attempt_and_neither_waits_for_the_other() {
    check(|| {
        let registry = Registry::new();
        let old = register(&registry, 1);
        let mut stops = registry.stops();
        let old = thread::spawn(move || {
            while old.orders().stop.is_none() {
                block_on(stops.wait());
            }
            drop(old);
        });
        let new = register(&registry, 2);
        assert!(registry.stop(&task(), 1, &StopReason::LeaseLost));
        assert_eq!(new.orders().stop, None);
        old.join().unwrap();
        assert_eq!(registry.len(), 1);
        drop(new);
        assert!(registry.is_empty());
    });
}

/// Register × finish × cancel: an attempt that the cancel says it has reached was told, and one that it missed wasn't.
#[test]
fn a_cancel_tells_the_truth_about_attempts_that_come_and_go() {
    check(|| {
        let registry = Registry::new();
        let mut stops = registry.stops();
        let ends = register(&registry, 1);
        let finish = thread::spawn(move || {
            let told = ends.orders().stop.is_some();
            drop(ends);
            told
        });
        let cancel = {
            let registry = registry.clone();
            thread::spawn(move || registry.stop(&task(), Fence::MAX, &cancelled()))
        };
        let comes = register(&registry, 2);
        let told_before_its_end = finish.join().unwrap();
        let reached = cancel.join().unwrap();
        let comes_was_told = comes.orders().stop == Some(cancelled());
        assert!(reached || !(comes_was_told || told_before_its_end));
        assert_eq!(has_hint(&mut stops), reached, "the supervisor hears of it exactly then");
        assert_eq!(registry.len(), 1);
        drop(comes);
        assert!(registry.is_empty());
    });
}

/// Register × register × cancel × drain: each attempt is told once, for the first reason; afterwards none is left.
#[test]
fn an_attempt_that_is_cancelled_and_drained_at_once_keeps_its_first_reason() {
    check(|| {
        let registry = Registry::new();
        let mut stops = registry.stops();
        let attempts = [1, 2].map(|fence| {
            let registry = registry.clone();
            thread::spawn(move || {
                let attempt = register(&registry, fence);
                let before = attempt.orders().stop;
                attempt.stop(StopReason::Drained);
                let after = attempt.orders().stop;
                (before, after)
            })
        });
        let reached = registry.stop(&task(), Fence::MAX, &cancelled());
        let mut cancelled_ones = 0;
        for attempt in attempts {
            let (before, after) = attempt.join().unwrap();
            assert!(before.is_none() || before == after, "a reason stays: {before:?}, {after:?}");
            cancelled_ones += u32::from(after == Some(cancelled()));
            assert!(after == Some(cancelled()) || after == Some(StopReason::Drained));
        }
        assert!(reached || cancelled_ones == 0);
        assert!(has_hint(&mut stops));
        assert!(registry.is_empty());
    });
}

/// A lease that is lost while somebody cancels: the loss wins, whichever came first.
#[test]
fn a_lost_lease_overrides_a_cancel_that_comes_at_the_same_time() {
    check(|| {
        let registry = Registry::new();
        let attempt = register(&registry, 1);
        let cancel = {
            let registry = registry.clone();
            thread::spawn(move || registry.stop(&task(), Fence::MAX, &cancelled()))
        };
        attempt.stop(StopReason::LeaseLost);
        assert!(cancel.join().unwrap());
        assert_eq!(attempt.orders().stop, Some(StopReason::LeaseLost));
    });
}
