//! Durations, times and deadlines as people write them.

use std::time::Duration;

use steadfast::core::task::Due;
use steadfast_server::{request, units};

use crate::Target;

pub(crate) const TARGET: Target = Target { name: "units", about: "a duration or a point in time", run };

fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match units::duration(text) {
        Ok(duration) => {
            let written = units::duration_text(duration);
            assert_eq!(units::duration(&written), Ok(duration), "{text:?} was written as {written:?}");
            assert!(written.len() <= text.len() || text.starts_with('0') || duration.is_zero());
            assert!(!units::rough_text(duration).is_empty());
            assert!(i64::try_from(duration.as_micros()).is_ok(), "stores count microseconds in 64 bits");
        }
        Err(why) => assert!(!why.is_empty()),
    }
    assert_eq!(units::some_duration(text).ok(), units::duration(text).ok().filter(|time| !time.is_zero()));
    if let Ok(time) = units::time(text) {
        assert_eq!(units::time(&units::time_text(time)), Ok(time));
    }
    match request::deadline(text) {
        Ok(Due::After(wait)) => assert!(wait > Duration::ZERO && units::duration(text) == Ok(wait)),
        Ok(Due::At(at)) => assert_eq!(units::time(text), Ok(at)),
        Ok(Due::Now) => panic!("{text:?} is no deadline"),
        Err(why) => assert!(!why.is_empty()),
    }
}
