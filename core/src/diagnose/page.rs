//! A diagnosis as a page for people.

use std::fmt::Write;
use std::time::Duration;

use crate::time::Timestamp;

use super::{Diagnosis, Next, Passed};

/// How many names of a list are shown.
const SHOWN_MAX: usize = 5;

impl Diagnosis {
    /// The page. `time` writes a point in time: the core has no calendar.
    pub fn page(&self, time: impl Fn(Timestamp) -> String) -> String {
        let mut page = String::new();
        self.write(&mut page, &time).expect("a text takes everything");
        page
    }

    fn write(&self, page: &mut String, time: &dyn Fn(Timestamp) -> String) -> std::fmt::Result {
        writeln!(page, "{}  {}", self.task, self.state)?;
        writeln!(page, "{}", self.verdict)?;
        if let Some(advice) = &self.advice {
            writeln!(page, "{advice}")?;
        }
        writeln!(page, "\nHops")?;
        for hop in &self.hops {
            let name = hop.stage.as_str();
            match &hop.passed {
                Passed::Yes { at, evidence } => {
                    writeln!(page, "  yes  {name:<15}  {}{evidence}", self.moment(*at, time))?;
                }
                Passed::No { because } => writeln!(page, "  no   {name:<15}  because {because}")?,
                Passed::Unknown { because } => writeln!(page, "  ?    {name:<15}  unknown: {because}")?,
            }
        }
        if !self.attempts.is_empty() {
            writeln!(page, "\nEarlier attempts")?;
        }
        for one in &self.attempts {
            let entered = match one.entered_at {
                Some(at) => format!("entered {} after the claim", rough(at.since(one.claimed_at))),
                None => "entered or not is unknown".into(),
            };
            let error = one.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            writeln!(
                page,
                "  fence {}, attempt {}, worker {}, claimed {}{entered}; ended {}by {}{error}",
                one.fence,
                one.attempt,
                one.worker,
                self.moment(Some(one.claimed_at), time),
                self.moment(Some(one.ended_at), time),
                one.cause,
            )?;
        }
        writeln!(page, "\nNext")?;
        for Next { at, what } in &self.next {
            writeln!(page, "  {}{what}", self.moment(*at, time))?;
        }
        writeln!(page, "\nAs of {}, by store {}", time(self.as_of), self.store)
    }

    fn moment(&self, at: Option<Timestamp>, time: &dyn Fn(Timestamp) -> String) -> String {
        at.map_or_else(String::new, |at| format!("{} ({})  ", time(at), relative(self.as_of, at)))
    }
}

fn relative(now: Timestamp, at: Timestamp) -> String {
    if at > now { within(now, at) } else { ago(now, at) }
}

pub(super) fn ago(now: Timestamp, at: Timestamp) -> String {
    if at >= now { "just now".into() } else { format!("{} ago", rough(now.since(at))) }
}

pub(super) fn within(now: Timestamp, at: Timestamp) -> String {
    if at <= now { "now".into() } else { format!("in {}", rough(at.since(now))) }
}

/// The two leading units, rounded down.
pub(super) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Names after each other, the first few of many.
pub(super) fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN_MAX);
    let mut shown = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        shown.push_str(&format!(" and {more} more"));
    }
    shown
}
