//! The fixed programs: the known facts about PostgreSQL and SQLite, each with what it shows.
//!
//! In the programs about queues, `t` holds tasks in state 0 ready, 1 running, 2 ended or 3 blocked, and `q` holds
//! parents, queues or limits. Sessions are numbered from 1; session 0 is a spare.

mod hermitage;
mod claims;
mod graphs;
mod locks;
mod sqlite;

use steadfast_sim::db::{Begin, LockMode, Table};

use super::generator::{all, pick};
use super::language::{Act, Do, Pick, Record, Set, Store, Where};
use super::stage::Program;

/// All fixed programs for one store.
#[must_use]
pub fn programs(store: Store) -> Vec<Program> {
    let programs = [
        hermitage::programs(),
        claims::programs(),
        graphs::programs(),
        locks::programs(),
        sqlite::programs(),
    ];
    programs.into_iter().flatten().filter(|program| program.store == store).collect()
}

const RC: Act = Act::Begin(Begin::ReadCommitted);
const RR: Act = Act::Begin(Begin::RepeatableRead);
const READY: i32 = 0;
const RUNNING: i32 = 1;
const ENDED: i32 = 2;
const BLOCKED: i32 = 3;

fn postgres(
    name: &str,
    about: &'static str,
    rows: &[Record],
    steps: Vec<(usize, Act)>,
    facts: &'static [&'static str],
) -> Program {
    Program { name: name.to_owned(), about, store: Store::Postgres, rows: rows.to_vec(), steps, facts }
}

fn row(table: Table, id: i32, s: i32, v: i32) -> Record {
    Record { table, id, s, v, u: None }
}

fn ids(table: Table, ids: &[i32]) -> Where {
    Where { ids: Some(ids.to_vec()), ..all(table) }
}

fn in_state(at: Where, s: i32) -> Where {
    Where { s: Some(s), ..at }
}

fn read(at: Where) -> Act {
    Act::Run(Do::Select(pick(at)))
}

fn lock(at: Where, mode: LockMode) -> Act {
    Act::Run(Do::Select(Pick { lock: Some((mode, false)), ..pick(at) }))
}

fn update(at: Where, set: Set) -> Act {
    Act::Run(Do::Update(at, set))
}

fn to_state(s: i32) -> Set {
    Set { s: Some(s), ..Set::default() }
}

fn add(number: i32) -> Set {
    Set { add: number, ..Set::default() }
}

fn insert(record: Record) -> Act {
    Act::Run(Do::Insert(record, false))
}

fn insert_or_nothing(record: Record) -> Act {
    Act::Run(Do::Insert(record, true))
}

/// The second part does its work if the first returned at least one row.
fn if_any(first: Do, then: Do) -> Do {
    Do::Folded { first: Box::new(first), at_least: 1, at_most: usize::from(u8::MAX), then: Box::new(then) }
}

/// The second part does its work if the first returned no row.
fn if_none(first: Do, then: Do) -> Do {
    Do::Folded { first: Box::new(first), at_least: 0, at_most: 0, then: Box::new(then) }
}
