//! The kernel as a stage: sessions that may go on do so at once, first come first.
//!
//! When several may go on at the same moment, a real server lets them race. If it shows something else than the
//! first order does, [`KernelStage::explain`] looks for an order that shows the same.

use std::io;

use steadfast_sim::db::{Begin, Db, Ended, ErrorClass, Mode, Progress, Rows, Select, SessionId};

use super::language::{Act, Q, Record, Store, T};
use super::stage::{Observation, SESSIONS, Stage};

/// The simulated database and its sessions.
#[derive(Debug)]
pub struct KernelStage {
    mode: Mode,
    db: Db<Record>,
    sessions: Vec<Client>,
    /// What this program started with and played so far, each step with its choices of who goes on.
    rows: Vec<Record>,
    played: Vec<(usize, Act, Vec<usize>)>,
}

/// The choices of who goes on in one step.
#[derive(Debug)]
struct Choices<'a> {
    given: &'a [usize],
    /// Among how many each choice was.
    among: Vec<usize>,
}

impl Choices<'_> {
    /// The given choice, or else the first.
    fn choose(&mut self, among: usize) -> usize {
        let choice = self.given.get(self.among.len()).copied().unwrap_or(0);
        self.among.push(among);
        choice
    }
}

/// Three sessions that race have few orders; more than this is a mistake.
const ORDERS_MAX: usize = 100;

#[derive(Clone, Copy, Debug)]
struct Client {
    id: SessionId,
    /// The statement stays where it is, after its snapshot.
    gated: bool,
    waits_limited: bool,
    gone: bool,
}

impl KernelStage {
    /// An empty database that imitates this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let mode = match store {
            Store::Postgres => Mode::Postgres,
            Store::Sqlite => Mode::Sqlite,
        };
        Self { mode, db: Db::new(mode), sessions: Vec::new(), rows: Vec::new(), played: Vec::new() }
    }

    fn act(&mut self, session: usize, act: &Act) -> Option<String> {
        let id = self.sessions[session].id;
        let progress = match act {
            Act::Begin(begin) => return Some(self.begin(id, *begin)),
            Act::Commit => return Some(self.end(id, true)),
            Act::Rollback => return Some(self.end(id, false)),
            Act::Run(statement) => self.db.start(id, statement.statement()),
            Act::RunGated(statement) => {
                self.sessions[session].gated = true;
                self.db.start_paused(id, statement.statement())
            }
            Act::OpenGate => {
                self.sessions[session].gated = false;
                return None;
            }
            Act::LimitWaits => {
                self.sessions[session].waits_limited = true;
                return Some("SET".to_owned());
            }
            Act::Cancel => Progress::Done(self.db.fail(id, ErrorClass::Cancelled)),
            Act::HangUp => {
                self.sessions[session].gone = true;
                self.db.orphan(id);
                return None;
            }
            Act::CommitAndHangUp => {
                self.sessions[session].gone = true;
                self.db.commit(id);
                self.db.kill(id);
                return None;
            }
            Act::Savepoint => {
                self.db.savepoint(id, "a");
                return Some("SAVEPOINT".to_owned());
            }
            Act::RollbackTo => return Some(found(self.db.rollback_to(id, "a"), "ROLLBACK")),
            Act::Release => return Some(found(self.db.release(id, "a"), "RELEASE")),
            Act::OpenCursor(table) => {
                let all = Rows::all(*table);
                self.db.open_cursor(id, Select::new(all));
                return Some("OPEN".to_owned());
            }
            Act::CloseCursors => {
                self.db.close_cursors(id);
                return Some("CLOSED".to_owned());
            }
        };
        if matches!(progress, Progress::Done(_)) {
            self.sessions[session].gated = false;
        }
        answer_text(progress)
    }

    fn begin(&mut self, id: SessionId, begin: Begin) -> String {
        match self.db.begin(id, begin) {
            Ok(()) => "BEGIN".to_owned(),
            Err(error) => format!("error {}", error.code()),
        }
    }

    fn end(&mut self, id: SessionId, commit: bool) -> String {
        let ended = if commit { self.db.commit(id) } else { self.db.rollback(id) };
        match (ended, self.mode) {
            (Ended::Committed, _) => "COMMIT",
            (Ended::RolledBack, _) => "ROLLBACK",
            (Ended::NoTransaction, Mode::Sqlite) => "error 1",
            (Ended::NoTransaction, Mode::Postgres) if commit => "COMMIT",
            (Ended::NoTransaction, Mode::Postgres) => "ROLLBACK",
        }
        .to_owned()
    }

    /// Lets everybody go on who may; one who still waits and has a limit gives up.
    fn go_on(&mut self, choices: &mut Choices<'_>, answers: &mut Vec<(usize, String)>) {
        loop {
            let ungated = |id| self.session_of(id, |client| !client.gated);
            let able: Vec<usize> = self.db.runnable().filter_map(ungated).collect();
            let next = if able.len() > 1 { able.get(choices.choose(able.len())) } else { able.first() };
            let (session, progress) = if let Some(session) = next.copied() {
                (session, self.db.resume(self.sessions[session].id))
            } else {
                let out_of_time = |client: &&Client| client.waits_limited && self.is_blocked(client);
                let Some(client) = self.sessions.iter().find(out_of_time).copied() else { return };
                let session = self.session_of(client.id, |_| true).expect("it is one of ours");
                (session, Progress::Done(self.db.fail(client.id, ErrorClass::LockTimeout)))
            };
            if let (Some(answer), false) = (answer_text(progress), self.sessions[session].gone) {
                answers.push((session, answer));
            }
        }
    }

    /// Looks for an order of those who could go on in the last step that shows what was `seen`, and leaves the
    /// stage in the state to which it leads. Without one, the state is of no use any more.
    pub fn explain(&mut self, seen: &Observation) -> bool {
        self.find_order(|shown| shown == seen)
    }

    /// Looks for an order in which the last step shows something that is wanted; see [`KernelStage::explain`].
    pub fn find_order(&mut self, wanted: impl Fn(&Observation) -> bool) -> bool {
        let mut untried = vec![Vec::new()];
        for _ in 0..ORDERS_MAX {
            let Some(given) = untried.pop() else { return false };
            let (shown, among) = self.replay_with(&given);
            if wanted(&shown) {
                self.played.last_mut().expect("a step was played").2 = given;
                return true;
            }
            for (place, among) in among.iter().enumerate().skip(given.len()) {
                for choice in 1..*among {
                    let mut next = given.clone();
                    next.resize(place, 0);
                    next.push(choice);
                    untried.push(next);
                }
            }
        }
        panic!("more than {ORDERS_MAX} orders");
    }

    /// Plays everything again, the last step with these choices.
    fn replay_with(&mut self, last: &[usize]) -> (Observation, Vec<usize>) {
        self.restart();
        let played = std::mem::take(&mut self.played);
        let (last_step, before) = played.split_last().expect("a step was played");
        for (session, act, choices) in before {
            self.play(*session, act, choices);
        }
        let shown = self.play(last_step.0, &last_step.1, last);
        self.played = played;
        shown
    }

    fn restart(&mut self) {
        self.db = Db::new(self.mode);
        self.db.load(self.rows.iter().cloned());
        let connect = |_| Client { id: self.db.connect(), gated: false, waits_limited: false, gone: false };
        self.sessions = (0..SESSIONS).map(connect).collect();
    }

    fn play(&mut self, session: usize, act: &Act, given: &[usize]) -> (Observation, Vec<usize>) {
        let mut choices = Choices { given, among: Vec::new() };
        let mut answers: Vec<(usize, String)> =
            self.act(session, act).map(|answer| (session, answer)).into_iter().collect();
        self.go_on(&mut choices, &mut answers);
        answers.sort();
        let blocked = (0..SESSIONS).filter(|session| self.is_blocked(&self.sessions[*session])).collect();
        (Observation { answers, blocked }, choices.among)
    }

    fn session_of(&self, id: SessionId, allowed: impl Fn(&Client) -> bool) -> Option<usize> {
        self.sessions.iter().position(|client| client.id == id && allowed(client))
    }

    fn is_blocked(&self, client: &Client) -> bool {
        self.db.is_alive(client.id) && self.db.is_busy(client.id)
    }
}

impl Stage for KernelStage {
    fn reset(&mut self, rows: &[Record]) -> io::Result<()> {
        self.rows = rows.to_vec();
        self.played.clear();
        self.restart();
        Ok(())
    }

    fn step(&mut self, session: usize, act: &Act, _: Option<&Observation>) -> io::Result<Observation> {
        self.played.push((session, act.clone(), Vec::new()));
        Ok(self.play(session, act, &[]).0)
    }

    fn rows(&mut self) -> io::Result<Vec<String>> {
        let of = |table, name| self.db.committed(table).map(move |row| format!("{name} {}", row.text()));
        Ok(of(T, "t").chain(of(Q, "q")).collect())
    }
}

fn found(there: bool, tag: &str) -> String {
    if there { tag.to_owned() } else { "error 1".to_owned() }
}

fn answer_text(progress: Progress<Record>) -> Option<String> {
    match progress {
        Progress::Waiting => None,
        Progress::Done(Err(error)) => Some(format!("error {}", error.code())),
        Progress::Done(Ok(rows)) if rows.is_empty() => Some("no rows".to_owned()),
        Progress::Done(Ok(rows)) => Some(rows.iter().map(Record::text).collect::<Vec<_>>().join(" ")),
    }
}
