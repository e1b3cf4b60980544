//! Waiting through a restart: who waits for a task asks again while the server, or the store, can't be reached.

use std::time::{Duration, Instant};

use crate::failure::{Exit, Failure};

/// How long nobody may answer where the command line sets no limit: a restart takes seconds, another machine minutes.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// The first pause before asking again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long somebody who waits bears that nobody answers.
#[derive(Debug)]
pub(crate) struct Patience {
    /// It was answered before. Until then, silence is a wrong address rather than a restart.
    answered: bool,
    /// When the whole wait is over.
    until: Option<Instant>,
}

impl Patience {
    /// For a wait that takes at most so long.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { answered: false, until: limit.and_then(|limit| Instant::now().checked_add(limit)) }
    }

    /// Somebody has answered another call before.
    pub(crate) fn answered(mut self) -> Self {
        self.answered = true;
        self
    }

    /// Asks until there is an answer, and says once on stderr if there is none at first. `ask` may be called many times,
    /// so it should only look.
    ///
    /// # Errors
    /// The answer is no; or it can't be had, and never could, or not for too long.
    pub(crate) async fn ask<T>(
        &mut self,
        mut ask: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let until = self.until.unwrap_or(begun + SILENCE_MAX);
        let mut pause = FIRST_PAUSE;
        let mut is_said = false;
        loop {
            let failure = match ask().await {
                Err(failure) if failure.exit == Exit::Unreachable && self.answered => failure,
                answer => {
                    self.answered |= answer.is_ok();
                    return answer;
                }
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failure);
            }
            if !is_said {
                crate::commands::note(format_args!(
                    "{}; asking again until there is an answer",
                    failure.what
                ));
                is_said = true;
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}
