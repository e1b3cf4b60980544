//! Hears what other processes did, by LISTEN. Only a hint: a listener that is lost costs latency, nothing else.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::storage::Error;
use steadfast_core::wake::{Hint, Wake};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

use crate::errors::{classify, unreachable};
use crate::link::{self, CONNECT_TIME_MAX, Shared};

/// How long to wait before connecting again, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it is still there, and how long it may take to say so.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// A connection that listens. What it hears comes over a channel, which ends with the connection.
pub(crate) type Listening = (Client, mpsc::UnboundedReceiver<Notification>);

/// Listens for ever. After each silence anything may have been missed, so everybody is woken once.
pub(crate) async fn listen(shared: Arc<Shared>, wake: Wake, first: Listening) {
    let mut listening = first;
    loop {
        while let Some(hint) = next(&mut listening, &shared).await {
            wake.notify(hint);
        }
        tracing::warn!("the connection that listens to PostgreSQL was lost; polling goes on");
        listening = reconnect(&shared).await;
        wake.notify(Hint::BOTH);
    }
}

async fn reconnect(shared: &Shared) -> Listening {
    let mut backoff = BACKOFF_MIN;
    loop {
        sleep(backoff).await;
        match connect(shared).await {
            Ok(listening) => return listening,
            Err(error) => tracing::debug!(%error, "can't listen to PostgreSQL"),
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Connects within the time that a connection may take.
pub(crate) async fn connect(shared: &Shared) -> Result<Listening, Error> {
    timeout(CONNECT_TIME_MAX, try_connect(shared)).await.unwrap_or_else(|_| Err(link::too_slow()))
}

async fn try_connect(shared: &Shared) -> Result<Listening, Error> {
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
async fn next((client, heard): &mut Listening, shared: &Shared) -> Option<Hint> {
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
