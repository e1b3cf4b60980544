//! What is SQLite's own: one writer, pinned snapshots, statements that fail alone, savepoints.

use steadfast_sim::db::Begin;

use super::super::language::{Act, Do, Pick, Record, STATE_ENDED, Set, Store, T};
use super::super::stage::Program;
use super::{
    READY, RUNNING, add, all, ids, in_state, insert, insert_or_nothing, pick, read, row, to_state, update,
};

const DEFERRED: Act = Act::Begin(Begin::Deferred);
const IMMEDIATE: Act = Act::Begin(Begin::Immediate);

fn sqlite(
    name: &str,
    about: &'static str,
    steps: Vec<(usize, Act)>,
    facts: &'static [&'static str],
) -> Program {
    let rows = vec![row(T, 1, READY, 0), Record { u: Some(7), ..row(T, 2, READY, 1) }];
    Program { name: name.to_owned(), about, store: Store::Sqlite, rows, steps, facts }
}

fn bump(id: i32) -> Act {
    update(ids(T, &[id]), add(1))
}

fn get(id: i32) -> Act {
    read(ids(T, &[id]))
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = writers();
    programs.extend(changes());
    programs.extend(readers());
    programs.extend(failures());
    programs.extend(savepoints());
    programs
}

fn writers() -> Vec<Program> {
    let claim = || {
        let ready = Pick { limit: Some(1), ..pick(in_state(all(T), READY)) };
        Act::Run(Do::UpdatePicked(ready, Set { s: Some(RUNNING), add: 1, u: None }))
    };
    vec![
        sqlite(
            "immediate",
            "one transaction per decision: the second writer is refused at its begin, and later claims another task",
            vec![
                (1, IMMEDIATE),
                (2, IMMEDIATE),
                (1, claim()),
                (1, Act::Commit),
                (2, IMMEDIATE),
                (2, claim()),
                (2, Act::Commit),
            ],
            &["s2: error 5", "s1: 1|1|1|-", "s2: 2|1|2|7"],
        ),
        sqlite(
            "busy upgrade",
            "a deferred transaction that has read can't write while another writes",
            vec![(1, IMMEDIATE), (2, DEFERRED), (2, get(1)), (2, bump(1)), (1, Act::Commit), (2, bump(1))],
            &["s2: error 5", "s2: 1|0|1|-"],
        ),
        sqlite(
            "busy snapshot",
            "a deferred transaction that has read can't write any more once another has committed",
            vec![
                (2, DEFERRED),
                (2, get(1)),
                (1, bump(2)),
                (2, bump(1)),
                (2, get(2)),
                (2, Act::Commit),
                (2, bump(1)),
            ],
            &["s2: error 517", "s2: 2|0|1|7", "s2: 1|0|1|-", "no s2: 2|0|2|7"],
        ),
    ]
}

fn changes() -> Vec<Program> {
    vec![
        sqlite(
            "empty commit",
            "a writer that changed nothing makes no snapshot old",
            vec![
                (2, DEFERRED),
                (2, get(1)),
                (1, IMMEDIATE),
                (1, update(ids(T, &[9]), add(1))),
                (1, Act::Commit),
                (2, bump(1)),
                (2, Act::Commit),
            ],
            &["s1: no rows", "no s2: error 517", "t 1|0|1|-"],
        ),
        sqlite(
            "taken back",
            "a writer that took its changes back to a savepoint still makes other snapshots old",
            vec![
                (2, DEFERRED),
                (2, get(1)),
                (1, IMMEDIATE),
                (1, Act::Savepoint),
                (1, bump(2)),
                (1, Act::RollbackTo),
                (1, Act::Commit),
                (2, bump(1)),
            ],
            &["s2: error 517", "t 2|0|1|7"],
        ),
        sqlite(
            "first write",
            "a deferred transaction whose first statement writes takes its snapshot then, however old it is",
            vec![(2, DEFERRED), (1, bump(1)), (2, bump(1)), (2, Act::Commit)],
            &["s2: 1|0|2|-", "t 1|0|2|-"],
        ),
    ]
}

fn readers() -> Vec<Program> {
    vec![
        sqlite(
            "pinned reader",
            "a reader in an open transaction keeps its snapshot",
            vec![(2, DEFERRED), (2, get(1)), (1, bump(1)), (2, get(1)), (2, Act::Commit), (2, get(1))],
            &["s2: 1|0|0|-", "s2: 1|0|1|-"],
        ),
        sqlite(
            "unfinished select",
            "an unfinished select pins the snapshot of its connection, without any begin",
            vec![
                (2, Act::OpenCursor(T)),
                (1, bump(1)),
                (2, get(1)),
                (2, bump(2)),
                (2, IMMEDIATE),
                (2, Act::CloseCursors),
                (2, get(1)),
                (2, bump(2)),
            ],
            &["s2: 1|0|0|-", "s2: error 517", "s2: 1|0|1|-", "s2: 2|0|2|7"],
        ),
        sqlite(
            "unfinished select of the writer",
            "a connection that commits under its own unfinished select goes on with the new snapshot",
            vec![(2, Act::OpenCursor(T)), (2, bump(1)), (2, get(1)), (2, bump(1)), (1, bump(1)), (2, get(1))],
            &["s2: 1|0|1|-", "s2: 1|0|2|-", "s1: 1|0|3|-", "no s2: 1|0|3|-"],
        ),
    ]
}

fn failures() -> Vec<Program> {
    vec![
        sqlite(
            "failed statement",
            "a failing statement is taken back alone; its transaction goes on and commits",
            vec![
                (1, IMMEDIATE),
                (1, bump(1)),
                (1, insert(row(T, 2, READY, 0))),
                (1, bump(1)),
                (1, Act::Commit),
            ],
            &["s1: error 23505", "s1: COMMIT", "t 1|0|2|-"],
        ),
        sqlite(
            "failed in the middle",
            "a statement that fails at its second row takes back its first",
            vec![
                (1, bump(1)),
                (1, IMMEDIATE),
                (1, update(all(T), add(-1))),
                (1, update(all(T), add(-1))),
                (1, Act::Commit),
            ],
            &["s1: 1|0|0|- 2|0|0|7", "s1: error 23514", "t 1|0|0|-", "t 2|0|0|7"],
        ),
        sqlite(
            "slot",
            "a row that ends leaves the partial index, and its key is free within the same transaction",
            vec![
                (1, IMMEDIATE),
                (1, insert_or_nothing(Record { u: Some(7), ..row(T, 3, READY, 0) })),
                (1, update(ids(T, &[2]), to_state(STATE_ENDED))),
                (1, insert_or_nothing(Record { u: Some(7), ..row(T, 3, READY, 0) })),
                (1, Act::Commit),
            ],
            &["s1: no rows", "s1: 3|0|0|7", "t 2|2|1|7"],
        ),
    ]
}

fn savepoints() -> Vec<Program> {
    vec![
        sqlite(
            "savepoint",
            "what was done since a savepoint is taken back alone",
            vec![
                (1, IMMEDIATE),
                (1, bump(1)),
                (1, Act::Savepoint),
                (1, bump(2)),
                (1, bump(1)),
                (1, Act::RollbackTo),
                (1, get(1)),
                (1, bump(2)),
                (1, Act::Release),
                (1, Act::Commit),
            ],
            &["s1: 1|0|1|-", "t 1|0|1|-", "t 2|0|2|7"],
        ),
        sqlite(
            "nested savepoints",
            "of two savepoints of one name the later one counts, until it is released",
            vec![
                (1, IMMEDIATE),
                (1, Act::Savepoint),
                (1, bump(1)),
                (1, Act::Savepoint),
                (1, bump(1)),
                (1, Act::RollbackTo),
                (1, Act::Release),
                (1, bump(2)),
                (1, Act::RollbackTo),
                (1, Act::Commit),
            ],
            &["t 1|0|0|-", "t 2|0|1|7"],
        ),
        sqlite(
            "no savepoint",
            "a savepoint that was released isn't there",
            vec![
                (1, IMMEDIATE),
                (1, Act::Savepoint),
                (1, Act::Release),
                (1, Act::RollbackTo),
                (1, Act::Commit),
            ],
            &["s1: error 1", "s1: COMMIT"],
        ),
    ]
}
