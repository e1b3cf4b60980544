//! What a stage on which programs are played has to offer, and how two of them are compared step by step.

use std::fmt::{self, Write as _};
use std::io;

use super::language::{Act, Record, Store};
use steadfast_sim::db::Begin;

/// What can be seen after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Which sessions answered in this step, sorted, and what.
    pub answers: Vec<(usize, String)>,
    /// Which sessions are blocked after it, sorted.
    pub blocked: Vec<usize>,
}

/// A database, simulated or real, with numbered sessions.
pub trait Stage {
    /// Puts these rows in place of all others, and gives all sessions a fresh start.
    ///
    /// # Errors
    /// If the store fails; a refused statement isn't an error here.
    fn reset(&mut self, rows: &[Record]) -> io::Result<()>;

    /// Plays one step and waits until every session has answered or is blocked. A real store is observed until
    /// it shows what is `expected`, or has shown something else for a while.
    ///
    /// # Errors
    /// As [`Stage::reset`].
    fn step(&mut self, session: usize, act: &Act, expected: Option<&Observation>) -> io::Result<Observation>;

    /// All committed rows, in order, each with the name of its table.
    ///
    /// # Errors
    /// As [`Stage::reset`].
    fn rows(&mut self) -> io::Result<Vec<String>>;
}

/// A fixed program: a fact about databases, and the steps that show it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its short name in the list of facts.
    pub name: String,
    /// What happens, in words.
    pub about: &'static str,
    /// Where it holds.
    pub store: Store,
    /// The rows at the start.
    pub rows: Vec<Record>,
    /// Who does what.
    pub steps: Vec<(usize, Act)>,
    /// What makes it so: rows at the end (`t 1|1|0|-`) and answers on the way (`s2: error 40001`). A leading
    /// `no ` says that there is no such thing.
    pub facts: &'static [&'static str],
}

/// What a program showed on a stage, as text: the contents of the golden files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript(pub String);

/// The number of sessions on every stage.
pub const SESSIONS: usize = 4;

/// Where the kernel and a store differ, or a program doesn't show what it states: the program so far, and both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Difference {}

/// Plays a program on the kernel and, if there is one, on the real store, and checks that both show the same.
/// Returns the transcript of the real store, or of the kernel without one.
///
/// # Errors
/// If the stages differ, or a fact that the program states isn't there.
///
/// # Panics
/// If the store fails.
pub fn compare(
    program: &Program,
    kernel: &mut dyn Stage,
    mut real: Option<&mut dyn Stage>,
) -> Result<Transcript, Difference> {
    let works = "the store works";
    kernel.reset(&program.rows).expect("the kernel does no I/O");
    if let Some(real) = real.as_deref_mut() {
        real.reset(&program.rows).expect(works);
    }
    let mut transcript = format!("# {}: {}\n", program.name, program.about);
    for (session, act) in &program.steps {
        let simulated = kernel.step(*session, act, None).expect("the kernel does no I/O");
        let text = step_text(program.store, *session, act, &simulated);
        transcript.push_str(&text);
        let Some(real) = real.as_deref_mut() else { continue };
        let observed = real.step(*session, act, Some(&simulated)).expect(works);
        let real_text = step_text(program.store, *session, act, &observed);
        if real_text != text {
            return Err(Difference(format!("{transcript}but the store shows\n{real_text}")));
        }
    }
    let rows = kernel.rows().expect("the kernel does no I/O");
    writeln!(transcript, "end: {}", rows.join(", ")).expect("a string takes all");
    let real_rows = real.map(|real| real.rows().expect(works));
    if let Some(real_rows) = real_rows.filter(|real_rows| *real_rows != rows) {
        return Err(Difference(format!("{transcript}but the store ends with {}", real_rows.join(", "))));
    }
    check_facts(program, &transcript, &rows)?;
    Ok(Transcript(transcript))
}

fn check_facts(program: &Program, transcript: &str, rows: &[String]) -> Result<(), Difference> {
    assert!(!program.facts.is_empty(), "{} states no fact", program.name);
    for fact in program.facts {
        let (wanted, text) = fact.strip_prefix("no ").map_or((true, *fact), |text| (false, text));
        let is_there =
            rows.iter().any(|row| row == text) || transcript.lines().any(|line| line.trim_start() == text);
        if is_there != wanted {
            return Err(Difference(format!("{} states that {fact}, but\n{transcript}", program.name)));
        }
    }
    Ok(())
}

/// One step and what was seen after it.
#[must_use]
pub fn step_text(store: Store, session: usize, act: &Act, seen: &Observation) -> String {
    let mut text = format!("s{session}> {}\n", act_text(store, act));
    for (session, answer) in &seen.answers {
        writeln!(text, "    s{session}: {answer}").expect("a string takes all");
    }
    if !seen.blocked.is_empty() {
        let blocked: Vec<String> = seen.blocked.iter().map(|session| format!("s{session}")).collect();
        writeln!(text, "    blocked: {}", blocked.join(" ")).expect("a string takes all");
    }
    text
}

fn act_text(store: Store, act: &Act) -> String {
    match act {
        Act::Run(statement) => statement.sql(store, ""),
        Act::RunGated(statement) => format!("{} -- stops after its snapshot", statement.sql(store, "")),
        Act::OpenGate => "-- goes on".to_owned(),
        Act::Cancel => "-- is cancelled".to_owned(),
        Act::HangUp => "-- the client vanishes".to_owned(),
        Act::CommitAndHangUp => "commit -- and the client vanishes".to_owned(),
        Act::OpenCursor(_) => "-- starts a select".to_owned(),
        Act::CloseCursors => "-- resets it".to_owned(),
        plain => command(plain).expect("all others are plain commands").to_owned(),
    }
}

/// The text of an act that is a plain command, the same for both stores.
#[must_use]
pub fn command(act: &Act) -> Option<&'static str> {
    match act {
        Act::Begin(Begin::ReadCommitted) => Some("begin isolation level read committed"),
        Act::Begin(Begin::RepeatableRead) => Some("begin isolation level repeatable read"),
        Act::Begin(Begin::Deferred) => Some("begin deferred"),
        Act::Begin(Begin::Immediate) => Some("begin immediate"),
        Act::Commit => Some("commit"),
        Act::Rollback => Some("rollback"),
        Act::LimitWaits => Some("set lock_timeout = '20ms'"),
        Act::Savepoint => Some("savepoint a"),
        Act::RollbackTo => Some("rollback to a"),
        Act::Release => Some("release a"),
        Act::Run(_)
        | Act::RunGated(_)
        | Act::OpenGate
        | Act::Cancel
        | Act::HangUp
        | Act::CommitAndHangUp
        | Act::OpenCursor(_)
        | Act::CloseCursors => None,
    }
}
