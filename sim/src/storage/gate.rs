//! Plans stepped by hand: with a gate, a transaction stops before its begin, each of its statements and its commit, until
//! it is let through. Certification plays the same interleavings on the adapter's own statements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steadfast_core::wake::{Hint, Wake};

/// A gate for every transaction of a store. Clones are one gate.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    actors: Arc<Mutex<BTreeMap<u64, Actor>>>,
    wake: Wake,
}

#[derive(Debug, Clone, Copy, Default)]
struct Actor {
    granted: u32,
    at: Option<&'static str>,
    part: Option<&'static str>,
    abandoned: bool,
}

impl Gate {
    /// Lets a node's transaction through once.
    pub fn grant(&self, node: u64) {
        self.lock().entry(node).or_default().granted += 1;
        self.wake.notify(Hint::CHANGED);
    }

    /// A node's transaction will be rolled back instead of committed.
    pub fn abandon(&self, node: u64) {
        self.lock().entry(node).or_default().abandoned = true;
    }

    /// What a node's transaction would do next, if it stands at the gate.
    pub fn at(&self, node: u64) -> Option<&'static str> {
        self.lock().get(&node).and_then(|actor| actor.at)
    }

    /// The part of its plan that a node's transaction begins with the statement that it stands before. Statements that
    /// begin none belong to the part before them: an adapter's function does in one what the plan does in several, or
    /// the other way round.
    pub fn part(&self, node: u64) -> Option<&'static str> {
        self.lock().get(&node).and_then(|actor| actor.part)
    }

    /// The next statement of a node's transaction begins this part.
    pub(super) fn begin_part(&self, node: u64, part: &'static str) {
        self.lock().entry(node).or_default().part = Some(part);
    }

    pub(super) async fn pass(&self, node: u64, site: &'static str) {
        let mut turns = self.wake.listen();
        self.lock().entry(node).or_default().at = Some(site);
        loop {
            if self.take(node) {
                return;
            }
            turns.wait().await;
        }
    }

    fn take(&self, node: u64) -> bool {
        let mut actors = self.lock();
        let actor = actors.entry(node).or_default();
        if actor.granted == 0 {
            return false;
        }
        actor.granted -= 1;
        actor.at = None;
        actor.part = None;
        true
    }

    pub(super) fn is_abandoned(&self, node: u64) -> bool {
        self.lock().get(&node).is_some_and(|actor| actor.abandoned)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Actor>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
