//! Decisions in words: what befalls the workers of a service's test.

use crate::embed::database::FATE;
use crate::embed::trouble::{
    BETWEEN, BLOW, Blow, CLOCK_RATE, DOWN, DOWN_SECONDS, ENTRY, LAST_WORD, PAUSES_MS, RATES, SWARM_BLOWS,
    SWARM_EDGES, WAITS,
};

/// `task` is the task whose handler's worker is struck.
pub(super) fn fault(site: &str, actor: u64, value: u32, time: &str, task: Option<&str>) -> Option<String> {
    let index = usize::try_from(value).expect("small");
    let task = task.unwrap_or("(a task that wasn't there)");
    let blow = Blow::of(value).map_or_else(|| format!("meets {value}"), |blow| blow.to_string());
    let words = match site {
        ENTRY => format!("{task}'s worker {blow} as its handler is entered, {time}"),
        WAITS => format!("{task}'s worker {blow} while its handler waits, {time}"),
        LAST_WORD => {
            format!("{task}'s worker {blow} after its handler's last word, before that is settled, {time}")
        }
        BLOW => format!("w{actor} {blow}, {time}"),
        BETWEEN => {
            let millis = PAUSES_MS.get(index).copied().unwrap_or_default();
            format!("w{actor}: {millis} ms to its next blow, {time}")
        }
        DOWN => {
            let seconds = DOWN_SECONDS.get(index).copied().unwrap_or_default();
            format!("w{actor}: is down for {seconds} s, {time}")
        }
        CLOCK_RATE => {
            let rate = RATES.get(index).copied().unwrap_or(100);
            format!("w{actor}: its clock runs at {rate} %, {time}")
        }
        FATE => {
            let fate = if value == 1 { "it went through" } else { "it is taken back" };
            format!("the answer to a commit of {task}'s handler is lost, and {fate}, {time}")
        }
        SWARM_BLOWS => format!("w{actor}: has blows"),
        SWARM_EDGES => format!("swarm: workers are struck beside their handlers ({value})"),
        _ => return None,
    };
    Some(words)
}
