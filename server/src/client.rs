//! The client of a server's HTTP API, for the command line. Blocking: the command line does one thing at a time.

use std::time::Duration;

use serde::de::DeserializeOwned;
use steadfast::core::storage::TaskFilter;
use steadfast::{Revision, TaskId};

use crate::failure::{Exit, Failure};
use crate::request::TaskRequest;
use crate::units::duration_text;
use crate::wire::{CancelledJson, Problem, SubmittedJson, TaskJson, TasksJson};

/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long it may take to answer, beside the time that it was asked to wait.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A server.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: Option<String>,
    agent: ureq::Agent,
}

type Request<B> = ureq::RequestBuilder<B>;
type Sent = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

impl Client {
    /// The server at this URL, such as `http://127.0.0.1:7878`.
    ///
    /// # Errors
    /// The URL isn't one that this client can reach.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let bad = |why: &str| {
            Failure::new(Exit::Usage, format!("--server {url:?}: {why}"))
                .help("write it as http://HOST:PORT, such as http://127.0.0.1:7878")
        };
        match url.split_once("://") {
            Some(("http", host)) if !host.is_empty() => {}
            Some(("https", _)) => {
                return Err(bad(
                    "https isn't there yet: reach the server over http, for example through a tunnel",
                ));
            }
            _ => return Err(bad("it is no http URL")),
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .build()
            .new_agent();
        Ok(Self { base: url.trim_end_matches('/').to_owned(), token, agent })
    }

    /// Submits a task.
    ///
    /// # Errors
    /// The server refused it, or can't be reached; then the task is stored or not, and the same again tells.
    pub fn submit(&self, request: &TaskRequest) -> Result<SubmittedJson, Failure> {
        let post = self.agent.post(format!("{}/v1/tasks", self.base));
        let post = self.authorized(post).header("content-type", "application/json");
        self.answer(limited(post, Duration::ZERO).send(request.to_json()))
    }

    /// One task, as soon as it has ended, or its revision is later than `after`, or `wait` is over.
    ///
    /// # Errors
    /// There is none, or the server can't be reached.
    pub fn task(&self, id: &TaskId, after: Option<Revision>, wait: Duration) -> Result<TaskJson, Failure> {
        let mut get = self.agent.get(format!("{}/v1/tasks/{id}", self.base));
        if !wait.is_zero() {
            get = get.query("wait", duration_text(wait));
        }
        if let Some(after) = after {
            get = get.query("after", after.to_string());
        }
        self.answer(limited(self.authorized(get), wait).call())
    }

    /// Tasks by filter, newest first.
    ///
    /// # Errors
    /// The server can't be reached.
    pub fn list(&self, filter: &TaskFilter) -> Result<Vec<TaskJson>, Failure> {
        let mut get =
            self.agent.get(format!("{}/v1/tasks", self.base)).query("limit", filter.limit.to_string());
        let parameters = [
            ("state", filter.state.map(|state| state.to_string())),
            ("queue", filter.queue.as_ref().map(ToString::to_string)),
            ("slot", filter.slot.as_ref().map(ToString::to_string)),
            ("kind", filter.kind.as_ref().map(ToString::to_string)),
        ];
        for (name, value) in parameters {
            if let Some(value) = value {
                get = get.query(name, value);
            }
        }
        let tasks: TasksJson = self.answer(limited(self.authorized(get), Duration::ZERO).call())?;
        Ok(tasks.tasks)
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// There is none, it had ended otherwise, or the server can't be reached.
    pub fn cancel(&self, id: &TaskId, reason: &str) -> Result<CancelledJson, Failure> {
        let post = self.agent.post(format!("{}/v1/tasks/{id}/cancel", self.base));
        let post = self.authorized(post).header("content-type", "application/json");
        let body = serde_json::json!({ "reason": reason }).to_string();
        self.answer(limited(post, Duration::ZERO).send(body))
    }

    fn authorized<B>(&self, request: Request<B>) -> Request<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn answer<T: DeserializeOwned>(&self, sent: Sent) -> Result<T, Failure> {
        let unreachable = |why: String| {
            Failure::new(Exit::Unreachable, format!("the server {}: {why}", self.base))
                .help("is it running, and is this its address? `steadfast serve` starts one")
        };
        let mut response = sent.map_err(|error| unreachable(error.to_string()))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| unreachable(error.to_string()))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| unreachable(format!("its answer isn't one of ours: {error}")));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(unreachable(format!("it answered {status}, in words that aren't ours"))),
        }
    }
}

fn limited<B>(request: Request<B>, wait: Duration) -> Request<B> {
    request.config().timeout_global(Some(CONNECT_MAX + wait + ANSWER_MAX)).build()
}
