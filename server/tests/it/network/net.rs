//! A run: the simulated store as a host, the processes and clients around it, a network between them, and one clock.
//!
//! Each host has a runtime of its own, all on this thread. The store is the simulator's: its scheduler is driven by
//! a host of its own, which no fault of the network touches; what may go wrong between a process and its store
//! (lost answers, conflicts, slow commits) is the store's to draw. Everything is drawn from one seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use steadfast::Task;
use steadfast::core::time::ManualClock;
use steadfast_sim::choices::{Choices, Stream};
use steadfast_sim::faults::Faults;
use steadfast_sim::history::{Entry, Event};
use steadfast_sim::oracle::judge;
use steadfast_sim::scheduler::Scheduler;
use steadfast_sim::world::{EPOCH, Kind, Profile, World};
use turmoil::{Builder, Sim};

use super::client::Client;
use super::process::{Process, Roles};
use super::weather::{Deed, Weather};

/// The host of the API.
pub(super) const SERVER: &str = "server";
/// How long faults last at most.
pub(super) const STORM: Duration = Duration::from_secs(5);
/// Virtual time after which a run that hasn't come to rest is stuck.
const RUN_MAX: Duration = Duration::from_secs(180);
/// What the network is stepped by.
const TICK: Duration = Duration::from_millis(1);

thread_local! {
    /// Whether anything on this thread has panicked: a server's connection that does is caught by its runtime, and its
    /// client would only try again.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// A run.
pub(super) struct Net {
    pub(super) choices: Choices,
    pub(super) world: World,
    sim: Sim<'static>,
    clock: ManualClock,
    processes: BTreeMap<&'static str, Rc<Process>>,
    clients: Vec<String>,
    links: BTreeMap<String, Link>,
    weather: Weather,
    notes: Notes,
}

/// How a client and the server are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    Cut,
    Held,
}

/// What clients found wrong, and what they came across. Clones are one notebook.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Rc<RefCell<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    complaints: Vec<String>,
    reached: Vec<&'static str>,
}

impl Notes {
    /// Notes what is wrong.
    pub(super) fn complain(&self, what: impl Into<String>) {
        self.0.borrow_mut().complaints.push(what.into());
    }

    /// Notes what happened that ought to happen in some run.
    pub(super) fn reach(&self, goal: &'static str) {
        self.0.borrow_mut().reached.push(goal);
    }
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) complaints: Vec<String>,
    pub(super) reached: Vec<&'static str>,
    pub(super) entries: Vec<Entry>,
}

impl Net {
    /// A network with a store, on which nothing runs yet.
    pub(super) fn new(seed: u64) -> Self {
        note_panics();
        let choices = Choices::from_seed(seed);
        let faults = Faults::draw(&choices);
        let scheduler = Scheduler::new(choices.clone(), faults.set_aside);
        let clock = ManualClock::at(EPOCH);
        let profile = Profile::ALL[usize::try_from(seed % 2).expect("one of two")];
        let kind = Kind { faults, clock: Some(clock.clone()), ..Kind::of(profile) };
        let world = World::on(scheduler.clone(), choices.clone(), kind);
        let slowest = [5, 20, 80][choices.pick(Stream::Faults, "network: latency", 0, 3) as usize];
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(RUN_MAX * 2)
            .min_message_latency(TICK)
            .max_message_latency(Duration::from_millis(slowest))
            .enable_random_order()
            .build();
        sim.host("database", move || {
            let scheduler = scheduler.clone();
            async move {
                scheduler.drive().await;
                Ok(())
            }
        });
        let loss = [0.0, 0.0, 0.002, 0.01][choices.pick(Stream::Faults, "network: loss", 0, 4) as usize];
        sim.set_fail_rate(loss);
        Self {
            choices,
            world,
            sim,
            clock,
            processes: BTreeMap::new(),
            clients: Vec::new(),
            links: BTreeMap::new(),
            weather: Weather::default(),
            notes: Notes::default(),
        }
    }

    /// Starts a process.
    pub(super) fn process(&mut self, name: &'static str, roles: Roles) {
        let process = Rc::new(Process::new(name, self.world.clone(), roles));
        self.processes.insert(name, process.clone());
        self.sim.host(name, move || process.clone().run());
    }

    /// Starts a client that does this and is through.
    pub(super) fn client<F>(&mut self, act: impl FnOnce(Client) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let number = self.clients.len() as u64;
        let name = format!("client-{number}");
        let client = Client::new(name.clone(), number, self.world.clone(), self.notes.clone());
        let acting = act(client);
        self.sim.client(name.as_str(), async move {
            acting.await;
            Ok(())
        });
        self.links.insert(name.clone(), Link::Open);
        self.clients.push(name);
    }

    /// From the beginning nothing goes wrong by itself.
    pub(super) fn calm(&mut self) {
        self.sim.set_fail_rate(0.0);
        self.world.heal();
    }

    /// Draws what befalls the network and the processes.
    pub(super) fn storm(&mut self, weather: impl FnOnce(&Choices, &[String]) -> Weather) {
        self.weather = weather(&self.choices, &self.clients);
    }

    /// Runs until every client is through and every task has ended, and judges it.
    pub(super) fn run(mut self, judge_clients: impl FnOnce(&World, &Notes)) -> Outcome {
        PANICKED.set(false);
        let stuck = self.steps();
        match &stuck {
            None => judge_clients(&self.world, &self.notes),
            Some(why) => self.notes.complain(why),
        }
        let entries = self.world.history().entries();
        let mut noted = self.notes.0.take();
        let violations = judge(&entries, stuck.is_none());
        noted.complaints.extend(violations.iter().map(ToString::to_string));
        if PANICKED.get() {
            noted.complaints.push("something panicked: see above".into());
        }
        Outcome { complaints: noted.complaints, reached: noted.reached, entries }
    }

    /// Steps until all is at rest; says why it doesn't come to rest.
    fn steps(&mut self) -> Option<String> {
        let mut healed = false;
        let mut through = false;
        loop {
            let now = self.sim.elapsed();
            if now > RUN_MAX {
                return Some(self.stuck(through));
            }
            if !healed && (through || now >= STORM) {
                self.heal();
                healed = true;
            }
            while let Some(deed) = if healed { None } else { self.weather.due(now) } {
                self.perform(deed);
            }
            self.reap();
            self.clock.set(EPOCH + now);
            match self.sim.step() {
                Ok(all_through) => through = all_through,
                Err(error) => return Some(format!("a host failed: {error}")),
            }
            if healed && through && self.unfinished().is_empty() {
                return None;
            }
        }
    }

    fn unfinished(&self) -> Vec<String> {
        let tasks = self.world.history().tasks();
        let show = |task: &Task| format!("{} is {}", task.id, task.state);
        tasks.values().filter(|task| !task.state.is_terminal()).map(|task| show(task)).collect()
    }

    fn stuck(&self, through: bool) -> String {
        let clients = if through { "" } else { "; some client isn't through" };
        format!("no rest after {RUN_MAX:?}: {}{clients}", self.unfinished().join(", "))
    }

    /// A process that has ended by itself leaves its sockets to the system, which closes them.
    fn reap(&mut self) {
        let ended = self.processes.iter().filter(|(_, process)| process.has_ended()).map(|(name, _)| *name);
        for name in ended.collect::<Vec<_>>() {
            self.kill(name);
        }
    }

    fn perform(&mut self, deed: Deed) {
        let link = match &deed {
            Deed::Cut(client) | Deed::CutTo(client) | Deed::CutFrom(client) => Some((client, Link::Cut)),
            Deed::Hold(client) => Some((client, Link::Held)),
            Deed::Mend(client) | Deed::Release(client) => Some((client, Link::Open)),
            Deed::Kill(_) | Deed::Drain(_) | Deed::Start(_) => None,
        };
        if let Some((client, link)) = link {
            self.links.insert(client.clone(), link);
        }
        match deed {
            Deed::Cut(client) => self.sim.partition(client.as_str(), SERVER),
            Deed::CutTo(client) => self.sim.partition_oneway(client.as_str(), SERVER),
            Deed::CutFrom(client) => self.sim.partition_oneway(SERVER, client.as_str()),
            Deed::Mend(client) => self.sim.repair(client.as_str(), SERVER),
            Deed::Hold(client) => self.sim.hold(client.as_str(), SERVER),
            Deed::Release(client) => self.sim.release(client.as_str(), SERVER),
            Deed::Kill(host) => self.kill(host),
            Deed::Drain(host) => self.processes[host].drain(),
            Deed::Start(host) => self.start(host),
        }
    }

    /// Its memory is gone, and its handles to the store with it; its connections are closed by the system.
    ///
    /// The runtime drops connections in an order of its own, which no seed knows, and each draws when its end arrives:
    /// so all ends are held back and arrive together. Who is cut off isn't told.
    fn kill(&mut self, host: &'static str) {
        if !self.processes[host].kill() {
            return;
        }
        for (client, link) in &self.links {
            match link {
                Link::Open => self.sim.hold(client.as_str(), SERVER),
                Link::Cut => self.sim.partition(client.as_str(), SERVER),
                Link::Held => {}
            }
        }
        self.sim.crash(host);
        for (client, _) in self.links.iter().filter(|(_, link)| **link == Link::Open) {
            self.sim.release(client.as_str(), SERVER);
        }
    }

    fn start(&mut self, host: &'static str) {
        if !self.processes[host].is_alive() {
            self.sim.bounce(host);
        }
    }

    /// From here on nothing goes wrong, and everything that was down is started.
    fn heal(&mut self) {
        self.sim.set_fail_rate(0.0);
        for client in &self.clients {
            self.sim.release(client.as_str(), SERVER);
            self.sim.repair(client.as_str(), SERVER);
            self.links.insert(client.clone(), Link::Open);
        }
        let hosts: Vec<&'static str> = self.processes.keys().copied().collect();
        for host in hosts {
            // One that is draining would end later, when nobody starts it again.
            if self.processes[host].is_draining() {
                self.kill(host);
            }
            self.start(host);
        }
        self.world.heal();
    }
}

/// Each change of a task, in order.
pub(super) fn changes(world: &World) -> Vec<(Entry, Task)> {
    let changed = |entry: Entry| match &entry.event {
        Event::Changed { after, .. } => {
            let after = Task::clone(after);
            Some((entry, after))
        }
        _ => None,
    };
    world.history().entries().into_iter().filter_map(changed).collect()
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            before(info);
        }));
    });
}
