//! What an attempt says while it runs, on its way to the store: progress, lines of log, checkpoints, aliases.
//!
//! A handler puts it on a desk through its [`Context`](crate::Context), from any thread, and goes on; the attempt's
//! reporter takes it and sends it. The lock is private to this module, its guard can't leave it, and nothing awaits
//! under it.

mod reporter;

pub(crate) use reporter::Reporter;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::decide::printable;
use crate::name::TaskId;
use crate::step::Report;
use crate::storage::{Error, Lease};
use crate::task::{
    CHECKPOINT_NAME_BYTES_MAX, CHECKPOINTS_MAX, Checkpoint, LOG_BYTES_MAX, LOG_LINE_BYTES_MAX, LogLine,
    PAYLOAD_BYTES_MAX, PROGRESS_BYTES_MAX, Payload, Progress, Stream,
};
use crate::time::Moment;

/// What a line of log counts against [`LOG_BYTES_MAX`] besides its text: a flood of empty lines is one, too.
pub const LOG_LINE_COST: usize = 16;

/// The most lines in one report: a flood goes in several, so that no call holds up the store's others for long.
const REPORT_LINES_MAX: usize = 2_000;

/// Why something that a handler reported and waited for isn't stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The attempt is over, or isn't this worker's any more: end it, whatever it does is void.
    #[error("the attempt is over or was lost to another: nothing was stored, and its outcome won't count")]
    LeaseLost,
    /// The alias is the id of a task, or an alias of another one.
    #[error("the alias is taken by task {0}: choose another")]
    AliasTaken(TaskId),
    /// It makes no sense, or is too large.
    #[error("{0}")]
    Invalid(String),
    /// The store failed for good, or for as long as the lease lasted.
    #[error("it could not be stored: {0}")]
    Store(#[from] Error),
}

/// How the process's clock is read: a handler doesn't know its type.
pub(crate) type Now = Arc<dyn Fn() -> Moment + Send + Sync>;

/// Finished steps by name.
pub(crate) type Steps = BTreeMap<String, Payload>;

type Answer = oneshot::Sender<Result<(), ReportError>>;

/// Where a handler puts what it says.
pub(crate) struct Desk {
    now: Now,
    said: Mutex<Said>,
    /// Wakes the reporter.
    wake: Notify,
}

#[derive(Debug)]
struct Said {
    phase: Phase,
    progress: Option<Progress>,
    /// With the moment when each was written.
    lines: VecDeque<(Moment, LogLine)>,
    log: Log,
    /// What somebody waits for, in order.
    asked: VecDeque<(Asked, Answer)>,
    /// The finished steps, once they are known.
    steps: Option<Steps>,
    /// The last alias, where nobody takes it.
    alias: Option<TaskId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody takes what is said: a test's context.
    Unattended,
    /// A reporter takes it.
    Attended,
    /// The handler is done; what is there is sent and nothing is added.
    Ending,
    /// Nobody takes it any more.
    Closed,
}

/// What was written so far.
#[derive(Debug, Default)]
struct Log {
    number: u32,
    bytes: usize,
    lines_dropped: u64,
    bytes_dropped: u64,
}

#[derive(Debug)]
enum Asked {
    Checkpoint(Checkpoint),
    Alias(TaskId),
    /// To learn which steps are finished.
    Steps,
}

/// Whether there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Nothing.
    Never,
    /// Something that nobody waits for.
    Soon,
    /// Something that somebody waits for.
    Now,
    /// Nothing, and there won't be.
    Over,
}

/// What the reporter takes in one go.
#[derive(Debug)]
enum Parcel {
    Report(Box<Report>, Vec<Answer>),
    Steps(Answer),
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.lock()).finish()
    }
}

impl Desk {
    /// For an attempt whose reports are sent. A task's first attempt has no finished steps to be read.
    pub(crate) fn attended(now: Now, is_first: bool) -> Self {
        Self::new(now, Phase::Attended, is_first.then(Steps::new))
    }

    /// Keeps what is said.
    pub(crate) fn unattended(steps: Steps) -> Self {
        Self::new(Arc::new(|| Moment::from_origin(Duration::ZERO)), Phase::Unattended, Some(steps))
    }

    fn new(now: Now, phase: Phase, steps: Option<Steps>) -> Self {
        let said = Said {
            phase,
            progress: None,
            lines: VecDeque::new(),
            log: Log::default(),
            asked: VecDeque::new(),
            steps,
            alias: None,
        };
        Self { now, said: Mutex::new(said), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        // Nothing under this lock can panic half-way.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self, percent: u8, message: &str) {
        let progress = Progress { percent: percent.min(100), message: storable(message, PROGRESS_BYTES_MAX) };
        self.change(|said| said.progress = Some(progress));
    }

    pub(crate) fn log(&self, stream: Stream, text: &str) {
        let at = (self.now)();
        self.change(|said| {
            for line in text.split('\n') {
                said.log_line(at, stream, line.strip_suffix('\r').unwrap_or(line));
            }
        });
    }

    pub(crate) async fn checkpoint(&self, name: &str, value: Payload) -> Result<(), ReportError> {
        check_name(name)?;
        if value.len() > PAYLOAD_BYTES_MAX {
            return Err(ReportError::Invalid(format!(
                "the checkpoint {name} has {} bytes; at most {PAYLOAD_BYTES_MAX} fit",
                value.len()
            )));
        }
        // So that the finished steps are known, and can be counted.
        self.steps().await?;
        let checkpoint = Checkpoint { name: name.to_owned(), value };
        let answered = {
            let mut said = self.lock();
            let phase = said.phase;
            let steps = said.steps.get_or_insert_default();
            if steps.len() >= CHECKPOINTS_MAX && !steps.contains_key(name) {
                return Err(ReportError::Invalid(format!(
                    "the checkpoint {name} is one too many: a task may have {CHECKPOINTS_MAX}"
                )));
            }
            match phase {
                Phase::Unattended => {
                    steps.insert(checkpoint.name, checkpoint.value);
                    return Ok(());
                }
                Phase::Attended | Phase::Ending | Phase::Closed => said.ask(Asked::Checkpoint(checkpoint)),
            }
        };
        self.answer(answered).await
    }

    pub(crate) async fn alias(&self, alias: TaskId) -> Result<(), ReportError> {
        let answered = {
            let mut said = self.lock();
            match said.phase {
                Phase::Unattended => {
                    said.alias = Some(alias);
                    return Ok(());
                }
                Phase::Attended | Phase::Ending | Phase::Closed => said.ask(Asked::Alias(alias)),
            }
        };
        self.answer(answered).await
    }

    /// The finished steps, by name; read once, where an earlier attempt may have left some.
    pub(crate) async fn steps(&self) -> Result<Steps, ReportError> {
        let asked = {
            let mut said = self.lock();
            match &said.steps {
                Some(steps) => return Ok(steps.clone()),
                None => said.ask(Asked::Steps),
            }
        };
        self.answer(asked).await?;
        Ok(self.lock().steps.clone().unwrap_or_default())
    }

    /// A finished step's result.
    pub(crate) async fn step(&self, name: &str) -> Result<Option<Payload>, ReportError> {
        check_name(name)?;
        let asked = {
            let mut said = self.lock();
            match &said.steps {
                Some(steps) => return Ok(steps.get(name).cloned()),
                None => said.ask(Asked::Steps),
            }
        };
        self.answer(asked).await?;
        Ok(self.lock().steps.as_ref().and_then(|steps| steps.get(name).cloned()))
    }

    /// What was said and not taken.
    pub(crate) fn said(&self, lease: &Lease) -> Report {
        let said = self.lock();
        let now = (self.now)();
        let stored = said.steps.iter().flatten();
        Report {
            progress: said.progress.clone(),
            lines: said.lines.iter().map(|(at, line)| aged(*at, line.clone(), now)).collect(),
            checkpoints: stored
                .map(|(name, value)| Checkpoint { name: name.clone(), value: value.clone() })
                .collect(),
            alias: said.alias.clone(),
            ..Report::new(lease.task.clone(), lease.fence)
        }
    }

    /// The handler is done: the rest is to be sent, and nothing is added.
    pub(crate) fn end(&self) {
        let at = (self.now)();
        self.change(|said| {
            said.log_drops(at);
            said.phase = Phase::Ending;
        });
        self.wake.notify_one();
    }

    /// Nobody takes anything any more: whoever waits is told so, and the rest is dropped.
    pub(crate) fn close(&self) {
        let asked = {
            let mut said = self.lock();
            said.phase = Phase::Closed;
            said.progress = None;
            said.lines = VecDeque::new();
            std::mem::take(&mut said.asked)
        };
        for (_, answer) in asked {
            let _ = answer.send(Err(ReportError::LeaseLost));
        }
    }

    /// Changes what nobody waits for, while it is wanted, and wakes the reporter if it sleeps.
    fn change(&self, change: impl FnOnce(&mut Said)) {
        let wake = {
            let mut said = self.lock();
            match said.phase {
                Phase::Unattended | Phase::Attended => {}
                Phase::Ending | Phase::Closed => return,
            }
            let before = said.due();
            change(&mut said);
            before == Due::Never && said.due() != Due::Never
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// Wakes the reporter and waits for its answer.
    async fn answer(&self, answered: oneshot::Receiver<Result<(), ReportError>>) -> Result<(), ReportError> {
        self.wake.notify_one();
        answered.await.unwrap_or(Err(ReportError::LeaseLost))
    }

    fn due(&self) -> Due {
        self.lock().due()
    }

    /// Takes what can go in one report.
    fn take(&self, lease: &Lease) -> Parcel {
        let now = (self.now)();
        self.lock().take(lease, now)
    }

    /// Notes the finished steps, as they were read or stored just now.
    fn learn(&self, steps: impl IntoIterator<Item = Checkpoint>) {
        let mut said = self.lock();
        let known = said.steps.get_or_insert_default();
        known.extend(steps.into_iter().map(|checkpoint| (checkpoint.name, checkpoint.value)));
    }
}

impl Said {
    fn due(&self) -> Due {
        let quiet = self.progress.is_none() && self.lines.is_empty();
        match self.phase {
            Phase::Unattended => Due::Never,
            Phase::Closed => Due::Over,
            Phase::Attended | Phase::Ending if !self.asked.is_empty() => Due::Now,
            Phase::Attended if quiet => Due::Never,
            Phase::Attended => Due::Soon,
            Phase::Ending if quiet => Due::Over,
            Phase::Ending => Due::Now,
        }
    }

    /// Asks the reporter for something, while there is one.
    fn ask(&mut self, asked: Asked) -> oneshot::Receiver<Result<(), ReportError>> {
        let (answer, answered) = oneshot::channel();
        match self.phase {
            Phase::Unattended | Phase::Attended => self.asked.push_back((asked, answer)),
            // A handler that left a task of its own behind.
            Phase::Ending | Phase::Closed => drop(answer.send(Err(ReportError::LeaseLost))),
        }
        answered
    }

    fn log_line(&mut self, at: Moment, stream: Stream, text: &str) {
        // Once something was dropped all that follows is, too: a log has no holes before its last line.
        if self.log.lines_dropped == 0 {
            // Counted as it is kept: what stands there for a NUL is longer.
            let kept = storable(text, LOG_LINE_BYTES_MAX);
            let bytes = self.log.bytes + kept.len() + LOG_LINE_COST;
            if bytes <= LOG_BYTES_MAX {
                self.log.bytes = bytes;
                self.push_line(at, stream, kept);
                return;
            }
        }
        self.log.lines_dropped += 1;
        self.log.bytes_dropped += text.len().min(LOG_LINE_BYTES_MAX) as u64;
    }

    /// Says what isn't there.
    fn log_drops(&mut self, at: Moment) {
        let Log { lines_dropped, bytes_dropped, .. } = self.log;
        if lines_dropped > 0 {
            let text = format!(
                "{lines_dropped} more lines of {bytes_dropped} bytes were dropped: a log holds {LOG_BYTES_MAX} bytes an attempt"
            );
            self.push_line(at, Stream::Log, text);
        }
    }

    fn push_line(&mut self, at: Moment, stream: Stream, text: String) {
        self.log.number += 1;
        self.lines.push_back((at, LogLine { number: self.log.number, ago: Duration::ZERO, stream, text }));
    }

    fn take(&mut self, lease: &Lease, now: Moment) -> Parcel {
        let mut report = Box::new(Report::new(lease.task.clone(), lease.fence));
        let mut answers = Vec::new();
        match self.asked.pop_front() {
            Some((Asked::Steps, answer)) => return Parcel::Steps(answer),
            // Alone: a report is kept whole or not at all, and an alias may be taken.
            Some((Asked::Alias(alias), answer)) => {
                report.alias = Some(alias);
                return Parcel::Report(report, vec![answer]);
            }
            Some((Asked::Checkpoint(checkpoint), answer)) => {
                report.checkpoints.push(checkpoint);
                answers.push(answer);
            }
            None => {}
        }
        report.progress = self.progress.take();
        let lines = self.lines.drain(..self.lines.len().min(REPORT_LINES_MAX));
        report.lines = lines.map(|(at, line)| aged(at, line, now)).collect();
        Parcel::Report(report, answers)
    }
}

fn aged(at: Moment, line: LogLine, now: Moment) -> LogLine {
    LogLine { ago: now.since(at), ..line }
}

fn check_name(name: &str) -> Result<(), ReportError> {
    if name.is_empty() || name.len() > CHECKPOINT_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(CHECKPOINT_NAME_BYTES_MAX).collect();
        return Err(ReportError::Invalid(format!(
            "a checkpoint can't be called {shown:?}: 1 to {CHECKPOINT_NAME_BYTES_MAX} bytes without control characters"
        )));
    }
    Ok(())
}

/// Text that every store takes, of at most so many bytes.
fn storable(text: &str, bytes_max: usize) -> String {
    // Before it is copied: a line may have any length.
    let head = &text[..text.floor_char_boundary(bytes_max)];
    let mut text = printable(head);
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests;
