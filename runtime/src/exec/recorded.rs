//! Commands that were recorded as tasks of the reserved kind `_run`, by `steadfast run`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::handler::Running;
use steadfast_core::{Cause, Context, Handler, Verdict};

use super::attempt::{self, TemporaryFailure};
use super::{Logged, Observer, Options};
use crate::subprocess::Command;

/// The kind of recorded commands. It is reserved: nobody can submit it over HTTP.
pub const RUN_KIND: &str = "_run";

/// The payload of a recorded command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// The program and its arguments; at least the program.
    pub argv: Vec<String>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Variables set on top of the environment of whoever runs it. The environment itself isn't recorded: it may hold
    /// secrets, and a store keeps what it is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Why a payload is no recorded command.
#[derive(Debug, thiserror::Error)]
#[error("the payload is no recorded command: {0}")]
pub struct InvalidRecord(String);

impl RunCommand {
    /// Reads a task's payload.
    ///
    /// # Errors
    /// It isn't JSON of this form, or names no program.
    pub fn from_payload(payload: &[u8]) -> Result<Self, InvalidRecord> {
        let command: Self =
            serde_json::from_slice(payload).map_err(|error| InvalidRecord(error.to_string()))?;
        if command.argv.is_empty() {
            return Err(InvalidRecord("argv is empty".into()));
        }
        Ok(command)
    }

    /// The payload that says this.
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and a path of text are JSON")
    }
}

/// Runs recorded commands. stdin is empty. Exit code 75 is a failed attempt like any other: somebody waits for it.
#[derive(Debug)]
pub struct Recorded<O = Logged> {
    options: Options,
    observer: Arc<O>,
}

impl<O: Observer> Recorded<O> {
    /// A handler of the kind [`RUN_KIND`].
    pub fn new(options: Options, observer: O) -> Self {
        Self { options, observer: Arc::new(observer) }
    }
}

impl<O: Observer> Handler for Recorded<O> {
    fn call(&self, context: Context) -> Running {
        let (options, observer) = (self.options.clone(), self.observer.clone());
        Box::pin(async move {
            let recorded = match RunCommand::from_payload(context.payload()) {
                Ok(recorded) => recorded,
                Err(error) => return Verdict::Fail { cause: Cause::NotStarted, error: error.to_string() },
            };
            let (program, args) = recorded.argv.split_first().expect("a recorded command names a program");
            // The attempt fills in the lease.
            let mut command = Command::new(program, Duration::ZERO);
            command.args = args.iter().map(OsString::from).collect();
            command.cwd = Some(recorded.cwd);
            command.env = recorded.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            attempt::run(&context, command, &options, &*observer, TemporaryFailure::Fails).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_command_comes_back() {
        let command =
            RunCommand { argv: vec!["echo".into(), "a b".into()], cwd: "/".into(), env: BTreeMap::new() };
        let payload = command.to_payload();
        assert_eq!(payload, br#"{"argv":["echo","a b"],"cwd":"/"}"#);
        assert_eq!(RunCommand::from_payload(&payload).unwrap(), command);
        for bad in ["", "{}", r#"{"argv":[],"cwd":"/"}"#, r#"{"argv":["a"],"cwd":"/","x":1}"#] {
            assert!(RunCommand::from_payload(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
