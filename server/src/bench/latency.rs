//! How long a task waits for an idle worker: from the call of submit until its handler is entered.

use std::time::{Duration, Instant};

use steadfast::{AnyStorage, Context, Handlers, Host, Verdict};
use tokio::sync::mpsc;

use super::submit::submit;
use super::{Error, kind, new_task};

/// How many samples a round takes at most.
const SAMPLES_MAX: usize = 300;
/// How long the worker is left alone before a task comes.
const REST: Duration = Duration::from_millis(2);
/// How long a task may wait at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// The samples of one round.
pub(super) async fn idle(host: &Host<AnyStorage>, tasks: usize) -> Result<Vec<Duration>, Error> {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let handler = move |_: Context| {
        // Whoever measures may have gone.
        let _ = entered.send(Instant::now());
        async { Verdict::done(*b"null") }
    };
    let worker = host
        .work(Handlers::new().with(kind(), handler), host.worker_config())
        .expect("the default makes sense");
    let mut samples = Vec::new();
    for _ in 0..tasks.min(SAMPLES_MAX) {
        rest(host).await;
        let task = new_task();
        let began = Instant::now();
        submit(host.engine(), task).await?;
        let entry = tokio::time::timeout(PATIENCE, entries.recv()).await.ok().flatten();
        let entry = entry.ok_or_else(|| Error::Wrong("a task of an idle worker was never run".into()))?;
        samples.push(entry.duration_since(began));
    }
    worker.drain().await.map_err(|panicked| Error::Wrong(panicked.to_string()))?;
    Ok(samples)
}

/// Waits until the worker has nothing to do.
async fn rest(host: &Host<AnyStorage>) {
    while !host.engine().registry().is_empty() {
        tokio::time::sleep(REST).await;
    }
    tokio::time::sleep(REST).await;
}
