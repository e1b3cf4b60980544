//! What the command line works on: a store, or a server that has one. Both give the same answers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast::core::storage::{Query, TaskFilter};
use steadfast::core::task::Fence;
use steadfast::{Queue, Revision, Slot, StoreId, StoreUrl, TaskId};

use crate::api::WAIT_MAX;
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::metrics::Metrics;
use crate::patience::Patience;
use crate::request::TaskRequest;
use crate::service::{Service, Submission};
use crate::store::{self, Host};
use crate::units::duration_text;
use crate::wire::{
    CancelledJson, DiagnosisJson, ItemJson, LogJson, Problem, PrunedJson, QueueJson, QueuesJson, RetriedJson,
    SlotJson, SlotsJson, StatsJson, SubmittedJson, TaskJson, TasksJson, WorkersJson,
};

/// A store or a server.
#[derive(Debug)]
pub enum Backend {
    /// A store, opened here.
    Store {
        /// The seat at it, which must stay as long as it is used.
        host: Host,
        /// What can be asked of it.
        service: Service,
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
    open_measured(url, missing, Arc::new(Metrics::new())).await
}

/// Opens a store whose calls are measured, and learns its identity.
///
/// # Errors
/// It can't be opened, or isn't there and may not be made.
pub async fn open_measured(
    url: &StoreUrl,
    missing: Missing,
    metrics: Arc<Metrics>,
) -> Result<(Host, StoreId), Failure> {
    if let StoreUrl::Sqlite(path) = url
        && missing == Missing::Refuse
        && !Path::new(path).exists()
    {
        return Err(Failure::new(Exit::Unreachable, format!("there is no store at {url}")).help(
            "--store or STEADFAST_STORE names another; `steadfast serve`, `run` and `submit` make a new one",
        ));
    }
    let host = store::host(url, metrics).await.map_err(|error| match url {
        StoreUrl::Postgres(_) => unreachable(error.into()),
        StoreUrl::Sqlite(_) | StoreUrl::SqliteInMemory => error.into(),
    })?;
    // Any view names the store; this one looks at no task.
    let store = host.engine().read(&Query::Heads(Vec::new())).await?.store;
    Ok((host, store))
}

/// Adds what to do where a database server can't be reached and hasn't said why.
fn unreachable(failure: Failure) -> Failure {
    if !failure.what.starts_with("PostgreSQL can't be reached") {
        return failure;
    }
    failure.help(
        "is it running, are host, port, user and password in --store or STEADFAST_STORE right, and is there such a database?",
    )
}

/// One call: the store's service is asked, or the server's answer is fetched on a thread that may block.
macro_rules! ask {
    ($self:expr, |$service:ident| $here:expr, |$client:ident| $there:expr) => {
        match $self {
            Backend::Store { service: $service, .. } => $here.await.map_err(Failure::from),
            Backend::Server(client) => {
                let $client = client.clone();
                tokio::task::spawn_blocking(move || $there).await.expect("a call to the server doesn't panic")
            }
        }
    };
}

/// Every call fails where the store or the server can't be reached, besides what is said.
impl Backend {
    /// A store that was opened here.
    pub fn on_store(host: Host, store: StoreId) -> Self {
        let service = Service { engine: host.engine().clone(), store };
        Backend::Store { host, service }
    }

    /// Submits a task; what it leaves open is filled in from the configuration of whoever stores it.
    ///
    /// # Errors
    /// It was refused.
    pub async fn submit(&self, request: TaskRequest, config: &Config) -> Result<SubmittedJson, Failure> {
        ask!(self, |service| service.submit(Submission::new(request, config)), |client| client
            .post("/v1/tasks", &request.to_json()))
    }

    /// Submits many tasks; each is answered as it alone would have been.
    ///
    /// # Errors
    /// As every call.
    pub async fn submit_all(
        &self,
        requests: Vec<TaskRequest>,
        config: &Config,
    ) -> Result<Vec<ItemJson>, Failure> {
        let here = async |service: &Service, requests: Vec<TaskRequest>| {
            let submissions = requests.into_iter().map(|request| Ok(Submission::new(request, config)));
            Ok::<_, Problem>(service.submit_all(submissions.collect()).await)
        };
        ask!(self, |service| here(service, requests), |client| {
            let objects: Vec<String> = requests.iter().map(TaskRequest::to_json).collect();
            client.post("/v1/tasks", &format!("[{}]", objects.join(",")))
        })
    }

    /// A task as soon as it has ended, or its revision is later than `after`, or `wait` is over.
    ///
    /// # Errors
    /// There is none.
    pub async fn task(
        &self,
        id: &TaskId,
        after: Option<Revision>,
        wait: Duration,
    ) -> Result<TaskJson, Failure> {
        let mut parameters = waiting(wait);
        parameters.extend(after.map(|after| ("after", after.to_string())));
        let path = format!("/v1/tasks/{id}");
        ask!(self, |service| service.task(id, after, wait), |client| client.get(&path, &parameters, wait))
    }

    /// A task when it has ended, or as it is when the time is over. Outlives a server that is started again.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn wait(
        &self,
        id: &TaskId,
        timeout: Option<Duration>,
        mut patience: Patience,
    ) -> Result<TaskJson, Failure> {
        let begun = Instant::now();
        loop {
            let left = || timeout.map_or(WAIT_MAX, |timeout| timeout.saturating_sub(begun.elapsed()));
            let task = patience.ask(async || self.task(id, None, left().min(WAIT_MAX)).await).await?;
            let is_over = timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
            if task.has_ended() || is_over {
                return Ok(task);
            }
        }
    }

    /// Tasks by filter, newest first.
    ///
    /// # Errors
    /// The page that it goes on from isn't there any more.
    pub async fn list(&self, filter: TaskFilter) -> Result<TasksJson, Failure> {
        let limit = Some(("limit", filter.limit.to_string()));
        let parameters: Vec<(&str, String)> = [
            limit,
            filter.state.map(|state| ("state", state.to_string())),
            filter.queue.as_ref().map(|queue| ("queue", queue.to_string())),
            filter.slot.as_ref().map(|slot| ("slot", slot.to_string())),
            filter.kind.as_ref().map(|kind| ("kind", kind.to_string())),
            filter.before.as_ref().map(|before| ("cursor", before.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect();
        ask!(self, |service| service.list(filter), |client| client.get(
            "/v1/tasks",
            &parameters,
            Duration::ZERO
        ))
    }

    /// Lines of a task's log after this place, as soon as there is one, or there can't be, or `wait` is over.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn log(
        &self,
        id: &TaskId,
        after: (Fence, u32),
        limit: u32,
        wait: Duration,
    ) -> Result<LogJson, Failure> {
        let mut parameters = waiting(wait);
        parameters.push(("after", format!("{}.{}", after.0, after.1)));
        parameters.push(("limit", limit.to_string()));
        let path = format!("/v1/tasks/{id}/log");
        ask!(self, |service| service.log(id, after, limit, wait), |client| client.get(
            &path,
            &parameters,
            wait
        ))
    }

    /// Where a task is and why, and what happens next.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn diagnosis(&self, id: &TaskId) -> Result<DiagnosisJson, Failure> {
        let path = format!("/v1/tasks/{id}/diagnosis");
        ask!(self, |service| service.diagnosis(id), |client| client.get(&path, &[], Duration::ZERO))
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// There is none, or it had ended otherwise.
    pub async fn cancel(&self, id: &TaskId, reason: &str) -> Result<CancelledJson, Failure> {
        let (path, body) = (format!("/v1/tasks/{id}/cancel"), because(reason));
        ask!(self, |service| service.cancel(id, reason), |client| client.post(&path, &body))
    }

    /// Runs a task again.
    ///
    /// # Errors
    /// There is none, or there is nothing to retry.
    pub async fn retry(&self, id: &TaskId) -> Result<RetriedJson, Failure> {
        let path = format!("/v1/tasks/{id}/retry");
        ask!(self, |service| service.retry(id), |client| client.post(&path, ""))
    }

    /// The slots that are held or waited for.
    ///
    /// # Errors
    /// As every call.
    pub async fn slots(&self) -> Result<SlotsJson, Failure> {
        ask!(self, |service| service.slots(), |client| client.get("/v1/slots", &[], Duration::ZERO))
    }

    /// One slot.
    ///
    /// # Errors
    /// Nobody is in it.
    pub async fn slot(&self, slot: &Slot) -> Result<SlotJson, Failure> {
        let path = slot_path(slot);
        ask!(self, |service| service.slot(slot), |client| client.get(&path, &[], Duration::ZERO))
    }

    /// Cancels the holder of a slot.
    ///
    /// # Errors
    /// Nobody holds it.
    pub async fn free_slot(&self, slot: &Slot, reason: &str) -> Result<CancelledJson, Failure> {
        let (path, body) = (slot_path(slot), because(reason));
        ask!(self, |service| service.free_slot(slot, reason), |client| client.delete(&path, &body))
    }

    /// The queues.
    ///
    /// # Errors
    /// As every call.
    pub async fn queues(&self) -> Result<QueuesJson, Failure> {
        ask!(self, |service| service.queues(), |client| client.get("/v1/queues", &[], Duration::ZERO))
    }

    /// Pauses or resumes a queue.
    ///
    /// # Errors
    /// As every call.
    pub async fn pause(&self, queue: &Queue, paused: bool) -> Result<QueueJson, Failure> {
        let path = format!("/v1/queues/{queue}/{}", if paused { "pause" } else { "resume" });
        ask!(self, |service| service.pause(queue.clone(), paused), |client| client.post(&path, ""))
    }

    /// Sets or lifts a queue's limit.
    ///
    /// # Errors
    /// As every call.
    pub async fn limit(&self, queue: &Queue, concurrency: Option<u32>) -> Result<QueueJson, Failure> {
        let path = format!("/v1/queues/{queue}/limits");
        let body = serde_json::json!({ "concurrency": concurrency }).to_string();
        ask!(self, |service| service.limit(queue.clone(), concurrency), |client| client.put(&path, &body))
    }

    /// The workers.
    ///
    /// # Errors
    /// As every call.
    pub async fn workers(&self) -> Result<WorkersJson, Failure> {
        ask!(self, |service| service.workers(), |client| client.get("/v1/workers", &[], Duration::ZERO))
    }

    /// The store as a whole.
    ///
    /// # Errors
    /// As every call.
    pub async fn stats(&self) -> Result<StatsJson, Failure> {
        ask!(self, |service| service.stats(), |client| client.get("/v1/stats", &[], Duration::ZERO))
    }

    /// Forgets tasks that ended at least so long ago.
    ///
    /// # Errors
    /// As every call; what was forgotten before stays so.
    pub async fn prune(&self, older: Duration) -> Result<PrunedJson, Failure> {
        let body = serde_json::json!({ "older": duration_text(older) }).to_string();
        ask!(self, |service| service.prune(older), |client| client.post("/v1/prune", &body))
    }
}

fn waiting(wait: Duration) -> Vec<(&'static str, String)> {
    if wait.is_zero() { Vec::new() } else { vec![("wait", duration_text(wait))] }
}

fn because(reason: &str) -> String {
    serde_json::json!({ "reason": reason }).to_string()
}

fn slot_path(slot: &Slot) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    format!("/v1/slots/{}", utf8_percent_encode(slot.as_str(), NON_ALPHANUMERIC))
}
