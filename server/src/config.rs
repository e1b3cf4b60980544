//! The operator's configuration, `steadfast.toml`. What is wrong in it is said with file, line and key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use steadfast::core::step::QueueLimit;
use steadfast::{Kind, Queue};

use crate::failure::{Exit, Failure};
use crate::request::{Defaults, reserved};
use crate::units;

/// The file that is read where none is named, if it is there.
pub const DEFAULT_FILE: &str = "steadfast.toml";
/// Where `serve` listens where nothing is said.
pub const LISTEN: &str = "127.0.0.1:7878";
/// The largest payload where nothing is said, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which command runs which kind.
    #[serde(default)]
    pub handlers: BTreeMap<HandlerKind, HandlerConfig>,
    /// The queues' limits.
    #[serde(default)]
    pub queues: BTreeMap<Checked<Queue>, QueueConfig>,
    /// The HTTP server.
    #[serde(default)]
    pub server: ServerConfig,
    /// The worker.
    #[serde(default)]
    pub worker: WorkerSection,
    /// How long tasks are kept after their end.
    #[serde(default)]
    pub retention: Retention,
    /// The directory of the file, where commands run; none without a file.
    #[serde(skip)]
    pub directory: Option<PathBuf>,
}

/// A handler: a command, and what its tasks have where a submit doesn't say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::manual_non_exhaustive, reason = "the field is for a message")]
pub struct HandlerConfig {
    /// The program and its arguments.
    #[serde(deserialize_with = "command")]
    pub exec: Vec<String>,
    /// Where its tasks wait.
    pub queue: Option<Checked<Queue>>,
    /// How long one attempt may take.
    pub timeout: Option<Span>,
    /// How many attempts a task has.
    pub attempts: Option<std::num::NonZeroU32>,
    /// How many lost attempts a task survives.
    pub rescues: Option<u32>,
    #[serde(default, rename = "url", deserialize_with = "url_later")]
    _url: (),
}

/// A queue's limits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::manual_non_exhaustive, reason = "the field is for a message")]
pub struct QueueConfig {
    /// How many of its tasks may run at once, on all workers together; no limit where it isn't said.
    pub concurrency: Option<u32>,
    #[serde(default, rename = "rate", deserialize_with = "rate_later")]
    _rate: (),
}

/// The HTTP server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: String,
    /// Who may use it: `env:NAME` each, with the token in that variable. Nobody has to show one where none is named.
    #[serde(deserialize_with = "tokens")]
    pub tokens: Vec<TokenSource>,
    /// Whether workers carry on the commands that a `steadfast run` left behind.
    pub allow_run: bool,
    /// The largest payload that it accepts, in bytes.
    pub payload_bytes_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: LISTEN.into(),
            tokens: Vec::new(),
            allow_run: false,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }
}

/// The worker of `serve` and `worker`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSection {
    /// How many attempts at once.
    pub concurrency: Option<std::num::NonZeroUsize>,
    /// How long a lease lasts.
    pub lease: Option<Span>,
    /// How long an attempt may go on after it was told to stop.
    pub grace: Option<Span>,
}

/// How long tasks are kept after their end. One with a key is kept for a day in any case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Those that succeeded.
    pub succeeded: Span,
    /// Those that failed or were cancelled.
    pub otherwise: Span,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { succeeded: Span(7 * DAY), otherwise: Span(30 * DAY) }
    }
}

/// A kind that may have a handler of the operator's: not one of Steadfast's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandlerKind(pub Kind);

impl<'de> Deserialize<'de> for HandlerKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Checked(kind): Checked<Kind> = Checked::deserialize(deserializer)?;
        if kind.is_reserved() {
            return Err(D::Error::custom(format!("the kind {}", reserved(&kind))));
        }
        Ok(Self(kind))
    }
}

/// A name or another text that was checked when it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checked<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Checked).map_err(D::Error::custom)
    }
}

/// A duration such as `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = units::duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        if duration.is_zero() {
            return Err(D::Error::custom("must be longer than nothing"));
        }
        Ok(Span(duration))
    }
}

/// Where a token comes from: a variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenSource(String);

impl<'de> Deserialize<'de> for TokenSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("env:") {
            Some(name) if !name.is_empty() => Ok(TokenSource(name.into())),
            // The text isn't shown: it may be the token itself.
            _ => Err(D::Error::custom(NO_TOKENS)),
        }
    }
}

const NO_TOKENS: &str = "tokens don't belong in a file: give a list of variables of the environment, such as \
                         [\"env:STEADFAST_TOKEN\"]";

/// Whatever is wrong with them is said without showing it.
fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenSource>, D::Error> {
    Vec::deserialize(deserializer).map_err(|_| D::Error::custom(NO_TOKENS))
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let command = Vec::<String>::deserialize(deserializer)?;
    if command.first().is_none_or(String::is_empty) {
        return Err(D::Error::custom("names no program: write [\"program\", \"argument\"]"));
    }
    Ok(command)
}

fn url_later<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom(
        "`url` handlers aren't there yet: use `exec`, with a command that calls the service",
    ))
}

fn rate_later<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom(
        "`rate` isn't there yet: use `concurrency`, which limits how many tasks run at once",
    ))
}

impl Config {
    /// Reads this file; or, where none is named, `steadfast.toml` in the current directory if it is there.
    ///
    /// # Errors
    /// The file can't be read, or something in it is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, Failure> {
        let path = match file {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Self::default()),
        };
        let failed = |why: String| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| failed(format!("can't be read: {error}")))?;
        let mut config = Self::parse(&text)
            .map_err(|error| Failure::new(Exit::Usage, format!("{}:{error}", path.display())))?;
        let absolute = std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
        config.directory = absolute.parent().map(Path::to_owned);
        Ok(config)
    }

    /// Reads a configuration's text.
    ///
    /// # Errors
    /// Line and column, what is wrong, and the line itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| located(text, &error))
    }

    /// What a task of this kind has where a submit doesn't say.
    pub fn defaults(&self, kind: &Kind) -> Defaults {
        let Some(handler) = self.handlers.get(&HandlerKind(kind.clone())) else { return Defaults::default() };
        Defaults {
            queue: handler.queue.as_ref().map(|queue| queue.0.clone()),
            attempts: handler.attempts.map(Into::into),
            rescues: handler.rescues,
            timeout: handler.timeout.map(|timeout| timeout.0),
        }
    }

    /// The kinds that have a handler here.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.handlers.keys().map(|kind| kind.0.clone()).collect()
    }

    /// The queues that a worker with this configuration serves: `default`, and all that it names.
    pub fn worker_queues(&self) -> BTreeSet<Queue> {
        let of_handlers = self.handlers.values().filter_map(|handler| handler.queue.as_ref());
        let named = of_handlers.chain(self.queues.keys()).map(|queue| queue.0.clone());
        named.chain([Queue::default_queue()]).collect()
    }

    /// The limits to be set in the store.
    pub fn limits(&self) -> Vec<QueueLimit> {
        let limit = |(queue, config): (&Checked<Queue>, &QueueConfig)| QueueLimit {
            queue: queue.0.clone(),
            concurrency: config.concurrency,
        };
        self.queues.iter().map(limit).collect()
    }
}

impl ServerConfig {
    /// The tokens themselves.
    ///
    /// # Errors
    /// A variable that is named isn't set.
    pub fn tokens(&self) -> Result<Vec<String>, Failure> {
        let read = |TokenSource(name): &TokenSource| match std::env::var(name) {
            Ok(token) if !token.is_empty() => Ok(token),
            _ => Err(Failure::new(Exit::Usage, format!("the token variable {name} isn't set"))
                .help(format!("set it, for example: export {name}=$(openssl rand -hex 32)"))),
        };
        self.tokens.iter().map(read).collect()
    }
}

/// `LINE:COLUMN: message`, and the line.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let Some(span) = error.span() else { return format!(" {message}") };
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    if before.contains("token") || shown.contains("token") {
        // The line may be a token itself: a list of them may have many lines.
        return format!("{line}:{column}: {message}");
    }
    format!("{line}:{column}: {message}\n  {line} | {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        for tokens in
            ["[\"sesame\"]", "[\n  \"sesame\",\n]", "\"sesame\"", "{ a = \"sesame\" }", "[\n\"sesame\n]"]
        {
            let error = Config::parse(&format!("[server]\ntokens = {tokens}\n")).unwrap_err();
            assert!(error.starts_with("2:") || error.starts_with("3:"), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
