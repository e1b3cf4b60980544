//! Durations and times as people write them: `500ms`, `30s`, `10m`, `2h`; RFC 3339.

use std::time::Duration;

use steadfast::Timestamp;

/// The longest duration that is taken, in seconds: about 317 years. More is a slip of the pen, and stores count
/// microseconds in 64 bits.
const SECONDS_MAX: u64 = 10_000_000_000;

/// The units, the longer words first, so that `ms` isn't read as `m`.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// The text says what a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write a whole number and ms, s, m, h or d, such as 30s");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let (_, unit_ms) = UNITS.iter().find(|(word, _)| *word == unit).ok_or_else(bad)?;
    match number.checked_mul(*unit_ms) {
        Some(ms) if ms <= SECONDS_MAX * 1_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is too long: at most {SECONDS_MAX}s are possible")),
    }
}

/// Reads a duration that isn't zero.
///
/// # Errors
/// It is none, or zero.
pub fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".into()),
        some => Ok(some),
    }
}

/// Reads a point in time: RFC 3339, with an offset or `Z`.
///
/// # Errors
/// The text says what a time looks like.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let bad = |_| {
        format!("{text:?} is no time: write it as 2026-01-31T18:00:00Z, or with an offset such as +01:00")
    };
    let time: jiff::Timestamp = text.parse().map_err(bad)?;
    Ok(Timestamp::from_micros(time.as_microsecond()))
}

/// Writes a duration as [`duration`] reads it, in the longest unit that loses nothing down to milliseconds.
pub fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (word, unit_ms) =
        UNITS.iter().rev().find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms)).unwrap_or(&UNITS[0]);
    if ms == 0 { "0s".into() } else { format!("{}{word}", ms / unit_ms) }
}

/// Writes a duration for people: the two leading units, rounded down.
pub fn rough_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Writes a point in time: RFC 3339 in UTC, to the microsecond.
pub fn time_text(time: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(time.as_micros()) {
        Ok(time) => format!("{time:.6}"),
        // Beyond the year 9999.
        Err(_) => format!("{}us", time.as_micros()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
        for text in ["", "s", "10", "-1s", "1.5s", "1 s", "1y", "ms", "99999999999999999999s", "1e3s"] {
            assert!(duration(text).is_err_and(|why| why.contains("no duration")), "{text}");
        }
        assert!(duration("9999999999999s").is_err_and(|why| why.contains("too long")));
        assert_eq!(rough_text(Duration::from_secs(3_725)), "1h 2m");
    }

    #[test]
    fn times_are_read_with_an_offset_and_written_in_utc() {
        let at = time("2026-01-31T18:00:00.25+01:00").unwrap();
        assert_eq!(time_text(at), "2026-01-31T17:00:00.250000Z");
        for text in ["", "tomorrow", "2026-01-31", "2026-01-31T18:00:00"] {
            assert!(time(text).is_err_and(|why| why.contains("2026-01-31T18:00:00Z")), "{text}");
        }
    }
}
