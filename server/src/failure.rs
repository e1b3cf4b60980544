//! How a command ends other than well: an exit code, and to stderr what, why and what to do.

use std::fmt;

use steadfast::{Error, OpenError};

use crate::wire::Problem;

/// The exit codes of the command line. `run` has others: its command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The task, or a check, failed.
    Failed = 1,
    /// The command line, or what it names, makes no sense.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Refused: a conflict, a slot that is taken.
    Refused = 4,
    /// The store or the server can't be reached.
    Unreachable = 5,
    /// `run` alone: Steadfast itself failed.
    RunFailed = 125,
    /// Interrupted at the terminal.
    Interrupted = 130,
}

/// Why a command ended other than well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, and why.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with this exit code: what and why.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), help: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds to what to do about it.
    #[must_use]
    pub fn more_help(mut self, help: impl Into<String>) -> Self {
        let help = help.into();
        self.help = Some(self.help.map_or_else(|| help.clone(), |known| format!("{known}; {help}")));
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.help {
            Some(help) => write!(f, "\n  {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Exit::Unreachable, format!("the store: {}", chain(&error)))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(Exit::Unreachable, chain(&error))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.status {
            404 => Exit::NotFound,
            401 | 403 | 409 | 410 | 422 => Exit::Refused,
            400..=499 => Exit::Usage,
            _ => Exit::Unreachable,
        };
        let what = match &problem.field {
            Some(field) => format!("{field}: {}", problem.detail),
            None => problem.detail.into(),
        };
        Self { exit, what, help: problem.help.map(Into::into) }
    }
}

/// An error with the errors behind it, where they say something that it doesn't.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
