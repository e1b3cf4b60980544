//! A private PostgreSQL server: its own data in a temporary directory, its own port, gone when its owner is.
//!
//! Adapters, certification and benchmarks need a real server whose settings they choose, and which they may
//! kill. It listens on a Unix socket in its directory and on 127.0.0.1. It is stopped and removed by a small
//! shell process that waits for the end of a pipe from the owner, so a killed owner leaves nothing behind.
//! PostgreSQL refuses to run as root: then everything runs as the user `postgres` or `nobody`.
//!
//! It must not know what it is used for: no schema.

use std::io::{self, Error};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use steadfast_certify::postgres_session::{Address, Host};

/// The superuser that connects; no password is asked.
pub const USER: &str = "steadfast";

const START_ATTEMPTS_MAX: u32 = 3;
const DIRECTORY_ATTEMPTS_MAX: u32 = 1000;

/// How to start a server.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether commits reach the disk. Benchmarks and crash tests say yes, all others save the time.
    pub fsync: bool,
    /// Further settings, as in `postgresql.conf`.
    pub settings: &'a [(&'a str, &'a str)],
}

/// A running server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct PostgresServer {
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
    run_as: Option<(u32, u32)>,
    arguments: String,
    /// Waits for the end of `lifeline`, then stops the server and removes the directory.
    undertaker: Child,
    lifeline: Option<ChildStdin>,
}

impl PostgresServer {
    /// Starts a server on fresh data. `None` if PostgreSQL isn't installed.
    ///
    /// # Errors
    /// If it is installed but doesn't start; the error carries its log.
    pub fn start(options: Options<'_>) -> io::Result<Option<Self>> {
        let Some(binaries) = find_binaries() else { return Ok(None) };
        let directory = make_directory()?;
        let run_as = unprivileged_user(&directory)?;
        if let Some((user, group)) = run_as {
            chown(&directory, Some(user), Some(group))?;
        }
        let (undertaker, lifeline) = start_undertaker(&binaries, &directory, run_as)?;
        let mut server = Self {
            binaries,
            directory,
            port: 0,
            run_as,
            arguments: String::new(),
            undertaker,
            lifeline: Some(lifeline),
        };
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.arg("--pgdata").arg(data).args(["--username", USER, "--auth", "trust"]);
        run(initdb.args(["--encoding", "UTF8", "--no-locale", "--no-sync"]))?;
        let mut last = Error::other("no attempt was made");
        for _ in 0..START_ATTEMPTS_MAX {
            server.port = free_port()?;
            server.arguments = server.server_arguments(options);
            match server.launch() {
                Ok(()) => return Ok(Some(server)),
                // Somebody else may have taken the port meanwhile.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A server of its own for one test. Without PostgreSQL it says which `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// If PostgreSQL isn't installed and `STEADFAST_REQUIRE_POSTGRES=1`, or if it doesn't start.
    #[must_use]
    pub fn start_or_skip(test: &str, options: Options<'_>) -> Option<Self> {
        let server = Self::start(options).expect("an installed PostgreSQL starts");
        if server.is_none() {
            skip(test);
        }
        server
    }

    /// The server that the tests of one process share, started with the first call: no fsync. Without PostgreSQL
    /// it says which `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// As [`PostgresServer::start_or_skip`].
    pub fn shared(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresServer>> = OnceLock::new();
        let server = SHARED.get_or_init(|| {
            let options = Options { fsync: false, settings: &[("max_connections", "200")] };
            Self::start(options).expect("an installed PostgreSQL starts")
        });
        if server.is_none() {
            skip(test);
        }
        server.as_ref()
    }

    /// Creates a database and returns its URL.
    ///
    /// # Errors
    /// If the server refuses, for instance because the database exists.
    pub fn create_database(&self, name: &str) -> io::Result<String> {
        let mut createdb = self.command("createdb");
        createdb.arg("--host").arg(&self.directory).args(["--port", &self.port.to_string()]);
        run(createdb.args(["--username", USER, "--template", "template0", name]))?;
        Ok(self.url(name))
    }

    /// The URL of a database, over TCP.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The server's Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port))
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Crashes the server (no shutdown checkpoint, connections cut) and starts it again on the same port.
    ///
    /// # Errors
    /// If it doesn't come up again; the error carries its log.
    pub fn crash_and_restart(&self) -> io::Result<()> {
        let mut stop = self.command("pg_ctl");
        run(stop.arg("--pgdata").arg(self.data()).args(["stop", "-m", "immediate", "--wait", "--silent"]))?;
        self.launch()
    }

    fn launch(&self) -> io::Result<()> {
        let log = self.directory.join("log");
        let mut start = self.command("pg_ctl");
        start.arg("--pgdata").arg(self.data()).arg("--log").arg(&log).args(["start", "--wait", "--silent"]);
        run(start.args(["--options", &self.arguments])).map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            Error::other(format!("{error}\n{log}"))
        })
    }

    fn server_arguments(&self, options: Options<'_>) -> String {
        let fsync = if options.fsync { "on" } else { "off" };
        let directory = self.directory.display();
        let mut arguments = format!("-p {} -h 127.0.0.1 -k '{directory}' -c fsync={fsync}", self.port);
        for (name, value) in options.settings {
            arguments.push_str(&format!(" -c {name}='{value}'"));
        }
        arguments
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn command(&self, program: &str) -> Command {
        command(&self.binaries.join(program), &self.directory, self.run_as)
    }
}

impl From<&PostgresServer> for Address {
    fn from(server: &PostgresServer) -> Self {
        Self { host: Host::Socket(server.socket()), user: USER.to_owned(), password: None }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // Nothing can be done about a failure here, and the undertaker works on without us.
        let _ = self.undertaker.wait();
    }
}

fn skip(test: &str) {
    let required = env::var("STEADFAST_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs PostgreSQL, and none is installed (STEADFAST_REQUIRE_POSTGRES=1)");
    eprintln!("skipped: {test} (PostgreSQL isn't installed)");
}

/// The newest installation in the place where Debian puts them, or else the one in `PATH`.
fn find_binaries() -> Option<PathBuf> {
    let version = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = packaged.map(|entry| entry.path().join("bin")).max_by_key(|path| version(path));
    let in_path = env::var_os("PATH").map(|paths| env::split_paths(&paths).collect::<Vec<_>>());
    let has_all =
        |path: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| path.join(name).exists());
    newest.into_iter().chain(in_path.into_iter().flatten()).find(has_all)
}

fn make_directory() -> io::Result<PathBuf> {
    for attempt in 0..DIRECTORY_ATTEMPTS_MAX {
        // Short, because the path of a Unix socket may have only about 100 bytes.
        let path = env::temp_dir().join(format!("steadfast-pg-{}-{attempt}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::other("no free name for a temporary directory"))
}

/// Whom to run as if we, the owner of this new directory, are root.
fn unprivileged_user(directory: &Path) -> io::Result<Option<(u32, u32)>> {
    if fs::metadata(directory)?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(|field| field.parse::<u32>().ok());
        Some((fields.next()??, fields.next()??))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.map(Some).ok_or_else(|| Error::other("PostgreSQL doesn't run as root, and there is no other user"))
}

fn start_undertaker(
    binaries: &Path,
    directory: &Path,
    run_as: Option<(u32, u32)>,
) -> io::Result<(Child, ChildStdin)> {
    let script =
        r#"read -r _; "$1/pg_ctl" --pgdata "$2/data" stop -m immediate --wait --silent; rm -rf "$2""#;
    let mut shell = command(Path::new("/bin/sh"), Path::new("/"), run_as);
    shell.args(["-c", script, "sh"]).arg(binaries).arg(directory);
    // A group of its own: an interrupt from the keyboard must not reach it before its work is done.
    shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = shell.spawn()?;
    let lifeline = child.stdin.take().expect("its input is piped");
    Ok((child, lifeline))
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn command(program: &Path, directory: &Path, run_as: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some((user, group)) = run_as {
        command.uid(user).gid(group);
    }
    command
}

fn run(command: &mut Command) -> io::Result<()> {
    // Into a file-less null and not a pipe: the server that pg_ctl starts would keep a pipe open.
    let output = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if output.success() {
        return Ok(());
    }
    Err(Error::other(format!("{} ended with {output}", command.get_program().display())))
}
