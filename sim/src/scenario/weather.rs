//! The weather: what befalls the store and everybody on it. Per seed, some kinds of it or none.

use std::time::Duration;

use steadfast_core::name::TaskId;
use tokio::time::Instant;

use crate::choices::Stream;
use crate::world::{Node, World};

/// How often a moment is waited for at which nothing is under way.
const QUIET_ROUNDS_MAX: u32 = 20;
/// The kinds of weather, a bit each.
const KINDS: u32 = 5;

#[derive(Debug)]
pub(super) struct Weather {
    world: World,
    /// Somebody else who writes to the store.
    stranger: Node,
    kinds: u32,
}

impl Weather {
    /// The seed's weather.
    pub(super) fn new(world: &World) -> Self {
        let stranger = world.start("stranger", 100);
        // In half of the seeds the sky is blue.
        let kinds = world.choices().pick(Stream::Faults, "swarm: weather", 0, 2 << KINDS);
        Self { world: world.clone(), stranger, kinds: kinds.saturating_sub(1 << KINDS) }
    }

    /// Lasts until then.
    pub(super) async fn run(self, until: Instant) {
        while self.kinds > 0 && Instant::now() < until {
            self.wait("weather holds for", &[2_000, 300, 5_000, 11_000, 23_000]).await;
            let kind = self.pick("weather", 1 + KINDS);
            if kind > 0 && self.kinds & (1 << (kind - 1)) > 0 {
                self.strike(kind).await;
            }
        }
    }

    async fn strike(&self, kind: u32) {
        match kind {
            1 => {
                let down = [0, 300, 4_000, 12_000][self.pick("down for", 4) as usize];
                self.world.restart_store(Duration::from_millis(down));
            }
            2 => {
                self.world.fill_disk(true);
                self.wait("disk full for", &[100, 1_000, 5_000, 15_000]).await;
                self.world.fill_disk(false);
            }
            3 => {
                // Past a lease, a little; and back.
                let seconds = [1, 9, 15, -1, -12][self.pick("store's clock jumps", 5) as usize];
                for _ in 0..QUIET_ROUNDS_MAX {
                    if self.world.jump_store_clock(seconds * 1_000_000) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(7)).await;
                }
            }
            4 => self.world.hint_for_nothing(),
            _ => {
                let Some(task) = self.victim() else { return };
                let millis = [10, 300, 3_000, 12_000][self.pick("scribbles for", 4) as usize];
                // Who can't have the row goes away.
                let _ = self.stranger.storage().write_and_die(&task, Duration::from_millis(millis)).await;
            }
        }
    }

    /// One of the tasks that haven't ended.
    fn victim(&self) -> Option<TaskId> {
        let tasks = self.world.history().tasks();
        let unfinished: Vec<_> = tasks.values().filter(|task| !task.state.is_terminal()).collect();
        let count = u32::try_from(unfinished.len()).expect("few");
        let chosen = unfinished.get(self.pick("scribbles on", count.max(1)) as usize)?;
        Some(chosen.id.clone())
    }

    fn pick(&self, site: &'static str, n: u32) -> u32 {
        self.world.choices().pick(Stream::Faults, site, 0, n)
    }

    async fn wait(&self, site: &'static str, millis: &[u64]) {
        let which = self.pick(site, u32::try_from(millis.len()).expect("few"));
        tokio::time::sleep(Duration::from_millis(millis[which as usize])).await;
    }
}
