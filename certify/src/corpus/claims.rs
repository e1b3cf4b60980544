//! How tasks are claimed, and what goes wrong when they are claimed differently.

use steadfast_sim::db::LockMode;

use super::super::language::{Act, Do, Pick, Q, Record, Set, T, Where};
use super::super::stage::Program;
use super::{
    RC, READY, RR, RUNNING, all, ids, if_any, if_none, in_state, lock, pick, postgres, read, row, to_state,
    update,
};

const CLAIMED: Set = Set { s: Some(RUNNING), add: 1, u: None };

/// `update … where id = (select … limit 1 …)`.
fn claim(lock: Option<(LockMode, bool)>) -> Do {
    Do::UpdatePicked(Pick { limit: Some(1), lock, ..pick(in_state(all(T), READY)) }, CLAIMED)
}

fn claim_skipping() -> Do {
    claim(Some((LockMode::Update, true)))
}

/// Claims only if nothing is running.
fn claim_if_none_runs() -> Do {
    if_none(Do::Select(pick(in_state(all(T), RUNNING))), claim_skipping())
}

fn two_ready() -> Vec<Record> {
    vec![row(T, 1, READY, 0), row(T, 2, READY, 0)]
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = subselects();
    programs.extend(guards());
    programs.extend(limits());
    programs
}

fn two_claim(how: &Do) -> Vec<(usize, Act)> {
    vec![
        (1, RC),
        (2, RC),
        (1, Act::Run(how.clone())),
        (2, Act::Run(how.clone())),
        (1, Act::Commit),
        (2, Act::Commit),
    ]
}

fn subselects() -> Vec<Program> {
    vec![
        postgres(
            "A1",
            "claim by an unlocked subselect: the second waits, and then claims the same task",
            &two_ready(),
            two_claim(&claim(None)),
            &["blocked: s2", "s2: 1|1|2|-", "t 1|1|2|-", "t 2|0|0|-"],
        ),
        postgres(
            "A3",
            "claim by a subselect for update: the second waits, and then takes the next task",
            &two_ready(),
            two_claim(&claim(Some((LockMode::Update, false)))),
            &["blocked: s2", "s2: 2|1|1|-", "t 1|1|1|-"],
        ),
        postgres(
            "A4",
            "claim by a subselect for update skip locked: nobody waits, and the tasks are disjoint",
            &two_ready(),
            two_claim(&claim_skipping()),
            &["no blocked: s2", "s2: 2|1|1|-", "t 1|1|1|-"],
        ),
        postgres(
            "A4rr",
            "the same at REPEATABLE READ, when another claim commits after the snapshot",
            &two_ready(),
            vec![
                (2, RR),
                (2, read(ids(T, &[2]))),
                (1, Act::Run(claim_skipping())),
                (2, Act::Run(claim_skipping())),
                (2, Act::Commit),
            ],
            &["s2: error 40001", "s2: ROLLBACK", "t 1|1|1|-", "t 2|0|0|-"],
        ),
        postgres(
            "A6",
            "a task that is claimed between snapshot and row lock fails the re-check, and the next one fills the limit",
            &two_ready(),
            vec![(2, Act::RunGated(claim_skipping())), (1, Act::Run(claim_skipping())), (2, Act::OpenGate)],
            &["s1: 1|1|1|-", "s2: 2|1|1|-"],
        ),
        postgres(
            "A7",
            "rows that change while an ordered select for update waits come out of order",
            &[row(T, 1, 0, 1), row(T, 2, 0, 2)],
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), Set { add: 10, ..Set::default() })),
                (
                    2,
                    Act::Run(Do::Select(Pick {
                        by_value: true,
                        lock: Some((LockMode::Update, false)),
                        ..pick(all(T))
                    })),
                ),
                (1, Act::Commit),
            ],
            &["s2: 1|0|11|- 2|0|2|-"],
        ),
    ]
}

fn guards() -> Vec<Program> {
    let settle = Where { v: Some(1), ..in_state(ids(T, &[1]), RUNNING) };
    vec![
        postgres(
            "A5",
            "select, then an update without a guard: both have claimed the task",
            &two_ready(),
            vec![
                (1, read(ids(T, &[1]))),
                (2, read(ids(T, &[1]))),
                (1, update(ids(T, &[1]), CLAIMED)),
                (2, update(ids(T, &[1]), CLAIMED)),
            ],
            &["s2: 1|1|2|-"],
        ),
        postgres(
            "C15",
            "a settle that is guarded by state and attempt: the stale worker changes nothing",
            &[row(T, 1, RUNNING, 1)],
            vec![
                (1, RC),
                (1, update(in_state(ids(T, &[1]), RUNNING), CLAIMED)),
                (2, update(settle, to_state(2))),
                (1, Act::Commit),
            ],
            &["s2: no rows", "t 1|1|2|-"],
        ),
        postgres(
            "D5",
            "a claim joined with its queue waits for the task, and claims although the queue was paused meanwhile",
            &[row(T, 1, READY, 0), row(Q, 1, 0, 0)],
            vec![
                (1, RC),
                (1, update(ids(T, &[1]), Set { add: 5, ..Set::default() })),
                (
                    2,
                    Act::Run(if_any(
                        Do::Select(pick(in_state(ids(Q, &[1]), 0))),
                        Do::Update(in_state(ids(T, &[1]), READY), CLAIMED),
                    )),
                ),
                (3, update(ids(Q, &[1]), to_state(1))),
                (1, Act::Commit),
            ],
            &["s2: 1|1|6|-", "q 1|1|0|-"],
        ),
    ]
}

fn limits() -> Vec<Program> {
    let rows = [row(T, 1, READY, 0), row(T, 2, READY, 0), row(Q, 1, 0, 0)];
    let lock_limit = || Pick { lock: Some((LockMode::Update, false)), ..pick(ids(Q, &[1])) };
    let folded = || Act::Run(if_any(Do::Select(lock_limit()), claim_if_none_runs()));
    vec![
        postgres(
            "D6 one statement",
            "limit 1: a statement that locks the limit, counts and claims counts with too old a snapshot",
            &rows,
            vec![(1, RC), (2, RC), (1, folded()), (2, folded()), (1, Act::Commit), (2, Act::Commit)],
            &["blocked: s2", "t 1|1|1|-", "t 2|1|1|-"],
        ),
        postgres(
            "D6 two statements",
            "limit 1: lock the limit, then count and claim: only one runs",
            &rows,
            vec![
                (1, RC),
                (2, RC),
                (1, lock(ids(Q, &[1]), LockMode::Update)),
                (2, lock(ids(Q, &[1]), LockMode::Update)),
                (1, Act::Run(claim_if_none_runs())),
                (1, Act::Commit),
                (2, Act::Run(claim_if_none_runs())),
                (2, Act::Commit),
            ],
            &["blocked: s2", "s2: no rows", "t 1|1|1|-", "t 2|0|0|-"],
        ),
    ]
}
