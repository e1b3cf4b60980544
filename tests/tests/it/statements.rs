//! The PostgreSQL adapter's own statements, sent one by one through raw sessions, in the order in which its functions
//! have them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use steadfast_core::step::{Batch, Insert, Renewal, Step, Transition};
use steadfast_core::storage::ClaimRequest;
use steadfast_core::task::OnConflict;
use steadfast_core::time::micros;
use steadfast_postgres::statements::{self as s, Statement};
use steadfast_sim::storage::flaws::Flaw;
use steadfast_tests::certification::interleaved::Stage;
use steadfast_tests::certification::serial::Call;
use steadfast_tests::postgres_server::PostgresServer;
use steadfast_tests::postgres_session::PostgresSession;

type Values = BTreeMap<&'static str, String>;
type Row = Vec<Option<String>>;

/// Where a caller stands.
#[derive(Debug, Default)]
struct Place {
    at: Option<&'static str>,
    answer: Option<String>,
    abandoned: bool,
}

/// A session that stops before everything that it sends.
struct Caller {
    session: PostgresSession,
    place: Arc<Mutex<Place>>,
    granted: Receiver<()>,
    now: i64,
    flaw: Option<Flaw>,
}

impl Caller {
    fn send(&mut self, site: &'static str, sql: &str) -> Vec<Row> {
        self.place.lock().expect("not poisoned").at = Some(site);
        self.granted.recv().expect("it works");
        // The commit may have been given up meanwhile.
        let abandoned = site == "commit" && self.place.lock().expect("not poisoned").abandoned;
        let reply = self.session.query(if abandoned { "rollback" } else { sql }).expect("it works");
        assert_eq!(reply.message, None, "{sql}");
        reply.rows
    }

    /// Sends a statement with these values; `null` for those that aren't there.
    fn run(&mut self, statement: &Statement, values: &Values) -> Vec<Row> {
        let (mut sql, names) = statement.numbered();
        for (at, name) in names.iter().enumerate().rev() {
            let now = self.now.to_string();
            let value = match *name {
                "now" | "since" | "clock" => &now,
                _ => values.get(name).map_or("null", String::as_str),
            };
            sql = sql.replace(&format!("${}", at + 1), value);
        }
        if self.flaw == Some(Flaw::NoShareLockOnParents) {
            sql = sql.replace("FOR SHARE OF t", "");
        }
        self.send("statement", &sql)
    }

    fn play(mut self, call: &Call) {
        self.send("begin", "begin isolation level read committed");
        let answer = match call {
            Call::Claim(request) => self.claim(request),
            Call::Apply(batches) => self.apply(&batches[0]),
            Call::Read(_) | Call::Advance(_) => unreachable!("calls that write are stepped"),
        };
        self.send("commit", "commit");
        let mut place = self.place.lock().expect("not poisoned");
        place.answer = Some(if place.abandoned { "rolled back".into() } else { answer });
        place.at = None;
    }

    fn claim(&mut self, request: &ClaimRequest) -> String {
        let queue = request.queues[0].as_str();
        let mut values = Values::from([
            ("queues", text_array([queue])),
            ("queue", text(queue)),
            ("kinds", text_array(request.kinds.iter().map(|kind| kind.as_str()))),
            ("worker", text(request.worker.as_str())),
            ("lease", micros(request.lease).to_string()),
        ]);
        let flawed = self.flaw == Some(Flaw::LimitCountedBeforeLock);
        let lock = if flawed { &FOLDED_LIMITS } else { &s::LOCK_LIMITS };
        let locked = self.run(lock, &values);
        let limit = locked[0][1]
            .as_deref()
            .map(|limits| limits.trim_matches(['{', '}']).parse::<i64>().expect("it works"));
        self.run(&s::PROMOTE, &values);
        let mut room = i64::from(request.limit);
        if let Some(limit) = limit {
            let counted = if flawed { locked } else { self.run(&s::COUNT_RUNNING, &values) };
            let running: i64 =
                counted[0].last().expect("it works").as_deref().expect("it works").parse().expect("it works");
            room = room.min(limit - running);
        }
        let mut ids = Vec::new();
        if room > 0 {
            values.insert("room", room.to_string());
            ids.extend(self.run(&s::CLAIM, &values).into_iter().filter_map(|row| row[0].clone()));
        }
        if ids.len() < request.limit as usize {
            self.run(&s::NEXT_DUE, &values);
        }
        ids.join(" ")
    }

    /// Judges steps that stand or fall together before anything of them is written.
    fn judge_together(&mut self, values: &mut Values) -> Option<String> {
        self.run(&s::LOCK_TASKS, values);
        values.insert("only_together", "true".into());
        for examine in [&s::EXAMINE_MOVES, &s::EXAMINE_INSERTS] {
            if let Some(word) = refusal(&self.run(examine, values)[0]) {
                return Some(word);
            }
        }
        values.insert("only_together", "false".into());
        None
    }

    /// Locks the parents and the slot's holder of a newcomer; says whether it wants to wait for the slot.
    fn lock_before_inserts(&mut self, values: &mut Values, parents: bool) -> bool {
        if parents {
            let found = self.run(&s::LOCK_PARENTS, values);
            let waiting =
                |row: &&Row| row[1].as_deref().expect("it works").parse::<i16>().expect("it works") < 4;
            values.insert("pending", format!("array[{}]", found.iter().filter(waiting).count()));
        }
        let waits = values.get("i_waits").is_some_and(|waits| waits != "null");
        if waits {
            values.insert("slots", values["i_slot"].clone());
            let held = self.run(&s::LOCK_HOLDERS, values).remove(0).remove(0).expect("it works");
            values.insert("held", text(&held));
        }
        waits
    }

    /// Stores a newcomer, or says why not.
    fn store(&mut self, values: &mut Values, parents: bool, waits: bool) -> Option<String> {
        if waits {
            let waiting = self.run(&s::FIND_WAITING, values).remove(0).remove(0).expect("it works");
            values.insert("waiting", text(&waiting));
        }
        let Some(stored) = self.run(&s::INSERT, values).remove(0).remove(0) else {
            return Some(refusal(&self.run(&s::EXAMINE_INSERTS, values)[0]).expect("it wasn't stored"));
        };
        values.insert("stored", text(&stored));
        if parents {
            self.run(&s::INSERT_EDGES, values);
        }
        if waits {
            let stranded = self.run(&s::FIND_STRANDED, values).remove(0).remove(0);
            assert_eq!(stranded.as_deref(), Some("f"), "the call would be sent again");
        }
        None
    }

    /// `apply`'s function for one batch: one step, or a replacing.
    fn apply(&mut self, batch: &Batch) -> String {
        let nothing = ["refused", "done", "stored", "m_task", "r_task", "held", "freed"];
        let mut values: Values = nothing.into_iter().map(|name| (name, "'{}'".to_owned())).collect();
        values.insert("only_together", "false".into());
        let together = i32::from(batch.steps.len() > 1);
        let (mut moves, mut inserts, mut renews, mut parents) = (false, false, false, false);
        for step in &batch.steps {
            match step {
                Step::Transition(step) => {
                    moves = true;
                    values.extend(of_transition(step, together));
                }
                Step::Insert(step) => {
                    inserts = true;
                    parents = !step.task.parents.is_empty();
                    values.extend(of_insert(step, together));
                }
                Step::Renew(step) => {
                    renews = true;
                    values.extend(of_renewal(step));
                }
                Step::Limit(_) => unreachable!("limits are set before"),
                Step::Report(_) | Step::Pause(_) | Step::Beat(_) | Step::Prune(_) => {
                    unreachable!("no program has them")
                }
            }
        }
        if together > 0
            && let Some(word) = self.judge_together(&mut values)
        {
            return word;
        }
        let (mut ended, mut freed) = (None, None);
        if moves {
            let moved = self.run(&s::MOVE, &values).remove(0);
            if moved[0].is_none() {
                return refusal(&self.run(&s::EXAMINE_MOVES, &values)[0]).expect("it wasn't moved");
            }
            ended.clone_from(&moved[5]);
            freed.clone_from(&moved[10]);
            if moved[6].is_some() {
                values.insert("again", text(moved[6].as_deref().expect("it works")));
                values.insert("again_attempt", text(moved[7].as_deref().expect("it works")));
                self.run(&s::KEEP_ATTEMPTS, &values);
            }
        }
        if renews && self.run(&s::RENEW, &values)[0][0].is_none() {
            return refusal(&self.run(&s::EXAMINE_RENEWALS, &values)[0]).expect("it wasn't renewed");
        }
        let waits = self.lock_before_inserts(&mut values, parents);
        while let Some(parents) = ended.take() {
            values.insert("ended", text(&parents));
            if self.run(&s::LOCK_CHILDREN, &values)[0][0].is_some() {
                ended = self.run(&s::RELEASE, &values).remove(0).remove(0);
            }
        }
        if let Some(freed) = &freed {
            values.insert("freed", text(freed));
        }
        if inserts && let Some(word) = self.store(&mut values, parents, waits) {
            return word;
        }
        // Children that end with the task hold no slots in these programs.
        if freed.is_some()
            && let Some(heirs) = self.run(&s::LOCK_WAITERS, &values).remove(0).remove(0)
        {
            values.insert("heirs", text(&heirs));
            self.run(&s::HAND_OVER, &values);
        }
        "applied".into()
    }
}

/// D6's mistake: the count is as old as the wait for the lock.
const FOLDED_LIMITS: Statement = Statement {
    name: "FOLDED_LIMITS",
    text: "SELECT array_agg(name), array_agg(concurrency), min(running)
        FROM (SELECT name, concurrency,
                (SELECT count(*) FROM task WHERE queue = queue.name AND state = 3) AS running
            FROM queue WHERE name = ANY(:queues::text[]) AND concurrency IS NOT NULL FOR UPDATE) AS locked",
};

/// The word for the first number in a column of them that isn't "nothing speaks against it".
fn refusal(examined: &Row) -> Option<String> {
    let what = examined[0].as_deref()?.trim_matches(['{', '}']).parse::<i16>().expect("it works");
    let word = match what {
        s::ALREADY => "already",
        s::NOT_FOUND => "not found",
        s::STALE => "stale",
        s::KEY_TAKEN => "key taken",
        s::SLOT_TAKEN => "slot taken",
        s::FREE => return None,
        other => panic!("not to be expected: {other}"),
    };
    Some(word.to_owned())
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn text_array<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    format!("array[{}]", values.into_iter().map(text).collect::<Vec<_>>().join(", "))
}

fn one(value: impl std::fmt::Display) -> String {
    format!("array[{value}]")
}

fn maybe(value: Option<String>) -> String {
    value.map_or("null".into(), one)
}

fn bytes(value: &[u8]) -> String {
    let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{digits}'::bytea")
}

fn of_transition(step: &Transition, batch: i32) -> Values {
    let Transition { task, guard, change, mark } = step;
    let flag = |set: bool| maybe(set.then(|| "true".into()));
    Values::from([
        ("m_step", one(0)),
        ("m_batch", one(batch)),
        ("m_task", text_array([task.as_str()])),
        ("m_from", one(guard.from.bits())),
        ("m_fence", maybe(guard.fence.map(|fence| fence.to_string()))),
        ("m_live", flag(guard.unless_cancel_requested)),
        ("m_lapsed", flag(guard.lease_lapsed)),
        ("m_overdue", flag(guard.overdue)),
        ("m_mark", one(mark.cast_signed())),
        ("m_target", one(change.to.code())),
        ("m_back", maybe(change.give_back_attempt.then(|| "1".into()))),
        ("m_rescue", maybe(change.rescue.then(|| "1".into()))),
        ("m_cause", maybe(change.cause.map(|cause| text(cause.as_str())))),
        ("m_error", maybe(change.error.as_deref().map(text))),
        ("m_output", maybe(change.output.as_deref().map(bytes))),
    ])
}

fn of_renewal(step: &Renewal) -> Values {
    Values::from([
        ("r_step", one(0)),
        ("r_batch", one(0)),
        ("r_task", text_array([step.task.as_str()])),
        ("r_fence", one(step.fence)),
        ("r_lease", one(micros(step.lease))),
    ])
}

fn of_insert(step: &Insert, batch: i32) -> Values {
    let Insert { task, digest } = step;
    let parents = || text_array(task.parents.iter().map(|parent| parent.id.as_str()));
    let each = |value: String| format!("array[{}]", vec![value; task.parents.len()].join(", "));
    let mut values = Values::from([
        ("i_step", one(1)),
        ("i_batch", one(batch)),
        ("i_task", text_array([task.id.as_str()])),
        ("i_kind", text_array([task.kind.as_str()])),
        ("i_queue", text_array([task.queue.as_str()])),
        ("i_slot", maybe(task.slot.as_ref().map(|(slot, _)| text(slot.as_str())))),
        ("i_waits", maybe(matches!(task.slot, Some((_, OnConflict::Queue))).then(|| "true".into()))),
        ("i_key", maybe(task.key.as_ref().map(|key| text(key.as_str())))),
        ("i_priority", one(task.priority)),
        ("i_payload", one(bytes(&task.payload))),
        ("i_attempts_max", one(task.attempts_max)),
        ("i_rescues_max", one(task.rescues_max)),
        ("i_timeout", one(micros(task.timeout))),
        ("i_backoff_min", one(micros(task.backoff.min))),
        ("i_backoff_max", one(micros(task.backoff.max))),
        ("i_digest", one(digest.cast_signed())),
    ]);
    if !task.parents.is_empty() {
        values.insert("parents", parents());
        values.insert("e_parent", parents());
        values.insert("e_child", each(text(task.id.as_str())));
        values.insert("e_run", each("false".into()));
    }
    values
}

/// Two callers, and one more session that looks on.
pub(crate) struct PostgresStage {
    control: PostgresSession,
    places: Vec<Arc<Mutex<Place>>>,
    grants: Vec<Sender<()>>,
    processes: Vec<i32>,
    threads: Vec<JoinHandle<()>>,
}

impl PostgresStage {
    pub(crate) fn new(
        server: &PostgresServer,
        database: &str,
        calls: &[Call],
        now: i64,
        flaw: Option<Flaw>,
    ) -> Self {
        let control = PostgresSession::connect(server, database).expect("it works");
        let (places, grants, processes, threads) = Default::default();
        let mut stage = Self { control, places, grants, processes, threads };
        for call in calls {
            let mut session = PostgresSession::connect(server, database).expect("it works");
            session.query("set search_path = steadfast; set enable_seqscan = off").expect("it works");
            stage.processes.push(session.process());
            let place = Arc::<Mutex<Place>>::default();
            let (grant, granted) = channel();
            let caller = Caller { session, place: place.clone(), granted, now, flaw };
            let call = call.clone();
            stage.threads.push(std::thread::spawn(move || caller.play(&call)));
            stage.places.push(place);
            stage.grants.push(grant);
        }
        stage
    }

    pub(crate) fn answers(self) -> Vec<String> {
        self.threads.into_iter().for_each(|thread| thread.join().expect("it works"));
        self.places
            .iter()
            .map(|place| place.lock().expect("not poisoned").answer.clone().expect("it works"))
            .collect()
    }

    /// Who stands before something or is through.
    fn stand(&self) -> Vec<bool> {
        (0..self.places.len()).map(|caller| self.at(caller).is_some() || self.is_through(caller)).collect()
    }

    fn is_blocked(&mut self, caller: usize) -> bool {
        let sql = format!("select cardinality(pg_blocking_pids({})) > 0", self.processes[caller]);
        self.control.query(&sql).expect("it works").rows[0][0].as_deref() == Some("t")
    }
}

impl Stage for PostgresStage {
    async fn settle(&mut self) {
        loop {
            // Whoever ends while we look may let another go on.
            let stand = self.stand();
            let settled = (0..stand.len()).all(|caller| stand[caller] || self.is_blocked(caller));
            if settled && stand == self.stand() {
                return;
            }
            let failed = |caller: usize| self.threads[caller].is_finished() && !self.is_through(caller);
            assert!(!(0..stand.len()).any(failed), "a statement failed");
            std::thread::yield_now();
        }
    }

    fn at(&self, caller: usize) -> Option<&'static str> {
        self.places[caller].lock().expect("not poisoned").at
    }

    fn is_through(&self, caller: usize) -> bool {
        self.places[caller].lock().expect("not poisoned").answer.is_some()
    }

    fn grant(&mut self, caller: usize) {
        self.places[caller].lock().expect("not poisoned").at = None;
        self.grants[caller].send(()).expect("it works");
    }

    fn abandon(&mut self, caller: usize) {
        self.places[caller].lock().expect("not poisoned").abandoned = true;
    }
}
