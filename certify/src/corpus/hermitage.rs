//! The Hermitage table: ten anomalies, each tried at READ COMMITTED, at REPEATABLE READ and on SQLite.
//!
//! The steps are the same everywhere; what they show is not.

use super::super::language::{Act, Store, T};
use super::super::stage::Program;
use super::{RC, RR, all, ids, in_state, insert, read, row, to_state, update};
use steadfast_sim::db::Begin;

struct Anomaly {
    name: &'static str,
    about: &'static str,
    steps: Vec<(usize, Act)>,
    rc: &'static [&'static str],
    rr: &'static [&'static str],
    sqlite: &'static [&'static str],
}

pub(super) fn programs() -> Vec<Program> {
    let levels = [("rc", RC, Store::Postgres), ("rr", RR, Store::Postgres)];
    let sqlite = ("sqlite", Act::Begin(Begin::Deferred), Store::Sqlite);
    let mut programs = Vec::new();
    for anomaly in writes().into_iter().chain(skews()).chain(reads()) {
        for (level, begin, store) in levels.iter().chain([&sqlite]) {
            let facts = match *level {
                "rc" => anomaly.rc,
                "rr" => anomaly.rr,
                _ => anomaly.sqlite,
            };
            let mut steps: Vec<(usize, Act)> = (1..=3).map(|session| (session, begin.clone())).collect();
            steps.extend(anomaly.steps.clone());
            programs.push(Program {
                name: format!("{} {level}", anomaly.name),
                about: anomaly.about,
                store: *store,
                rows: vec![row(T, 1, 10, 0), row(T, 2, 20, 0)],
                steps,
                facts,
            });
        }
    }
    programs
}

fn set(id: i32, s: i32) -> Act {
    update(ids(T, &[id]), to_state(s))
}

fn get(id: i32) -> Act {
    read(ids(T, &[id]))
}

fn thirties() -> Act {
    read(in_state(all(T), 30))
}

fn writes() -> Vec<Anomaly> {
    vec![
        Anomaly {
            name: "G0",
            about: "two transactions write the same two rows: their writes don't mix",
            steps: vec![
                (1, set(1, 11)),
                (2, set(1, 12)),
                (1, set(2, 21)),
                (1, Act::Commit),
                (2, set(2, 22)),
                (2, Act::Commit),
            ],
            rc: &["t 1|12|0|-", "t 2|22|0|-"],
            rr: &["s2: error 40001", "s2: error 25P02", "s2: ROLLBACK", "t 1|11|0|-", "t 2|21|0|-"],
            sqlite: &["s2: error 5", "t 1|11|0|-", "t 2|22|0|-"],
        },
        Anomaly {
            name: "OTV",
            about: "a transaction that was observed in part doesn't vanish",
            steps: vec![
                (1, set(1, 11)),
                (1, set(2, 19)),
                (2, set(1, 12)),
                (1, Act::Commit),
                (3, get(1)),
                (2, set(2, 18)),
                (3, get(2)),
                (2, Act::Commit),
                (3, get(2)),
                (3, get(1)),
                (3, Act::Commit),
            ],
            rc: &["s3: 1|11|0|-", "s3: 2|19|0|-", "s3: 2|18|0|-", "s3: 1|12|0|-"],
            rr: &["s2: error 40001", "s3: 1|11|0|-", "s3: 2|19|0|-", "no s3: 2|18|0|-"],
            sqlite: &["s2: error 5", "s3: 1|11|0|-", "s3: 2|19|0|-", "no s3: 2|18|0|-"],
        },
        Anomaly {
            name: "P4",
            about: "lost update: both read, both write what they computed",
            steps: vec![
                (1, get(1)),
                (2, get(1)),
                (1, set(1, 11)),
                (2, set(1, 12)),
                (1, Act::Commit),
                (2, Act::Commit),
            ],
            rc: &["s2: 1|12|0|-", "t 1|12|0|-"],
            rr: &["s2: error 40001", "t 1|11|0|-"],
            sqlite: &["s2: error 5", "t 1|11|0|-"],
        },
    ]
}

fn skews() -> Vec<Anomaly> {
    vec![
        Anomaly {
            name: "G2-item",
            about: "write skew: each reads both rows and writes the other one",
            steps: vec![
                (1, read(ids(T, &[1, 2]))),
                (2, read(ids(T, &[1, 2]))),
                (1, set(1, 11)),
                (2, set(2, 21)),
                (1, Act::Commit),
                (2, Act::Commit),
            ],
            rc: &["t 1|11|0|-", "t 2|21|0|-"],
            rr: &["t 1|11|0|-", "t 2|21|0|-"],
            sqlite: &["s2: error 5", "t 1|11|0|-", "t 2|20|0|-"],
        },
        Anomaly {
            name: "G2",
            about: "write skew on a predicate: each finds no row and adds one",
            steps: vec![
                (1, thirties()),
                (2, thirties()),
                (1, insert(row(T, 3, 30, 0))),
                (1, Act::Commit),
                (2, insert(row(T, 4, 30, 0))),
                (2, Act::Commit),
            ],
            rc: &["t 3|30|0|-", "t 4|30|0|-"],
            rr: &["t 3|30|0|-", "t 4|30|0|-"],
            sqlite: &["s2: error 517", "t 3|30|0|-", "no t 4|30|0|-"],
        },
    ]
}

fn reads() -> Vec<Anomaly> {
    let only_before = &["s2: 1|10|0|-", "no s2: 1|11|0|-", "no s2: 1|99|0|-"];
    vec![
        Anomaly {
            name: "G1a",
            about: "a reader doesn't see what is rolled back",
            steps: vec![(1, set(1, 99)), (2, get(1)), (1, Act::Rollback), (2, get(1)), (2, Act::Commit)],
            rc: only_before,
            rr: only_before,
            sqlite: only_before,
        },
        Anomaly {
            name: "G1b",
            about: "a reader doesn't see what is overwritten before the commit",
            steps: vec![
                (1, set(1, 99)),
                (2, get(1)),
                (1, set(1, 11)),
                (1, Act::Commit),
                (2, get(1)),
                (2, Act::Commit),
            ],
            rc: &["s2: 1|10|0|-", "s2: 1|11|0|-", "no s2: 1|99|0|-"],
            rr: only_before,
            sqlite: only_before,
        },
        Anomaly {
            name: "G1c",
            about: "two transactions don't see each other's writes",
            steps: vec![
                (1, set(1, 11)),
                (2, set(2, 22)),
                (1, get(2)),
                (2, get(1)),
                (1, Act::Commit),
                (2, Act::Commit),
            ],
            rc: &["s1: 2|20|0|-", "s2: 1|10|0|-"],
            rr: &["s1: 2|20|0|-", "s2: 1|10|0|-"],
            sqlite: &["s2: error 5", "s1: 2|20|0|-", "s2: 1|10|0|-"],
        },
        Anomaly {
            name: "PMP",
            about: "a row that another transaction adds appears under a predicate read twice",
            steps: vec![
                (1, thirties()),
                (2, insert(row(T, 3, 30, 0))),
                (2, Act::Commit),
                (1, thirties()),
                (1, Act::Commit),
            ],
            rc: &["s1: no rows", "s1: 3|30|0|-"],
            rr: &["s1: no rows", "no s1: 3|30|0|-"],
            sqlite: &["s1: no rows", "no s1: 3|30|0|-"],
        },
        Anomaly {
            name: "G-single",
            about: "read skew: one row from before another's commit and one from after",
            steps: vec![
                (1, get(1)),
                (2, set(1, 12)),
                (2, set(2, 18)),
                (2, Act::Commit),
                (1, get(2)),
                (1, Act::Commit),
            ],
            rc: &["s1: 1|10|0|-", "s1: 2|18|0|-"],
            rr: &["s1: 1|10|0|-", "s1: 2|20|0|-"],
            sqlite: &["s1: 1|10|0|-", "s1: 2|20|0|-"],
        },
    ]
}
