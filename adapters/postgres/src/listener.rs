//! Hears what other processes did, by LISTEN. Only a hint: a listener that is lost costs latency, nothing else.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::storage::Error;
use steadfast_core::wake::{Hint, Wake};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

use crate::errors::{classify, unreachable};
use crate::link::{CONNECT_TIME_MAX, Shared};

/// How long to wait before connecting again, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it is still there, and how long it may take to say so.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// Listens for ever. After each silence anything may have been missed, so everybody is woken once.
pub(crate) async fn listen(shared: Arc<Shared>, wake: Wake) {
    let mut backoff = BACKOFF_MIN;
    loop {
        match timeout(CONNECT_TIME_MAX, connect(&shared)).await {
            Ok(Ok((client, mut heard))) => {
                backoff = BACKOFF_MIN;
                wake.notify(Hint::BOTH);
                while let Some(hint) = next(&client, &mut heard, &shared).await {
                    wake.notify(hint);
                }
                tracing::warn!("the connection that listens to PostgreSQL was lost; polling goes on");
            }
            Ok(Err(error)) => tracing::debug!(%error, "can't listen to PostgreSQL"),
            Err(_) => tracing::debug!("can't listen to PostgreSQL: no connection in time"),
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Makes a connection that listens. What it hears comes over a channel, which ends with the connection.
async fn connect(shared: &Shared) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), Error> {
    let (client, mut connection) = shared.config.connect(NoTls).await.map_err(unreachable)?;
    let (say, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let message = std::future::poll_fn(|context| connection.poll_message(context)).await;
            match message {
                Some(Ok(AsyncMessage::Notification(one))) => {
                    if say.send(one).is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    });
    let listen = format!("LISTEN {}", shared.schema);
    client.batch_execute(&listen).await.map_err(|error| classify(error, true).0)?;
    Ok((client, heard))
}

/// The next hint from somebody else; `None` once the connection is lost.
async fn next(
    client: &Client,
    heard: &mut mpsc::UnboundedReceiver<Notification>,
    shared: &Shared,
) -> Option<Hint> {
    loop {
        let Ok(notification) = timeout(PROBE_EVERY, heard.recv()).await else {
            timeout(PROBE_EVERY, client.check_connection()).await.ok()?.ok()?;
            continue;
        };
        let notification = notification?;
        if !shared.own().contains(&notification.process_id()) {
            let hints = notification.payload().parse().unwrap_or(3);
            return Some(Hint { ready: hints & 1 != 0, changed: hints & 2 != 0 });
        }
    }
}
