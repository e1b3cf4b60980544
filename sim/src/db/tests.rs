//! The kernel's own rules: what its caller relies on and no real store can show.
//! That it does what the real stores do is certified in `steadfast-tests`.

use super::*;

const ITEMS: Table = Table(0);

#[derive(Clone, Debug, PartialEq)]
struct Item {
    id: u32,
    value: i32,
    slot: Option<u32>,
}

impl Row for Item {
    type Key = u32;
    type Unique = u32;

    fn table(&self) -> Table {
        ITEMS
    }

    fn key(&self) -> u32 {
        self.id
    }

    fn uniques(&self) -> impl Iterator<Item = u32> {
        self.slot.into_iter()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.value < 0 { Err("value_not_negative") } else { Ok(()) }
    }
}

fn item(id: u32, value: i32) -> Item {
    Item { id, value, slot: None }
}

fn database(mode: Mode) -> (Db<Item>, [SessionId; 3]) {
    let mut db = Db::new(mode);
    db.load([item(1, 10), item(2, 20)]);
    let sessions = [db.connect(), db.connect(), db.connect()];
    (db, sessions)
}

fn add(id: u32, number: i32) -> Statement<Item> {
    let rows = Rows::by_keys(ITEMS, [id]);
    Statement::update(rows, move |item: &Item| Item { value: item.value + number, ..item.clone() })
}

fn all() -> Statement<Item> {
    Select::new(Rows::all(ITEMS)).into()
}

#[track_caller]
fn values(progress: Progress<Item>) -> Vec<i32> {
    match progress {
        Progress::Done(answer) => answer.unwrap().iter().map(|item| item.value).collect(),
        Progress::Waiting => panic!("it waits"),
    }
}

#[track_caller]
fn check_waits(progress: Progress<Item>) {
    assert!(matches!(progress, Progress::Waiting), "{progress:?}");
}

#[test]
fn waiters_become_runnable_one_after_the_other() {
    let (mut db, [a, b, c]) = database(Mode::Postgres);
    db.begin(a, Begin::ReadCommitted).unwrap();
    db.begin(b, Begin::ReadCommitted).unwrap();
    values(db.start(a, add(1, 1)));
    check_waits(db.start(b, add(1, 2)));
    check_waits(db.start(c, add(1, 4)));
    assert_eq!(db.runnable().count(), 0);
    assert_eq!(db.blockers(c), [a, b]);
    db.rollback(a);
    assert_eq!(db.runnable().collect::<Vec<_>>(), [b]);
    assert_eq!(values(db.resume(b)), [12]);
    check_waits(db.resume(c));
    db.commit(b);
    assert_eq!(values(db.resume(c)), [16]);
}

#[test]
fn waiters_race_for_a_row_whose_change_was_committed() {
    let (mut db, [a, b, c]) = database(Mode::Postgres);
    db.begin(a, Begin::ReadCommitted).unwrap();
    values(db.start(a, add(1, 1)));
    check_waits(db.start(b, add(1, 2)));
    check_waits(db.start(c, add(1, 4)));
    db.commit(a);
    assert_eq!(db.runnable().collect::<Vec<_>>(), [b, c]);
    assert_eq!(values(db.resume(c)), [15]);
    assert_eq!(values(db.resume(b)), [17]);
}

#[test]
fn a_paused_statement_keeps_its_snapshot() {
    let (mut db, [a, b, _]) = database(Mode::Postgres);
    check_waits(db.start_paused(a, all()));
    values(db.start(b, add(1, 1)));
    assert_eq!(db.runnable().collect::<Vec<_>>(), [a]);
    assert_eq!(values(db.resume(a)), [10, 20]);
}

#[test]
fn the_parts_of_a_folded_statement_are_blind_to_each_other() {
    let (mut db, [a, ..]) = database(Mode::Postgres);
    let folded = add(1, 1).then(|changed| {
        assert_eq!(changed.len(), 1);
        Next::Run(all().then(|mut seen| {
            seen.extend(changed);
            Next::Answer(seen)
        }))
    });
    assert_eq!(values(db.start(a, folded)), [10, 20, 11]);
    assert_eq!(values(db.start(a, all())), [11, 20]);
}

#[test]
fn a_failed_wait_fails_its_transaction_and_frees_its_locks() {
    let (mut db, [a, b, c]) = database(Mode::Postgres);
    db.begin(a, Begin::ReadCommitted).unwrap();
    db.begin(b, Begin::ReadCommitted).unwrap();
    values(db.start(a, add(1, 1)));
    values(db.start(b, add(2, 2)));
    check_waits(db.start(b, add(1, 2)));
    check_waits(db.start(c, add(2, 4)));
    assert_eq!(db.fail(b, ErrorClass::LockTimeout).unwrap_err().code(), "55P03");
    assert_eq!(values(db.resume(c)), [24]);
    assert_eq!(db.commit(b), Ended::RolledBack);
}

#[test]
fn an_orphan_lives_until_its_statement_ends() {
    let (mut db, [a, b, _]) = database(Mode::Postgres);
    db.begin(a, Begin::ReadCommitted).unwrap();
    values(db.start(a, add(1, 1)));
    check_waits(db.start(b, add(1, 2)));
    db.orphan(b);
    assert!(db.is_alive(b));
    db.kill(a);
    assert_eq!(values(db.resume(b)), [12]);
    assert!(!db.is_alive(a) && !db.is_alive(b));
}

#[test]
fn versions_are_dropped_when_nobody_can_see_them() {
    for (mode, begin) in [(Mode::Postgres, Begin::RepeatableRead), (Mode::Sqlite, Begin::Deferred)] {
        let (mut db, [reader, writer, _]) = database(mode);
        db.begin(reader, begin).unwrap();
        assert_eq!(values(db.start(reader, all())), [10, 20]);
        for _ in 0..100 {
            values(db.start(writer, add(1, 1)));
        }
        values(db.start(writer, Statement::delete(Rows::by_keys(ITEMS, [2]))));
        assert_eq!(db.version_count(), 102);
        assert_eq!(values(db.start(reader, all())), [10, 20]);
        db.commit(reader);
        assert_eq!(db.version_count(), 1);
        assert_eq!(db.committed(ITEMS).cloned().collect::<Vec<_>>(), [item(1, 110)]);
    }
}

#[test]
fn a_unique_key_is_free_again_when_its_holder_has_left_it() {
    let (mut db, [a, ..]) = database(Mode::Postgres);
    let with_slot = |id| Statement::insert_or_nothing([Item { slot: Some(7), ..item(id, 0) }]);
    assert_eq!(values(db.start(a, with_slot(3))), [0]);
    assert_eq!(values(db.start(a, with_slot(4))), [0; 0]);
    let leave = |item: &Item| Item { slot: None, ..item.clone() };
    values(db.start(a, Statement::update(Rows::by_keys(ITEMS, [3]), leave)));
    assert_eq!(values(db.start(a, with_slot(4))), [0]);
}

#[test]
#[should_panic(expected = "still waits")]
fn a_session_that_waits_cannot_be_resumed() {
    let (mut db, [a, b, _]) = database(Mode::Postgres);
    db.begin(a, Begin::ReadCommitted).unwrap();
    values(db.start(a, add(1, 1)));
    check_waits(db.start(b, add(1, 2)));
    let _ = db.resume(b);
}

#[test]
#[should_panic(expected = "busy")]
fn a_busy_session_takes_no_second_statement() {
    let (mut db, [a, ..]) = database(Mode::Postgres);
    check_waits(db.start_paused(a, all()));
    let _ = db.start(a, all());
}

#[test]
#[should_panic(expected = "SQLite has no row locks")]
fn a_locking_select_does_not_exist_in_sqlite_mode() {
    let (mut db, [a, ..]) = database(Mode::Sqlite);
    let _ = db.start(a, Select::new(Rows::all(ITEMS)).lock(LockMode::Update).into());
}
