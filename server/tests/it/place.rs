//! A directory of its own for each test, with a store, perhaps a configuration, and processes that end with the test.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use steadfast_tests::postgres_server::PostgresServer;

/// Longer than anything here may take.
pub(crate) const LONG: Duration = Duration::from_secs(90);
/// How often a fact is looked at that nobody reports.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A directory with the store `steadfast.db`.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With this configuration.
    pub(crate) fn with(config: &str) -> Self {
        let place = Self::new();
        std::fs::write(place.path().join("steadfast.toml"), config).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The command, as called from this directory, with an environment that says nothing about Steadfast.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for variable in
            ["STEADFAST_STORE", "STEADFAST_SERVER", "STEADFAST_TOKEN", "STEADFAST_LOG", "NO_COLOR"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the command to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let mut command = self.command(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
        match output.recv_timeout(LONG) {
            Ok(output) => Done::of(&output),
            Err(_) => {
                kill_process(pid, Signal::KILL).unwrap();
                panic!("{args:?} goes on and on");
            }
        }
    }

    /// Runs the command, which must succeed, and reads its answer.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let done = self.run(&[args, &["--json"]].concat());
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// Whether there is any task in the store, or any store.
    pub(crate) fn has_tasks(&self) -> bool {
        self.path().join("steadfast.db").exists() && self.json(&["list"]) != Value::Array(Vec::new())
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("it exits by itself"),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// A process that is killed with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the process goes on and on");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The first line on its stdout.
    #[track_caller]
    pub(crate) fn first_line(&mut self) -> String {
        let mut line = String::new();
        // Byte by byte: nothing of what follows is taken.
        let stdout = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, stdout).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What is left on its stderr.
    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on a free port.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(place: &Place, args: &[&str]) -> Self {
        let mut command = place.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
        command.args(args);
        Self::of(command)
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap());
        let line = process.first_line();
        let started: Value = serde_json::from_str(&line).expect("the server says where it listens");
        Self { process, url: started["url"].as_str().unwrap().to_owned() }
    }

    /// Ends it as an operator would, and waits for that.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.process.signal(Signal::INT);
        assert_eq!(self.process.ended().code(), Some(0));
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(agent().get(format!("{}{path}", self.url)).call()).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        Answer::of(agent().post(format!("{}{path}", self.url)).send(body)).unwrap()
    }
}

/// A worker that has started.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) id: String,
}

impl Worker {
    pub(crate) fn start(place: &Place, args: &[&str]) -> Self {
        let mut command = place.command(&["worker", "--json"]);
        command.args(args);
        let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap());
        let line = process.first_line();
        let started: Value = serde_json::from_str(&line).expect("the worker says that it has started");
        Self { process, id: started["worker"].as_str().unwrap().to_owned() }
    }

    /// Ends it as an operator would, and waits for that.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.ended().code(), Some(0));
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG)).build().new_agent()
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn of(
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Self, ureq::Error> {
        let mut response = sent?;
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
        Ok(Self { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits for a fact that nobody reports, within a limit.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within {LONG:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The URL of the place's own store.
pub(crate) fn sqlite(place: &Place) -> String {
    format!("sqlite:{}", place.path().join("steadfast.db").display())
}

/// The URL of a database on the PostgreSQL that these tests share. Without one it says which `test` is skipped.
pub(crate) fn postgres(test: &str, database: &str) -> Option<String> {
    PostgresServer::shared(test).map(|server| server.create_database(database).unwrap())
}

/// A time in an answer: the store's.
#[track_caller]
pub(crate) fn time(text: &Value) -> jiff::Timestamp {
    text.as_str().unwrap_or_else(|| panic!("no time: {text}")).parse().unwrap()
}
