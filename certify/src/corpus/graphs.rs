//! Parents and children: adding a dependent while its parent completes, and waiting for several parents.

use steadfast_sim::db::LockMode;

use super::super::language::{Act, Do, Q, Record, T, Where};
use super::super::stage::Program;
use super::{
    BLOCKED, ENDED, RC, READY, RR, RUNNING, add, all, ids, if_any, if_none, in_state, insert, lock, pick,
    postgres, read, row, to_state, update,
};

const CHILD: i32 = 10;

fn parent() -> Vec<Record> {
    vec![row(Q, 1, RUNNING, 0)]
}

/// Reads the parent, under whatever lock.
fn running_parent() -> Where {
    in_state(ids(Q, &[1]), RUNNING)
}

fn add_child(state: i32) -> Act {
    insert(row(T, CHILD, state, 0))
}

fn complete(id: i32) -> Do {
    Do::Update(in_state(ids(Q, &[id]), RUNNING), to_state(ENDED))
}

fn release() -> Do {
    Do::Update(in_state(all(T), BLOCKED), to_state(READY))
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = lost_children();
    programs.extend(kept_children());
    programs.extend(fan_in());
    programs
}

/// The adder has seen the parent running, with `look`; the completer runs through; the child comes too late.
fn add_across_completion(begin: &Act, look: Act) -> Vec<(usize, Act)> {
    vec![
        (1, begin.clone()),
        (1, look),
        (2, begin.clone()),
        (2, Act::Run(complete(1))),
        (2, Act::Run(release())),
        (2, Act::Commit),
        (1, add_child(BLOCKED)),
        (1, Act::Commit),
    ]
}

fn lost_children() -> Vec<Program> {
    let lost = &["q 1|2|0|-", "t 10|3|0|-"];
    vec![
        postgres(
            "B1 rc",
            "a dependent is added while its parent completes: it is blocked for ever",
            &parent(),
            add_across_completion(&RC, read(running_parent())),
            lost,
        ),
        postgres(
            "B1 rr",
            "the same at REPEATABLE READ",
            &parent(),
            add_across_completion(&RR, read(running_parent())),
            lost,
        ),
        postgres(
            "B2",
            "the same with the key-share lock that a foreign key takes: it doesn't conflict with the completion",
            &parent(),
            add_across_completion(&RC, lock(running_parent(), LockMode::KeyShare)),
            lost,
        ),
        postgres(
            "B5",
            "the adder holds a share lock, but completion and release are one statement: its snapshot is too old",
            &parent(),
            vec![
                (1, RC),
                (1, lock(running_parent(), LockMode::Share)),
                (2, Act::Run(if_any(complete(1), release()))),
                (1, add_child(BLOCKED)),
                (1, Act::Commit),
            ],
            &["blocked: s2", "s2: no rows", "q 1|2|0|-", "t 10|3|0|-"],
        ),
        postgres(
            "B3rr",
            "the adder holds a share lock, but the completer is at REPEATABLE READ: no error, and a lost child",
            &parent(),
            vec![
                (2, RR),
                (2, read(ids(Q, &[1]))),
                (1, RC),
                (1, lock(running_parent(), LockMode::Share)),
                (1, add_child(BLOCKED)),
                (2, Act::Run(complete(1))),
                (1, Act::Commit),
                (2, Act::Run(release())),
                (2, Act::Commit),
            ],
            &["blocked: s2", "s2: 1|2|0|-", "s2: no rows", "s2: COMMIT", "t 10|3|0|-"],
        ),
    ]
}

fn kept_children() -> Vec<Program> {
    vec![
        postgres(
            "B3 adder first, B5b",
            "the adder share-locks the parent, the completer uses two statements: the child is released",
            &parent(),
            vec![
                (1, RC),
                (1, lock(running_parent(), LockMode::Share)),
                (2, RC),
                (2, Act::Run(complete(1))),
                (1, add_child(BLOCKED)),
                (1, Act::Commit),
                (2, Act::Run(release())),
                (2, Act::Commit),
            ],
            &["blocked: s2", "s2: 10|0|0|-", "t 10|0|0|-"],
        ),
        postgres(
            "B3 completer first",
            "the adder's share lock waits for the completion; then there is no running parent to wait for",
            &parent(),
            vec![
                (2, RC),
                (2, Act::Run(complete(1))),
                (1, RC),
                (1, lock(running_parent(), LockMode::Share)),
                (2, Act::Run(release())),
                (2, Act::Commit),
                (1, add_child(READY)),
                (1, Act::Commit),
            ],
            &["blocked: s1", "s1: no rows", "t 10|0|0|-"],
        ),
    ]
}

fn fan_in() -> Vec<Program> {
    let rows = |v| vec![row(Q, 1, RUNNING, 0), row(Q, 2, RUNNING, 0), row(T, CHILD, BLOCKED, v)];
    let release_if_none_runs = || Act::Run(if_none(Do::Select(pick(in_state(all(Q), RUNNING))), release()));
    let both_complete = |begin: &Act| {
        vec![
            (1, begin.clone()),
            (2, begin.clone()),
            (1, Act::Run(complete(1))),
            (2, Act::Run(complete(2))),
            (1, release_if_none_runs()),
            (2, release_if_none_runs()),
            (1, Act::Commit),
            (2, Act::Commit),
        ]
    };
    let count_down = || update(ids(T, &[CHILD]), add(-1));
    let release_at_zero =
        || update(Where { v: Some(0), ..in_state(ids(T, &[CHILD]), BLOCKED) }, to_state(READY));
    let lost = &["q 1|2|0|-", "q 2|2|0|-", "t 10|3|0|-"];
    vec![
        postgres(
            "B6 rc",
            "two parents complete, each sees the other one unfinished: the child is blocked for ever",
            &rows(0),
            both_complete(&RC),
            lost,
        ),
        postgres("B6 rr", "the same at REPEATABLE READ", &rows(0), both_complete(&RR), lost),
        postgres(
            "B7",
            "two parents complete and count down on the child's row: the second releases it",
            &rows(2),
            vec![
                (1, RC),
                (2, RC),
                (1, Act::Run(complete(1))),
                (2, Act::Run(complete(2))),
                (1, count_down()),
                (2, count_down()),
                (1, release_at_zero()),
                (1, Act::Commit),
                (2, release_at_zero()),
                (2, Act::Commit),
            ],
            &["blocked: s2", "s1: no rows", "s2: 10|3|0|-", "t 10|0|0|-"],
        ),
    ]
}
