//! Reads what a request carries: names in its path, parameters of its query, its body. What is wrong is said by its
//! field.

use std::fmt;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use steadfast::core::name::InvalidName;
use steadfast::{State as TaskState, TaskId};

use crate::request::unreadable;
use crate::service::{LIST_MAX, invalid};
use crate::wire::Problem;

/// The parameters of a query that haven't been read yet.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read: Result<Query<Vec<(String, String)>>, QueryRejection> =
            Query::from_request_parts(parts, state).await;
        let Query(parameters) = read.map_err(|error| invalid(error.body_text()))?;
        let mut names: Vec<&String> = parameters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(invalid("stands there twice").field(twice[0])),
            None => Ok(Self(parameters)),
        }
    }
}

impl Parameters {
    pub(super) fn take<T, E: fmt::Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let place = self.0.iter().position(|(parameter, _)| parameter == name);
        let value = place.map(|place| self.0.swap_remove(place).1).map(read);
        value.transpose().map_err(|error| invalid(error.to_string()).field(name))
    }

    pub(super) fn none_left(self, known: &str) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            Some((name, _)) if known.is_empty() => {
                Err(invalid("is no parameter here; there are none").field(name))
            }
            Some((name, _)) => Err(invalid(format!("is no parameter here; there are {known}")).field(name)),
            None => Ok(()),
        }
    }
}

/// A segment of the path.
#[derive(Debug)]
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        read.map(|Path(text)| Self(text)).map_err(|error| invalid(error.body_text()))
    }
}

impl Segment {
    pub(super) fn id(&self) -> Result<TaskId, Problem> {
        self.name("id")
    }

    pub(super) fn name<T: FromStr<Err = InvalidName>>(&self, field: &str) -> Result<T, Problem> {
        self.0.parse().map_err(|error: InvalidName| invalid(error.to_string()).field(field))
    }
}

/// The body, unless it is too large or breaks off.
pub(super) fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large("the body is larger than this server accepts"),
        status => Problem::new(status.as_u16(), "unreadable", "unreadable request", rejection.body_text()),
    })
}

/// The body as JSON, or the default where it is empty.
pub(super) fn body<T: DeserializeOwned + Default>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    json(&whole(body)?)
}

/// The same, of a body that is there.
pub(super) fn json<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // Serde takes an array for a struct, by the order of its fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| invalid(unreadable(&error)))
}

pub(super) fn too_large(detail: impl Into<String>) -> Problem {
    Problem::new(413, "too_large", "too large", detail)
        .help("keep large data elsewhere and submit a reference to it; or raise server.payload_bytes_max")
}

/// Reads a state's word.
///
/// # Errors
/// It is none; the text names them.
pub fn state(text: &str) -> Result<TaskState, String> {
    TaskState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let words: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
        format!("{text:?} is no state; there are {}", words.join(", "))
    })
}

/// Reads how many tasks a listing may have.
///
/// # Errors
/// It isn't a number from 1 to [`LIST_MAX`].
pub fn limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit @ 1..=LIST_MAX) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {LIST_MAX}, not {text:?}")),
    }
}
