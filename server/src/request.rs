//! A submit as it comes from outside, read field by field, so that what is wrong can be said by the field's name.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use steadfast::core::task::{Defaulted, Due, OnConflict, OnParentFailure, Parent};
use steadfast::{Key, Kind, NewTask, Queue, Slot, TaskId, Timestamp};

use crate::units;
use crate::wire::from_base64;

/// A submit. What is `None` was not said, and is filled in from the handler's configuration or with the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `NewTask`")]
pub struct TaskRequest {
    pub kind: Kind,
    pub payload: Vec<u8>,
    pub id: Option<TaskId>,
    pub key: Option<Key>,
    pub queue: Option<Queue>,
    pub slot: Option<(Slot, OnConflict)>,
    pub after: Vec<TaskId>,
    pub due: Due,
    pub deadline: Option<Due>,
    pub priority: i16,
    pub attempts: Option<u32>,
    pub rescues: Option<u32>,
    pub timeout: Option<Duration>,
}

/// What a submit leaves open, as the operator's configuration has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `TaskRequest`")]
pub struct Defaults {
    pub queue: Option<Queue>,
    pub attempts: Option<u32>,
    pub rescues: Option<u32>,
    pub timeout: Option<Duration>,
}

/// What is wrong with a request, and with which field of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field; none where the whole isn't an object.
    pub field: Option<String>,
    /// The rule that it breaks.
    pub why: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// All fields of a submit.
const FIELDS: [&str; 16] = [
    "kind",
    "payload",
    "payload_base64",
    "id",
    "key",
    "queue",
    "slot",
    "on_conflict",
    "after",
    "delay",
    "at",
    "priority",
    "attempts",
    "rescues",
    "timeout",
    "deadline",
];

impl TaskRequest {
    /// A submit of this kind with nothing else said.
    pub fn new(kind: Kind, payload: Vec<u8>) -> Self {
        Self {
            kind,
            payload,
            id: None,
            key: None,
            queue: None,
            slot: None,
            after: Vec::new(),
            due: Due::Now,
            deadline: None,
            priority: 0,
            attempts: None,
            rescues: None,
            timeout: None,
        }
    }

    /// Reads one JSON object. The payload is taken byte for byte as it stands there.
    ///
    /// # Errors
    /// The first field that is wrong, or that there isn't.
    pub fn from_json(json: &[u8]) -> Result<Self, FieldError> {
        let mut fields = Fields::read(json)?;
        let kind =
            fields.name("kind", Kind::new)?.ok_or_else(|| error("kind", "is missing: which handler?"))?;
        if kind.is_reserved() {
            return Err(error("kind", reserved(&kind)));
        }
        Ok(Self {
            kind,
            payload: fields.payload()?,
            id: fields.name("id", TaskId::new)?,
            key: fields.name("key", Key::new)?,
            queue: fields.name("queue", Queue::new)?,
            slot: fields.slot()?,
            after: fields.after()?,
            due: fields.due()?,
            deadline: fields.text("deadline", deadline)?,
            priority: fields.take("priority", "a whole number from -32768 to 32767")?.unwrap_or(0),
            attempts: fields.take("attempts", "a whole number from 1")?,
            rescues: fields.take("rescues", "a whole number from 0")?,
            timeout: fields.text("timeout", units::some_duration)?,
        })
    }

    /// The JSON that [`from_json`](Self::from_json) reads back as this.
    pub fn to_json(&self) -> String {
        let mut fields = Map::new();
        let mut text = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                fields.insert(name.into(), Value::String(value));
            }
        };
        text("kind", Some(self.kind.to_string()));
        text("id", self.id.as_ref().map(ToString::to_string));
        text("key", self.key.as_ref().map(ToString::to_string));
        text("queue", self.queue.as_ref().map(ToString::to_string));
        text("slot", self.slot.as_ref().map(|(slot, _)| slot.to_string()));
        text("on_conflict", self.slot.as_ref().map(|(_, on_conflict)| on_conflict.to_string()));
        text("timeout", self.timeout.map(units::duration_text));
        match self.due {
            Due::Now => {}
            Due::After(delay) => text("delay", Some(units::duration_text(delay))),
            Due::At(at) => text("at", Some(units::time_text(at))),
        }
        match self.deadline {
            None | Some(Due::Now) => {}
            Some(Due::After(delay)) => text("deadline", Some(units::duration_text(delay))),
            Some(Due::At(at)) => text("deadline", Some(units::time_text(at))),
        }
        let json = str::from_utf8(&self.payload).ok().filter(|text| {
            // The very bytes: white space around a value doesn't travel inside another one.
            serde_json::from_str::<&RawValue>(text).is_ok_and(|json| json.get().len() == text.len())
        });
        if json.is_none() && !self.payload.is_empty() {
            text("payload_base64", Some(crate::wire::to_base64(&self.payload)));
        }
        if !self.after.is_empty() {
            fields.insert("after".into(), self.after.iter().map(ToString::to_string).collect());
        }
        if self.priority != 0 {
            fields.insert("priority".into(), self.priority.into());
        }
        for (name, number) in [("attempts", self.attempts), ("rescues", self.rescues)] {
            if let Some(number) = number {
                fields.insert(name.into(), number.into());
            }
        }
        let mut object = Value::Object(fields).to_string();
        if let Some(json) = json {
            let end = object.pop();
            object.push_str(r#","payload":"#);
            object.push_str(json);
            object.extend(end);
        }
        object
    }

    /// The task that is asked for. An id is made where none was given.
    pub fn into_task(self, defaults: &Defaults) -> NewTask {
        let id = self.id.unwrap_or_else(steadfast::task_id);
        let mut task = NewTask::new(id, self.kind, self.payload);
        task.defaulted = Defaulted {
            queue: self.queue.is_none(),
            attempts_max: self.attempts.is_none(),
            rescues_max: self.rescues.is_none(),
            timeout: self.timeout.is_none(),
        };
        if let Some(queue) = self.queue.or_else(|| defaults.queue.clone()) {
            task.queue = queue;
        }
        task.slot = self.slot;
        task.key = self.key;
        task.priority = self.priority;
        task.due = self.due;
        task.deadline = self.deadline;
        task.attempts_max = self.attempts.or(defaults.attempts).unwrap_or(task.attempts_max);
        task.rescues_max = self.rescues.or(defaults.rescues).unwrap_or(task.rescues_max);
        task.timeout = self.timeout.or(defaults.timeout).unwrap_or(task.timeout);
        let parent = |id| Parent { id, on_failure: OnParentFailure::Fail };
        task.parents = self.after.into_iter().map(parent).collect();
        task
    }
}

/// Why a kind that begins with `_` is refused.
pub fn reserved(kind: &Kind) -> String {
    format!("{kind:?} is reserved, as every kind that begins with '_' is: name a handler of your own")
}

/// Reads what happens when a slot is taken.
///
/// # Errors
/// It is no such word; the text names them.
pub fn on_conflict(word: &str) -> Result<OnConflict, String> {
    OnConflict::from_word(word).ok_or_else(|| format!("must be replace, reject, queue or join, not {word:?}"))
}

/// Reads a deadline: a duration from now, or a point in time.
///
/// # Errors
/// It is neither, or a deadline that has passed when it begins.
pub fn deadline(text: &str) -> Result<Due, String> {
    match units::duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(from_now) => Ok(Due::After(from_now)),
        Err(why) => match units::time(text) {
            Ok(at) => Ok(Due::At(at)),
            Err(_) if text.contains('T') => Err(format!(
                "{text:?} is no time: write it as 2026-01-31T18:00:00Z; or a duration from now, such as 30s"
            )),
            Err(_) => Err(why),
        },
    }
}

fn error(field: &str, why: impl Into<String>) -> FieldError {
    FieldError { field: Some(field.chars().take(FIELD_CHARS_SHOWN).collect()), why: why.into() }
}

/// How much of a field's name is said back: it may be any text.
const FIELD_CHARS_SHOWN: usize = 100;
/// How much is said of each end of what serde says.
const END_BYTES_SHOWN: usize = 200;

/// Why a body isn't the JSON that it should be. Serde quotes what it met, which may be all of the body.
pub(crate) fn unreadable(error: &serde_json::Error) -> String {
    let said = error.to_string();
    if said.len() <= 2 * END_BYTES_SHOWN {
        return format!("the body: {said}");
    }
    let head = &said[..said.floor_char_boundary(END_BYTES_SHOWN)];
    let tail = &said[said.ceil_char_boundary(said.len() - END_BYTES_SHOWN)..];
    format!("the body: {head} … {tail}")
}

/// The fields of a JSON object that haven't been read yet: each is one of [`FIELDS`], and stands there once.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn read(json: &'a [u8]) -> Result<Self, FieldError> {
        let whole = |why: String| FieldError { field: None, why };
        let fields: Self = serde_json::from_slice(json).map_err(|error| whole(unreadable(&error)))?;
        let mut names: Vec<&str> = fields.0.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(error(twice[0], "stands there twice"));
        }
        match names.into_iter().find(|name| !FIELDS.contains(name)) {
            Some(name) => Err(error(name, format!("is no field of a task; there are {}", FIELDS.join(", ")))),
            None => Ok(fields),
        }
    }

    fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.swap_remove(place).1)
    }

    /// A field's value; a null is as if it weren't there.
    fn take<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<Option<T>, FieldError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|_| {
            let shown: String = raw.get().chars().take(60).collect();
            error(name, format!("must be {what}, not {shown}"))
        })
    }

    /// A field's text, read further.
    fn text<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, FieldError> {
        let text: Option<String> = self.take(name, "a text")?;
        text.map(|text| read(&text).map_err(|why| error(name, why))).transpose()
    }

    /// A field that is a name.
    fn name<T, E: fmt::Display>(
        &mut self,
        name: &str,
        new: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, FieldError> {
        self.text(name, |text| new(text.into()).map_err(|error| error.to_string()))
    }

    fn payload(&mut self) -> Result<Vec<u8>, FieldError> {
        let json = self.raw("payload").map(|raw| raw.get().as_bytes().to_vec());
        let base64 = self.text("payload_base64", from_base64)?;
        match (json, base64) {
            (Some(_), Some(_)) => Err(error("payload_base64", "stands beside payload: give one of the two")),
            (json, base64) => Ok(json.or(base64).unwrap_or_default()),
        }
    }

    fn slot(&mut self) -> Result<Option<(Slot, OnConflict)>, FieldError> {
        let slot = self.name("slot", Slot::new)?;
        let on_conflict = self.text("on_conflict", on_conflict)?;
        match (slot, on_conflict) {
            (None, Some(_)) => Err(error("on_conflict", "is of use only with a slot")),
            (slot, on_conflict) => Ok(slot.map(|slot| (slot, on_conflict.unwrap_or(OnConflict::Reject)))),
        }
    }

    fn after(&mut self) -> Result<Vec<TaskId>, FieldError> {
        let ids: Option<Vec<String>> = self.take("after", "a list of task ids")?;
        let read = |id: String| TaskId::new(id).map_err(|why| error("after", why.to_string()));
        ids.unwrap_or_default().into_iter().map(read).collect()
    }

    fn due(&mut self) -> Result<Due, FieldError> {
        let delay: Option<Duration> = self.text("delay", units::duration)?;
        let at: Option<Timestamp> = self.text("at", units::time)?;
        match (delay, at) {
            (Some(_), Some(_)) => Err(error("at", "stands beside delay: give one of the two")),
            (Some(delay), None) => Ok(Due::After(delay)),
            (None, Some(at)) => Ok(Due::At(at)),
            (None, None) => Ok(Due::Now),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the fields of a task")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A field's name; borrowed unless it is written with escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_kept_byte_for_byte() {
        for payload in
            ["12345678901234567890123", "{\"b\":1,  \"a\" : 1e400, \"a\":\"\\u00e9\"}", "null", "\"é\""]
        {
            let json = format!("{{ \"kind\":\"scan\",\"payload\": {payload} }}");
            let request = TaskRequest::from_json(json.as_bytes()).unwrap();
            assert_eq!(request.payload, payload.as_bytes());
            assert_eq!(TaskRequest::from_json(request.to_json().as_bytes()).unwrap(), request);
        }
    }

    #[test]
    fn a_request_comes_back_from_its_json() {
        let full = r#"{"kind":"scan","payload_base64":"/wA=","id":"a","key":"k 1","queue":"q","slot":"s","on_conflict":"replace",
            "after":["x","y"],"delay":"90s","deadline":"2h","priority":-3,"attempts":2,"rescues":0,"timeout":"10m"}"#;
        let request = TaskRequest::from_json(full.as_bytes()).unwrap();
        assert_eq!(request.payload, b"\xff\x00");
        assert_eq!(request.due, Due::After(Duration::from_secs(90)));
        assert_eq!(TaskRequest::from_json(request.to_json().as_bytes()).unwrap(), request);
    }

    #[test]
    fn what_is_wrong_is_said_by_the_fields_name() {
        for (json, field, part) in [
            ("[]", None, "an object"),
            ("{", None, "EOF"),
            ("{}", Some("kind"), "is missing"),
            (r#"{"kind":7}"#, Some("kind"), "must be a text, not 7"),
            (r#"{"kind":"a b"}"#, Some("kind"), "may contain only"),
            (r#"{"kind":"_run"}"#, Some("kind"), "reserved"),
            (r#"{"kind":"a","kind":"b"}"#, Some("kind"), "twice"),
            (r#"{"kind":"a","id":"../../x"}"#, Some("id"), "may contain only"),
            (r#"{"kind":"a","payload":1,"payload_base64":"AA=="}"#, Some("payload_base64"), "one of the two"),
            (r#"{"kind":"a","payload_base64":"?"}"#, Some("payload_base64"), "base64"),
            (r#"{"kind":"a","on_conflict":"reject"}"#, Some("on_conflict"), "only with a slot"),
            (r#"{"kind":"a","slot":"s","on_conflict":"x"}"#, Some("on_conflict"), "queue or join"),
            (r#"{"kind":"a","after":"b"}"#, Some("after"), "a list"),
            (r#"{"kind":"a","delay":"1s","at":"2026-01-31T18:00:00Z"}"#, Some("at"), "one of the two"),
            (r#"{"kind":"a","delay":5}"#, Some("delay"), "a text"),
            (r#"{"kind":"a","priority":40000}"#, Some("priority"), "32767"),
            (r#"{"kind":"a","attempts":-1}"#, Some("attempts"), "from 1"),
            (r#"{"kind":"a","timeout":"soon"}"#, Some("timeout"), "no duration"),
            (r#"{"kind":"a","timeout":"-1s"}"#, Some("timeout"), "no duration"),
            (r#"{"kind":"a","timeout":"0s"}"#, Some("timeout"), "longer than nothing"),
            (r#"{"kind":"a","deadline":"0s"}"#, Some("deadline"), "longer than nothing"),
            (r#"{"kind":"a","deadline":"tomorrow"}"#, Some("deadline"), "no duration"),
            (r#"{"kind":"a","atempts":1}"#, Some("atempts"), "attempts"),
        ] {
            let error = TaskRequest::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error.field.as_deref(), field, "{json}: {error}");
            assert!(error.why.contains(part), "{json}: {error}");
        }
    }
}
