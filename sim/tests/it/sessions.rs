//! Handlers with rows of their own, in a simulated database: what its isolation allows is found.

use std::sync::atomic::{AtomicU32, Ordering};

use steadfast_core::{Context, State, Verdict};
use steadfast_sim::db::{Begin, ErrorClass, LockMode, Mode, Row, Rows, Select, Statement, Table};
use steadfast_sim::embed::{Database, Session, SessionError, TestWorld};
use steadfast_sim::world::Profile;
use steadfast_sim::{Check, Failed, Task, check, note};

const ACCOUNTS: Table = Table(0);
const BOOKINGS: Table = Table(1);

/// The service's rows: an account, and what was booked on it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Account { balance: u32 },
    Booking { task: String },
}

impl Row for Line {
    type Key = String;
    type Unique = ();

    fn table(&self) -> Table {
        match self {
            Line::Account { .. } => ACCOUNTS,
            Line::Booking { .. } => BOOKINGS,
        }
    }

    fn key(&self) -> String {
        match self {
            Line::Account { .. } => String::new(),
            Line::Booking { task } => task.clone(),
        }
    }

    fn uniques(&self) -> impl Iterator<Item = ()> {
        std::iter::empty()
    }
}

/// How a handler books.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Reads the balance, and writes one that is higher.
    ReadThenWrite,
    /// The same, with the account's row locked, and again for every attempt.
    Locked,
    /// The same, once for each task: a row says that it was done.
    Once,
}

fn account() -> Rows<Line> {
    Rows::all(ACCOUNTS)
}

async fn book(session: &mut Session<Line>, mode: Mode, task: &str, way: Way) -> Result<(), SessionError> {
    session.begin(match mode {
        Mode::Postgres => Begin::ReadCommitted,
        Mode::Sqlite => Begin::Immediate,
    })?;
    if way == Way::Once {
        let booking = Statement::insert_or_nothing([Line::Booking { task: task.into() }]);
        if session.run(booking).await?.is_empty() {
            session.rollback();
            return Ok(());
        }
    }
    let balance = Select::new(account());
    let locks = way != Way::ReadThenWrite && mode == Mode::Postgres;
    let balance = if locks { balance.lock(LockMode::Update) } else { balance };
    let [Line::Account { balance }] = session.run(balance).await?[..] else { unreachable!("there is one") };
    session.run(Statement::update(account(), move |_| Line::Account { balance: balance + 1 })).await?;
    session.commit().await
}

/// How often a commit without an answer went through, and how often it was taken back.
static WENT_THROUGH: AtomicU32 = AtomicU32::new(0);
static TAKEN_BACK: AtomicU32 = AtomicU32::new(0);

async fn two_bookings(world: TestWorld, way: Way) -> Result<(), Failed> {
    let database: Database<Line> = world.database([Line::Account { balance: 0 }]);
    let books = database.clone();
    world.workers(2).handle("book", move |task: Context| {
        let books = books.clone();
        async move {
            let mut session = books.connect();
            match book(&mut session, books.mode(), task.task_id().as_str(), way).await {
                Ok(()) => Verdict::done(*b""),
                // Somebody else is writing: no attempt is lost by it.
                Err(SessionError::Statement(ErrorClass::Busy)) => {
                    Verdict::Snooze { after: std::time::Duration::from_millis(50) }
                }
                Err(error) => {
                    let booking = Line::Booking { task: task.task_id().to_string() };
                    let is_there = books.committed(BOOKINGS).contains(&booking);
                    if error == SessionError::Unknown && way == Way::Once {
                        let count = if is_there { &WENT_THROUGH } else { &TAKEN_BACK };
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Verdict::error(error)
                }
            }
        }
    });
    let client = world.client();
    let tasks = [client.submit(Task::new("book")).await?, client.submit(Task::new("book")).await?];
    let mut done = 0;
    for task in tasks {
        done += u32::from(client.wait(&task.id).await?.state == State::Succeeded);
    }
    world.at_rest().await;
    let accounts = database.committed(ACCOUNTS);
    let [Line::Account { balance }] = accounts[..] else { unreachable!("there is one") };
    note(format!("{done} bookings are done"));
    assert!(balance >= done, "a booking is lost: {balance} of {done}");
    assert!(balance <= 2, "a booking is made twice: {balance}");
    Ok(())
}

fn find(way: Way, profile: Profile) -> String {
    let check = Check::new("two_bookings").profiles([profile]).seeds(300);
    let failure = check.run(move |world| two_bookings(world, way));
    failure.map(|passed| panic!("it passes: {passed:?}")).unwrap_or_else(|failure| failure.to_string())
}

#[test]
fn a_lost_update_is_found_where_rows_are_not_locked() {
    let page = find(Way::ReadThenWrite, Profile::Postgres);
    assert!(page.contains("a booking is lost: 1 of 2") || page.contains("a booking is made twice"), "{page}");
    assert!(page.contains("note      row Account { balance: 1 }"), "{page}");
}

#[test]
fn a_booking_is_made_twice_where_nothing_says_that_it_was_made() {
    for profile in Profile::ALL {
        let page = find(Way::Locked, profile);
        assert!(page.contains("a booking is made twice: "), "{page}");
    }
}

#[test]
fn bookings_with_a_row_that_says_so_are_made_once() {
    check("bookings_with_a_row_that_says_so_are_made_once", |world| two_bookings(world, Way::Once));
    let unknown = [&WENT_THROUGH, &TAKEN_BACK].map(|count| count.load(Ordering::Relaxed));
    assert!(!unknown.contains(&0), "commits lose their answers in both ways: {unknown:?}");
}
