//! Deliberate faults in the engine's decisions: steps are altered where they enter the store, so that the core that is
//! searched is the one that ships.

use steadfast_core::State;
use steadfast_core::step::{Batch, Change, States, Step, Transition};
use steadfast_core::task::Cause;

use super::flaws::Flaw;
use crate::world::Server;

/// Every state: a guard that guards nothing.
const ANY: States = States::of(&State::ALL);

/// The batches as a flawed engine would have decided them.
pub(super) fn alter(server: &Server, batches: &[Batch]) -> Vec<Batch> {
    let mut batches = batches.to_vec();
    if !server.has_any_flaw() {
        return batches;
    }
    for step in batches.iter_mut().flat_map(|batch| &mut batch.steps) {
        if let Step::Transition(transition) = step {
            alter_transition(server, transition);
        }
    }
    batches
}

fn alter_transition(server: &Server, transition: &mut Transition) {
    let Transition { guard, change, .. } = transition;
    let swallowed = (change.cause == Some(Cause::Error) && server.has(Flaw::ErrorAsSuccess))
        || (change.cause == Some(Cause::Panic) && server.has(Flaw::PanicAsSuccess));
    if swallowed {
        *change = Change {
            cause: Some(Cause::Done),
            output: Some((*b"").into()),
            entered: change.entered,
            ..Change::to(State::Succeeded)
        };
        guard.unless_cancel_requested = false;
    }
    if change.cause == Some(Cause::Error)
        && change.to == State::Scheduled
        && server.has(Flaw::RetryWithoutBackoff)
    {
        (change.to, change.delay) = (State::Ready, std::time::Duration::ZERO);
    }
    if change.request_cancel.is_some() && server.has(Flaw::CancelForgotten) {
        change.request_cancel = None;
    }
    if guard.lease_lapsed && server.has(Flaw::RescueOverwritesEnd) {
        (guard.from, guard.lease_lapsed) = (ANY, false);
    }
    if change.request_cancel.is_some() && server.has(Flaw::CancelOverwritesEnd) {
        *change = Change {
            cause: Some(Cause::Cancelled),
            error: change.request_cancel.take(),
            ..Change::to(State::Cancelled)
        };
        (guard.from, guard.unless_cancel_requested) = (ANY, false);
    }
    if change.cause == Some(Cause::Drained) && server.has(Flaw::DrainForgetsClaimed) {
        *change = Change { entered: change.entered, ..Change::to(State::Running) };
        guard.unless_cancel_requested = false;
    }
    if guard.overdue && guard.fence.is_some() && server.has(Flaw::DeadlineByWorkersClock) {
        guard.overdue = false;
    }
}
