//! A real PostgreSQL as a stage: raw SQL on as many sessions as a program has, and one more that looks on.

use std::io::{self, Error};
use std::thread;
use std::time::{Duration, Instant};

use super::language::{Act, Record, Store, schema};
use super::stage::{Observation, SESSIONS, Stage, command};
use crate::postgres_session::{Address, PostgresSession, Reply};

/// How long a state that isn't the expected one must last until it is believed. Far longer than a server needs
/// to find a deadlock with the settings below.
const UNEXPECTED_BELIEVED_AFTER: Duration = Duration::from_millis(400);
/// PostgreSQL looks for a deadlock once in each wait, after its timeout. A next step before that could make an
/// earlier waiter the victim, and which one would be a matter of speed.
const BLOCKED_AT_LEAST: Duration = Duration::from_millis(4);
const POLL_EVERY: Duration = Duration::from_micros(100);
const CLEAN_UP_ATTEMPTS_MAX: u32 = 1000;

/// Sequential scans would meet rows in the order in which they happen to lie.
const SETTINGS: &str = "set deadlock_timeout = '1ms'; set enable_seqscan = off; set enable_bitmapscan = off";

/// Stops the statement that calls it, after its snapshot, as long as somebody holds the gate shut.
const GATE: &str = "create function gate(number int) returns bool language plpgsql volatile as $$ begin \
    perform pg_advisory_lock_shared(number); perform pg_advisory_unlock_shared(number); return true; end $$";

/// A database of its own on a private server.
#[derive(Debug)]
pub struct PostgresStage {
    server: Address,
    database: String,
    control: PostgresSession,
    sessions: Vec<Option<PostgresSession>>,
    /// Server processes whose client has gone, as long as they live.
    ghosts: Vec<(usize, i32)>,
}

impl PostgresStage {
    /// Creates a database beside this one and connects.
    ///
    /// # Errors
    /// If the server can't be reached or refuses.
    pub fn new(server: impl Into<Address>, beside: &str, database: &str) -> io::Result<Self> {
        let server = server.into();
        let mut first = PostgresSession::connect(server.clone(), beside)?;
        done(first.query(&format!("create database \"{database}\" template template0"))?)?;
        let mut control = PostgresSession::connect(server.clone(), database)?;
        done(control.query(&schema(Store::Postgres))?)?;
        done(control.query(GATE)?)?;
        let sessions = (0..SESSIONS).map(|_| None).collect();
        Ok(Self { server, database: database.to_owned(), control, sessions, ghosts: Vec::new() })
    }

    fn act(&mut self, session: usize, act: &Act) -> io::Result<()> {
        let gate = session + 1;
        match act {
            Act::Run(statement) => self.send(session, &statement.sql(Store::Postgres, "")),
            Act::RunGated(statement) => {
                self.ask(&format!("select pg_advisory_lock({gate})"))?;
                let condition = format!(" and (select gate({gate}))");
                self.send(session, &statement.sql(Store::Postgres, &condition))
            }
            Act::OpenGate => self.ask(&format!("select pg_advisory_unlock({gate})")).map(|_| ()),
            Act::Cancel => {
                let process = self.session(session).process();
                self.ask(&format!("select pg_cancel_backend({process})")).map(|_| ())
            }
            Act::HangUp => {
                self.hang_up(session);
                Ok(())
            }
            Act::CommitAndHangUp => {
                self.send(session, "commit")?;
                self.hang_up(session);
                Ok(())
            }
            plain => match command(plain) {
                Some(sql) => self.send(session, sql),
                None => panic!("PostgreSQL has no such thing: {plain:?}"),
            },
        }
    }

    fn hang_up(&mut self, session: usize) {
        let gone = self.sessions[session].take().expect("a session hangs up once");
        self.ghosts.push((session, gone.process()));
    }

    fn send(&mut self, session: usize, sql: &str) -> io::Result<()> {
        self.session(session).send(sql)
    }

    fn session(&mut self, session: usize) -> &mut PostgresSession {
        self.sessions[session].as_mut().expect("the client is still there")
    }

    fn ask(&mut self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        done(self.control.query(sql)?)
    }

    /// Watches until all have answered or are blocked, and it is as expected or stays otherwise.
    fn settle(&mut self, expected: Option<&Observation>) -> io::Result<Observation> {
        let mut seen = Observation::default();
        let mut last_change = Instant::now();
        loop {
            for (number, session) in self.sessions.iter_mut().enumerate() {
                let Some(session) = session.as_mut().filter(|session| session.is_busy()) else { continue };
                if let Some(reply) = session.poll()? {
                    seen.answers.push((number, answer_text(&reply)));
                    last_change = Instant::now();
                }
            }
            seen.answers.sort();
            let (blocked, at_work) = self.pending()?;
            if blocked != seen.blocked || at_work {
                last_change = Instant::now();
            }
            seen.blocked = blocked;
            let nothing_pending = seen.blocked.is_empty() && !at_work;
            let enough = if !at_work && expected == Some(&seen) {
                BLOCKED_AT_LEAST
            } else {
                UNEXPECTED_BELIEVED_AFTER
            };
            if nothing_pending || last_change.elapsed() > enough {
                return Ok(seen);
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// The sessions without an answer that are blocked, and whether others are still at work.
    fn pending(&mut self) -> io::Result<(Vec<usize>, bool)> {
        let busy = |(number, session): (usize, &Option<PostgresSession>)| {
            session.as_ref().filter(|session| session.is_busy()).map(|session| (number, session.process()))
        };
        let mut pending: Vec<(usize, i32)> = self.sessions.iter().enumerate().filter_map(busy).collect();
        pending.extend(&self.ghosts);
        if pending.is_empty() {
            return Ok((Vec::new(), false));
        }
        let processes: Vec<String> = pending.iter().map(|(_, process)| process.to_string()).collect();
        let rows = self.ask(&format!(
            "select pid, cardinality(pg_blocking_pids(pid)) > 0 from pg_stat_activity where pid in ({})",
            processes.join(", ")
        ))?;
        let state = |process: i32| {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(&process.to_string()))?;
            Some(row[1].as_deref() == Some("t"))
        };
        self.ghosts.retain(|(_, process)| state(*process).is_some());
        let mut blocked: Vec<usize> = Vec::new();
        let mut at_work = false;
        for (number, process) in pending {
            match state(process) {
                Some(true) => blocked.push(number),
                Some(false) => at_work = true,
                None => {}
            }
        }
        blocked.sort_unstable();
        Ok((blocked, at_work))
    }

    /// Ends whatever the last program left.
    fn clean_up(&mut self) -> io::Result<()> {
        self.ask("select pg_advisory_unlock_all()")?;
        for attempt in 0..CLEAN_UP_ATTEMPTS_MAX {
            let unanswered: Vec<usize> = (0..SESSIONS)
                .filter(|number| self.sessions[*number].as_ref().is_some_and(PostgresSession::is_busy))
                .collect();
            if attempt > 0 && unanswered.is_empty() && self.ghosts.is_empty() {
                break;
            }
            for number in unanswered {
                let process = self.session(number).process();
                self.ask(&format!("select pg_cancel_backend({process})"))?;
                self.session(number).receive()?;
            }
            for session in self.sessions.iter_mut().flatten() {
                // A statement that was cancelled right behind its gate still holds it.
                done(session.query("rollback; reset lock_timeout; select pg_advisory_unlock_all()")?)?;
            }
            for (_, process) in self.ghosts.clone() {
                self.ask(&format!("select pg_terminate_backend({process})"))?;
            }
            self.pending()?;
        }
        assert!(self.ghosts.is_empty(), "terminated processes end");
        for session in self.sessions.iter_mut().filter(|session| session.is_none()) {
            let mut fresh = PostgresSession::connect(self.server.clone(), &self.database)?;
            done(fresh.query(SETTINGS)?)?;
            *session = Some(fresh);
        }
        Ok(())
    }
}

impl Stage for PostgresStage {
    fn reset(&mut self, rows: &[Record]) -> io::Result<()> {
        self.clean_up()?;
        let mut sql = "truncate t, q".to_owned();
        for row in rows {
            sql.push_str("; ");
            sql.push_str(&row.insert_sql(false, ""));
        }
        self.ask(&sql).map(|_| ())
    }

    fn step(&mut self, session: usize, act: &Act, expected: Option<&Observation>) -> io::Result<Observation> {
        self.act(session, act)?;
        self.settle(expected)
    }

    fn rows(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        for table in ["t", "q"] {
            for row in self.ask(&format!("select id, s, v, u from {table} order by id"))? {
                rows.push(format!("{table} {}", row_text(&row)));
            }
        }
        Ok(rows)
    }
}

fn done(reply: Reply) -> io::Result<Vec<Vec<Option<String>>>> {
    match reply.message {
        None => Ok(reply.rows),
        Some(message) => Err(Error::other(message)),
    }
}

fn answer_text(reply: &Reply) -> String {
    if let Some(error) = &reply.error {
        return format!("error {error}");
    }
    let tag = reply.tags.last().and_then(|tag| tag.split(' ').next()).unwrap_or_default();
    if !["SELECT", "INSERT", "UPDATE", "DELETE", "LOCK"].contains(&tag) {
        return tag.to_owned();
    }
    if reply.rows.is_empty() {
        return "no rows".to_owned();
    }
    reply.rows.iter().map(|row| row_text(row)).collect::<Vec<_>>().join(" ")
}

fn row_text(row: &[Option<String>]) -> String {
    row.iter().map(|cell| cell.as_deref().unwrap_or("-")).collect::<Vec<_>>().join("|")
}
