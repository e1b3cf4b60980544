//! The client of a server's HTTP API, for the command line. Blocking: the command line does one thing at a time.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::typestate::WithBody;

use crate::failure::{Exit, Failure};
use crate::wire::Problem;

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
            // Those of the environment are meant for the world outside, and would be asked for loopback, too.
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { base: url.trim_end_matches('/').to_owned(), token, agent })
    }

    /// Gets what is at this path, as soon as it is there or `wait` is over.
    ///
    /// # Errors
    /// The server says no, or can't be reached.
    pub fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        wait: Duration,
    ) -> Result<T, Failure> {
        let get = self.agent.get(format!("{}{path}", self.base));
        let get = parameters.iter().fold(get, |get, (name, value)| get.query(name, value));
        self.answer(limited(self.authorized(get), wait).call())
    }

    /// Posts JSON, or nothing.
    ///
    /// # Errors
    /// The server refused it, or can't be reached; then it was done or not, and the same again tells.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &str) -> Result<T, Failure> {
        self.send(self.agent.post(format!("{}{path}", self.base)), body)
    }

    /// Puts JSON.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &str) -> Result<T, Failure> {
        self.send(self.agent.put(format!("{}{path}", self.base)), body)
    }

    /// Deletes what is at this path.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub fn delete<T: DeserializeOwned>(&self, path: &str, body: &str) -> Result<T, Failure> {
        self.send(self.agent.delete(format!("{}{path}", self.base)).force_send_body(), body)
    }

    fn send<T: DeserializeOwned>(&self, request: Request<WithBody>, body: &str) -> Result<T, Failure> {
        let request = self.authorized(request).header("content-type", "application/json");
        self.answer(limited(request, Duration::ZERO).send(body))
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
