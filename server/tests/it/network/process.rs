//! A process of Steadfast on the simulated network: `serve`, `serve --no-worker` or `worker`, put together from the
//! same parts, on the simulated store.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use steadfast::core::engine::Engine;
use steadfast::core::supervisor::{DrainHandle, Supervisor};
use steadfast::core::sweeper;
use steadfast::core::time::Moment;
use steadfast::{Clock, Handlers, Kind, StoreId, WorkerConfig, WorkerId};
use steadfast_server::api::{LAST_ANSWERS_MAX, Settings, serve};
use steadfast_server::config::Config;
use steadfast_server::metrics::Metrics;
use steadfast_server::service::Service;
use steadfast_server::store::Observed;
use steadfast_sim::storage::SimStorage;
use steadfast_sim::world::{Node, World};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::handler::Work;

/// Where the API listens.
pub(super) const PORT: u16 = 7878;
/// How many connections the API has at once.
pub(super) const CONNECTIONS_MAX: usize = 40;
/// What clients must show: without it the server would refuse a `Host` that isn't this machine.
pub(super) const TOKEN: &str = "let me in";
/// The kind of all tasks.
pub(super) const KIND: &str = "work";
/// How long a worker's leases last.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// How often lapsed leases are swept.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a worker looks for tasks.
const POLL: Duration = Duration::from_millis(200);
/// How long an attempt may go on after it was told to stop.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// What a process does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roles {
    pub(super) serves: bool,
    pub(super) works: bool,
}

/// A place where a process runs, over all its incarnations.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    world: World,
    roles: Roles,
    count: Cell<u32>,
    running: RefCell<Option<Running>>,
    ended: Cell<bool>,
}

#[derive(Debug)]
struct Running {
    node: Node,
    end: watch::Sender<bool>,
}

type SimEngine = Engine<Observed<SimStorage>, NetClock>;

impl Process {
    pub(super) fn new(name: &'static str, world: World, roles: Roles) -> Self {
        Self { name, world, roles, count: Cell::new(0), running: RefCell::new(None), ended: Cell::new(false) }
    }

    /// Cuts it off from the store, before its futures are dropped; says whether it was alive.
    pub(super) fn kill(&self) -> bool {
        self.ended.set(false);
        let running = self.running.take();
        if let Some(running) = &running {
            running.node.crash();
        }
        running.is_some()
    }

    /// Asks it to end, as SIGTERM does.
    pub(super) fn drain(&self) {
        if let Some(running) = &*self.running.borrow() {
            running.end.send_replace(true);
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.running.borrow().is_some()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.running.borrow().as_ref().is_some_and(|running| *running.end.borrow())
    }

    /// Whether it has come to its end by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// One incarnation.
    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        let number = self.count.get();
        self.count.set(number + 1);
        let node = self.world.start(format!("{}.{number}", self.name), 100);
        let (end, mut ending) = watch::channel(false);
        *self.running.borrow_mut() = Some(Running { node: node.clone(), end });
        let metrics = Arc::new(Metrics::new());
        let (engine, commits) =
            Engine::new(Observed::new(node.storage(), metrics.clone()), NetClock::started());
        tokio::spawn(commits);
        tokio::spawn(sweeper::run(engine.clone(), SWEEP));
        let worker = self.roles.works.then(|| work(&node, &engine));
        let server = if self.roles.serves {
            let settings = settings(engine, metrics, ending.clone());
            Some(tokio::spawn(serve(NetListener::bind().await?, settings)))
        } else {
            None
        };
        let _ = ending.wait_for(|ending| *ending).await;
        // As `serve` ends.
        if let Some((drain, supervisor)) = worker {
            drain.drain();
            supervisor.await?;
        }
        if let Some(server) = server {
            let _ = tokio::time::timeout(LAST_ANSWERS_MAX, server).await;
        }
        self.ended.set(true);
        std::future::pending().await
    }
}

fn work(node: &Node, engine: &SimEngine) -> (DrainHandle, JoinHandle<()>) {
    let handlers = Handlers::new().with(Kind::trusted(KIND), Work { node: node.clone() });
    let mut config = WorkerConfig::new(WorkerId::trusted(node.name()));
    (config.lease, config.poll, config.grace, config.concurrency) = (LEASE, POLL, GRACE, 4);
    let (supervisor, drain) =
        Supervisor::new(engine.clone(), handlers, config).expect("the configuration makes sense");
    (drain, tokio::spawn(supervisor.run()))
}

fn settings(
    engine: SimEngine,
    metrics: Arc<Metrics>,
    ending: watch::Receiver<bool>,
) -> Settings<Observed<SimStorage>, NetClock> {
    let config = Config::parse("[handlers.work]\nexec = [\"true\"]\n").expect("it is one");
    Settings {
        service: Service { engine, store: StoreId::trusted("simulated") },
        config,
        allow_unknown_kinds: false,
        tokens: vec![TOKEN.into()],
        ending,
        worker_lives: None,
        metrics,
        connections_max: CONNECTIONS_MAX,
    }
}

/// The clock of a process: that of its host's runtime.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetClock {
    origin: Instant,
}

impl NetClock {
    fn started() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for NetClock {
    fn now(&self) -> Moment {
        Moment::from_origin(self.origin.elapsed())
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }
}

/// A listener of the simulated network, as axum wants one.
struct NetListener(turmoil::net::TcpListener);

impl NetListener {
    async fn bind() -> std::io::Result<Self> {
        turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.map(Self)
    }
}

impl Listener for NetListener {
    type Io = turmoil::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.0.accept().await.expect("a simulated listener always accepts")
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
