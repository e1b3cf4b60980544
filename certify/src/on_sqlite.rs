//! A real SQLite file as a stage: WAL, no busy timeout, a thread with a connection of its own for each session.
//!
//! The threads are needed for one thing only: an unfinished select borrows its connection.

use std::io::{self, Error};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{env, fs, process, thread};

use rusqlite::{Connection, types::ValueRef};

use super::language::{Act, Record, Store, T, schema};
use super::stage::{Observation, SESSIONS, Stage, command};

/// A database file in a temporary directory, removed at the end.
#[derive(Debug)]
pub struct SqliteStage {
    directory: PathBuf,
    control: Connection,
    sessions: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    requests: Sender<Request>,
    answers: Receiver<String>,
}

#[derive(Debug)]
enum Request {
    Execute(String),
    OpenCursor(String),
    CloseCursors,
}

impl SqliteStage {
    /// Creates the file; `name` keeps the stages of one process apart.
    ///
    /// # Errors
    /// If the file can't be made.
    pub fn new(name: &str) -> io::Result<Self> {
        let directory = env::temp_dir().join(format!("steadfast-sqlite-{}-{name}", process::id()));
        fs::create_dir(&directory)?;
        let control = open(&directory)?;
        control.pragma_update(None, "journal_mode", "wal").map_err(Error::other)?;
        control.execute_batch(&schema(Store::Sqlite)).map_err(Error::other)?;
        Ok(Self { directory, control, sessions: Vec::new() })
    }

    fn ask(&self, session: usize, request: Request) -> String {
        let client = &self.sessions[session];
        client.requests.send(request).expect("the session's thread lives as long as we ask");
        client.answers.recv().expect("each request is answered")
    }
}

impl Drop for SqliteStage {
    fn drop(&mut self) {
        self.sessions.clear();
        // A file that stays behind in the temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Stage for SqliteStage {
    fn reset(&mut self, rows: &[Record]) -> io::Result<()> {
        if self.sessions.is_empty() {
            let connect = |_| Ok(Client::start(open(&self.directory)?));
            self.sessions = (0..SESSIONS).map(connect).collect::<io::Result<_>>()?;
        }
        for session in 0..SESSIONS {
            self.ask(session, Request::CloseCursors);
            self.ask(session, Request::Execute("rollback".to_owned()));
        }
        let mut sql = "delete from t; delete from q".to_owned();
        for row in rows {
            sql.push_str("; ");
            sql.push_str(&row.insert_sql(false, "").replace(" returning id, s, v, u", ""));
        }
        self.control.execute_batch(&sql).map_err(Error::other)
    }

    fn step(&mut self, session: usize, act: &Act, _: Option<&Observation>) -> io::Result<Observation> {
        let request = match act {
            Act::Run(statement) => Request::Execute(statement.sql(Store::Sqlite, "")),
            // One row at least, or else the select would be finished by its first step.
            Act::OpenCursor(table) if *table == T => {
                Request::OpenCursor("select id from t union all select 0".to_owned())
            }
            Act::OpenCursor(_) => Request::OpenCursor("select id from q union all select 0".to_owned()),
            Act::CloseCursors => Request::CloseCursors,
            plain => match command(plain) {
                Some(sql) => Request::Execute(sql.to_owned()),
                None => panic!("SQLite has no such thing: {plain:?}"),
            },
        };
        let answer = self.ask(session, request);
        Ok(Observation { answers: vec![(session, answer)], blocked: Vec::new() })
    }

    fn rows(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        for table in ["t", "q"] {
            let sql = format!("select id, s, v, u from {table} order by id");
            let found = query(&self.control, &sql).map_err(Error::other)?;
            rows.extend(found.iter().map(|row| format!("{table} {row}")));
        }
        Ok(rows)
    }
}

impl Client {
    fn start(connection: Connection) -> Self {
        let (requests, incoming) = channel();
        let (outgoing, answers) = channel();
        thread::spawn(move || serve(&connection, &incoming, &outgoing, 0));
        Self { requests, answers }
    }
}

/// Answers requests until the client is gone, or until the unfinished selects (as many as `cursors`) are reset.
fn serve(connection: &Connection, incoming: &Receiver<Request>, outgoing: &Sender<String>, cursors: usize) {
    while let Ok(request) = incoming.recv() {
        let answer = match request {
            Request::Execute(sql) => execute(connection, &sql),
            Request::CloseCursors if cursors > 0 => return,
            Request::CloseCursors => "CLOSED".to_owned(),
            Request::OpenCursor(sql) => {
                let mut statement = connection.prepare(&sql).expect("the text of a cursor is right");
                let mut rows = statement.query([]).expect("a select without parameters starts");
                match rows.next() {
                    Err(error) => error_text(&error),
                    Ok(_) => {
                        if outgoing.send("OPEN".to_owned()).is_err() {
                            return;
                        }
                        serve(connection, incoming, outgoing, cursors + 1);
                        if cursors > 0 {
                            return;
                        }
                        "CLOSED".to_owned()
                    }
                }
            }
        };
        if outgoing.send(answer).is_err() {
            return;
        }
    }
}

fn open(directory: &std::path::Path) -> io::Result<Connection> {
    let connection = Connection::open(directory.join("db")).map_err(Error::other)?;
    connection.pragma_update(None, "synchronous", "off").map_err(Error::other)?;
    connection.busy_timeout(std::time::Duration::ZERO).map_err(Error::other)?;
    Ok(connection)
}

fn execute(connection: &Connection, sql: &str) -> String {
    match query(connection, sql) {
        Err(error) => error_text(&error),
        Ok(rows) if !rows.is_empty() => rows.join(" "),
        Ok(_) => match sql.split(' ').next().unwrap_or_default() {
            plain @ ("begin" | "commit" | "rollback" | "savepoint" | "release") => plain.to_uppercase(),
            _ => "no rows".to_owned(),
        },
    }
}

/// Runs a statement to its end; the rows as text.
fn query(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut texts = Vec::new();
    while let Some(row) = rows.next()? {
        let mut cells = Vec::new();
        for column in 0..columns {
            cells.push(match row.get_ref(column)? {
                ValueRef::Integer(number) => number.to_string(),
                _ => "-".to_owned(),
            });
        }
        texts.push(cells.join("|"));
    }
    Ok(texts)
}

/// The class as the kernel names it: of constraints the SQLSTATE, of all others SQLite's own code.
fn error_text(error: &rusqlite::Error) -> String {
    use rusqlite::ffi;
    let code = error.sqlite_error().map_or(-1, |error| error.extended_code);
    match code {
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_ROWID => {
            "error 23505".to_owned()
        }
        ffi::SQLITE_CONSTRAINT_CHECK => "error 23514".to_owned(),
        other => format!("error {other}"),
    }
}
