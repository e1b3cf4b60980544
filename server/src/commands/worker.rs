//! `worker`, and what it shares with `serve`: the configured handlers on a store, until a signal drains them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use steadfast::core::sweeper::SWEEP;
use steadfast::exec::{Exec, Options};
use steadfast::subprocess::GuardExe;
use steadfast::{Handlers, StoreUrl, Worker, WorkerConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::adopt::Adopter;
use super::{Out, note};
use crate::backend::{Missing, open};
use crate::cli;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::metrics::{Metrics, measured};
use crate::store::Host;

/// Signals that ask a server or worker to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Exit::Failed, format!("signals can't be heard: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one. Cancellation safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What works for `serve` and `worker`.
pub(super) struct Crew {
    /// None where there is nothing to run.
    worker: Option<Worker>,
    adopter: Option<Adopter>,
    /// Whether the worker lives, where there is one.
    lives: watch::Sender<bool>,
}

impl Crew {
    /// Sets the queues' limits in the store, and starts what the configuration has handlers for.
    pub(super) async fn start(
        host: &Host,
        config: &Config,
        worker_config: WorkerConfig,
        server: Option<String>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Failure> {
        worker_config.check().map_err(|invalid| Failure::new(Exit::Usage, invalid.to_string()))?;
        let mut options = Options::new(worker_config.grace);
        options.server = server;
        options.guard = GuardExe::this_executable();
        let handlers = config.handlers.iter().fold(Handlers::new(), |handlers, (kind, handler)| {
            let (program, args) =
                handler.exec.split_first().expect("a command that was read names a program");
            let exec = Exec::new(program, args, config.directory.clone(), options.clone());
            handlers.with(kind.0.clone(), exec)
        });
        // Also where there is nothing to run: what others left behind must not wait for a worker that has handlers.
        host.sweep(SWEEP.min(worker_config.lease));
        let adopter =
            config.server.allow_run.then(|| Adopter::start(host.clone(), options, worker_config.clone()));
        let works = handlers.kinds().next().is_some();
        let handlers = measured(handlers, metrics, host.engine());
        let worker = works.then(|| host.work(handlers, worker_config).expect("it was checked"));
        Ok(Self { worker, adopter, lives: watch::channel(true).0 })
    }

    /// Becomes false when the worker has ended.
    pub(super) fn lives(&self) -> watch::Receiver<bool> {
        self.lives.subscribe()
    }

    /// Waits until the worker has ended: it does so by itself only through a bug. For ever where there is none.
    pub(super) async fn ended(&mut self) -> Failure {
        let Some(worker) = &mut self.worker else { return std::future::pending().await };
        let ended = worker.ended().await;
        self.lives.send_replace(false);
        let why = match ended {
            Ok(()) => "the worker ended unasked".into(),
            Err(panicked) => panicked.to_string(),
        };
        Failure::new(Exit::Failed, why)
    }

    /// Gives everything back and waits for that.
    pub(super) async fn drain(self) -> Result<(), Failure> {
        // Both at once: each has the whole grace, and neither claims meanwhile.
        let adopted = async {
            if let Some(adopter) = self.adopter {
                adopter.drain().await;
            }
        };
        let worked = async {
            match self.worker {
                Some(worker) => {
                    worker.drain().await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
                }
                None => Ok(()),
            }
        };
        tokio::join!(adopted, worked).1
    }
}

/// Tells the store the limits of the configuration's queues.
pub(super) async fn set_limits(host: &Host, config: &Config) -> Result<(), Failure> {
    for limit in config.limits() {
        host.engine().limit(limit).await?;
    }
    Ok(())
}

/// How the worker works: as the command line says, or else the configuration, or else by default.
pub(super) fn worker_config(host: &Host, config: &Config, args: &cli::Work) -> WorkerConfig {
    let mut worker = host.worker_config();
    worker.queues = config.worker_queues().into_iter().collect();
    let lease = args.lease.or(config.worker.lease.map(|lease| lease.0));
    worker.lease = lease.unwrap_or(worker.lease);
    worker.grace = config.worker.grace.map_or(worker.grace, |grace| grace.0);
    let concurrency = args.concurrency.or(config.worker.concurrency);
    worker.concurrency = concurrency.map_or(worker.concurrency, Into::into);
    worker
}

pub(super) async fn worker(args: cli::Worker, store: &StoreUrl, out: Out) -> Result<ExitCode, Failure> {
    let config = Config::load(args.config.as_deref())?;
    if config.handlers.is_empty() && !config.server.allow_run {
        return Err(Failure::new(Exit::Usage, "there is nothing to work on: no handler is configured").help(
            "write a steadfast.toml with [handlers.NAME] and exec = [\"program\"], or name one by --config",
        ));
    }
    let mut signals = Signals::new()?;
    let (host, store_id) = open(store, Missing::Create).await?;
    set_limits(&host, &config).await?;
    super::keep::start(&host, &config);
    let mut worker_config = worker_config(&host, &config, &args.work);
    if !args.queues.is_empty() {
        worker_config.queues = args.queues;
    }
    let started = serde_json::json!({
        "worker": worker_config.id.as_str(),
        "store": store_id.as_str(),
        "kinds": config.kinds().iter().map(steadfast::Kind::as_str).collect::<Vec<_>>(),
        "queues": worker_config.queues.iter().map(steadfast::Queue::as_str).collect::<Vec<_>>(),
    });
    let grace = worker_config.grace;
    let mut crew = Crew::start(&host, &config, worker_config, None, &Arc::new(Metrics::new())).await?;
    if out.json {
        out.write(&started, |_| Ok(()))?;
    }
    tokio::select! {
        () = signals.next() => {}
        failure = crew.ended() => return Err(failure),
    }
    note(format_args!("draining; at most {grace:?}, or at once with another signal"));
    tokio::select! {
        drained = crew.drain() => drained?,
        () = signals.next() => return Ok(ExitCode::from(Exit::Interrupted as u8)),
    }
    close(host).await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the host's end, but not for ever: everything is settled by now.
pub(super) async fn close(host: Host) {
    let _ = tokio::time::timeout(Duration::from_secs(5), host.close()).await;
}
