//! Decisions in words.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::embedded;
use crate::choices::{Decision, Site, Stream};
use crate::embed::TEST;
use crate::embed::database::{COMMIT, STATEMENT};
use crate::history::Event;
use crate::sweep::Report;

/// Who the actors of a run's decisions are.
pub(super) struct Cast<'a> {
    /// Nodes by their numbers: the first has the number 2, behind the scheduler's own and the database.
    nodes: BTreeMap<u64, &'a str>,
    /// The scheduler's tasks by their numbers.
    tasks: &'a [Cow<'static, str>],
    /// Tasks by the hash of their ids, as handlers are actors.
    handlers: BTreeMap<u64, &'a str>,
}

/// The number of the first node that a scenario starts.
const FIRST_NODE: u64 = 2;

impl<'a> Cast<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        let started = report.entries.iter().filter_map(|entry| match &entry.event {
            Event::Started { node } => Some(node.as_str()),
            _ => None,
        });
        let ids = report.entries.iter().filter_map(|entry| match &entry.event {
            Event::Changed { before: None, after } => Some(after.id.as_str()),
            _ => None,
        });
        Self {
            nodes: (FIRST_NODE..).zip(started).collect(),
            tasks: &report.tasks,
            handlers: ids.map(|id| (xxhash_rust::xxh3::xxh3_64(id.as_bytes()), id)).collect(),
        }
    }

    pub(super) fn words(&self, decision: &Decision) -> String {
        let Decision { site: Site { stream, site, actor, arrival }, value } = decision;
        let time = match arrival {
            0 => "the first time".to_owned(),
            1 => "the second time".to_owned(),
            2 => "the third time".to_owned(),
            n => format!("time {}", n + 1),
        };
        match stream {
            Stream::Schedule => {
                let name = usize::try_from(*actor).ok().and_then(|number| self.tasks.get(number));
                let who = name.map_or("(a task that wasn't there)", |name| name.as_ref());
                let what = match (site.as_ref(), value) {
                    ("set aside", n) => format!("is set aside behind others (by {n}), {time}"),
                    ("priority", n) => format!("has a lower priority ({n})"),
                    ("lowered", _) => format!("falls behind all others, {time}"),
                    (other, n) => format!("{other}: {n}, {time}"),
                };
                format!("schedule  {who} {what}")
            }
            Stream::Storage => {
                let what = match value {
                    1 | 2 => "lets others in between".to_owned(),
                    n => format!("takes {n} ms"),
                };
                let who = self.session(*actor);
                let who = who.unwrap_or_else(|| self.node(*actor).to_owned());
                format!("storage   {} of {who} {what}, {time}", place(site))
            }
            Stream::Faults => format!("faults    {}", self.fault(site, *actor, *value, &time)),
            Stream::Workload => match self.handlers.get(actor) {
                Some(task) => format!("workload  {task}'s handler, {time}: {}", handler(site, *value)),
                None if *actor == TEST => format!("workload  the test picks {value} for {site:?}, {time}"),
                None => format!("workload  t{actor:02}: {}, {time}", workload(site, *value)),
            },
        }
    }

    /// Whose session of a service's own database it is.
    fn session(&self, actor: u64) -> Option<String> {
        let task = self.handlers.get(&actor).map(|task| format!("{task}'s handler"));
        task.or_else(|| (actor == TEST).then(|| "the test".to_owned()))
    }

    fn node(&self, actor: u64) -> &'a str {
        self.nodes.get(&actor).copied().unwrap_or("(a node that wasn't there)")
    }

    fn fault(&self, site: &str, actor: u64, value: u32, time: &str) -> String {
        if let Some(words) = embedded::fault(site, actor, value, time, self.handlers.get(&actor).copied()) {
            return words;
        }
        let of = |table: &[&'static str]| nth(table, value);
        match site {
            "claim" | "apply" | "read" => {
                let fate = of(&[
                    "fine",
                    "fails, or its answer is lost",
                    "is cut off: the store gives it up",
                    "is cut off: the store goes on alone",
                ]);
                format!("{} of {} {fate}, {time}", place(site), self.node(actor))
            }
            "noticed after" => {
                format!("the store notices {}'s loss after {value} turns, {time}", self.node(actor))
            }
            "blow" => {
                let blow = of(&[
                    "nothing",
                    "nothing",
                    "it crashes",
                    "it freezes",
                    "it freezes",
                    "it is drained, then killed",
                    "its clock jumps",
                ]);
                format!("w{actor}: {blow}, {time}")
            }
            "frozen for" => {
                let until = ["1 s", "almost its first lease", "just over its first lease", "15 s", "40 s"];
                format!("w{actor}: frozen for {}, {time}", of(&until))
            }
            "dead for" => format!("w{actor}: dead for {}, {time}", of(&["0 s", "1 s", "9 s", "30 s"])),
            "drained for" => {
                format!("w{actor}: drained for {}, {time}", of(&["4 s", "10 s", "0 s", "20 ms", "1.5 s"]))
            }
            "clock jumps" => format!("w{actor}: by {}, {time}", of(&["1 s", "9 s", "11 s", "60 s"])),
            "stalls for" | "in doubt for" | "frozen in a call for" | "operator goes away" => {
                self.in_call(site, actor, value)
            }
            "weather" | "down for" | "disk full for" | "store's clock jumps" | "scribbles for" => {
                format!("weather: {}, {time}", weather(site, value))
            }
            struck if struck.starts_with("strike: ") => {
                format!("{} is struck at {}, {time}", self.node(actor), &struck["strike: ".len()..])
            }
            "between blows" => {
                format!("w{actor}: {} to the next blow, {time}", of(&["0.5 s", "2 s", "5 s", "11 s", "23 s"]))
            }
            "stays dead" => format!("w{actor}: stays dead"),
            "swarm: calm" => format!("w{actor}: has blows"),
            "clock rate" => {
                format!("w{actor}: its clock runs at {}, {time}", of(&["100 %", "95 %", "106 %", "120 %"]))
            }
            "queues" => format!("w{actor}: claims from the queue without a limit only, {time}"),
            "concurrency" => format!("w{actor}: runs {} attempts at once, {time}", value + 1),
            "client goes away" => {
                format!("the client goes away after {value} polls of its submit of t{actor:02}")
            }
            "hint lost" => format!("a hint to listener {actor} is lost, {time}"),
            swarm if swarm.starts_with("swarm: ") => {
                format!("this run has {}: {value}", &swarm["swarm: ".len()..])
            }
            other => format!("{other} ({actor}): {value}, {time}"),
        }
    }

    /// What befalls a call.
    fn in_call(&self, site: &str, actor: u64, value: u32) -> String {
        let of = |table: &[&'static str]| nth(table, value);
        match site {
            "in doubt for" => {
                let how = of(&["no time", "no time", "20 ms", "0.7 s", "4 s", "14 s"]);
                format!("what {} is cut off from is under way for {how}", self.node(actor))
            }
            "stalls for" => {
                format!("{} stands still for {}", self.node(actor), of(&["50 ms", "2 ms", "1 s", "9 s"]))
            }
            "frozen in a call for" => {
                let until = ["1 s", "almost its first lease", "just over its first lease", "15 s", "40 s"];
                format!("{} is frozen for {}", self.node(actor), of(&until))
            }
            _ => format!("the operator goes away after {value} polls of act {actor}"),
        }
    }
}

/// What befalls the store.
fn weather(site: &str, value: u32) -> String {
    let of = |table: &[&'static str]| nth(table, value);
    match site {
        "down for" => format!("it is down for {}", of(&["0 s", "0.3 s", "4 s", "12 s"])),
        "disk full for" => format!("it is full for {}", of(&["0.1 s", "1 s", "5 s", "15 s"])),
        "store's clock jumps" => format!("it jumps by {}", of(&["1 s", "9 s", "15 s", "-1 s", "-12 s"])),
        "scribbles for" => format!("noticed after {}", of(&["10 ms", "0.3 s", "3 s", "12 s"])),
        _ => of(&[
            "it holds",
            "the database crashes",
            "the disk is full",
            "the store's clock jumps",
            "everybody is hinted at nothing",
            "somebody writes a row and dies",
        ]),
    }
}

fn nth(table: &[&'static str], value: u32) -> String {
    let index = usize::try_from(value).expect("small");
    table.get(index).map_or_else(|| format!("value {value}"), |word| (*word).to_owned())
}

/// Where in the store.
fn place(site: &str) -> &str {
    match site {
        "begin" => "the begin of a transaction",
        "statement" | STATEMENT => "a statement",
        "commit" | COMMIT => "a commit",
        "read" => "a read",
        "claim" => "a claim",
        "apply" => "a write",
        other => other,
    }
}

/// What a handler does.
fn handler(site: &str, value: u32) -> String {
    let tenths = |value: u32| format!("{}.{} s", value / 10, value % 10);
    match (site, value) {
        ("handler", 3) => "yields once".into(),
        ("handler", 4..=6) => "works for a while".into(),
        ("handler", 7) => "ends with an error".into(),
        ("handler", 8) => "panics".into(),
        ("handler", 9) => "fails for good".into(),
        ("handler", 10) => "snoozes".into(),
        ("handler", 11) => "never listens".into(),
        ("short work" | "work before an error" | "snooze", n) => format!("{site} takes {}", tenths(n)),
        (other, n) => format!("{other}: {n}"),
    }
}

/// What the client asks for.
fn workload(site: &str, value: u32) -> String {
    match site {
        "pause" => format!(
            "is submitted {} later",
            ["0 s", "0 s", "0.05 s", "1 s", "4 s", "10 s"].get(value as usize).unwrap_or(&"some time")
        ),
        "attempts" => format!("has {} attempts", value + 1),
        "rescues" => format!("has {} rescues", ["5", "5", "1", "0"].get(value as usize).unwrap_or(&"some")),
        "limited" => "waits in the queue with a limit".into(),
        "key" => "has a key".into(),
        "which key" => format!("the key is k{value}"),
        "slot" => "wants a slot".into(),
        "on conflict" => {
            let kinds = [
                "replaces",
                "replaces",
                "replaces",
                "waits for",
                "waits for",
                "waits for",
                "waits for",
                "waits for",
                "joins",
            ];
            format!("{} the slot's holder", kinds.get(value as usize).unwrap_or(&"is rejected by"))
        }
        "deadline" => "has a deadline".into(),
        "how soon" => format!("its deadline is after {} s", value + 1),
        "pause or resume" => "after it a queue is paused or resumed".into(),
        "prune" => "after it old tasks are forgotten".into(),
        "which slot" => format!("the slot is s{value}"),
        "delay" => "is delayed".into(),
        "due" => format!("is due after {value} s"),
        "parents" => "has a parent".into(),
        "how many parents" => format!("has up to {} parents", value + 1),
        "which parent" => format!("waits for t{value:02}"),
        "run anyway" => "runs even if that fails".into(),
        "cancel" => "after it the client cancels a task".into(),
        "cancel which" => format!("the client cancels t{value:02}"),
        other => format!("{other}: {value}"),
    }
}
