//! A seed is a run: the rolling hash by which runs are compared, and where two of them part.
//!
//! # Sources of entropy
//!
//! *Controlled*: drawn from [`Choices`](crate::choices::Choices). *Constrained*: made the same in every run. *Audited*: not
//! prevented, but seen where it happens. *Known leak*: not seen. *Out of scope*: not part of a run.
//!
//! | source | status | how |
//! |---|---|---|
//! | who goes first among those that are ready | controlled | the scheduler's order, stream `schedule` |
//! | faults, crashes, freezes, latencies | controlled | streams `faults` and `storage` |
//! | workload: what is submitted, what handlers do | controlled | stream `workload` |
//! | who goes on of several that waited for a lock | controlled | each waits in a task of its own |
//! | time | constrained | tokio's paused clock: it jumps to the next timer when nobody is ready |
//! | clocks of processes and of the store | constrained | virtual time, at a rate and with jumps that are controlled |
//! | tokio's cooperative budget | constrained | the scheduler runs `unconstrained` |
//! | timers that are due at once | constrained | ready together, in the order of the scheduler's |
//! | ids, retry jitter, marks, digests | constrained | derived from names, with a hash that has no seed |
//! | order of hash maps | constrained | banned by clippy in core and sim |
//! | random sources, threads, clocks, environment in core and sim | constrained | banned by clippy |
//! | widths of numbers, debug or release | constrained | hashes take words of one width; a test has one hash for all builds |
//! | several jobs of a sweep | constrained | a run is one thread's alone; the sweep's hash doesn't depend on the order |
//! | `tokio::spawn` in a user's handler | audited | tasks that are alive at the end of a run fail it |
//! | a loop that never awaits | audited | reads of a clock are counted within a poll |
//! | anything else in a user's handler | audited | every 128th seed is run twice, and the first event that differs is shown |
//! | `select!` without `biased` in a user's handler | known leak | stable tokio's generator can't be seeded; not used here |
//! | tokio's `watch` with several waiters, which are woken in a random order | known leak | in a user's handler; ours have one each |
//! | addresses of memory that a handler prints or orders by | known leak | |
//! | real I/O, threads and clocks in a user's handler | out of scope | give it a fake; an answer from a real thread comes after time has jumped |
//! | what a real store does | out of scope | its double is certified against it instead |

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::history::{Entry, Event};
use crate::sweep::Setup;

/// A hash that grows with each entry of a history, and is equal for equal histories: in another process, in another
/// build, on another thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RollingHash(u64);

impl RollingHash {
    /// Takes in an entry.
    pub fn add(&mut self, entry: &Entry) {
        entry.at.hash(self);
        match &entry.event {
            // How it was before stands in the history already.
            Event::Changed { before, after } => {
                self.word(u64::from(before.is_some()));
                after.hash(self);
            }
            other => other.hash(self),
        }
    }

    /// The hash of what was taken in.
    pub fn value(self) -> u64 {
        self.0
    }

    /// Folds one word in: a multiplication whose upper half isn't lost.
    fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        let bytes = product.to_le_bytes();
        let half = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        self.0 = half(0) ^ half(8).rotate_left(23);
    }
}

/// Whatever feeds itself into a hasher is taken in word by word, however wide this machine's words are.
impl Hasher for RollingHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.word(xxhash_rust::xxh3::xxh3_64(bytes));
    }

    fn write_u8(&mut self, n: u8) {
        self.word(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.word(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.word(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    fn write_i64(&mut self, n: i64) {
        self.word(n.cast_unsigned());
    }

    fn write_isize(&mut self, n: isize) {
        self.word((n as i64).cast_unsigned());
    }
}

/// The hash of a whole history.
pub fn hash(entries: &[Entry]) -> u64 {
    let mut rolling = RollingHash::default();
    entries.iter().for_each(|entry| rolling.add(entry));
    rolling.value()
}

/// Where two runs part that should have been one.
#[derive(Debug, Clone)]
pub struct Divergence {
    /// What was run, where that is known.
    pub setup: Option<Setup>,
    /// The seed, where there was one.
    pub seed: Option<u64>,
    /// The number of the first event that differs.
    pub number: usize,
    /// The last event that both had.
    pub before: Option<Entry>,
    /// What happened then in the first run; `None` where it was over.
    pub left: Option<Entry>,
    /// What happened then in the second.
    pub right: Option<Entry>,
}

/// The first event in which two histories differ.
pub fn first_divergence(left: &[Entry], right: &[Entry]) -> Option<Divergence> {
    let one = |entry: &Entry| hash(std::slice::from_ref(entry));
    let same = left.iter().zip(right).take_while(|(a, b)| one(a) == one(b)).count();
    (same < left.len().max(right.len())).then(|| Divergence::at(same, left, right))
}

impl Divergence {
    /// Where two runs part after as many events as they have in common.
    pub(crate) fn at(number: usize, left: &[Entry], right: &[Entry]) -> Self {
        Self {
            setup: None,
            seed: None,
            number,
            before: number.checked_sub(1).map(|last| left[last].clone()),
            left: left.get(number).cloned(),
            right: right.get(number).cloned(),
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed.map_or_else(|| "the same decisions".to_owned(), |seed| format!("seed {seed}"));
        write!(f, "two runs of {seed}")?;
        if let Some(Setup { scenario, profile, .. }) = &self.setup {
            write!(f, " of {} on {}", scenario.name, profile.as_str())?;
        }
        writeln!(f, " part at event {}:", self.number)?;
        let side = |entry: &Option<Entry>| {
            entry.as_ref().map_or_else(
                || "(the run is over)".to_owned(),
                |entry| format!("{entry}\n          {:?}", entry.event),
            )
        };
        writeln!(f, "  both    {}", side(&self.before))?;
        writeln!(f, "  first   {}", side(&self.left))?;
        writeln!(f, "  second  {}", side(&self.right))?;
        write!(
            f,
            "something is read that isn't drawn from `Choices`: a clock, a random source, the order of a hash map, \
             `select!` without `biased`, a static"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::scenario::{Goals, Scenario};
    use crate::world::{Profile, World};

    fn crash(seconds: i64, node: &str) -> Entry {
        let at = steadfast_core::Timestamp::from_micros(seconds * 1_000_000);
        Entry { at, event: Event::Crashed { node: node.into() } }
    }

    #[test]
    fn equal_histories_have_equal_hashes_and_others_do_not() {
        let history = [crash(1, "w0"), crash(2, "w1")];
        assert_eq!(hash(&history), hash(&history.clone()));
        let others = [
            vec![crash(1, "w0")],
            vec![crash(2, "w1"), crash(1, "w0")],
            vec![crash(1, "w0"), crash(2, "w2")],
            vec![crash(1, "w0"), crash(3, "w1")],
        ];
        for other in others {
            assert_ne!(hash(&history), hash(&other), "{other:?}");
        }
    }

    #[test]
    fn the_first_event_that_differs_is_named() {
        let left = [crash(1, "w0"), crash(2, "w1"), crash(3, "w0")];
        let right = [crash(1, "w0"), crash(2, "w2"), crash(3, "w0")];
        let divergence = first_divergence(&left, &right).unwrap();
        assert_eq!(divergence.number, 1);
        assert!(divergence.to_string().contains("w1 crashes"), "{divergence}");
        assert!(divergence.to_string().contains("w2 crashes"), "{divergence}");
        assert!(first_divergence(&left, &left).is_none());
        assert_eq!(first_divergence(&left, &left[..2]).unwrap().number, 2);
    }

    /// Depends on what isn't a choice.
    async fn leak(world: World) {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        world.start("api", 100);
        world.start(format!("n{}", RUNS.fetch_add(1, Ordering::Relaxed)), 100);
    }

    #[test]
    fn a_scenario_that_is_no_function_of_its_seed_is_caught() {
        let scenario =
            Scenario { name: "leak", about: "", goals: Goals::NONE, run: &|world| Box::pin(leak(world)) };
        let setup = Setup { scenario, profile: Profile::Postgres, flaws: Vec::new() };
        let divergence = setup.run_twice(3).unwrap_err();
        assert_eq!((divergence.seed, divergence.number), (Some(3), 1));
    }

    /// A toy on the database, without anything of the engine: two processes change what both can see, in sessions.
    async fn toy(world: World) {
        let clerk = |name: &str| {
            let node = world.start(name, 100);
            node.clone().spawn("counts", async move {
                for round in 0..20_u32 {
                    let session = node.session();
                    let done = async {
                        session.begin(crate::session::Level::RepeatableRead).await?;
                        let seen = session.value("count").await?.unwrap_or_default().len();
                        session.put("count", vec![0; seen + 1]).await?;
                        session.commit().await
                    };
                    let what = if done.await.is_ok() { "counted" } else { "conflicted" };
                    node.record(Event::Did { what });
                    tokio::time::sleep(std::time::Duration::from_millis(u64::from(round % 3))).await;
                }
            });
        };
        clerk("a");
        clerk("b");
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    }

    /// `cargo test` and `cargo test --release` must find the very same hashes. They change with the scheduling points of
    /// the database, and then in both alike.
    #[test]
    fn a_run_has_the_same_hash_in_every_build() {
        let scenario = Scenario {
            name: "toy",
            about: "two processes change one row",
            goals: Goals::NONE,
            run: &|world| Box::pin(toy(world)),
        };
        let of = |profile| {
            let setup = Setup { scenario, profile, flaws: Vec::new() };
            let hashes = (0..20).map(|seed| setup.run(seed).hash());
            hashes.fold(0_u64, |all, hash| all.rotate_left(7) ^ hash)
        };
        let hashes = Profile::ALL.map(of).map(|hash| format!("{hash:016x}"));
        assert_eq!(hashes, ["c70be2639d383d49", "24af6004a7095ba6"]);
    }
}
