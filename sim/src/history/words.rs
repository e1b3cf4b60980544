//! What handlers and clients say and are told.

use std::fmt;

use steadfast_core::name::TaskId;
use steadfast_core::{ErrorKind, Verdict};

/// A handler's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// The work is done.
    Done,
    /// The attempt went wrong, or is over for another reason.
    NotDone,
    /// The attempt is lost, as in a crash: nothing is to be recorded.
    Lost,
    /// The attempt went wrong, and the handler itself says when it is to be tried again.
    NotDoneUntil,
}

impl Word {
    /// What a verdict says.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done(_) => Word::Done,
            Verdict::Lost => Word::Lost,
            Verdict::Retry { after: Some(_), .. } => Word::NotDoneUntil,
            Verdict::Retry { after: None, .. }
            | Verdict::Fail { .. }
            | Verdict::Cancel { .. }
            | Verdict::Snooze { .. } => Word::NotDone,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Word::Done => "done",
            Word::NotDone => "not done",
            Word::NotDoneUntil => "not done, and when to try again",
            Word::Lost => "that it is lost",
        })
    }
}

/// What may not wait long where nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// That a task enters which has replaced the holder of its slot, however deaf that is.
    Entry,
    /// That a handler hears of a cancel.
    Word,
    /// That a task gets its turn although the attempt before it is in its grace.
    Turn,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Awaited::Entry => "to enter in the place of the one that it replaced",
            Awaited::Word => "to be told of its cancel",
            Awaited::Turn => "for its turn",
        })
    }
}

/// What a client was told about a submit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubmitAnswer {
    /// Accepted, under this id.
    Accepted(TaskId),
    /// Refused, for a stated reason.
    Refused(String),
    /// An error of this kind.
    Failed(ErrorKind),
    /// It was answered with a task that was asked for otherwise.
    Foreign(TaskId),
    /// The caller went away before it was answered.
    Dropped,
}
