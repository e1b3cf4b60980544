//! The operator's file.

use steadfast_server::config::Config;
use toml::{Table, Value};

use crate::Target;

pub(crate) const TARGET: Target = Target { name: "config", about: "a steadfast.toml", run };

/// The shortest text that is taken for a secret: shorter ones stand in any message.
const SECRET_BYTES_MIN: usize = 6;

fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            let queues = config.worker_queues();
            for limit in config.limits() {
                assert!(queues.contains(&limit.queue), "{limit:?} is of a queue that no worker serves");
            }
            for kind in config.kinds() {
                assert!(!kind.is_reserved());
                let defaults = config.defaults(&kind);
                assert!(defaults.queue.is_none_or(|queue| queues.contains(&queue)));
                assert!(defaults.attempts != Some(0) && defaults.timeout.is_none_or(|time| !time.is_zero()));
            }
        }
        Err(error) => {
            assert!(!error.trim().is_empty());
            // The example in the message may happen to contain what was written.
            let error = error.replace("env:STEADFAST_TOKEN", "");
            for secret in secrets(text) {
                assert!(!error.contains(&secret), "a token is shown: {error}");
            }
        }
    }
}

/// What stands where tokens are named, and isn't the name of a variable.
fn secrets(text: &str) -> Vec<String> {
    let Ok(table) = text.parse::<Table>() else { return Vec::new() };
    let tokens = table.get("server").and_then(|server| server.get("tokens"));
    let mut secrets = Vec::new();
    let mut rest: Vec<&Value> = tokens.into_iter().collect();
    while let Some(value) = rest.pop() {
        match value {
            Value::String(text) if !text.starts_with("env:") && text.len() >= SECRET_BYTES_MIN => {
                secrets.push(text.clone());
            }
            Value::Array(values) => rest.extend(values),
            Value::Table(table) => rest.extend(table.values()),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => {}
        }
    }
    // What the file says elsewhere as well is no secret.
    secrets.retain(|secret| text.matches(secret.as_str()).count() == 1);
    secrets
}
