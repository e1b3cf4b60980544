//! What the environment asks of a check: which seeds, for how long, which recorded run.

use std::path::PathBuf;
use std::time::Duration;

use crate::world::Profile;

/// What the environment asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `STEADFAST_SEED`: only this seed.
    pub seed: Option<u64>,
    /// `STEADFAST_SEEDS`: so many seeds on each store.
    pub seeds: Option<u64>,
    /// `STEADFAST_TIME`: for so long at most; without a number of seeds, for so long.
    pub time: Option<Duration>,
    /// `STEADFAST_PROFILE`: only on this store.
    pub profile: Option<Profile>,
    /// `STEADFAST_REPLAY`: only the recorded run in this file.
    pub replay: Option<PathBuf>,
}

/// A variable that makes no sense: which, why, and what a good one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} makes no sense: it must be {wanted}")]
pub struct InvalidSetting {
    /// The variable.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// What it should be.
    pub wanted: &'static str,
}

/// The units of a time, the longer words first, so that `ms` isn't read as `m`.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

impl Settings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// A variable makes no sense.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::from_variables(variable)
    }

    /// The same with any variables.
    ///
    /// # Errors
    /// A variable makes no sense.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSetting> {
        let read = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        let seed = parsed(&read, "STEADFAST_SEED", "one seed, such as 7 or 0x5eed", number)?;
        let seeds = parsed(&read, "STEADFAST_SEEDS", "how many seeds, such as 100000", |text| {
            number(text).filter(|seeds| *seeds > 0)
        })?;
        let time = parsed(&read, "STEADFAST_TIME", "how long, such as 60s, 10m or 2h", duration)?;
        let profile = parsed(&read, "STEADFAST_PROFILE", "postgres or sqlite", |text| {
            Profile::ALL.into_iter().find(|profile| profile.as_str() == text)
        })?;
        let replay = read("STEADFAST_REPLAY").map(PathBuf::from);
        Ok(Self { seed, seeds, time, profile, replay })
    }
}

/// Where the test's package is, and what it is called: told by cargo to the tests that it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Package {
    pub(super) name: Option<String>,
    pub(super) folder: Option<PathBuf>,
}

impl Package {
    pub(super) fn of_this_process() -> Self {
        let folder = variable("CARGO_MANIFEST_DIR").map(PathBuf::from);
        Self { name: variable("CARGO_PKG_NAME"), folder }
    }
}

#[expect(clippy::disallowed_methods, reason = "what to run is asked for before anything runs")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parsed<T>(
    read: &impl Fn(&'static str) -> Option<String>,
    name: &'static str,
    wanted: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, InvalidSetting> {
    let Some(value) = read(name) else { return Ok(None) };
    let parsed = parse(value.trim());
    parsed.map(Some).ok_or(InvalidSetting { name, value, wanted })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (_, millis) = UNITS.iter().find(|(word, _)| *word == unit)?;
    let millis = count.parse::<u64>().ok()?.checked_mul(*millis)?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::from_variables(find).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn what_is_asked_for_is_read() {
        assert_eq!(of(&[("OTHER", "1"), ("STEADFAST_SEED", "")]), Ok(Settings::default()));
        let hexadecimal = of(&[("STEADFAST_SEED", "0x5eed"), ("STEADFAST_PROFILE", "sqlite")]).unwrap();
        assert_eq!((hexadecimal.seed, hexadecimal.profile), (Some(0x5eed), Some(Profile::Sqlite)));
        let long = of(&[("STEADFAST_SEEDS", "100000"), ("STEADFAST_TIME", "10m")]).unwrap();
        assert_eq!((long.seeds, long.time), (Some(100_000), Some(Duration::from_secs(600))));
        let time = |text| of(&[("STEADFAST_TIME", text)]).unwrap().time.unwrap();
        assert_eq!((time("500ms"), time("2h")), (Duration::from_millis(500), Duration::from_secs(7200)));
        let replay = of(&[("STEADFAST_REPLAY", "run.json")]).unwrap().replay;
        assert_eq!(replay, Some(PathBuf::from("run.json")));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_would() {
        for (name, value, wanted) in [
            ("STEADFAST_SEED", "five", "such as 7 or 0x5eed"),
            ("STEADFAST_SEED", "-1", "such as 7 or 0x5eed"),
            ("STEADFAST_SEEDS", "0", "such as 100000"),
            ("STEADFAST_TIME", "60", "such as 60s"),
            ("STEADFAST_TIME", "0s", "such as 60s"),
            ("STEADFAST_TIME", "1 day", "such as 60s"),
            ("STEADFAST_PROFILE", "mysql", "postgres or sqlite"),
        ] {
            let error = of(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value) && error.contains(wanted), "{error}");
        }
    }
}
