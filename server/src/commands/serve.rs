//! `serve`: the HTTP API and, unless it is left to others, a worker for the configured handlers.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use steadfast::{StoreId, StoreUrl};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::worker::{Crew, Signals, close, set_limits, worker_config};
use super::{Out, note};
use crate::api::{self, LAST_ANSWERS_MAX, Settings};
use crate::backend::{Missing, open_measured};
use crate::cli;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::metrics::Metrics;
use crate::service::Service;

pub(super) async fn serve(
    args: cli::Serve,
    store: &StoreUrl,
    token: Option<String>,
    out: Out,
) -> Result<ExitCode, Failure> {
    let config = Config::load(args.config.as_deref())?;
    let mut tokens = config.server.tokens()?;
    tokens.extend(token.filter(|token| !token.is_empty()));
    let mut signals = Signals::new()?;
    let listener = listen(args.listen.as_deref().unwrap_or(&config.server.listen), &tokens).await?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(Exit::Failed, format!("the address can't be told: {error}")))?;
    let metrics = Arc::new(Metrics::new());
    let (host, store_id) = open_measured(store, Missing::Create, metrics.clone()).await?;
    set_limits(&host, &config).await?;
    super::keep::start(&host, &config);

    let (end, ending) = watch::channel(false);
    let worker_config = worker_config(&host, &config, &args.work);
    let grace = worker_config.grace;
    let mut crew = if args.no_worker {
        host.sweep(steadfast::core::sweeper::SWEEP.min(worker_config.lease));
        None
    } else {
        Some(Crew::start(&host, &config, worker_config, Some(url(address)), &metrics).await?)
    };
    let settings = Settings {
        service: Service { engine: host.engine().clone(), store: store_id.clone() },
        config: config.clone(),
        allow_unknown_kinds: args.allow_unknown_kinds,
        tokens,
        ending,
        worker_lives: crew.as_ref().map(Crew::lives),
        metrics,
        connections_max: connections_max(),
    };
    let server = tokio::spawn(api::serve(listener, settings));
    greet(&Greeting { address, store, store_id: &store_id, config: &config, args: &args }, out)?;

    tokio::select! {
        () = signals.next() => {}
        failure = ended(&mut crew) => return Err(failure),
    }
    note(format_args!("draining; at most {grace:?}, or at once with another signal"));
    end.send_replace(true);
    let drained = async {
        if let Some(crew) = crew {
            crew.drain().await?;
        }
        let _ = tokio::time::timeout(LAST_ANSWERS_MAX, server).await;
        close(host).await;
        Ok(ExitCode::SUCCESS)
    };
    tokio::select! {
        drained = drained => drained,
        () = signals.next() => Ok(ExitCode::from(Exit::Interrupted as u8)),
    }
}

/// Half of the descriptors that this process may have: the others are for the store and for commands, which must not fail
/// because somebody opens connections.
fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX)
}

async fn ended(crew: &mut Option<Crew>) -> Failure {
    match crew {
        Some(crew) => crew.ended().await,
        None => std::future::pending().await,
    }
}

/// Opens the address, unless others than this machine could use it without a token.
async fn listen(address: &str, tokens: &[String]) -> Result<TcpListener, Failure> {
    let refused = |why: String| Failure::new(Exit::Usage, format!("can't listen on {address}: {why}"));
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|error| refused(error.to_string()))?.collect();
    if tokens.is_empty() && !found.iter().all(|address| address.ip().is_loopback()) {
        return Err(refused("it can be reached from other machines, and no token is set".into()).help(
            "set one: export STEADFAST_TOKEN=$(openssl rand -hex 32), and tokens = [\"env:STEADFAST_TOKEN\"] under [server]; \
             or listen on 127.0.0.1",
        ));
    }
    TcpListener::bind(&found[..]).await.map_err(|error| {
        refused(error.to_string())
            .help("another server may be there: --listen 127.0.0.1:0 takes any free port")
    })
}

/// Where programs on this machine reach the server.
fn url(address: SocketAddr) -> String {
    let mut local = address;
    if address.ip().is_unspecified() {
        local.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    format!("http://{local}")
}

struct Greeting<'a> {
    address: SocketAddr,
    store: &'a StoreUrl,
    store_id: &'a StoreId,
    config: &'a Config,
    args: &'a cli::Serve,
}

/// Says where the server listens, which store it has, and what can be done next.
fn greet(greeting: &Greeting<'_>, out: Out) -> Result<(), Failure> {
    let Greeting { address, store, store_id, config, args } = greeting;
    let kinds: Vec<String> = config.kinds().iter().map(ToString::to_string).collect();
    let url = url(*address);
    if out.json {
        let started = serde_json::json!({ "url": url, "store": store_id.as_str(), "kinds": kinds });
        return out.write(&started, |_| Ok(()));
    }
    note(format_args!("listening on {url}, store {store} ({store_id})"));
    match (kinds.first(), args.no_worker) {
        (Some(kind), false) => {
            note(format_args!("handlers: {}. Try, in another terminal:", kinds.join(", ")));
            note(format_args!("  {} --server {url} submit {kind} --wait", called()));
        }
        (Some(_), true) => note(format_args!("kinds: {}; left to other workers", kinds.join(", "))),
        (None, _) => {
            note("no handlers are configured, so no task can run here yet. Paste this, and start again:");
            note(
                "  printf '[handlers.hello]\\nexec = [\"sh\", \"-c\", \"cat > $STEADFAST_OUTPUT\"]\\n' >> steadfast.toml",
            );
            note("then, in another terminal:");
            note(format_args!(
                "  {} --server {url} submit hello --payload '{{\"hello\": \"world\"}}' --wait",
                called()
            ));
        }
    }
    Ok(())
}

/// How this program was called, so that what is shown can be pasted also where it isn't installed.
fn called() -> String {
    let name = std::env::args().next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) { name } else { "steadfast".into() }
}
