//! What befalls the network and the processes in a run, and when: drawn before it begins.

use std::collections::VecDeque;
use std::time::Duration;

use steadfast_sim::choices::{Choices, Stream};

use super::net::STORM;

/// One thing that is done to the network or to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// What this client and the server send each other is lost.
    Cut(String),
    /// What the client sends is lost.
    CutTo(String),
    /// What the client is sent is lost.
    CutFrom(String),
    /// Nothing is lost any more.
    Mend(String),
    /// What they send each other is held back.
    Hold(String),
    /// It arrives now.
    Release(String),
    /// The process is killed.
    Kill(&'static str),
    /// The process is asked to end.
    Drain(&'static str),
    /// The process is started, unless it runs.
    Start(&'static str),
}

/// A kind of blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// A client is cut off, both ways or one.
    Partition,
    /// A client's messages are late.
    Stall,
    /// A process is killed; its connections are closed.
    Crash(&'static str),
    /// A process is killed together with its machine: nobody is told.
    Unplug(&'static str),
    /// A process is asked to end, and started again.
    Restart(&'static str),
}

/// What is to be done and when.
#[derive(Debug, Default)]
pub(super) struct Weather(VecDeque<(Duration, Deed)>);

impl Weather {
    /// Just this, in order of time.
    pub(super) fn of(deeds: impl IntoIterator<Item = (Duration, Deed)>) -> Self {
        Self(deeds.into_iter().collect())
    }

    /// Up to `most` blows of these kinds.
    pub(super) fn draw(choices: &Choices, clients: &[String], blows: &[Blow], most: u32) -> Self {
        let mut deeds: Vec<(Duration, Deed)> = Vec::new();
        let pick = |site, actor, n: usize| {
            choices.pick(Stream::Faults, site, actor, u32::try_from(n).expect("few")) as usize
        };
        let storm = usize::try_from(STORM.as_millis()).expect("short");
        for number in 0..pick("blows", 0, most as usize + 1) as u64 {
            let at = Duration::from_millis(pick("blow: when", number, storm) as u64);
            let lasts = [50, 300, 1_000, 2_500][pick("blow: how long", number, 4)];
            let until = at + Duration::from_millis(lasts);
            let client = clients[pick("blow: whom", number, clients.len())].clone();
            match blows[pick("blow: what", number, blows.len())] {
                Blow::Partition => {
                    let cut = [Deed::Cut, Deed::CutTo, Deed::CutFrom][pick("blow: which way", number, 3)];
                    deeds.extend([(at, cut(client.clone())), (until, Deed::Mend(client))]);
                }
                Blow::Stall => {
                    deeds.extend([(at, Deed::Hold(client.clone())), (until, Deed::Release(client))])
                }
                Blow::Crash(host) => deeds.extend([(at, Deed::Kill(host)), (until, Deed::Start(host))]),
                Blow::Unplug(host) => {
                    deeds.extend(clients.iter().map(|client| (at, Deed::Cut(client.clone()))));
                    deeds.push((at, Deed::Kill(host)));
                    deeds.extend(clients.iter().map(|client| (until, Deed::Mend(client.clone()))));
                    deeds.push((until, Deed::Start(host)));
                }
                Blow::Restart(host) => {
                    // A drain takes as long as its grace and the last answers.
                    let drained = until + Duration::from_millis(3_000);
                    deeds.extend([(at, Deed::Drain(host)), (drained, Deed::Start(host))]);
                }
            }
        }
        // Stable: what is due at the same time stays in the order in which it was drawn.
        deeds.sort_by_key(|(at, _)| *at);
        Self(deeds.into())
    }

    /// What is due by now, one at a time.
    pub(super) fn due(&mut self, now: Duration) -> Option<Deed> {
        self.0.pop_front_if(|(at, _)| *at <= now).map(|(_, deed)| deed)
    }
}
