//! The PostgreSQL adapter, stepped: its functions, as they stand in the database, with a stop before each part.
//!
//! A stop is a shared advisory lock on its number. A session that looks on holds all of them, and gives one back where a
//! caller may go on. So it is the shipped function that is stepped, with its own control flow, and the adapter that
//! calls it and reads its answer.

use std::time::{Duration, Instant};

use steadfast_core::time::ManualClock;
use steadfast_postgres::statements::{self as s, Statement};
use steadfast_postgres::{Options, PostgresStorage};
use steadfast_sim::storage::flaws::Flaw;
use steadfast_tests::certification::interleaved::Stage;
use steadfast_tests::certification::serial::{Answered, Call};
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;
use tokio::task::JoinHandle;

/// More stops than any call makes.
const STOPS_MAX: usize = 60;
/// After so long a server process looks whether its wait for a lock is part of a deadlock.
const DEADLOCK_TIMEOUT: Duration = Duration::from_millis(5);
/// It certainly has looked by then: whoever closes a circle later is the one that notices, as in the kernel.
const LOOKED: Duration = Duration::from_millis(15);
/// Nobody is under way for so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// A caller's session says by its name where it stands, and waits to be let on.
const STOP_BEFORE: &str = "
CREATE OR REPLACE FUNCTION steadfast.stop_before(_part text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _name text[] := string_to_array(current_setting('application_name'), '-');
    _stop integer;
BEGIN
    IF _part IS NULL OR _name[1] <> 'caller' THEN
        RETURN;
    END IF;
    _stop := coalesce(_name[3]::integer, 0) + 1;
    PERFORM set_config('lock_timeout', '0', true), set_config('deadlock_timeout', '{deadlock}', true),
        set_config('application_name', format('caller-%s-%s-%s', _name[2], _stop, _part), true);
    PERFORM pg_advisory_xact_lock_shared(1000 + _name[2]::integer, _stop);
    IF _part = 'commit' AND NOT pg_try_advisory_xact_lock_shared(2000, _name[2]::integer) THEN
        RAISE EXCEPTION 'rolled back at the last stop' USING ERRCODE = '57014';
    END IF;
END $$";

/// The stops of the function that claims: which statement, and the part that it begins.
const CLAIM_STOPS: [(&Statement, usize, &str); 5] = [
    (&s::LOCK_LIMITS, 0, "'limits'"),
    (&s::PROMOTE, 0, "'promote'"),
    (&s::COUNT_RUNNING, 0, "'count'"),
    (&s::CLAIM, 0, "'claim'"),
    (&s::NEXT_DUE, 0, "'next due'"),
];

/// The stops of the function that applies. Of inserts that are refused with their batch, or were made before, the
/// simulated plan knows nothing any more: where no others are left, the function goes on with nothing to do, and there is
/// no stop. Nor is there one where it touches only what it has locked and judged.
const APPLY_STOPS: [(&Statement, usize, &str); 16] = [
    (&s::LOCK_TASKS, 0, "'tasks'"),
    (&s::LOCK_PARENTS, 0, "'parents'"),
    (&s::EXAMINE_INSERTS, 0, "'examine inserts'"),
    (&s::MOVE, 0, "CASE WHEN NOT _together THEN 'move' END"),
    (&s::EXAMINE_MOVES, 1, "CASE WHEN NOT _together THEN 'examine moves' END"),
    (&s::RENEW, 0, "'renew'"),
    (&s::EXAMINE_RENEWALS, 1, "'examine renewals'"),
    (&s::LOCK_PARENTS, 1, "CASE WHEN _left && _with_parents THEN 'parents' END"),
    (&s::LOCK_HOLDERS, 0, "CASE WHEN cardinality(_left) > 0 THEN 'holders' END"),
    (&s::LOCK_PARENTS, 2, "CASE WHEN _left && _with_parents THEN 'parents' END"),
    (&s::INSERT, 0, "CASE WHEN cardinality(_left) > 0 THEN 'insert' END"),
    (
        &s::EXAMINE_INSERTS,
        1,
        "CASE WHEN cardinality(_stored) < cardinality(_left) THEN 'examine inserts' END",
    ),
    (&s::LOCK_CHILDREN, 0, "'children'"),
    (&s::RELEASE, 0, "'release'"),
    (&s::LOCK_QUEUES, 0, "'queue'"),
    (&s::LOCK_WAITERS, 0, "'waiters'"),
];

/// The steps of inserts that have parents, and of those that are still to be made.
const LEFT: &str = "
    _with_parents integer[] := ARRAY(SELECT _i_step[at] FROM unnest(_e_at) AS at);
    _left integer[] := _i_step;";
const FIND_LEFT: &str = "_left := ARRAY(
    SELECT one.step FROM unnest(_i_step, _i_batch) AS one(step, batch)
    WHERE (one.batch IS NULL OR one.batch <> ALL(_refused))
        AND one.step NOT IN (SELECT step FROM unnest(o_step, o_what) AS e(step, what) WHERE what = 1)); ";

/// The stops of the function that keeps house and reports.
const KEEP_STOPS: [(&Statement, usize, &str); 4] = [
    (&s::keep::LOCK_REPORTED, 0, "'reported'"),
    (&s::keep::FIND_TAKEN, 0, "'taken'"),
    (&s::keep::REPORT, 0, "'report'"),
    (&s::LOCK_QUEUES, 0, "'queue'"),
];

/// D6's mistake: the count is as old as the wait for the lock.
const FOLDED_LIMITS: &str = "SELECT array_agg(name), array_agg(concurrency), min(running)
    FROM (SELECT name, concurrency,
            (SELECT count(*) FROM task WHERE queue = queue.name AND state = 3) AS running
        FROM queue WHERE name = ANY(_queues) AND concurrency IS NOT NULL FOR UPDATE) AS locked";

/// Takes a guard out of a function, where it has it.
fn without_guard(definition: &str, flaw: Flaw) -> String {
    match flaw {
        Flaw::NoShareLockOnParents => definition.replace("FOR SHARE OF t", ""),
        Flaw::LimitCountedBeforeLock => {
            let count = stop("'count'") + s::COUNT_RUNNING.embedded().trim() + " INTO _count;";
            definition
                .replace(s::LOCK_LIMITS.embedded().trim(), FOLDED_LIMITS)
                .replace("INTO _limited, _limits", "INTO _limited, _limits, _folded")
                .replace(&count, "_count := _folded;")
                .replacen("DECLARE", "DECLARE\n    _folded bigint;", 1)
        }
        other => panic!("no function is known without what {} lacks", other.as_str()),
    }
}

/// Puts this text before the statement of the function that sends a statement for the nth time.
fn before(body: &mut String, statement: &Statement, nth: usize, text: &str) {
    let sent = statement.embedded();
    let found = body.match_indices(sent.trim()).nth(nth);
    let (mut at, _) = found.unwrap_or_else(|| panic!("{} isn't sent so often", statement.name));
    for begins in ["RETURN QUERY ", "FOR _parent IN "] {
        if body[..at].ends_with(begins) {
            at -= begins.len();
        }
    }
    body.insert_str(at, text);
}

fn stop(part: &str) -> String {
    format!("PERFORM stop_before({part}); ")
}

/// Puts this in the place of a text that stands there once.
fn replace(body: &mut String, text: &str, by: &str) {
    assert_eq!(body.matches(text).count(), 1, "{text}");
    *body = body.replace(text, by);
}

/// A function with its stops.
fn with_stops(definition: &str) -> String {
    let mut body = definition.to_owned();
    let sends = |statement: &Statement| definition.contains(statement.embedded().trim());
    let stops: &[(&Statement, usize, &str)] = if sends(&s::CLAIM) {
        &CLAIM_STOPS
    } else if sends(&s::MOVE) {
        &APPLY_STOPS
    } else {
        &KEEP_STOPS
    };
    for (statement, nth, part) in stops {
        before(&mut body, statement, *nth, &stop(part));
    }
    if sends(&s::MOVE) {
        let judging_ends = "o_task := NULL;\n        _only_together := false;";
        replace(&mut body, judging_ends, &(FIND_LEFT.to_owned() + judging_ends));
        body = body.replacen("DECLARE", &format!("DECLARE{LEFT}"), 1);
    }
    // Nobody's wait for a lock times out.
    body = body.replace("IF NOT _alone THEN", "IF false THEN");
    body = body.replacen("\nBEGIN", &format!("\nBEGIN {}", stop("'begin'")), 1);
    let end = body.rfind("END").expect("a function ends");
    body.insert_str(end, &stop("'commit'"));
    body
}

/// A store whose functions stop where a caller calls them.
pub(super) struct Stepped {
    control: PostgresSession,
    callers: Vec<PostgresStorage>,
    pub(super) store: PostgresStorage,
    pub(super) clock: ManualClock,
    definitions: Vec<String>,
}

impl Stepped {
    pub(super) async fn open(server: &PostgresServer, database: &str, callers: usize) -> Self {
        let url = server.create_database(database).expect("a database can be made");
        let clock = ManualClock::at(super::START);
        let at = |url: String| Options { clock: Some(clock.clone()), writers: 1, ..Options::new(url) };
        let store = PostgresStorage::open(at(url.clone())).await.expect("the store opens");
        let mut control = PostgresSession::connect(server, database).expect("a session opens");
        let stop_before = STOP_BEFORE.replace("{deadlock}", &format!("{}ms", DEADLOCK_TIMEOUT.as_millis()));
        run(&mut control, &stop_before);
        let shipped = "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'steadfast'::regnamespace \
            and proname ~ '^(claim|apply|keep)_[0-9a-f]{16}$'";
        let definitions: Vec<String> = run(&mut control, shipped)
            .into_iter()
            .map(|mut row| with_stops(&row.remove(0).expect("a definition")))
            .collect();
        assert_eq!(definitions.len(), 3, "one that claims, one that applies and one that keeps house");
        let mut stepped = Self { control, callers: Vec::new(), store, clock: clock.clone(), definitions };
        for caller in 0..callers {
            let url = format!("{url}?application_name=caller-{caller}");
            stepped.callers.push(PostgresStorage::open(at(url)).await.expect("the store opens"));
        }
        stepped.define(None);
        stepped
    }

    /// From now on the functions lack this guard, or none.
    pub(super) fn define(&mut self, flaw: Option<Flaw>) {
        let flawed = |definition: &String| flaw.map(|flaw| without_guard(definition, flaw));
        for definition in &self.definitions {
            run(&mut self.control, flawed(definition).as_ref().unwrap_or(definition));
        }
        let same = |definition: &String| flawed(definition).as_ref() == Some(definition);
        assert!(!self.definitions.iter().all(same), "{flaw:?} changes none of them");
    }

    /// As if nothing had ever been stored.
    pub(super) fn empty(&mut self) {
        run(&mut self.control, &super::empty_postgres("steadfast"));
        self.clock.set(super::START);
    }

    /// Begins the calls, one by each caller.
    pub(super) fn stage(&mut self, calls: &[Call]) -> SteppedStage<'_> {
        assert_eq!(calls.len(), self.callers.len());
        let callers = calls.len();
        let all = format!(
            "select pg_advisory_lock(1000 + caller, stop) from generate_series(0, {}) as caller, \
            generate_series(1, {STOPS_MAX}) as stop",
            callers - 1
        );
        run(&mut self.control, &all);
        let begin = |(store, call): (&PostgresStorage, &Call)| {
            let (store, call) = (store.clone(), call.clone());
            tokio::spawn(async move { super::answered(&store, &call).await })
        };
        let under_way = self.callers.iter().zip(calls).map(begin).collect();
        let places = vec![Place::default(); callers];
        SteppedStage { control: &mut self.control, under_way, places }
    }
}

fn run(session: &mut PostgresSession, sql: &str) -> Vec<Vec<Option<String>>> {
    let reply = session.query(sql).expect("the server is there");
    assert_eq!(reply.message, None, "{sql}");
    reply.rows
}

/// What is known of a caller.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The stop that it has come to, and the one that it was let on from.
    stop: usize,
    granted: usize,
    part: &'static str,
    waits: bool,
    /// It is known that its wait isn't part of a deadlock.
    has_looked: bool,
    rolls_back: bool,
}

/// Calls under way.
pub(super) struct SteppedStage<'a> {
    control: &'a mut PostgresSession,
    under_way: Vec<JoinHandle<(String, Answered)>>,
    places: Vec<Place>,
}

impl SteppedStage<'_> {
    /// Lets all go on to their ends; what they answer.
    pub(super) async fn answers(self) -> Vec<(String, Answered)> {
        let abandoned: Vec<bool> = self.places.iter().map(|place| place.rolls_back).collect();
        run(self.control, "select pg_advisory_unlock_all()");
        let mut answered = Vec::new();
        for (call, rolled_back) in self.under_way.into_iter().zip(abandoned) {
            let answer = tokio::time::timeout(SETTLED_WITHIN, call).await.expect("it ends once it is let on");
            let answer = answer.expect("a call doesn't panic");
            answered.push(if rolled_back { super::rolled_back() } else { answer });
        }
        answered
    }

    /// Looks where everybody is; says whether all stand, wait for one another, or are through.
    fn look(&mut self) -> bool {
        // Whoever is through by now has given back its locks before the server is asked.
        let through: Vec<bool> = (0..self.places.len()).map(|caller| self.is_through(caller)).collect();
        let sql = "select application_name, cardinality(array_remove(pg_blocking_pids(pid), pg_backend_pid())) > 0 \
            from pg_stat_activity where datname = current_database() and application_name like 'caller-%-%'";
        for place in &mut self.places {
            place.waits = false;
        }
        for row in run(self.control, sql) {
            let name = row[0].as_deref().expect("a name");
            let mut words = name.splitn(4, '-').skip(1);
            let mut word = || words.next().expect("it says where it stands");
            let caller: usize = word().parse().expect("a caller's number");
            let stop: usize = word().parse().expect("a stop's number");
            let place = &mut self.places[caller];
            if stop > place.stop {
                (place.stop, place.part) = (stop, known(word()));
            }
            place.waits = place.stop == place.granted && row[1].as_deref() == Some("t");
        }
        let stands = |caller: usize| self.places[caller].stop > self.places[caller].granted;
        let all = 0..self.places.len();
        let rests = |caller: usize| through[caller] || stands(caller);
        // Where all that aren't through wait there is a deadlock, and one of them is about to be told.
        all.clone().all(|caller| rests(caller) || self.places[caller].waits)
            && (all.clone().any(stands) || all.clone().all(|caller| through[caller]))
    }
}

/// The parts by name.
fn known(part: &str) -> &'static str {
    const PARTS: [&str; 23] = [
        "begin",
        "commit",
        "limits",
        "promote",
        "count",
        "claim",
        "next due",
        "tasks",
        "parents",
        "holders",
        "examine inserts",
        "move",
        "examine moves",
        "renew",
        "examine renewals",
        "insert",
        "queue",
        "children",
        "release",
        "waiters",
        "reported",
        "taken",
        "report",
    ];
    PARTS.into_iter().find(|one| *one == part).expect("a part's name")
}

impl Stage for SteppedStage<'_> {
    async fn settle(&mut self) {
        let since = Instant::now();
        loop {
            let settled = self.look();
            for place in self.places.iter_mut().filter(|place| !place.waits) {
                place.has_looked = false;
            }
            if settled && self.places.iter().all(|place| place.waits == place.has_looked) {
                return;
            }
            assert!(since.elapsed() < SETTLED_WITHIN, "somebody is still under way: {:?}", self.places);
            if settled {
                tokio::time::sleep(LOOKED).await;
                for place in self.places.iter_mut().filter(|place| place.waits) {
                    place.has_looked = true;
                }
            } else {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
    }

    fn at(&self, caller: usize) -> Option<&'static str> {
        let place = &self.places[caller];
        (place.stop > place.granted).then_some(place.part)
    }

    fn is_through(&self, caller: usize) -> bool {
        self.under_way[caller].is_finished()
    }

    fn grant(&mut self, caller: usize) {
        let place = &mut self.places[caller];
        place.granted = place.stop;
        let sql = format!("select pg_advisory_unlock(1000 + {caller}, {})", place.granted);
        run(self.control, &sql);
    }

    fn abandon(&mut self, caller: usize) {
        self.places[caller].rolls_back = true;
        run(self.control, &format!("select pg_advisory_lock(2000, {caller})"));
    }
}
