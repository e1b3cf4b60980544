//! Who waits for whom, who may go on, and whether a wait closes a circle.
//!
//! Waiters for one row version are served first come first served, as far as their locks conflict. A newcomer
//! whose lock doesn't conflict with the holders' passes them by; and when a change of the row is committed, all
//! its waiters race for the new version. Both are as in PostgreSQL.

use super::super::row::Row;
use super::{Db, Session, SessionId, Wait};

impl<R: Row> Db<R> {
    /// Whom a waiting session waits for: those that hold what it needs, and those before it in the queue.
    #[must_use]
    pub fn blockers(&self, id: SessionId) -> Vec<SessionId> {
        let (Some(place), Some(wait)) = (self.place(id), self.wait(id)) else { return Vec::new() };
        let holds = |session: &Session<R>| session.xid().is_some_and(|xid| wait.xids.contains(&xid));
        let mut blockers: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| holds(session)).map(|(holder, _)| *holder).collect();
        blockers.extend(self.ahead(place));
        blockers.sort_unstable();
        blockers.dedup();
        blockers
    }

    /// Whoever goes on waiting for the same version keeps its place; another wait starts at the end of the queue.
    pub(super) fn wait_for(&mut self, id: SessionId, wait: Wait<R>) {
        let in_flight = self.session_mut(id).statement.as_mut().expect("only an open statement waits");
        let version = |wait: &Wait<R>| wait.place.as_ref().map(|place| place.version);
        let same = in_flight.wait.as_ref().is_some_and(|before| version(before) == version(&wait));
        in_flight.wait = Some(wait);
        if !same {
            self.queue.retain(|waiting| *waiting != id);
            self.queue.push(id);
        }
    }

    pub(super) fn place(&self, id: SessionId) -> Option<usize> {
        self.queue.iter().position(|waiting| *waiting == id)
    }

    fn wait(&self, id: SessionId) -> Option<&Wait<R>> {
        self.session(id).statement.as_ref()?.wait.as_ref()
    }

    pub(super) fn may_go_on(&self, place: usize) -> bool {
        let Some(wait) = self.wait(self.queue[place]) else { return true };
        wait.xids.iter().any(|xid| !self.store.is_active(*xid)) && self.ahead(place).next().is_none()
    }

    /// Those who wait for the same version, came before, and want a lock that conflicts.
    fn ahead(&self, place: usize) -> impl Iterator<Item = SessionId> {
        let queued = |id: SessionId| self.wait(id).and_then(|wait| wait.place.as_ref());
        let own = queued(self.queue[place])
            .filter(|own| !self.store.is_superseded(own.table, &own.key, own.version));
        let in_the_way = move |other: &&SessionId| match (own, queued(**other)) {
            (Some(own), Some(other)) => own.version == other.version && own.mode.conflicts_with(other.mode),
            _ => false,
        };
        self.queue[..place].iter().filter(in_the_way).copied()
    }

    pub(super) fn waits_for_itself(&self, id: SessionId) -> bool {
        let mut reached = self.blockers(id);
        let mut next = 0;
        while let Some(blocker) = reached.get(next).copied() {
            if blocker == id {
                return true;
            }
            for further in self.blockers(blocker) {
                if !reached.contains(&further) {
                    reached.push(further);
                }
            }
            next += 1;
        }
        false
    }
}
