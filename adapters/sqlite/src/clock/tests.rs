//! The store's clock on hosts whose clocks are set by the test. Two handles on one file are two processes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use steadfast_core::step::Step;
use steadfast_core::storage::{Answer, ClaimRequest, Query};
use steadfast_core::task::Due;
use steadfast_core::{Kind, NewTask, Queue, Storage, TaskId, WorkerId};

use super::*;
use crate::{Options, SqliteStorage};

const HOUR: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(30);
/// A few thousand days after 1970.
const BEGINNING: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A computer whose clocks only the test moves.
#[derive(Debug, Clone)]
struct Computer(Arc<Mutex<(Timestamp, Duration)>>);

impl Computer {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((BEGINNING, seconds(500)))))
    }

    fn pass(&self, by: Duration) {
        let mut clocks = self.0.lock().expect("no test panics with it");
        *clocks = (clocks.0 + by, clocks.1 + by);
    }

    fn set_wall(&self, wall: Timestamp) {
        self.0.lock().expect("no test panics with it").0 = wall;
    }

    fn restart(&self) {
        self.0.lock().expect("no test panics with it").1 = seconds(5);
    }

    fn wall(&self) -> Timestamp {
        self.0.lock().expect("no test panics with it").0
    }
}

/// What one process sees of it.
#[derive(Debug)]
struct Seen(Computer, Option<&'static str>);

impl HostClocks for Seen {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn steady(&self) -> Duration {
        self.0.0.lock().expect("no test panics with it").1
    }

    fn boot(&self) -> Option<&str> {
        self.1
    }
}

/// A store on a computer.
struct Setup {
    _directory: tempfile::TempDir,
    path: PathBuf,
    computer: Computer,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("tasks.db");
        Self { _directory: directory, path, computer: Computer::new() }
    }

    fn process(&self) -> SqliteStorage {
        self.process_in(Some("boot-1"))
    }

    fn process_in(&self, boot: Option<&'static str>) -> SqliteStorage {
        let clock = StoreClock::by(Box::new(Seen(self.computer.clone(), boot)));
        SqliteStorage::open_by(Options::file(&self.path), clock).expect("it opens")
    }
}

async fn now(storage: &SqliteStorage) -> Timestamp {
    storage.read(&Query::Lapsed { limit: 1 }).await.expect("read").as_of
}

async fn lapsed(storage: &SqliteStorage) -> usize {
    let view = storage.read(&Query::Lapsed { limit: 9 }).await.expect("read");
    let Answer::Lapsed(lapsed) = view.answer else { panic!("not what was asked for") };
    lapsed.len()
}

async fn submit(storage: &SqliteStorage, id: &str, due: Due) {
    let mut task = NewTask::new(TaskId::trusted(id), Kind::trusted("scan"), *b"{}");
    task.due = due;
    storage.apply(&[Step::Insert(task.into()).into()]).await.expect("applied");
}

async fn write(storage: &SqliteStorage, id: &str) {
    submit(storage, id, Due::After(HOUR * 1000)).await;
}

async fn claim(storage: &SqliteStorage) -> usize {
    let request = ClaimRequest {
        worker: WorkerId::trusted("w1"),
        queues: vec![Queue::default_queue()],
        kinds: vec![Kind::trusted("scan")],
        limit: 1,
        lease: LEASE,
    };
    storage.claim(&request).await.expect("claimed").tasks.len()
}

fn assert_near(one: Timestamp, other: Timestamp, within: Duration) {
    assert!(one.since(other).max(other.since(one)) <= within, "{one:?} and {other:?}");
}

/// Sets the wall clock in the middle of a lease, and looks at when it lapses for two processes.
async fn check_lease_through(set: impl Fn(Timestamp) -> Timestamp) {
    let setup = Setup::new();
    let processes = [setup.process(), setup.process()];
    submit(&processes[0], "t1", Due::Now).await;
    assert_eq!(claim(&processes[0]).await, 1);
    setup.computer.pass(seconds(1));
    setup.computer.set_wall(set(setup.computer.wall()));

    let mut before = now(&processes[1]).await;
    for second in 1..=35 {
        // Each writes now and then, so that the line is drawn anew again and again.
        write(&processes[second % 2], &format!("w{second}")).await;
        for process in &processes {
            let now = now(process).await;
            assert!(now >= before, "it went back in second {second}");
            before = now;
            let expected = match second {
                ..=28 => 0,
                32.. => 1,
                _ => continue,
            };
            assert_eq!(lapsed(process).await, expected, "{second} s after the claim");
        }
        setup.computer.pass(seconds(1));
    }
    let newcomer = setup.process();
    assert_eq!(now(&newcomer).await, now(&processes[0]).await);
}

#[tokio::test]
async fn a_wall_clock_set_forward_takes_no_lease_and_grants_none() {
    check_lease_through(|wall| wall + HOUR).await;
}

#[tokio::test]
async fn a_wall_clock_set_back_takes_no_lease_and_grants_none() {
    check_lease_through(|wall| wall - HOUR).await;
}

#[tokio::test]
async fn a_new_line_begins_where_the_old_one_is() {
    let setup = Setup::new();
    let storage = setup.process();
    setup.computer.set_wall(BEGINNING + HOUR);
    setup.computer.pass(seconds(1));
    for n in 0..50 {
        let before = now(&storage).await;
        write(&storage, &format!("w{n}")).await;
        assert_eq!(now(&storage).await, before);
        setup.computer.pass(seconds(1));
        // By a twentieth, and what is cut off of a microsecond.
        let passed = now(&storage).await.since(before);
        assert_near(BEGINNING + passed, BEGINNING + Duration::from_millis(1050), Duration::from_micros(2));
    }
}

#[test]
fn a_new_line_loses_nothing_of_the_time_that_its_transaction_took() {
    let computer = Computer::new();
    let clock = StoreClock::by(Box::new(Seen(computer.clone(), Some("boot-1"))));
    let StoreClock::Host(host) = &clock else { panic!("it is a host's") };
    let old = Line { from: 500_000_000, at: BEGINNING, gap: 0 };
    let stored = Stored { mark: BEGINNING, line: Some(old) };
    let now = clock.now(stored);
    computer.pass(seconds(2));
    let new = host.drawn(stored, now).expect("the host says which boot it is");
    assert_eq!(new, Line { from: 502_000_000, at: BEGINNING + seconds(2), gap: 0 });
}

#[tokio::test]
async fn the_clock_meets_the_wall_clock_in_the_end_and_stays_with_it() {
    for is_forward in [true, false] {
        let setup = Setup::new();
        let (one, other) = (setup.process(), setup.process());
        let step = seconds(60);
        let set = if is_forward { BEGINNING + step } else { BEGINNING - step };
        setup.computer.set_wall(set);
        setup.computer.pass(seconds(1));
        write(&one, "w1").await;
        // Nobody writes from here on: the line says by itself where it ends.
        setup.computer.pass(step * 10);
        let off = now(&other)
            .await
            .since(setup.computer.wall())
            .max(setup.computer.wall().since(now(&other).await));
        assert!(off > seconds(29) && off < seconds(31), "half of the way: {off:?}");
        setup.computer.pass(step * 11);
        assert_eq!(now(&other).await, setup.computer.wall());
        setup.computer.pass(HOUR);
        assert_eq!(now(&other).await, setup.computer.wall());
    }
}

#[tokio::test]
async fn a_task_due_at_a_time_waits_for_the_clock_to_come_there() {
    let setup = Setup::new();
    let storage = setup.process();
    submit(&storage, "t1", Due::At(BEGINNING + seconds(120))).await;
    setup.computer.set_wall(BEGINNING + seconds(60));
    setup.computer.pass(Duration::from_millis(200));
    write(&storage, "w1").await;
    setup.computer.pass(seconds(100));
    assert_eq!(claim(&storage).await, 0);
    setup.computer.pass(seconds(15));
    assert_eq!(claim(&storage).await, 1, "5 s earlier than without the step");
}

#[tokio::test]
async fn an_idle_process_notices_that_the_wall_clock_was_set() {
    let setup = Setup::new();
    let storage = setup.process();
    now(&storage).await;
    assert!(!storage.0.common.clock.must_be_kept());
    setup.computer.pass(seconds(1));
    assert!(!storage.0.common.clock.must_be_kept(), "time passes by both");
    setup.computer.set_wall(BEGINNING + HOUR);
    assert!(storage.0.common.clock.must_be_kept());
    // An empty claim writes nothing but this.
    claim(&storage).await;
    setup.computer.pass(seconds(100));
    assert_near(now(&storage).await, BEGINNING + seconds(106), seconds(0));
    assert!(!storage.0.common.clock.must_be_kept(), "the wall clock is where the line expects it");
}

#[tokio::test]
async fn after_a_restart_the_later_of_wall_clock_and_mark_rules() {
    let setup = Setup::new();
    let storage = setup.process();
    setup.computer.pass(seconds(10));
    write(&storage, "w1").await;
    drop(storage);

    setup.computer.restart();
    setup.computer.set_wall(BEGINNING + HOUR);
    let storage = setup.process_in(Some("boot-2"));
    assert_eq!(now(&storage).await, BEGINNING + HOUR, "it was off for so long");
    write(&storage, "w2").await;
    drop(storage);

    setup.computer.restart();
    setup.computer.set_wall(BEGINNING);
    let storage = setup.process_in(Some("boot-3"));
    assert_eq!(now(&storage).await, BEGINNING + HOUR, "its battery is empty");
    setup.computer.pass(seconds(20));
    assert_eq!(
        now(&storage).await,
        BEGINNING + HOUR + seconds(19),
        "it goes on, and waits for the wall clock"
    );
    assert_eq!(now(&setup.process_in(Some("boot-3"))).await, now(&storage).await);
}

#[tokio::test]
async fn a_mark_ahead_of_the_line_is_gone_on_from() {
    let setup = Setup::new();
    let storage = setup.process();
    let ahead = BEGINNING + HOUR;
    let conn = Connection::open(&setup.path).expect("opened");
    conn.execute("UPDATE meta SET high_mark = ?1", [ahead.as_micros()]).expect("set");
    assert_eq!(now(&storage).await, ahead);
    claim(&storage).await;
    setup.computer.pass(seconds(20));
    assert_eq!(now(&storage).await, ahead + seconds(19));
}

#[tokio::test]
async fn a_host_that_does_not_say_which_boot_it_is_follows_its_wall_clock_forward_and_never_back() {
    let setup = Setup::new();
    let storage = setup.process_in(None);
    assert_eq!(now(&storage).await, BEGINNING);
    setup.computer.set_wall(BEGINNING + HOUR);
    assert_eq!(now(&storage).await, BEGINNING + HOUR);
    setup.computer.set_wall(BEGINNING);
    setup.computer.pass(seconds(20));
    assert_eq!(now(&storage).await, BEGINNING + HOUR + seconds(20));
    // Whoever starts now reads the mark.
    assert!(storage.0.common.clock.must_be_kept());
    claim(&storage).await;
    assert_eq!(now(&setup.process_in(None)).await, BEGINNING + HOUR + seconds(20));
}

#[test]
fn an_older_snapshot_read_later_does_not_turn_the_clock_back() {
    let computer = Computer::new();
    let clock = StoreClock::by(Box::new(Seen(computer.clone(), Some("boot-1"))));
    let line = |at| Stored { mark: BEGINNING, line: Some(Line { from: 500_000_000, at, gap: 0 }) };
    let ahead = BEGINNING + seconds(1);
    assert_eq!(clock.now(line(ahead)), ahead);
    assert_eq!(clock.now(line(BEGINNING)), ahead);
    computer.pass(seconds(3));
    assert_eq!(clock.now(line(BEGINNING)), BEGINNING + seconds(3));
}

#[tokio::test]
async fn a_store_of_version_2_is_gone_on_with_from_its_mark() {
    let setup = Setup::new();
    let conn = Connection::open(&setup.path).expect("opened");
    conn.execute_batch(include_str!("../schema_1.sql")).expect("made");
    conn.execute_batch(include_str!("../schema_2.sql")).expect("made");
    conn.execute_batch("PRAGMA application_id = 1400137313; PRAGMA user_version = 2").expect("set");
    let mark = BEGINNING + seconds(40);
    conn.execute("UPDATE meta SET high_water = ?1", [mark.as_micros()]).expect("set");
    let (one, other) = (setup.process(), setup.process());
    assert_eq!((now(&one).await, now(&other).await), (mark, mark));
    setup.computer.pass(seconds(20));
    setup.computer.set_wall(BEGINNING);
    assert_eq!((now(&one).await, now(&other).await), (mark + seconds(19), mark + seconds(19)));
}

#[test]
fn a_manual_clock_is_believed_when_it_goes_back() {
    let manual = ManualClock::at(Timestamp::from_micros(10));
    let clock = StoreClock::new(Some(manual.clone()));
    let stored = Stored { mark: Timestamp::from_micros(8), line: None };
    manual.set(Timestamp::from_micros(5));
    assert_eq!(clock.now(stored), Timestamp::from_micros(5));
    assert!(!clock.must_be_kept());
}

#[cfg(target_os = "linux")]
#[test]
fn this_host_says_which_boot_it_is_and_its_steady_clock_goes() {
    let clocks = RealClocks::new();
    assert!(clocks.boot().is_some_and(|boot| boot.len() == 36), "{:?}", clocks.boot());
    let before = clocks.steady();
    assert!(before > Duration::ZERO && clocks.steady() >= before);
}
