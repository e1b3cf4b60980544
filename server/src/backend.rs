//! What the command line works on: a store, or a server that has one. Both give the same answers.

use std::path::Path;
use std::time::{Duration, Instant};

use steadfast::core::engine::Submitted;
use steadfast::core::storage::{Query, TaskFilter};
use steadfast::{Host, Revision, StoreId, StoreUrl, TaskId};

use crate::api::{WAIT_MAX, cancel_answer, no_task, refused};
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::request::TaskRequest;
use crate::wire::{CancelledJson, Problem, SubmittedJson, TaskJson};

/// A store or a server.
#[derive(Debug)]
pub enum Backend {
    /// A store, opened here.
    Store {
        /// The seat at it.
        host: Host,
        /// Its identity.
        store: StoreId,
    },
    /// A server.
    Server(Client),
}

/// Whether a store may be made where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is created.
    Create,
    /// It is an error: one looks at a store that is there, and a slip in its name must not make another.
    Refuse,
}

/// Opens a store, and learns its identity.
///
/// # Errors
/// It can't be opened, or isn't there and may not be made.
pub async fn open(url: &StoreUrl, missing: Missing) -> Result<(Host, StoreId), Failure> {
    if let StoreUrl::Sqlite(path) = url
        && missing == Missing::Refuse
        && !Path::new(path).exists()
    {
        return Err(Failure::new(Exit::Unreachable, format!("there is no store at {url}")).help(
            "--store or STEADFAST_STORE names another; `steadfast serve`, `run` and `submit` make a new one",
        ));
    }
    let host = Host::open(url).await?;
    let nothing = TaskFilter { limit: 1, ..TaskFilter::default() };
    let store = host.engine().read(&Query::Tasks(nothing)).await?.store;
    Ok((host, store))
}

impl Backend {
    /// Submits a task; what it leaves open is filled in from the configuration of whoever stores it.
    ///
    /// # Errors
    /// It was refused, or the store or the server can't be reached.
    pub async fn submit(&self, request: TaskRequest, config: &Config) -> Result<SubmittedJson, Failure> {
        let (host, store) = match self {
            Backend::Store { host, store } => (host, store),
            Backend::Server(client) => return blocking(client, move |client| client.submit(&request)).await,
        };
        let defaults = config.defaults(&request.kind);
        let task = request.into_task(&defaults);
        let id = task.id.clone();
        match host.engine().submit(task).await? {
            Submitted::Accepted(accepted) => Ok(SubmittedJson::new(&accepted, store)),
            Submitted::Refused(refusal) => Err(refused(&id, &refusal).into()),
            Submitted::Invalid(wrong) => Err(Failure::new(Exit::Usage, wrong.to_string())),
        }
    }

    /// One task.
    ///
    /// # Errors
    /// There is none, or the store or the server can't be reached.
    pub async fn task(&self, id: &TaskId) -> Result<TaskJson, Failure> {
        self.look(id, None, Duration::ZERO).await
    }

    /// A task when it has ended, or as it is when the time is over.
    ///
    /// # Errors
    /// There is none, or the store or the server can't be reached.
    pub async fn wait(&self, id: &TaskId, timeout: Option<Duration>) -> Result<TaskJson, Failure> {
        let begun = Instant::now();
        loop {
            let left = timeout.map_or(WAIT_MAX, |timeout| timeout.saturating_sub(begun.elapsed()));
            let task = self.look(id, None, left.min(WAIT_MAX)).await?;
            let is_over = timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
            if task.has_ended() || is_over {
                return Ok(task);
            }
        }
    }

    async fn look(&self, id: &TaskId, after: Option<Revision>, wait: Duration) -> Result<TaskJson, Failure> {
        match self {
            Backend::Store { host, store } => match host.engine().wait(id, after, wait).await? {
                Some(task) => Ok(TaskJson::new(&task, store)),
                None => Err(no_task(id).into()),
            },
            Backend::Server(client) => {
                let id = id.clone();
                blocking(client, move |client| client.task(&id, after, wait)).await
            }
        }
    }

    /// Tasks by filter, newest first.
    ///
    /// # Errors
    /// The store or the server can't be reached.
    pub async fn list(&self, filter: TaskFilter) -> Result<Vec<TaskJson>, Failure> {
        match self {
            Backend::Store { host, store } => {
                let tasks = host.engine().tasks(filter).await?;
                Ok(tasks.iter().map(|task| TaskJson::new(task, store)).collect())
            }
            Backend::Server(client) => blocking(client, move |client| client.list(&filter)).await,
        }
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// There is none, it had ended otherwise, or the store or the server can't be reached.
    pub async fn cancel(&self, id: &TaskId, reason: &str) -> Result<CancelledJson, Failure> {
        match self {
            Backend::Store { host, .. } => {
                let cancelled = host.engine().cancel(id, reason).await?;
                cancel_answer(id, cancelled).map_err(Problem::into)
            }
            Backend::Server(client) => {
                let (id, reason) = (id.clone(), reason.to_owned());
                blocking(client, move |client| client.cancel(&id, &reason)).await
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    client: &Client,
    call: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let client = client.clone();
    tokio::task::spawn_blocking(move || call(&client)).await.expect("a call to the server doesn't panic")
}
