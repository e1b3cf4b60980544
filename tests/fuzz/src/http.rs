//! What an HTTP request carries: bodies and headers.

use std::collections::BTreeMap;

use axum::http::HeaderValue;
use serde_json::Value;
use serde_json::value::RawValue;
use steadfast::core::engine;
use steadfast_server::api;
use steadfast_server::request::{Defaults, TaskRequest};
use steadfast_server::wire::Problem;

use crate::Target;

/// `POST /v1/tasks`: one task or many.
pub(crate) const SUBMIT: Target =
    Target { name: "submit", about: "the body of a submit, of one task or of many", run: submit };
/// The other bodies.
pub(crate) const BODY: Target =
    Target { name: "http_body", about: "the body of a cancel and of a queue's limits", run: body };
/// Where a stream of events goes on.
pub(crate) const EVENT_ID: Target =
    Target { name: "event_id", about: "the headers Last-Event-ID and Idempotency-Key", run: headers };

/// The fields of a submit that are a name or a number: such a value has one meaning, and is sent on as it stands there.
const PLAIN: [&str; 8] = ["kind", "id", "key", "queue", "slot", "priority", "attempts", "rescues"];

fn submit(bytes: &[u8]) {
    match api::bulk(bytes) {
        Ok(items) => {
            // A number that is too large for a value is kept as it stands.
            if let Ok(values) = serde_json::from_slice::<Vec<Value>>(bytes) {
                assert_eq!(items.len(), values.len());
            }
            items.iter().for_each(|item| task(item.get().as_bytes()));
        }
        Err(problem) => {
            is_told(&problem);
            task(bytes);
        }
    }
}

fn task(json: &[u8]) {
    let request = match TaskRequest::from_json(json) {
        Ok(request) => request,
        Err(error) => {
            assert!(!error.why.is_empty() && error.why.len() < 4_000, "{error}");
            return;
        }
    };
    let written = request.to_json();
    let again = TaskRequest::from_json(written.as_bytes());
    assert_eq!(again.as_ref(), Ok(&request), "it is sent on as it came");
    assert_eq!(plain(written.as_bytes()), plain(json), "it is what was said");
    assert!(!request.kind.is_reserved());
    let has_id = request.id.clone();
    let task = request.into_task(&Defaults::default());
    assert!(has_id.is_none_or(|id| id == task.id), "an id that was given is the task's");
    if let Err(invalid) = engine::check(&task) {
        assert!(!invalid.why.is_empty());
    } else {
        assert!(task.attempts_max > 0 && !task.timeout.is_zero());
    }
}

/// What the plain fields say, read without the code that is tried. A null says nothing, and a priority of 0 is the default.
fn plain(json: &[u8]) -> BTreeMap<&'static str, Value> {
    // The others aren't read: a payload is any JSON, also what isn't a `Value`.
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(json).expect("it was read as an object");
    let said = PLAIN.into_iter().filter_map(|name| {
        let value: Value = serde_json::from_str(fields.get(name)?.get()).expect("a name or a number");
        let is_default = value.is_null() || (name == "priority" && value == 0);
        (!is_default).then_some((name, value))
    });
    said.collect()
}

fn body(bytes: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    match api::reason(bytes) {
        Ok(reason) => {
            let said = value.as_ref().and_then(|value| value.get("reason")?.as_str());
            assert_eq!(reason, said.unwrap_or("cancelled over HTTP"));
        }
        Err(problem) => is_told(&problem),
    }
    match api::concurrency(bytes) {
        // No limit is set but by a null, and a number is that number.
        Ok(limit) => {
            let said = value.expect("it was read as JSON");
            assert_eq!(said.get("concurrency"), Some(&limit.map_or(Value::Null, Value::from)));
        }
        Err(problem) => is_told(&problem),
    }
}

fn headers(bytes: &[u8]) {
    let Ok(header) = HeaderValue::from_bytes(bytes) else { return };
    match api::last_event_id(Some(&header)) {
        Ok(Some(revision)) => {
            // The id that a stream gives to the event.
            let own = HeaderValue::from_str(&revision.to_string()).expect("digits are plain");
            assert_eq!(api::last_event_id(Some(&own)).ok(), Some(Some(revision)));
            let text = header.to_str().expect("it was read as text").trim_start_matches('+');
            let digits = text.trim_start_matches('0');
            assert_eq!(if digits.is_empty() { "0" } else { digits }, own, "another revision than was said");
        }
        Ok(None) => assert!(bytes.is_empty(), "{header:?} says where to go on, and was passed over"),
        Err(problem) => is_told(&problem),
    }
    match api::idempotency_key([&header].into_iter()) {
        Ok(key) => assert_eq!(key.as_ref().map(|key| key.as_str().as_bytes()), Some(bytes)),
        Err(problem) => is_told(&problem),
    }
    let twice = api::idempotency_key([&header, &header].into_iter());
    assert!(twice.is_err(), "of two keys none can be chosen");
}

/// A problem is the client's, says what it is, and can be sent.
fn is_told(problem: &Problem) {
    assert!((400..500).contains(&problem.status), "{problem:?}");
    assert!(!problem.detail.is_empty() && problem.detail.len() < 4_000, "{problem:?}");
    serde_json::to_vec(problem).expect("a problem is JSON");
}
