//! `sim certify`: the simulated stores against the real ones.
//!
//! SQLite is always there, in a temporary file. PostgreSQL is there where `--store` names one: in a database and a schema
//! that are made for it and removed. Without one its recorded answers take its place, for the fixed programs.

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use steadfast::StoreUrl;
use steadfast::core::time::ManualClock;
use steadfast_certify::doubles::{drawn, on_double};
use steadfast_certify::language::Store;
use steadfast_certify::on_postgres::PostgresStage;
use steadfast_certify::on_sqlite::SqliteStage;
use steadfast_certify::postgres_session::{Address, Host, PostgresSession};
use steadfast_certify::serial::{self, CALLS, Compared, Measure, START, Style};
use steadfast_certify::stage::Stage;
use steadfast_certify::statements::{Tally, golden, play_fixed};
use steadfast_postgres::PostgresStorage;
use steadfast_sim::world::Profile;
use tokio::runtime::Handle;
use tokio_postgres::config::Host as ConfigHost;

use super::super::Out;
use super::{Certify, Interrupted};
use crate::failure::{Exit, Failure};

pub(super) fn certify(
    args: &Certify,
    store: Option<&StoreUrl>,
    interrupted: &Interrupted,
    out: Out,
) -> Result<ExitCode, Failure> {
    let mut postgres = match store {
        Some(StoreUrl::Postgres(url)) => Some(Postgres::new(url)?),
        Some(StoreUrl::Sqlite(_) | StoreUrl::SqliteInMemory) | None => None,
    };
    let mut found = Found::default();
    let mut sqlite = SqliteStage::new("certify").map_err(unreachable_store)?;
    found.fixed(Store::Sqlite, &mut sqlite);
    match &mut postgres {
        Some(postgres) => found.fixed(Store::Postgres, &mut postgres.stage),
        None => found.recorded(Store::Postgres),
    }
    let bar = progress(args.programs.saturating_mul(2), out);
    for seed in args.seed..args.seed.saturating_add(args.programs) {
        if interrupted.is_set() {
            break;
        }
        found.sqlite.play(seed, Store::Sqlite, &mut sqlite);
        if let Some(postgres) = &mut postgres {
            found.postgres.play(seed, Store::Postgres, &mut postgres.stage);
        }
        bar.inc(1);
    }
    for seed in args.seed..args.seed.saturating_add(args.programs) {
        if interrupted.is_set() {
            break;
        }
        found.serial(seed, postgres.as_mut())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let is_live = postgres.is_some();
    if let Some(postgres) = postgres {
        postgres.remove();
    }
    found.report(is_live, interrupted.is_set(), out)
}

/// A bar for people who wait.
fn progress(programs: u64, out: Out) -> ProgressBar {
    if out.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} programs  {eta} left");
    ProgressBar::with_draw_target(Some(programs), ProgressDrawTarget::stderr())
        .with_style(style.expect("the template is well-formed"))
}

/// What all programs showed.
#[derive(Default)]
struct Found {
    sqlite: Tally,
    postgres: Tally,
    /// Programs beside the random statement programs.
    programs: usize,
    /// Their steps.
    steps: usize,
    /// Their steps after which somebody was blocked.
    blocked: usize,
    /// Serial programs that ended early, as they may.
    open: usize,
    /// What differed: where, and what was seen.
    differ: Vec<(String, String)>,
}

impl Found {
    fn fixed(&mut self, store: Store, stage: &mut dyn Stage) {
        let on = name(store);
        match play_fixed(store, Some(stage)) {
            Ok(shown) => self.count(&shown),
            Err(difference) => self.differ.push((format!("fixed programs on {on}"), difference.0)),
        }
    }

    fn recorded(&mut self, store: Store) {
        let on = format!("fixed programs, as {} answered them when they were recorded", name(store));
        let shown = match play_fixed(store, None) {
            Ok(shown) => shown,
            Err(difference) => return self.differ.push((on, difference.0)),
        };
        self.count(&shown);
        let recorded: Vec<&str> = golden(store).split("\n\n").filter(|one| !one.is_empty()).collect();
        for (number, shown) in shown.iter().enumerate() {
            let recorded = recorded.get(number).copied().unwrap_or_default();
            if shown.trim_end() != recorded.trim_end() {
                self.differ.push((on.clone(), format!("{shown}\nbut this was recorded:\n{recorded}")));
            }
        }
    }

    fn count(&mut self, shown: &[String]) {
        self.programs += shown.len();
        let lines = || shown.iter().flat_map(|transcript| transcript.lines());
        self.steps += lines().filter(|line| line.starts_with('s')).count();
        self.blocked += lines().filter(|line| line.trim_start().starts_with("blocked: ")).count();
    }

    /// A program of storage calls on SQLite, its double, and where there is one PostgreSQL and its double.
    fn serial(&mut self, seed: u64, postgres: Option<&mut Postgres>) -> Result<(), Failure> {
        let (style, played) = Handle::current().block_on(drawn(seed));
        let double = on_double(&played, Profile::Sqlite);
        self.compare(seed, "SQLite and its double", &serial::compare(&played, &double, Measure::InOutcomes));
        let Some(postgres) = postgres else { return Ok(()) };
        let real = postgres.replay(&played)?;
        let double = on_double(&played, Profile::Postgres);
        self.compare(seed, "PostgreSQL and its double", &serial::compare(&real, &double, Measure::Exactly));
        if style == Style::Plain {
            self.compare(
                seed,
                "SQLite and PostgreSQL",
                &serial::compare(&played, &real, Measure::InOutcomes),
            );
        }
        Ok(())
    }

    fn compare(&mut self, seed: u64, on: &str, compared: &Compared) {
        self.programs += 1;
        self.steps += CALLS;
        match compared {
            Compared::Same => {}
            Compared::Open => self.open += 1,
            Compared::Differ(story) => {
                self.differ.push((format!("step program {seed} on {on}"), story.clone()));
            }
        }
    }

    fn report(mut self, is_live: bool, is_interrupted: bool, out: Out) -> Result<ExitCode, Failure> {
        for (tally, store) in [(&self.sqlite, Store::Sqlite), (&self.postgres, Store::Postgres)] {
            let on = |seed: &u64| format!("statement program {seed} on {}", name(store));
            self.differ.extend(tally.differ.iter().map(|(seed, story)| (on(seed), story.clone())));
            self.differ.extend(tally.excess().map(|excess| (name(store).to_owned(), excess)));
        }
        let Self { sqlite, postgres, programs, steps, blocked, open, differ } = self;
        let programs = programs + sqlite.programs + postgres.programs;
        let steps = steps + sqlite.steps + postgres.steps;
        let blocked = blocked + sqlite.blocked + postgres.blocked;
        let allowed = open + sqlite.allowed() + postgres.allowed();
        let stores = ["sqlite", if is_live { "postgres" } else { "postgres (recorded answers)" }];
        let stories: Vec<_> =
            differ.iter().map(|(on, story)| json!({"program": on, "story": story})).collect();
        let json = json!({
            "programs": programs, "steps": steps, "blocked_steps": blocked, "stores": stores,
            "divergences": differ.len(), "allowed": allowed, "differ": stories, "interrupted": is_interrupted,
        });
        out.write(&json, |out| {
            for (on, story) in &differ {
                writeln!(out, "{on}\n{story}\n")?;
            }
            let how = if is_interrupted { "interrupted after " } else { "" };
            writeln!(out, "{how}{programs} programs, {steps} steps, {blocked} with somebody blocked")?;
            writeln!(
                out,
                "on {}: {} differ; {allowed} differ as they may",
                stores.join(" and "),
                differ.len()
            )?;
            if !is_live {
                writeln!(
                    out,
                    "no PostgreSQL was asked: --store postgres://… plays all programs on a server as well"
                )?;
            }
            Ok(())
        })?;
        Ok(ExitCode::from(match (is_interrupted, differ.is_empty()) {
            (true, _) => Exit::Interrupted as u8,
            (false, false) => Exit::Failed as u8,
            (false, true) => 0,
        }))
    }
}

/// A PostgreSQL, with a database of our own for statements and a schema of our own for the adapter.
struct Postgres {
    address: Address,
    beside: String,
    own: String,
    stage: PostgresStage,
    storage: PostgresStorage,
    clock: ManualClock,
    session: PostgresSession,
}

impl Postgres {
    fn new(url: &str) -> Result<Self, Failure> {
        let (address, beside) = address(url)?;
        let id = steadfast::task_id();
        let own = format!("steadfast_certify_{}", id.as_str().rsplit('-').next().unwrap_or_default());
        let stage = PostgresStage::new(address.clone(), &beside, &own).map_err(unreachable_store)?;
        let clock = ManualClock::at(START);
        let options = steadfast_postgres::Options {
            schema: own.clone(),
            clock: Some(clock.clone()),
            ..steadfast_postgres::Options::new(url.to_owned())
        };
        let storage = Handle::current().block_on(PostgresStorage::open(options))?;
        let session = PostgresSession::connect(address.clone(), &beside).map_err(unreachable_store)?;
        Ok(Self { address, beside, own, stage, storage, clock, session })
    }

    /// Plays a program on empty tables.
    fn replay(&mut self, played: &serial::Played) -> Result<serial::Played, Failure> {
        let emptied = self.session.query(&serial::empty_postgres(&self.own)).map_err(unreachable_store)?;
        if let Some(why) = emptied.message {
            return Err(unreachable_store(why));
        }
        self.clock.set(START);
        Ok(Handle::current().block_on(serial::replay(played, &self.storage, &self.clock)))
    }

    /// Takes away what was made. Who is in the way of that leaves it behind, by a name that says whose it is.
    fn remove(self) {
        let Self { address, beside, own, stage, storage, mut session, .. } = self;
        drop((stage, storage));
        let _ = session.query(&format!("drop schema \"{own}\" cascade"));
        if let Ok(mut session) = PostgresSession::connect(address, &beside) {
            let _ = session.query(&format!("drop database \"{own}\" with (force)"));
        }
    }
}

fn name(store: Store) -> &'static str {
    match store {
        Store::Postgres => "postgres",
        Store::Sqlite => "sqlite",
    }
}

/// Where the server of a URL is, and which database it names.
fn address(url: &str) -> Result<(Address, String), Failure> {
    let usage = |what: String| {
        Failure::new(Exit::Usage, what).help("write --store postgres://USER:PASSWORD@HOST:PORT/DATABASE")
    };
    let config: tokio_postgres::Config =
        url.parse().map_err(|error| usage(format!("the store's URL can't be read: {error}")))?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let host = match config.get_hosts().first() {
        Some(ConfigHost::Unix(directory)) => Host::Socket(directory.join(format!(".s.PGSQL.{port}"))),
        Some(ConfigHost::Tcp(name)) => Host::Tcp(name.clone(), port),
        None => return Err(usage("the store's URL names no host".into())),
    };
    let user = config.get_user().ok_or_else(|| usage("the store's URL names no user".into()))?.to_owned();
    let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
    let database = config.get_dbname().unwrap_or(&user).to_owned();
    Ok((Address { host, user, password }, database))
}

fn unreachable_store(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Unreachable, format!("certification can't go on: {error}"))
        .help("the server must let this user create a database and a schema, without TLS")
}
