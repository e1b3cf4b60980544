//! Random programs: each step is drawn when it is known who is free.
//!
//! The mixture is biased towards few rows and short transactions, so that sessions get into each other's way.

use steadfast_sim::db::{Begin, LockMode, Table};

use super::language::{Act, Do, Pick, Q, Record, STATE_ENDED, Set, Store, T, Where};
use super::stage::{Observation, SESSIONS};
use crate::random::Random;

/// Which sessions take part; the last one is left to the fixed programs.
const TAKING_PART: usize = SESSIONS - 1;

/// Draws the steps of one program.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    store: Store,
    levels: &'static [Begin],
    /// Whether whole tables are locked now and then. Nothing is stopped behind its snapshot then: PostgreSQL waits for
    /// the table first, and the kernel's stage can't stop behind that.
    pub locks_tables: bool,
    sessions: [State; TAKING_PART],
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Statements since the begin, which counts as one; 0 outside a transaction.
    in_transaction: usize,
    failed: bool,
    blocked: bool,
    gated: bool,
    cursor: bool,
    savepoint: bool,
}

impl Generator {
    /// The program of this seed, with transactions at these levels.
    #[must_use]
    pub fn new(seed: u64, store: Store, levels: &'static [Begin]) -> Self {
        let locks_tables = store == Store::Postgres && seed % 4 == 3;
        let sessions = [State::default(); TAKING_PART];
        Self { random: Random::new(seed), store, levels, locks_tables, sessions }
    }

    /// The rows at the start.
    #[must_use]
    pub fn rows() -> Vec<Record> {
        let row = |table, id| Record { table, id, s: 0, v: 1, u: Some(id) };
        vec![row(T, 1), row(T, 2), row(T, 3), row(Q, 1), row(Q, 2)]
    }

    /// The next step; `None` if nobody can do anything.
    pub fn draw(&mut self) -> Option<(usize, Act)> {
        let able: Vec<usize> =
            (0..TAKING_PART).filter(|n| !self.sessions[*n].blocked || self.sessions[*n].gated).collect();
        if able.is_empty() {
            return None;
        }
        let session = *self.random.pick(&able);
        let act = self.act(session);
        Some((session, act))
    }

    /// Takes in what the step showed.
    pub fn learn(&mut self, seen: &Observation) {
        for (session, answer) in &seen.answers {
            let state = &mut self.sessions[*session];
            let failed = answer.starts_with("error ");
            state.failed |= failed && state.in_transaction > 0 && self.store == Store::Postgres;
            if failed && state.in_transaction == 1 {
                // It was the begin that was refused: any statement would have been counted.
                *state = State { cursor: state.cursor, ..State::default() };
            }
        }
        for (number, state) in self.sessions.iter_mut().enumerate() {
            state.blocked = seen.blocked.contains(&number);
            state.gated &= state.blocked;
        }
    }

    fn act(&mut self, session: usize) -> Act {
        let state = self.sessions[session];
        if state.gated {
            self.sessions[session].gated = false;
            return Act::OpenGate;
        }
        if state.failed && self.random.chance(90) {
            return self.end(session);
        }
        if state.in_transaction == 0 && !self.random.chance(30) {
            self.sessions[session].in_transaction = 1;
            return Act::Begin(*self.random.pick(self.levels));
        }
        if state.in_transaction > 1 && self.random.chance(35) {
            return self.end(session);
        }
        if self.store == Store::Sqlite && self.random.chance(15) {
            return self.sqlite_act(session);
        }
        if state.in_transaction > 0 {
            self.sessions[session].in_transaction += 1;
        }
        // Outside a transaction it is an error, and would be of no use.
        if self.locks_tables && state.in_transaction > 0 && self.random.chance(12) {
            return Act::Run(Do::LockTable(*self.random.pick(&[T, Q])));
        }
        let statement = self.statement();
        if self.store == Store::Postgres && !self.locks_tables && !state.failed && self.random.chance(15) {
            self.sessions[session].gated = true;
            return Act::RunGated(statement);
        }
        Act::Run(statement)
    }

    fn end(&mut self, session: usize) -> Act {
        let state = &mut self.sessions[session];
        *state = State { cursor: state.cursor, ..State::default() };
        if self.random.chance(70) { Act::Commit } else { Act::Rollback }
    }

    fn sqlite_act(&mut self, session: usize) -> Act {
        let state = &mut self.sessions[session];
        let inside = state.in_transaction > 0;
        match self.random.below(if inside { 4 } else { 2 }) {
            0 | 1 if state.cursor => {
                state.cursor = false;
                Act::CloseCursors
            }
            0 | 1 => {
                state.cursor = true;
                Act::OpenCursor(T)
            }
            _ if !state.savepoint => {
                state.savepoint = true;
                state.in_transaction += 1;
                Act::Savepoint
            }
            2 => Act::RollbackTo,
            _ => {
                state.savepoint = false;
                Act::Release
            }
        }
    }

    fn statement(&mut self) -> Do {
        let locks = self.store == Store::Postgres;
        let table = if self.random.chance(75) { T } else { Q };
        let id = self.id();
        let one = Where { table, ids: Some(vec![id]), s: None, v: None };
        match self.random.below(100) {
            0..10 => Do::Select(pick(Where { s: self.maybe_state(), ..all(table) })),
            10..22 if locks => Do::Select(Pick {
                limit: Some(1 + self.random.below(2)),
                lock: Some((LockMode::Update, true)),
                ..pick(Where { s: Some(0), ..all(table) })
            }),
            22..32 if locks => {
                let mode = self.lock_mode();
                let at =
                    if self.random.chance(70) { one } else { Where { s: self.maybe_state(), ..all(table) } };
                let by_value = self.random.chance(30);
                Do::Select(Pick { lock: Some((mode, self.random.chance(15))), by_value, ..pick(at) })
            }
            10..32 => Do::Select(pick(one)),
            32..52 => Do::Update(Where { s: self.maybe_state(), ..one }, self.set()),
            52..60 => Do::Update(Where { s: self.maybe_state(), ..all(table) }, self.set()),
            60..70 => Do::UpdatePicked(self.claimed(table, locks), self.set()),
            70..78 => Do::Delete(Where { s: self.maybe_state(), ..one }),
            78..84 => Do::Insert(self.record(table), false),
            84..94 => Do::Insert(self.record(table), true),
            _ if locks => self.folded(table),
            _ => Do::Select(pick(all(table))),
        }
    }

    /// The rows that a queue would claim: with or without a lock in the subselect.
    fn claimed(&mut self, table: Table, locks: bool) -> Pick {
        let lock = match self.random.below(4) {
            0 | 1 if locks => Some((LockMode::Update, true)),
            2 if locks => Some((LockMode::Update, false)),
            _ => None,
        };
        Pick { limit: Some(1 + self.random.below(2)), lock, ..pick(Where { s: Some(0), ..all(table) }) }
    }

    fn folded(&mut self, table: Table) -> Do {
        let other = if table == T { Q } else { T };
        let at = Where { ids: Some(vec![self.id()]), ..all(table) };
        let first = match self.random.below(3) {
            0 => Do::Select(Pick { lock: Some((self.lock_mode(), false)), ..pick(at) }),
            1 => Do::Update(at, Set { s: Some(1), add: 1, u: None }),
            _ => Do::Select(pick(Where { s: self.maybe_state(), ..all(table) })),
        };
        let then = Do::Update(Where { s: self.maybe_state(), ..all(other) }, self.set());
        let (at_least, at_most) = *self.random.pick(&[(0, 0), (1, 9), (0, 9)]);
        Do::Folded { first: Box::new(first), at_least, at_most, then: Box::new(then) }
    }

    fn set(&mut self) -> Set {
        let s = if self.random.chance(60) { Some(self.state()) } else { None };
        let add = *self.random.pick(&[1, 1, 1, 10, -1]);
        let u = if self.random.chance(12) { Some(self.unique()) } else { None };
        Set { s, add, u }
    }

    fn record(&mut self, table: Table) -> Record {
        Record { table, id: self.id(), s: self.state(), v: 0, u: self.unique() }
    }

    fn id(&mut self) -> i32 {
        *self.random.pick(&[1, 2, 3, 4])
    }

    fn state(&mut self) -> i32 {
        *self.random.pick(&[0, 0, 1, STATE_ENDED])
    }

    fn maybe_state(&mut self) -> Option<i32> {
        if self.random.chance(60) { Some(self.state()) } else { None }
    }

    fn unique(&mut self) -> Option<i32> {
        *self.random.pick(&[None, None, Some(1), Some(2), Some(5)])
    }

    fn lock_mode(&mut self) -> LockMode {
        *self.random.pick(&[LockMode::KeyShare, LockMode::Share, LockMode::NoKeyUpdate, LockMode::Update])
    }
}

/// All rows of a table.
#[must_use]
pub fn all(table: Table) -> Where {
    Where { table, ids: None, s: None, v: None }
}

/// A plain select.
#[must_use]
pub fn pick(at: Where) -> Pick {
    Pick { at, by_value: false, limit: None, lock: None }
}
