//! Who waits for whom, unique keys, failures, and clients that vanish.

use steadfast_sim::db::LockMode;

use super::super::language::{Act, Do, Pick, Q, Record, Set, T};
use super::super::stage::Program;
use super::{
    ENDED, RC, READY, RR, RUNNING, add, all, ids, if_none, in_state, insert, insert_or_nothing, lock, pick,
    postgres, read, row, to_state, update,
};

const HELD: i32 = 7;

fn one() -> Vec<Record> {
    vec![row(T, 1, READY, 0), row(T, 2, READY, 0)]
}

fn with_key(id: i32) -> Record {
    Record { u: Some(HELD), ..row(T, id, READY, 0) }
}

fn take() -> Act {
    update(in_state(ids(T, &[1]), READY), Set { s: Some(RUNNING), add: 1, u: None })
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = queues();
    programs.extend(tables());
    programs.extend(lines_for_tables());
    programs.extend(versions());
    programs.extend(deadlocks());
    programs.extend(snapshots());
    programs.extend(primary_keys());
    programs.extend(partial_keys());
    programs.extend(failures());
    programs.extend(lost_clients());
    programs
}

fn queues() -> Vec<Program> {
    vec![
        postgres(
            "C1",
            "three wait for a row and its holder aborts: first come first served, each re-checks",
            &one(),
            vec![(1, RC), (1, take()), (2, take()), (3, take()), (0, take()), (1, Act::Rollback)],
            &["blocked: s0 s2 s3", "s2: 1|1|1|-", "s3: no rows", "s0: no rows", "t 1|1|1|-"],
        ),
        postgres(
            "re-check",
            "a row that fails the re-check changes nothing, but stays locked until the end",
            &one(),
            vec![
                (1, RC),
                (1, take()),
                (2, RC),
                (2, take()),
                (1, Act::Commit),
                (
                    3,
                    Act::Run(Do::Select(Pick { lock: Some((LockMode::Update, true)), ..pick(ids(T, &[1])) })),
                ),
                (2, Act::Commit),
                (3, lock(ids(T, &[1]), LockMode::Update)),
            ],
            &["s2: no rows", "s3: no rows", "s3: 1|1|1|-"],
        ),
        postgres(
            "bystander",
            "a waiter for update waits for key-share holders too; who comes next waits behind it",
            &one(),
            vec![
                (1, RC),
                (2, RC),
                (1, lock(ids(T, &[1]), LockMode::NoKeyUpdate)),
                (2, lock(ids(T, &[1]), LockMode::KeyShare)),
                (3, lock(ids(T, &[1]), LockMode::Update)),
                (0, lock(ids(T, &[1]), LockMode::Share)),
                (1, Act::Commit),
                (2, Act::Commit),
            ],
            &["blocked: s0 s3", "s3: 1|0|0|-", "s0: 1|0|0|-"],
        ),
    ]
}

fn tables() -> Vec<Program> {
    let claim = || lock(all(Q), LockMode::Update);
    let whole = || Act::Run(Do::LockTable(Q));
    vec![
        postgres(
            "whole table",
            "who locks a table whole waits even for who has found no row to lock; who comes next waits behind, and then \
             sees what was committed",
            &[],
            vec![
                (1, RC),
                (1, claim()),
                (2, RC),
                (2, whole()),
                (3, RC),
                (3, claim()),
                (0, read(all(Q))),
                (1, Act::Commit),
                (2, insert(row(Q, 1, READY, 0))),
                (2, Act::Commit),
            ],
            &["s1: no rows", "blocked: s2 s3", "s0: no rows", "s2: 1|0|0|-", "s3: 1|0|0|-"],
        ),
        postgres(
            "whole table, RR",
            "locking a table takes no snapshot; a statement that waits for it has one",
            &[row(Q, 1, READY, 0)],
            vec![
                (1, RC),
                (1, whole()),
                (2, RR),
                (2, whole()),
                (3, RR),
                (3, lock(all(Q), LockMode::Share)),
                (1, update(ids(Q, &[1]), add(5))),
                (1, Act::Commit),
                (2, read(all(Q))),
                (2, Act::Commit),
            ],
            &["blocked: s2 s3", "s2: 1|0|5|-", "s3: error 40001"],
        ),
    ]
}

fn lines_for_tables() -> Vec<Program> {
    let whole = || Act::Run(Do::LockTable(Q));
    vec![
        postgres(
            "whole table, cancelled",
            "who waited behind a cancelled wait for a whole table goes on",
            &[row(Q, 1, READY, 0), row(Q, 2, READY, 0)],
            vec![
                (1, RC),
                (1, lock(ids(Q, &[1]), LockMode::Update)),
                (2, RC),
                (2, whole()),
                (3, RC),
                (3, lock(ids(Q, &[2]), LockMode::Update)),
                (2, Act::Cancel),
                (2, Act::Rollback),
                (3, Act::Commit),
                (1, Act::Commit),
            ],
            &["s1: 1|0|0|-", "blocked: s2 s3", "s2: error 57014", "s3: 2|0|0|-"],
        ),
        postgres(
            "whole table, overtaken",
            "who has some of a table overtakes those who wait for the whole",
            &[row(Q, 1, READY, 0), row(Q, 2, READY, 0)],
            vec![
                (1, RC),
                (1, lock(ids(Q, &[1]), LockMode::Update)),
                (2, RC),
                (2, lock(ids(Q, &[2]), LockMode::Update)),
                (3, RC),
                (3, whole()),
                (1, whole()),
                (2, Act::Commit),
                (1, update(ids(Q, &[1]), add(5))),
                (1, Act::Commit),
                (3, read(all(Q))),
                (3, Act::Commit),
            ],
            &["blocked: s1 s3", "blocked: s3", "s1: 1|0|5|-", "s3: 1|0|5|- 2|0|0|-"],
        ),
    ]
}

fn versions() -> Vec<Program> {
    vec![
        postgres(
            "update of the locked",
            "a key-share lock waits for a change of a row that was locked for update, and gets the newest version",
            &one(),
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), add(1))),
                (1, lock(ids(T, &[1]), LockMode::Update)),
                (1, update(ids(T, &[1]), add(1))),
                (2, lock(ids(T, &[1]), LockMode::KeyShare)),
                (3, lock(ids(T, &[2]), LockMode::KeyShare)),
                (1, Act::Commit),
            ],
            &["blocked: s2", "s2: 1|0|2|-", "s3: 2|0|0|-"],
        ),
        postgres(
            "skip that waits",
            "for key share skip locked waits all the same for a lock on a version that it doesn't see yet",
            &one(),
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), add(1))),
                (
                    2,
                    Act::Run(Do::Select(Pick {
                        lock: Some((LockMode::KeyShare, true)),
                        ..pick(ids(T, &[1]))
                    })),
                ),
                (1, lock(ids(T, &[1]), LockMode::Update)),
                (
                    2,
                    Act::Run(Do::Select(Pick {
                        lock: Some((LockMode::KeyShare, true)),
                        ..pick(ids(T, &[1]))
                    })),
                ),
                (1, Act::Commit),
            ],
            &["s2: 1|0|0|-", "blocked: s2"],
        ),
    ]
}

fn deadlocks() -> Vec<Program> {
    vec![
        postgres(
            "C2 upgrade",
            "two hold a share lock and both want to update: the last to wait is the victim",
            &one(),
            vec![
                (1, RC),
                (2, RC),
                (1, lock(ids(T, &[1]), LockMode::Share)),
                (2, lock(ids(T, &[1]), LockMode::Share)),
                (1, take()),
                (2, take()),
                (1, Act::Commit),
            ],
            &["blocked: s1", "s2: error 40P01", "s1: 1|1|1|-"],
        ),
        postgres(
            "C2 crosswise",
            "two lock two rows in opposite orders: the last to wait is the victim",
            &one(),
            vec![
                (1, RC),
                (2, RC),
                (1, update(ids(T, &[1]), add(1))),
                (2, update(ids(T, &[2]), add(1))),
                (1, update(ids(T, &[2]), add(1))),
                (2, update(ids(T, &[1]), add(1))),
                (1, Act::Commit),
            ],
            &["s2: error 40P01", "t 1|0|1|-", "t 2|0|1|-"],
        ),
    ]
}

fn snapshots() -> Vec<Program> {
    vec![
        postgres(
            "snapshot",
            "a REPEATABLE READ snapshot is taken by the first statement, not by BEGIN",
            &one(),
            vec![
                (2, RR),
                (1, update(ids(T, &[1]), add(1))),
                (2, read(ids(T, &[1]))),
                (1, update(ids(T, &[1]), add(1))),
                (2, read(ids(T, &[1]))),
                (2, Act::Commit),
            ],
            &["s2: 1|0|1|-", "no s2: 1|0|2|-"],
        ),
        postgres(
            "key twice",
            "a REPEATABLE READ transaction sees a key twice: deleted after its snapshot, and inserted by itself",
            &one(),
            vec![
                (2, RR),
                (2, read(ids(T, &[2]))),
                (1, Act::Run(Do::Delete(ids(T, &[1])))),
                (2, insert(row(T, 1, RUNNING, 5))),
                (2, read(ids(T, &[1]))),
                (2, lock(ids(T, &[1]), LockMode::Share)),
                (2, Act::Rollback),
            ],
            &["s2: 1|0|0|- 1|1|5|-", "s2: error 40001"],
        ),
        postgres(
            "C5",
            "insert on conflict do nothing, else select, in one statement: neither inserts nor finds the row",
            &one(),
            vec![
                (1, RC),
                (1, insert(row(T, 5, READY, 0))),
                (2, Act::Run(if_none(Do::Insert(row(T, 5, READY, 1), true), Do::Select(pick(ids(T, &[5])))))),
                (1, Act::Commit),
            ],
            &["blocked: s2", "s2: no rows", "t 5|0|0|-"],
        ),
    ]
}

/// `first` inserts and is in flight, `second` comes, then the first one ends.
fn two_insert(begin: &Act, second: Act, end: Act) -> Vec<(usize, Act)> {
    vec![
        (2, begin.clone()),
        (2, read(ids(T, &[1]))),
        (1, RC),
        (1, insert(row(T, 5, READY, 1))),
        (2, second),
        (1, end),
        (2, Act::Commit),
    ]
}

fn primary_keys() -> Vec<Program> {
    let second = || insert(row(T, 5, READY, 2));
    let second_or_nothing = || insert_or_nothing(row(T, 5, READY, 2));
    let conflict = "the second insert of a key whose inserter is in flight waits for its end";
    let nothing = "ON CONFLICT DO NOTHING waits as well before it knows";
    vec![
        postgres(
            "D9 commit",
            conflict,
            &one(),
            two_insert(&RC, second(), Act::Commit),
            &["blocked: s2", "s2: error 23505", "t 5|0|1|-"],
        ),
        postgres(
            "D9 rollback",
            conflict,
            &one(),
            two_insert(&RC, second(), Act::Rollback),
            &["blocked: s2", "s2: 5|0|2|-", "t 5|0|2|-"],
        ),
        postgres(
            "D9 nothing, commit",
            nothing,
            &one(),
            two_insert(&RC, second_or_nothing(), Act::Commit),
            &["blocked: s2", "s2: no rows", "t 5|0|1|-"],
        ),
        postgres(
            "D9 nothing, rollback",
            nothing,
            &one(),
            two_insert(&RC, second_or_nothing(), Act::Rollback),
            &["blocked: s2", "s2: 5|0|2|-", "t 5|0|2|-"],
        ),
        postgres(
            "D9 nothing, rr",
            "at REPEATABLE READ a conflict with a row that the snapshot doesn't show is an error",
            &one(),
            two_insert(&RR, second_or_nothing(), Act::Commit),
            &["blocked: s2", "s2: error 40001", "t 5|0|1|-"],
        ),
    ]
}

fn partial_keys() -> Vec<Program> {
    let leave = |end: Act| {
        vec![
            (1, RC),
            (1, update(ids(T, &[5]), to_state(ENDED))),
            (2, insert_or_nothing(with_key(6))),
            (1, end),
        ]
    };
    let about = "a task ends and so leaves its slot; the next one for the slot waits until that is certain";
    vec![
        postgres(
            "slot, commit",
            about,
            &[with_key(5)],
            leave(Act::Commit),
            &["blocked: s2", "t 5|2|0|7", "t 6|0|0|7"],
        ),
        postgres(
            "slot, rollback",
            about,
            &[with_key(5)],
            leave(Act::Rollback),
            &["blocked: s2", "s2: no rows", "t 5|0|0|7", "no t 6|0|0|7"],
        ),
        postgres(
            "slot, rr",
            "after a wait for one index the others aren't looked at again, unless the row is inserted",
            &[with_key(5)],
            vec![
                (1, RC),
                (1, Act::Run(Do::Delete(ids(T, &[5])))),
                (2, RR),
                (2, read(ids(T, &[5]))),
                (2, insert_or_nothing(with_key(6))),
                (3, insert(row(T, 6, READY, 0))),
                (1, Act::Rollback),
                (2, Act::Commit),
            ],
            &["blocked: s2", "s2: no rows", "s2: COMMIT", "t 6|0|0|-"],
        ),
        postgres(
            "slot, update",
            "an update that brings a row back into a partial index meets its unique keys",
            &[with_key(5), Record { s: ENDED, ..with_key(6) }],
            vec![(1, update(ids(T, &[6]), to_state(READY)))],
            &["s1: error 23505", "t 6|2|0|7"],
        ),
        postgres(
            "key update",
            "an update of a whole unique key conflicts with key-share locks; any other update doesn't",
            &[row(Q, 1, 0, 0)],
            vec![
                (1, RC),
                (1, lock(ids(Q, &[1]), LockMode::KeyShare)),
                (2, update(ids(Q, &[1]), add(1))),
                (3, update(ids(Q, &[1]), Set { u: Some(Some(HELD)), ..Set::default() })),
                (1, Act::Commit),
            ],
            &["s2: 1|0|1|-", "blocked: s3", "s3: 1|0|1|7"],
        ),
    ]
}

fn failures() -> Vec<Program> {
    vec![
        postgres(
            "C9",
            "a statement fails: the rest of the transaction is refused, and COMMIT answers ROLLBACK",
            &one(),
            vec![
                (1, RC),
                (1, take()),
                (1, insert(row(T, 2, READY, 0))),
                (1, update(ids(T, &[1]), add(1))),
                (1, Act::Commit),
            ],
            &["s1: error 23505", "s1: error 25P02", "s1: ROLLBACK", "t 1|0|0|-"],
        ),
        postgres(
            "check",
            "a row that a constraint refuses fails the statement and its transaction",
            &one(),
            vec![(1, RC), (1, take()), (1, update(all(T), add(-1))), (1, Act::Commit)],
            &["s1: error 23514", "s1: ROLLBACK", "t 1|0|0|-"],
        ),
        postgres(
            "locks of the failed",
            "a failed transaction frees its locks at once, before its client ends it",
            &one(),
            vec![(1, RC), (1, take()), (2, take()), (1, insert(row(T, 2, READY, 0))), (1, Act::Rollback)],
            &["blocked: s2", "s2: 1|1|1|-"],
        ),
        postgres(
            "E1",
            "a caller's open transaction holds a key: a merged commit gives up after its lock timeout",
            &one(),
            vec![
                (1, RC),
                (1, insert(with_key(5))),
                (2, Act::LimitWaits),
                (2, RC),
                (2, insert(row(T, 6, READY, 0))),
                (2, insert(with_key(7))),
                (2, Act::Commit),
                (3, insert(row(T, 6, READY, 0))),
                (1, Act::Commit),
            ],
            &["s2: error 55P03", "s2: ROLLBACK", "s3: 6|0|0|-", "t 5|0|0|7"],
        ),
        postgres(
            "E2",
            "a pipelined BEGIN failed and its steps follow: each commits alone, and the ROLLBACK comes too late",
            &one(),
            vec![(1, update(ids(T, &[1]), add(1))), (1, insert(row(T, 2, READY, 0))), (1, Act::Rollback)],
            &["s1: error 23505", "s1: ROLLBACK", "t 1|0|1|-"],
        ),
        postgres(
            "cancel",
            "a waiting statement is cancelled; whoever waits for its transaction goes on",
            &one(),
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), add(1))),
                (2, RC),
                (2, update(ids(T, &[2]), add(1))),
                (2, update(ids(T, &[1]), add(1))),
                (3, update(ids(T, &[2]), add(5))),
                (2, Act::Cancel),
                (1, Act::Commit),
            ],
            &["blocked: s2 s3", "s2: error 57014", "s3: 2|0|5|-", "t 1|0|1|-"],
        ),
    ]
}

fn lost_clients() -> Vec<Program> {
    vec![
        postgres(
            "C11",
            "the client vanishes while its update waits for a lock: the update applies later",
            &one(),
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), add(1))),
                (2, update(ids(T, &[1]), add(10))),
                (2, Act::HangUp),
                (1, Act::Commit),
            ],
            &["t 1|0|11|-"],
        ),
        postgres(
            "C11 in a transaction",
            "the same inside a transaction: it is rolled back when the statement is through",
            &one(),
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), add(1))),
                (2, RC),
                (2, update(ids(T, &[1]), add(10))),
                (2, Act::HangUp),
                (1, Act::Commit),
            ],
            &["t 1|0|1|-"],
        ),
        postgres(
            "idle client",
            "the client vanishes between two statements: its transaction is rolled back, its locks are free",
            &one(),
            vec![(1, RC), (1, take()), (2, take()), (1, Act::HangUp)],
            &["blocked: s2", "s2: 1|1|1|-"],
        ),
        postgres(
            "C12",
            "COMMIT is sent and the client vanishes before the answer: committed",
            &one(),
            vec![(1, RC), (1, take()), (1, Act::CommitAndHangUp)],
            &["t 1|1|1|-"],
        ),
    ]
}
