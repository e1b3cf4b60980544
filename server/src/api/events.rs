//! `GET /v1/tasks/{id}/events`: what becomes of a task, as it happens.
//!
//! An event is a revision of the task that was observed, and its id is that revision. What is told of a revision depends
//! on nothing but the task as it is then, so a client that comes back with the last id that it has seen misses nothing
//! that it could not see itself, and sees no revision twice. Revisions that come faster than they are read are folded
//! together; the last one never is, since a task that has ended doesn't change any more.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt, unfold};
use steadfast::{Clock, Revision, Storage, TaskId};

use super::parse::{Parameters, Segment};
use super::{Api, answer};
use crate::service::{invalid, no_task};
use crate::wire::{EventJson, EventsJson, Problem};

/// The last event that the client has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long one look waits for the next revision; then another look begins.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// The wait after the store couldn't be read.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// `GET /v1/tasks/{id}/events`: a stream for whoever accepts one, or else JSON.
pub(super) async fn events<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    id: Segment,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = id.id()?;
    let asked = parameters.take("after", |text| text.parse::<Revision>())?;
    parameters.none_left("after")?;
    let seen = last_event_id(headers.get(LAST_EVENT_ID))?.or(asked);
    let service = &api.0.settings.service;
    let Some(task) = service.engine.task(&id).await? else { return Err(no_task(&id)) };
    let is_new = seen.is_none_or(|seen| task.rev > seen);
    if !wants_stream(&headers) {
        let event = if is_new { Some(EventJson::new(service.shown(&task).await?)) } else { None };
        let events = event.into_iter().collect();
        return Ok(answer::json(StatusCode::OK, &EventsJson { events }));
    }
    if task.state.is_terminal() && !is_new {
        // Browsers come back for ever after an empty stream; this answer tells them not to.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("alive");
    Ok(Sse::new(stream(api, id, seen)).keep_alive(keep_alive).into_response())
}

/// Where the client left off, as it says in the header `Last-Event-ID`. An empty id is as good as none: that is how a
/// browser forgets.
///
/// # Errors
/// It is no id that an event can have.
pub fn last_event_id(header: Option<&HeaderValue>) -> Result<Option<Revision>, Problem> {
    let Some(header) = header else { return Ok(None) };
    let bad = || invalid("must be the id of an event of this task: a revision").field("Last-Event-ID");
    match header.to_str().map_err(|_| bad())? {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| bad()),
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted
        .flat_map(|value| value.split(','))
        .map(|part| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    // The first of the two that is named; a stream where neither is.
    types
        .find_map(|accepted| match accepted.as_str() {
            "text/event-stream" => Some(true),
            "application/json" => Some(false),
            _ => None,
        })
        .unwrap_or(true)
}

/// What the stream is at.
struct Position<S, C> {
    api: Api<S, C>,
    id: TaskId,
    seen: Option<Revision>,
    has_ended: bool,
}

/// The events after `seen`, up to the one that says how the task ended; or until the server ends.
fn stream<S: Storage, C: Clock>(
    api: Api<S, C>,
    id: TaskId,
    seen: Option<Revision>,
) -> impl Stream<Item = Result<Event, Infallible>> + use<S, C> {
    let ending = {
        let api = api.clone();
        async move { api.ending().await }
    };
    let position = Position { api, id, seen, has_ended: false };
    unfold(position, |mut position| async {
        if position.has_ended {
            return None;
        }
        let event = position.next().await?;
        Some((Ok(event), position))
    })
    .take_until(ending)
}

impl<S: Storage, C: Clock> Position<S, C> {
    /// The next event; none where the task isn't there any more.
    async fn next(&mut self) -> Option<Event> {
        let service = &self.api.0.settings.service;
        let clock = service.engine.clock();
        loop {
            let (after, wait) = match self.seen {
                None => (None, Duration::ZERO),
                Some(seen) => (Some(seen), LOOK_MAX),
            };
            // It listens for hints before it looks, so that no change falls in between.
            let task = match service.engine.wait(&self.id, after, wait).await {
                Ok(task) => task?,
                Err(error) => {
                    tracing::warn!(task = %self.id, ?error, "a stream of events waits for the store");
                    clock.sleep(STORE_RETRY).await;
                    continue;
                }
            };
            let has_ended = task.state.is_terminal();
            if self.seen.is_some_and(|seen| task.rev <= seen) {
                if has_ended {
                    // The client has seen the end, or says so.
                    return None;
                }
                continue;
            }
            let shown = match service.shown(&task).await {
                Ok(shown) => shown,
                Err(problem) => {
                    tracing::warn!(task = %self.id, %problem.detail, "a stream of events waits for the store");
                    clock.sleep(STORE_RETRY).await;
                    continue;
                }
            };
            self.seen = Some(task.rev);
            self.has_ended = has_ended;
            let event = EventJson::new(shown);
            let data = serde_json::to_string(&event).expect("our own types are JSON");
            return Some(Event::default().id(task.rev.to_string()).event(event.event).data(data));
        }
    }
}
