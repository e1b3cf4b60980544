//! The one source of choice: scheduling, faults, latencies and workload are all drawn here.
//!
//! Two rules. **Zero is always the benign default** (no fault, no delay, first come first served), so that a list of
//! decisions names only departures. **A choice is keyed where it happens** (stream, site, actor, and how often the
//! actor has been there), never by a global step number, so that an added choice doesn't shift the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::strategy::Order;

/// Which part of the simulation chooses. The streams don't influence each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What is submitted, cancelled and how handlers behave.
    Workload,
    /// Crashes, freezes, lost connections.
    Faults,
    /// Who goes first.
    Schedule,
    /// Latencies inside the store.
    Storage,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 4] = [Stream::Workload, Stream::Faults, Stream::Schedule, Stream::Storage];

    /// Its name in capsules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stream::Workload => "workload",
            Stream::Faults => "faults",
            Stream::Schedule => "schedule",
            Stream::Storage => "storage",
        }
    }
}

/// Where a choice was made, for the n-th time by this actor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The part of the simulation.
    pub stream: Stream,
    /// The place in it.
    pub site: Cow<'static, str>,
    /// Who was there.
    pub actor: u64,
    /// How often before.
    pub arrival: u32,
}

/// A departure from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Where.
    pub site: Site,
    /// What was chosen; never 0.
    pub value: u32,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { stream, site, actor, arrival } = &self.site;
        write!(f, "{} {site:?} actor {actor} arrival {arrival}: {}", stream.as_str(), self.value)
    }
}

/// Out of how many [`Choices::odds`] counts.
pub const ODDS: u32 = 10_000;

/// A handle to the choices of one run. Clones are one source.
#[derive(Debug, Clone)]
pub struct Choices(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    source: Source,
    order: Order,
    arrivals: Arrivals,
    departures: Vec<Decision>,
    drawn: u64,
    /// Every choice that the source didn't draw itself, with how many values it has; kept where somebody enumerates.
    open: Option<Vec<Point>>,
}

/// A choice that could have been made differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Where.
    pub site: Site,
    /// How many values it has, the default among them.
    pub values: u32,
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    /// Everything that isn't listed is the default; or the workload is drawn from a seed, and all else is.
    Recorded {
        decisions: Vec<Decision>,
        /// Their values, by [`place`] and arrival.
        values: BTreeMap<(u64, u32), u32>,
        workload: Option<u64>,
    },
    /// From a seed, but only at these sites, and there often.
    Narrowed {
        seed: u64,
        sites: BTreeSet<(Stream, Cow<'static, str>)>,
    },
    /// A small seed for each of so many places; 0, or none, stands for the default.
    Bytes(Arc<[u8]>),
}

/// How many places of a run's choices have a byte of their own, at most.
pub const BYTES_MAX: u32 = 1_024;

/// How often at least a narrowed run departs from the default, of [`ODDS`], at a site where it may.
const NARROWED_ODDS_MIN: u32 = 500;

impl Choices {
    /// All choices from one number, as a random walk.
    pub fn from_seed(seed: u64) -> Self {
        Self::new(Source::Seed(seed), Order::SetAside, false)
    }

    /// All choices from one number; who goes first is decided by priorities that change now and then.
    pub fn with_priorities(seed: u64) -> Self {
        Self::new(Source::Seed(seed), Order::Priorities, false)
    }

    /// The choices of an earlier run, or some of them.
    pub fn from_decisions(decisions: impl IntoIterator<Item = Decision>) -> Self {
        Self::new(Source::recorded(decisions, None), Order::Recorded, false)
    }

    /// The workload of a seed, and everything else the default but for these decisions; [`open`](Self::open) tells
    /// what else could have been chosen.
    pub fn enumerated(workload: u64, decisions: impl IntoIterator<Item = Decision>) -> Self {
        Self::new(Source::recorded(decisions, Some(workload)), Order::SetAside, true)
    }

    /// Choices from a seed that depart from the default at these sites only.
    pub fn narrowed(seed: u64, sites: BTreeSet<(Stream, Cow<'static, str>)>) -> Self {
        Self::new(Source::Narrowed { seed, sites }, Order::Recorded, false)
    }

    /// Choices as a fuzzer gives them. The bytes, of which [`BYTES_MAX`] count, are a table in which a choice finds its
    /// entry by where it is made: a small seed, or 0 for the default, as past the table's end. So no bytes are no
    /// departures, and a byte that changes leaves all other choices as they are.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::new(Source::Bytes(bytes.into()), Order::SetAside, false)
    }

    fn new(source: Source, order: Order, enumerate: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            source,
            order,
            arrivals: Arrivals::new(),
            departures: Vec::new(),
            drawn: 0,
            open: enumerate.then(Vec::new),
        })))
    }

    /// How the scheduler decides who goes first.
    pub(crate) fn order(&self) -> Order {
        self.lock().order
    }

    /// One of `0..n`, all alike; 0 is the default.
    pub fn pick(&self, stream: Stream, site: &'static str, actor: u64, n: u32) -> u32 {
        self.lock().choose((stream, site, actor), None, Draw::Any { of: n })
    }

    /// 0 but for `odds` in [`ODDS`] cases, where it is one of `1..=n`.
    pub fn depart(&self, stream: Stream, site: &'static str, actor: u64, odds: u32, n: u32) -> u32 {
        self.lock().choose((stream, site, actor), None, Draw::Departure { odds, of: n })
    }

    /// The same for an actor that counts its arrivals by itself: for those that are many and don't live long.
    pub(crate) fn depart_again(
        &self,
        (stream, site, actor): (Stream, &'static str, u64),
        arrival: u32,
        odds: u32,
        n: u32,
    ) -> u32 {
        self.lock().choose((stream, site, actor), Some(arrival), Draw::Departure { odds, of: n })
    }

    /// Whether to depart from the default.
    pub fn odds(&self, stream: Stream, site: &'static str, actor: u64, odds: u32) -> bool {
        self.depart(stream, site, actor, odds, 1) == 1
    }

    /// The departures so far, in the order in which they were made.
    pub fn departures(&self) -> Vec<Decision> {
        self.lock().departures.clone()
    }

    /// The decisions that were given and have not been met: the run went another way, or the place is gone.
    pub fn unapplied(&self) -> Vec<Decision> {
        let state = self.lock();
        let decisions = match &state.source {
            Source::Recorded { decisions, .. } => decisions,
            Source::Seed(_) | Source::Narrowed { .. } | Source::Bytes(_) => return Vec::new(),
        };
        let met: BTreeSet<&Site> = state.departures.iter().map(|departure| &departure.site).collect();
        decisions.iter().filter(|decision| !met.contains(&decision.site)).cloned().collect()
    }

    /// The choices of an [enumerated](Self::enumerated) run that came after the last of its decisions.
    pub fn open(&self) -> Vec<Point> {
        self.lock().open.clone().unwrap_or_default()
    }

    /// How many choices were made.
    pub fn drawn(&self) -> u64 {
        self.lock().drawn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to the choices.
#[derive(Debug, Clone, Copy)]
enum Draw {
    /// One of so many, all alike.
    Any { of: u32 },
    /// 0, but with these odds one of so many others.
    Departure { odds: u32, of: u32 },
}

impl Draw {
    /// How many values it has, the default among them.
    fn values(self) -> u32 {
        match self {
            Draw::Any { of } => of,
            Draw::Departure { of, .. } => of + 1,
        }
    }

    /// The value that these bits stand for. They aren't made where there is nothing to choose.
    fn value(self, bits: impl FnOnce() -> u64) -> u32 {
        match self {
            Draw::Any { of: 1 } | Draw::Departure { odds: 0, .. } => 0,
            Draw::Any { of } => reduce(bits(), of),
            Draw::Departure { odds, of } => {
                let bits = bits();
                if reduce(bits, ODDS) < odds { 1 + reduce(bits.rotate_left(32), of) } else { 0 }
            }
        }
    }

    /// Who was left out of the swarm may be among the sites that a run is narrowed to.
    fn narrowed(self) -> Self {
        match self {
            Draw::Any { .. } => self,
            Draw::Departure { odds, of } => Draw::Departure { odds: odds.max(NARROWED_ODDS_MIN), of },
        }
    }
}

impl Source {
    fn recorded(decisions: impl IntoIterator<Item = Decision>, workload: Option<u64>) -> Self {
        let decisions: Vec<Decision> = decisions.into_iter().collect();
        let key = |Site { stream, site, actor, arrival }: &Site| (place(*stream, site, *actor), *arrival);
        let values = decisions.iter().map(|decision| (key(&decision.site), decision.value)).collect();
        Source::Recorded { decisions, values, workload }
    }
}

impl State {
    /// `arrival` is counted here unless the actor does it.
    fn choose(
        &mut self,
        (stream, site, actor): (Stream, &'static str, u64),
        arrival: Option<u32>,
        draw: Draw,
    ) -> u32 {
        self.drawn += 1;
        let place = || place(stream, site, actor);
        let arrival = arrival.unwrap_or_else(|| self.arrivals.next(place()));
        let at = || Site { stream, site: Cow::Borrowed(site), actor, arrival };
        let value = match &self.source {
            Source::Seed(seed) => draw.value(|| bits(*seed, stream, site, actor, arrival)),
            Source::Narrowed { seed, sites } if sites.contains(&(stream, Cow::Borrowed(site))) => {
                draw.narrowed().value(|| bits(*seed, stream, site, actor, arrival))
            }
            Source::Narrowed { .. } => 0,
            Source::Bytes(table) => {
                let own = bits(0, stream, site, actor, arrival);
                let entry = table.get(reduce(own.rotate_left(32), BYTES_MAX) as usize).copied().unwrap_or(0);
                if entry == 0 { 0 } else { draw.narrowed().value(|| mix(own ^ u64::from(entry))) }
            }
            Source::Recorded { workload: Some(seed), .. } if stream == Stream::Workload => {
                draw.value(|| bits(*seed, stream, site, actor, arrival))
            }
            Source::Recorded { values, .. } => {
                let value = values.get(&(place(), arrival)).copied().unwrap_or(0).min(draw.values() - 1);
                if let Some(open) = &mut self.open {
                    if value != 0 {
                        open.clear();
                    } else if draw.values() > 1 {
                        open.push(Point { site: at(), values: draw.values() });
                    }
                }
                value
            }
        };
        if value != 0 {
            self.departures.push(Decision { site: at(), value });
        }
        value
    }
}

/// How often each place was met. Places are hashes already, so they are their own addresses in an open table; nobody walks
/// through it, so it has no order.
#[derive(Debug)]
struct Arrivals {
    /// A place and how often it was met; 0 is no place.
    slots: Vec<(u64, u32)>,
    used: usize,
}

impl Arrivals {
    /// At first; a power of two.
    const SLOTS: usize = 256;

    fn new() -> Self {
        Self { slots: vec![(0, 0); Self::SLOTS], used: 0 }
    }

    /// Counts one more at this place; answers with how many there were before.
    fn next(&mut self, place: u64) -> u32 {
        if self.used * 2 >= self.slots.len() {
            let doubled = vec![(0, 0); self.slots.len() * 2];
            for (place, count) in std::mem::replace(&mut self.slots, doubled) {
                if place != 0 {
                    *self.slot(place) = (place, count);
                }
            }
        }
        let slot = self.slot(place);
        let before = slot.1;
        *slot = (place, before + 1);
        self.used += usize::from(before == 0);
        before
    }

    /// The slot of this place, or the one that it would take.
    fn slot(&mut self, place: u64) -> &mut (u64, u32) {
        let mask = self.slots.len() - 1;
        let mut at = place as usize & mask;
        while self.slots[at].0 != 0 && self.slots[at].0 != place {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }
}

/// Stands for where and by whom a choice is made. Among 2⁶⁴ no two of a run's few thousand meet.
/// 0 is none.
fn place(stream: Stream, site: &str, actor: u64) -> u64 {
    mix(mix(xxhash_rust::xxh3::xxh3_64(site.as_bytes()) ^ stream as u64) ^ actor).max(1)
}

fn bits(seed: u64, stream: Stream, site: &str, actor: u64, arrival: u32) -> u64 {
    let site = xxhash_rust::xxh3::xxh3_64_with_seed(site.as_bytes(), seed);
    mix(mix(site ^ stream as u64).wrapping_add(actor) ^ u64::from(arrival) << 32)
}

/// SplitMix64's finisher: every input bit moves every output bit.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps bits to `0..n` without division.
fn reduce(bits: u64, n: u32) -> u32 {
    u32::try_from(((bits & 0xffff_ffff) * u64::from(n)) >> 32).expect("below n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(choices: &Choices) -> Vec<u32> {
        let mut values = Vec::new();
        for actor in 0..4 {
            for _ in 0..20 {
                values.push(choices.pick(Stream::Workload, "what", actor, 5));
                values.push(choices.depart(Stream::Faults, "crash", actor, 500, 3));
            }
        }
        values
    }

    #[test]
    fn the_departures_of_a_run_replay_it() {
        let seeded = Choices::from_seed(7);
        let values = play(&seeded);
        assert_eq!(values, play(&Choices::from_seed(7)));
        assert_eq!(values, play(&Choices::from_decisions(seeded.departures())));
        assert_ne!(values, play(&Choices::from_seed(8)));
    }

    #[test]
    fn an_added_choice_does_not_shift_the_others() {
        let (plain, added) = (Choices::from_seed(7), Choices::from_seed(7));
        added.pick(Stream::Workload, "new", 0, 100);
        added.pick(Stream::Schedule, "what", 0, 100);
        assert_eq!(play(&plain), play(&added));
    }

    #[test]
    fn a_narrowed_run_departs_nowhere_else() {
        let choices = Choices::narrowed(7, BTreeSet::from([(Stream::Faults, "crash".into())]));
        play(&choices);
        let departures = choices.departures();
        assert!(!departures.is_empty());
        assert!(departures.iter().all(|decision| decision.site.site == "crash"), "{departures:?}");
    }

    #[test]
    fn bytes_are_a_table_of_small_seeds() {
        assert!(play(&Choices::from_bytes(&[])).iter().all(|value| *value == 0));
        let mut bytes = vec![7; BYTES_MAX as usize];
        let (choices, values) = (Choices::from_bytes(&bytes), play(&Choices::from_bytes(&bytes)));
        assert_eq!(values, play(&choices));
        assert_eq!(values, play(&Choices::from_decisions(choices.departures())));
        // Each byte is a few choices' own.
        let mut changed = 0;
        for place in 0..bytes.len() {
            bytes[place] = 8;
            let others = play(&Choices::from_bytes(&bytes));
            let differing = values.iter().zip(&others).filter(|(value, other)| value != other).count();
            assert!(differing <= 5, "byte {place} changed {differing} of {} choices", values.len());
            changed += differing;
            bytes[place] = 7;
        }
        assert!(changed > values.len() / 4, "{changed}");
    }

    #[test]
    fn what_was_not_met_is_told() {
        let choices = Choices::from_seed(7);
        play(&choices);
        let mut decisions = choices.departures();
        let replayed = Choices::from_decisions(decisions.clone());
        play(&replayed);
        assert_eq!(replayed.unapplied(), []);
        decisions[0].site.site = "elsewhere".into();
        let replayed = Choices::from_decisions(decisions.clone());
        play(&replayed);
        assert_eq!(replayed.unapplied(), decisions[..1]);
    }

    #[test]
    fn an_enumerated_run_tells_what_else_could_have_been_chosen() {
        let choices = Choices::enumerated(7, []);
        play(&choices);
        let open = choices.open();
        // The workload is drawn; the places where faults could be are open.
        assert_eq!(open.len(), 80);
        assert!(open.iter().all(|point| point.site.stream == Stream::Faults && point.values == 4));
        let decision = Decision { site: open[50].site.clone(), value: 2 };
        let choices = Choices::enumerated(7, [decision]);
        play(&choices);
        assert_eq!(choices.open(), open[51..]);
    }

    #[test]
    fn odds_are_kept() {
        let choices = Choices::from_seed(1);
        let hits = (0..10_000).filter(|_| choices.odds(Stream::Faults, "x", 0, 1_000)).count();
        assert!((900..1100).contains(&hits), "{hits}");
        assert!(play(&Choices::from_decisions([])).iter().all(|value| *value == 0));
    }
}
