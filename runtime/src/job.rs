//! Typed tasks: a struct of arguments is a kind of task. JSON in, JSON out, by serde.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use steadfast_core::{Cause, Context, Handlers, Kind, NewTask, ReportError, Task, Verdict};

use crate::id::task_id;

/// A kind of task, by what it is given.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use steadfast::{Handlers, Job, Jobs};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize {
///     image: String,
///     width: u32,
/// }
///
/// impl Job for Resize {
///     const KIND: &'static str = "resize";
///     type Output = String;
/// }
///
/// let handlers = Handlers::new().with_job(|resize: Resize, task| async move {
///     task.progress(10, "reading");
///     Ok(format!("{}-{}", resize.width, resize.image))
/// });
/// let task = Resize { image: "a.png".into(), width: 640 }.task()?;
/// # Ok::<(), serde_json::Error>(())
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// What such a task is called: `[A-Za-z0-9._-]{1,128}`. Tasks that wait keep it; so does a renamed struct.
    const KIND: &'static str;

    /// What comes of it.
    type Output: Serialize + DeserializeOwned + Send;

    /// The task that does this, with a new id and every default. Change what you like before you submit it.
    ///
    /// # Errors
    /// The arguments can't be written as JSON.
    ///
    /// # Panics
    /// [`KIND`](Self::KIND) isn't a valid name.
    fn task(&self) -> Result<NewTask, serde_json::Error> {
        Ok(NewTask::new(task_id(), kind::<Self>(), serde_json::to_vec(self)?))
    }

    /// What came of a task; nothing where it hasn't succeeded.
    ///
    /// # Errors
    /// The output is none of this type.
    fn output(task: &Task) -> Result<Option<Self::Output>, serde_json::Error> {
        task.output.as_deref().map(serde_json::from_slice).transpose()
    }
}

fn kind<J: Job>() -> Kind {
    Kind::new(J::KIND).unwrap_or_else(|invalid| panic!("Job::KIND: {invalid}"))
}

/// Adds typed handlers to [`Handlers`].
pub trait Jobs {
    /// Adds the handler of a kind of job. A payload that is none fails the task for good, and so does an output that can't
    /// be written.
    ///
    /// # Panics
    /// [`Job::KIND`] isn't a valid name.
    #[must_use]
    fn with_job<J, F, R>(self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J, Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<J::Output, Failure>> + Send + 'static;
}

impl Jobs for Handlers {
    fn with_job<J, F, R>(self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J, Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<J::Output, Failure>> + Send + 'static,
    {
        let handler = std::sync::Arc::new(handler);
        self.with(kind::<J>(), move |context: Context| {
            let handler = handler.clone();
            async move {
                let job = match serde_json::from_slice(context.payload()) {
                    Ok(job) => job,
                    Err(error) => {
                        return Verdict::fail(format!("the payload is no {:?}: {error}", J::KIND));
                    }
                };
                match handler(job, context).await.map(|output| serde_json::to_vec(&output)) {
                    Ok(Ok(output)) => Verdict::done(output),
                    Ok(Err(error)) => Verdict::Fail {
                        cause: Cause::Unrecordable,
                        error: format!("the output can't be written as JSON: {error}"),
                    },
                    Err(Failure(verdict)) => verdict,
                }
            }
        })
    }
}

/// How a job ends other than well. Any error becomes one by `?`: the attempt failed, and another follows while attempts
/// remain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(Verdict);

impl Failure {
    /// The attempt failed; another follows by the task's backoff, while attempts remain.
    pub fn new(error: impl fmt::Display) -> Self {
        Self(Verdict::error(error))
    }

    /// The attempt failed; another follows after this time, while attempts remain.
    pub fn retry_after(error: impl fmt::Display, after: Duration) -> Self {
        Self(Verdict::Retry { cause: Cause::Error, error: error.to_string(), after: Some(after) })
    }

    /// It failed for good: no other attempt follows.
    pub fn fatal(error: impl fmt::Display) -> Self {
        Self(Verdict::fail(error))
    }

    /// It isn't wanted any more.
    pub fn cancelled(reason: impl fmt::Display) -> Self {
        Self(Verdict::Cancel { reason: reason.to_string() })
    }

    /// Not yet: the attempt is given back, and the task comes again after this time.
    pub fn snooze(after: Duration) -> Self {
        Self(Verdict::Snooze { after })
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Self(Verdict::error(text))
    }
}

/// Typed steps for a [`Context`].
pub trait TypedSteps {
    /// [`Context::step`] with a result that is kept as JSON.
    ///
    /// # Errors
    /// Those of [`Context::step`]; and where what is stored is no such result, or this one can't be written.
    ///
    /// # Cancellation
    /// As [`Context::step`].
    fn step_as<T, E, F, W>(&self, name: &str, work: W) -> impl Future<Output = Result<T, E>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        E: From<ReportError> + From<serde_json::Error> + Send,
        F: Future<Output = Result<T, E>> + Send,
        W: FnOnce() -> F + Send;
}

impl TypedSteps for Context {
    async fn step_as<T, E, F, W>(&self, name: &str, work: W) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Send,
        E: From<ReportError> + From<serde_json::Error> + Send,
        F: Future<Output = Result<T, E>> + Send,
        W: FnOnce() -> F + Send,
    {
        let work = || async { Ok::<_, E>(serde_json::to_vec(&work().await?)?) };
        Ok(serde_json::from_slice(&self.step(name, work).await?)?)
    }
}
