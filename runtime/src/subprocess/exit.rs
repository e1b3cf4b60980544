//! How a command ended, and what the subprocess contract makes of it. Pure: no process is touched here.

use std::borrow::Cow;
use std::fmt;

/// `EX_DATAERR` of sysexits.h: this input will never work.
const EXIT_FAILED_FOR_GOOD: i32 = 65;
/// `EX_TEMPFAIL` of sysexits.h: not now, and through no fault of the attempt.
const EXIT_AGAIN_LATER: i32 = 75;

/// How a command ended, or why it never ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It exited by itself with this code.
    Code(i32),
    /// A signal ended it: its own fault, somebody's `kill`, or a cancel that outlasted the grace period.
    Signal(Signal),
    /// No such program. The text says what was looked for and what to do.
    NotFound(String),
    /// The program is there and can't be executed. The text says why and what to do.
    NotExecutable(String),
    /// It could not be started for another reason, which the text gives.
    StartFailed(String),
    /// The lease passed without a newer one, so the guard killed the group.
    LeaseLapsed,
    /// The guard is gone or doesn't answer, so how the command ended isn't known. Its group was killed.
    GuardLost(String),
}

/// A signal that ended a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Its number on this system.
    pub number: i32,
    /// Its name, such as `SIGKILL`; `signal 34` for one without a name.
    pub name: Cow<'static, str>,
}

/// What an exit means for the attempt, by the subprocess contract. Texts are for the attempt's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Exit 0.
    Succeeded,
    /// Exit 65 (`EX_DATAERR`): no retry.
    FailedForGood(String),
    /// Exit 75 (`EX_TEMPFAIL`): again later, and the attempt is given back.
    AgainLater(String),
    /// A failed attempt, retried while attempts remain.
    Failed(String),
    /// The lease passed while the command ran: the attempt isn't this worker's any more to settle.
    LeaseLost,
}

impl Exit {
    /// What the contract makes of this exit.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Code(0) => Verdict::Succeeded,
            Self::Code(EXIT_FAILED_FOR_GOOD) => Verdict::FailedForGood(self.to_string()),
            Self::Code(EXIT_AGAIN_LATER) => Verdict::AgainLater(self.to_string()),
            Self::Code(_)
            | Self::Signal(_)
            | Self::NotFound(_)
            | Self::NotExecutable(_)
            | Self::StartFailed(_)
            | Self::GuardLost(_) => Verdict::Failed(self.to_string()),
            Self::LeaseLapsed => Verdict::LeaseLost,
        }
    }

    /// The exit code of `steadfast run`, as `env` and `docker run` have it: the command's own, 128+n for
    /// signal n, 126 where it can't be executed, 127 where it isn't found, 125 where the fault is ours.
    pub fn run_code(&self) -> u8 {
        match self {
            Self::Code(code) => low_byte(*code),
            Self::Signal(signal) => low_byte(128 + signal.number),
            Self::NotExecutable(_) => 126,
            Self::NotFound(_) => 127,
            Self::StartFailed(_) | Self::LeaseLapsed | Self::GuardLost(_) => 125,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(EXIT_FAILED_FOR_GOOD) => f.write_str("exit code 65 (EX_DATAERR): failed for good"),
            Self::Code(EXIT_AGAIN_LATER) => {
                f.write_str("exit code 75 (EX_TEMPFAIL): asks to run again later")
            }
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by {signal}"),
            Self::NotFound(why) | Self::NotExecutable(why) => f.write_str(why),
            Self::StartFailed(why) => write!(f, "could not be started: {why}"),
            Self::LeaseLapsed => f.write_str("killed: the lease passed without being renewed"),
            Self::GuardLost(why) => write!(f, "killed, its end unknown: {why}"),
        }
    }
}

impl Signal {
    /// The signal of this number.
    pub fn new(number: i32) -> Self {
        let name = match signal_hook::low_level::signal_name(number) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("signal {number}")),
        };
        Self { number, name }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The part of a code that survives `exit`: the low eight bits.
fn low_byte(code: i32) -> u8 {
    code.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exit: &Exit, run_code: u8, verdict: &Verdict) {
        assert_eq!(exit.run_code(), run_code, "{exit}");
        assert_eq!(&exit.verdict(), verdict, "{exit}");
    }

    #[test]
    fn each_exit_has_the_contracts_meaning() {
        let failed = |text: &str| Verdict::Failed(text.into());
        check(&Exit::Code(0), 0, &Verdict::Succeeded);
        check(&Exit::Code(1), 1, &failed("exit code 1"));
        check(&Exit::Code(255), 255, &failed("exit code 255"));
        let data = "exit code 65 (EX_DATAERR): failed for good";
        check(&Exit::Code(65), 65, &Verdict::FailedForGood(data.into()));
        let temp = "exit code 75 (EX_TEMPFAIL): asks to run again later";
        check(&Exit::Code(75), 75, &Verdict::AgainLater(temp.into()));
        check(&Exit::Signal(Signal::new(9)), 137, &failed("ended by SIGKILL"));
        check(&Exit::Signal(Signal::new(11)), 139, &failed("ended by SIGSEGV"));
        check(&Exit::Signal(Signal::new(64)), 192, &failed("ended by signal 64"));
        check(&Exit::NotExecutable("no x".into()), 126, &failed("no x"));
        check(&Exit::NotFound("not there".into()), 127, &failed("not there"));
        check(&Exit::StartFailed("why".into()), 125, &failed("could not be started: why"));
        check(&Exit::GuardLost("why".into()), 125, &failed("killed, its end unknown: why"));
        check(&Exit::LeaseLapsed, 125, &Verdict::LeaseLost);
    }
}
