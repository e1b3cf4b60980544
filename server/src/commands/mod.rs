//! The commands: each takes what the command line said, does it, and says what came of it.

mod bench;
mod bulk;
mod doctor;
mod houses;
mod run;
mod serve;
#[cfg(feature = "sim")]
pub mod sim;
mod tasks;
mod watch;
mod worker;

mod adopt;
mod keep;
mod relay;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use steadfast::StoreUrl;
use tokio::signal::unix::SignalKind;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::backend::{Backend, Missing, open};
use crate::cli::{Cli, Command, DEFAULT_STORE};
use crate::client::Client;
use crate::failure::{Exit, Failure};

/// What is logged: `info`, or `steadfast_core=debug,info`.
const LOG_VARIABLE: &str = "STEADFAST_LOG";

/// Reads the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let relays = matches!(cli.command, Command::Run(_));
    let done = start_logging(&cli.command).and_then(|()| runtime(&cli.command)).and_then(|runtime| {
        let done = runtime.block_on(dispatch_unless_interrupted(cli, &matches));
        // A call to a server may last on its thread for as long as a long poll does, and what reads stdin for ever.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => code,
        Err(failure) => {
            let code = ExitCode::from(failure.exit as u8);
            if relays {
                in_time(move || tell(&failure, json));
            } else {
                tell(&failure, json);
            }
            code
        }
    }
}

/// Whether a command ends in a way of its own when it is interrupted.
fn ends_by_itself(command: &Command) -> bool {
    match command {
        Command::Serve(_) | Command::Worker(_) | Command::Run(_) | Command::Bench(_) => true,
        #[cfg(feature = "sim")]
        Command::Sim(_) => true,
        Command::Submit(_)
        | Command::Status(_)
        | Command::List(_)
        | Command::Watch(_)
        | Command::Wait(_)
        | Command::Logs(_)
        | Command::Diagnose(_)
        | Command::Cancel(_)
        | Command::Retry(_)
        | Command::Slots(_)
        | Command::Queues
        | Command::Queue(_)
        | Command::Migrate
        | Command::Prune(_)
        | Command::Doctor => false,
    }
}

/// Does what the command line says; whoever only asks or waits may be interrupted at any moment.
async fn dispatch_unless_interrupted(cli: Cli, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    if ends_by_itself(&cli.command) {
        return dispatch(cli, matches).await;
    }
    tokio::select! {
        // Heard before the store or the server is.
        biased;
        () = interrupted() => {
            Err(Failure::new(Exit::Interrupted, "interrupted; what was asked for before goes on"))
        }
        done = dispatch(cli, matches) => done,
    }
}

/// Waits for Ctrl-C; for ever where it is ignored, as by what a script leaves in the background.
async fn interrupted() {
    if run::is_ignored(SignalKind::interrupt()) || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Does on a thread of its own what may block for ever, as reading from a terminal does: Ctrl-C is heard meanwhile, and
/// whoever hears it leaves that thread behind.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn dispatch(cli: Cli, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let out = Out { json: cli.global.json };
    let target = Target::new(&cli, matches)?;
    match cli.command {
        Command::Serve(args) => serve::serve(args, target.store()?, cli.global.token, out).await,
        Command::Worker(args) => worker::worker(args, target.store()?, out).await,
        Command::Run(args) => run::run(args, target.store_of_run()?, out).await,
        Command::Submit(args) => tasks::submit(args, &target, out).await,
        Command::Status(args) => tasks::status(args, &target, out).await,
        Command::List(args) => tasks::list(args, &target, out).await,
        Command::Watch(args) => watch::watch(args, &target, out).await,
        Command::Wait(args) => tasks::wait(args, &target, out).await,
        Command::Logs(args) => watch::logs(args, &target, out).await,
        Command::Diagnose(args) => tasks::diagnose(args, &target, out).await,
        Command::Cancel(args) => tasks::cancel(args, &target, out).await,
        Command::Retry(args) => tasks::retry(args, &target, out).await,
        Command::Slots(args) => houses::slots(args, &target, out).await,
        Command::Queues => houses::queues(&target, out).await,
        Command::Queue(args) => houses::queue(args, &target, out).await,
        Command::Doctor => doctor::doctor(&target, out).await,
        Command::Migrate => houses::migrate(target.store()?, out).await,
        Command::Prune(args) => houses::prune(args, &target, out).await,
        Command::Bench(args) => bench::bench(&args, target.named_store()?, out).await,
        #[cfg(feature = "sim")]
        Command::Sim(args) => {
            let store = if args.asks_a_store() { target.named_store()? } else { None };
            sim::sim(args, store, out).await
        }
    }
}

fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match command {
        Command::Serve(_) | Command::Worker(_) | Command::Bench(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, format!("the system gives no threads or no event queue: {error}"))
    })
}

/// Logs to stderr: what a server and a worker do, and of the other commands only what goes wrong.
fn start_logging(command: &Command) -> Result<(), Failure> {
    let default = match command {
        Command::Serve(_) | Command::Worker(_) => LevelFilter::INFO,
        // What goes wrong in a simulation is meant to.
        #[cfg(feature = "sim")]
        Command::Sim(_) => LevelFilter::OFF,
        _ => LevelFilter::ERROR,
    };
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(text) if !text.is_empty() => text.parse::<Targets>().map_err(|error| {
            Failure::new(Exit::Usage, format!("{LOG_VARIABLE}={text:?}: {error}"))
                .help("write a level, such as debug, or TARGET=LEVEL,…")
        })?,
        _ => Targets::new().with_default(default),
    };
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours);
    tracing_subscriber::registry().with(format).with(filter).init();
    Ok(())
}

/// Says on stderr what went wrong.
fn tell(failure: &Failure, json: bool) {
    let mut stderr = anstream::stderr();
    // Where stderr is closed there is nobody to tell.
    let _ = if json {
        let error =
            serde_json::json!({ "error": failure.what, "help": failure.help, "exit": failure.exit as u8 });
        writeln!(stderr, "{error}")
    } else {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        writeln!(stderr, "{red}error{red:#}: {failure}")
    };
}

/// Says something on stderr that isn't an error.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "steadfast: {text}");
}

/// How long a reader of stderr may stand still.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Says something on stderr, where what a command prints may have filled it already: on a thread of its own, which is
/// left behind when nobody reads on.
fn in_time(say: impl FnOnce() + Clone + Send + 'static) {
    let (said, heard) = mpsc::channel::<()>();
    let on_thread = say.clone();
    let thread = thread::Builder::new().spawn(move || {
        on_thread();
        drop(said);
    });
    match thread {
        // Nothing is sent: the thread's end is what is waited for.
        Ok(_) => drop(heard.recv_timeout(HEARD_WITHIN)),
        Err(_) => say(),
    }
}

/// How soon it is noticed that nobody reads stdout any more.
const READER_LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until whoever reads stdout has gone: a command that follows something may have nothing to write for long.
async fn nobody_reads() {
    loop {
        let stdout = io::stdout();
        let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut stdout, Some(&now)).is_ok()
            && stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
        {
            return;
        }
        tokio::time::sleep(READER_LOOK_EVERY).await;
    }
}

/// JSON on one line. A payload that came with line breaks has them as white space alone: JSON's texts escape theirs.
fn json_line(json: &impl serde::Serialize) -> String {
    serde_json::to_string(json).expect("our own types are JSON").replace(['\n', '\r'], " ")
}

/// How results are written to stdout.
#[derive(Debug, Clone, Copy)]
struct Out {
    json: bool,
}

impl Out {
    /// Writes one JSON document, or what `human` writes. Whoever reads may have gone: that is no failure.
    fn write(
        self,
        json: &impl serde::Serialize,
        human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut stdout = crate::show::stdout();
        let written = if self.json { writeln!(stdout, "{}", json_line(json)) } else { human(&mut stdout) };
        match written.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(Exit::Failed, format!("stdout can't be written: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a command works on a store or through a server, so that it must be plain which is meant. The doctor compares
/// both, and what runs here works on a store.
fn takes_either(command: &Command) -> bool {
    !ends_by_itself(command) && !matches!(command, Command::Doctor | Command::Migrate)
}

/// What the command is about: a store or a server.
#[derive(Debug)]
struct Target {
    store: StoreUrl,
    /// The store was named in this very command line.
    store_is_explicit: bool,
    /// The store was named anywhere.
    store_is_named: bool,
    server: Option<String>,
    /// The server was named in this very command line.
    server_is_explicit: bool,
    token: Option<String>,
}

impl Target {
    /// What is said on the command line goes before what stands in the environment.
    fn new(cli: &Cli, matches: &ArgMatches) -> Result<Self, Failure> {
        let explicit = |name: &str| {
            let of_command = matches.subcommand().and_then(|(_, matches)| matches.value_source(name));
            of_command == Some(ValueSource::CommandLine)
        };
        let (store_is_explicit, server_is_explicit) = (explicit("store"), explicit("server"));
        let both = cli.global.store.is_some() && cli.global.server.is_some();
        let is_doctor = matches!(cli.command, Command::Doctor);
        if both && store_is_explicit == server_is_explicit && takes_either(&cli.command) {
            return Err(Failure::new(Exit::Usage, "both a store and a server are named: which is meant?")
                .help("give one of --store and --server, or unset STEADFAST_STORE or STEADFAST_SERVER"));
        }
        let default = || DEFAULT_STORE.parse().expect("the default is a store");
        Ok(Self {
            store: cli.global.store.clone().unwrap_or_else(default),
            store_is_explicit,
            // The doctor compares both.
            server: cli.global.server.clone().filter(|_| !store_is_explicit || is_doctor),
            store_is_named: cli.global.store.is_some(),
            server_is_explicit,
            token: cli.global.token.clone(),
        })
    }

    /// The store, for commands that work on nothing else.
    fn store(&self) -> Result<&StoreUrl, Failure> {
        self.refuse_server()?;
        if self.server.is_some() && !self.store_is_named {
            note(format_args!(
                "this command works on a store, {}, and not through the server that STEADFAST_SERVER names",
                self.store
            ));
        }
        Ok(&self.store)
    }

    /// The store for `run`, which makes one where there is none. In a handler's command a server is named and no store:
    /// what is recorded then belongs to the server's store, and nobody would look for it in a new one.
    fn store_of_run(&self) -> Result<&StoreUrl, Failure> {
        self.refuse_server()?;
        if self.server.is_some() && !self.store_is_named {
            let what = "`run` works on a store, and only a server is named, by STEADFAST_SERVER";
            let help =
                format!("give --store with the server's own store, or --store {DEFAULT_STORE} for one here");
            return Err(Failure::new(Exit::Usage, what).help(help));
        }
        Ok(&self.store)
    }

    /// The store, where this very command line names one: for a command that must not stray into the store of everyday.
    fn named_store(&self) -> Result<Option<&StoreUrl>, Failure> {
        self.refuse_server()?;
        Ok(Some(&self.store).filter(|_| self.store_is_explicit))
    }

    fn refuse_server(&self) -> Result<(), Failure> {
        if self.server_is_explicit {
            return Err(Failure::new(Exit::Usage, "this command works on a store, not through a server")
                .help("give --store instead of --server"));
        }
        Ok(())
    }

    /// The store or the server.
    async fn backend(&self, missing: Missing) -> Result<Backend, Failure> {
        match &self.server {
            Some(server) => Client::new(server, self.token.clone()).map(Backend::Server),
            None => self.backend_on_store(missing).await,
        }
    }

    /// Whether the doctor is to look at a store: one is named, or nothing else is.
    fn looks_at_store(&self) -> bool {
        self.store_is_named || self.server.is_none()
    }

    /// The store, whatever else is named.
    async fn backend_on_store(&self, missing: Missing) -> Result<Backend, Failure> {
        open(&self.store, missing).await.map(|(host, store)| Backend::on_store(host, store))
    }
}
