//! A client on the simulated network: a connection for each request, a limit on each wait, and no memory of
//! connections that were lost.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use steadfast::{State, TaskId};
use steadfast_server::wire::{Problem, TaskJson};
use steadfast_sim::choices::Stream;
use steadfast_sim::history::Event;
use steadfast_sim::world::World;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use super::net::{Notes, SERVER};
use super::process::{PORT, TOKEN};

/// How long an answer may take, beside the time that was asked for.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// The pause before trying again.
const PAUSE: Duration = Duration::from_millis(100);

/// A client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) world: World,
    pub(super) notes: Notes,
}

/// Nobody answered, or not whole, or not in time: it was done or not.
#[derive(Debug)]
pub(super) struct Lost;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Its body.
    #[track_caller]
    pub(super) fn json<T: DeserializeOwned>(&self) -> T {
        let body = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {body}", self.status))
    }

    /// The word of its problem.
    #[track_caller]
    pub(super) fn problem(&self) -> String {
        let problem: Problem = self.json();
        problem.r#type.trim_start_matches("urn:steadfast:").to_owned()
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    pub(super) fn new(name: String, number: u64, world: World, notes: Notes) -> Self {
        Self { name, number, world, notes }
    }

    /// One of `0..n`, by choice.
    pub(super) fn pick(&self, site: &'static str, n: u32) -> u32 {
        self.world.choices().pick(Stream::Workload, site, self.number, n)
    }

    /// Waits for one of these, in milliseconds.
    pub(super) async fn pause(&self, site: &'static str, millis: &[u64]) {
        let which = self.pick(site, u32::try_from(millis.len()).expect("few")) as usize;
        sleep(Duration::from_millis(millis[which])).await;
    }

    /// Waits a little, as whoever tries again should.
    pub(super) async fn rest(&self) {
        sleep(PAUSE).await;
    }

    /// Sends a request on a connection of its own; the answer's body is still to be read.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<(Response<Incoming>, Connection), Lost> {
        let stream = TcpStream::connect((SERVER, PORT)).await.map_err(|_| Lost)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Lost)?;
        let connection = Connection(tokio::spawn(async move {
            // Its end is told to whoever waits for the answer.
            let _ = connection.await;
        }));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, SERVER)
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("it is one");
        let response = sender.send_request(request).await.map_err(|_| Lost)?;
        Ok((response, connection))
    }

    /// Sends a request and reads its answer, within `wait` and what an answer may take.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        wait: Duration,
    ) -> Result<Answer, Lost> {
        let asking = async {
            let (response, _connection) = self.open(method, path, headers, body).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        timeout(wait + ANSWER_MAX, asking).await.unwrap_or(Err(Lost))
    }

    /// Posts JSON.
    pub(super) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, Lost> {
        self.ask(Method::POST, path, headers, body, Duration::ZERO).await
    }

    /// Looks at a task until there is an answer, and tells the oracle what it was shown.
    pub(super) async fn look(&self, id: &str) -> Option<TaskJson> {
        loop {
            let asked_at = self.world.now();
            let path = format!("/v1/tasks/{id}");
            let Ok(answer) = self.ask(Method::GET, &path, &[], "", Duration::ZERO).await else {
                self.rest().await;
                continue;
            };
            match answer.status {
                200 => {
                    let task: TaskJson = answer.json();
                    self.shown(&task.id, task.rev, &task.state, asked_at);
                    return Some(task);
                }
                404 => return None,
                503 => self.rest().await,
                other => panic!("looking at {id} was answered {other}: {:?}", answer.body),
            }
        }
    }

    /// Tells the oracle that it was shown this revision of a task.
    pub(super) fn shown(&self, id: &str, rev: u64, state: &str, asked_at: steadfast::Timestamp) {
        let task = TaskId::trusted(id);
        self.world.record(Event::Looked {
            reader: self.name.clone(),
            task,
            rev,
            state: state_of(state),
            asked_at,
        });
    }

    /// A stream of a task's events after the last one that was seen, or why there is none.
    pub(super) async fn events(&self, id: &str, last_seen: Option<u64>) -> Result<Opened, Lost> {
        let path = format!("/v1/tasks/{id}/events");
        let last_seen = last_seen.map(|rev| rev.to_string());
        let mut headers = vec![(ACCEPT.as_str(), "text/event-stream")];
        headers.extend(last_seen.as_deref().map(|rev| ("last-event-id", rev)));
        let opening = self.open(Method::GET, &path, &headers, "");
        let (response, connection) = timeout(ANSWER_MAX, opening).await.unwrap_or(Err(Lost))?;
        match response.status().as_u16() {
            200 => Ok(Opened::Stream(EventStream {
                body: response.into_body(),
                text: String::new(),
                signs_of_life: 0,
                _connection: connection,
            })),
            204 => Ok(Opened::Over),
            503 => Ok(Opened::Later),
            // It isn't submitted yet. One that was seen stays there.
            404 if last_seen.is_none() => Ok(Opened::Later),
            other => panic!("events of {id} were answered {other}"),
        }
    }
}

/// What asking for events came to.
pub(super) enum Opened {
    /// There are some, or will be.
    Stream(EventStream),
    /// There is nothing more to come.
    Over,
    /// There is no such task yet, or the store can't be reached.
    Later,
}

/// A stream of events.
pub(super) struct EventStream {
    body: Incoming,
    text: String,
    /// Comments, by which a silent stream says that it is alive.
    pub(super) signs_of_life: u32,
    _connection: Connection,
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) rev: u64,
    pub(super) name: String,
    pub(super) state: String,
}

/// What comes of waiting for an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Told(Told),
    /// The server ended the stream.
    End,
    /// The connection broke.
    Broken,
}

impl EventStream {
    /// The next event. Cancellation safe: what was read is kept.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(told) = read_event(&block) {
                    return Next::Told(told);
                }
                self.signs_of_life += 1;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.text.push_str(str::from_utf8(data).expect("events are text"));
                    }
                }
                Some(Err(_)) => return Next::Broken,
                None => return Next::End,
            }
        }
    }
}

/// Reads the lines of an event; none where there are only comments.
fn read_event(block: &str) -> Option<Told> {
    let field = |name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    let (rev, name) = (field("id")?.parse().expect("an id is a revision"), field("event")?);
    let task: TaskJson = serde_json::from_str(&field("data")?).expect("an event holds its task");
    assert_eq!(task.rev, rev, "an event's id is its task's revision");
    Some(Told { rev, name, state: task.state })
}

/// The state of this name.
pub(super) fn state_of(word: &str) -> State {
    State::ALL.into_iter().find(|state| state.as_str() == word).expect("a state has a word")
}
