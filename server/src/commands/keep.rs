//! Forgets tasks that ended long ago, as the configuration says: part of every server and worker, not the user's duty.

use std::time::Duration;

use steadfast::Clock;
use steadfast::core::step::Prune;

use crate::config::Config;
use crate::store::Host;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Tasks that are forgotten in one transaction: few, so that others needn't wait for it.
const TOGETHER: u32 = 500;
/// The rest between two such transactions.
const REST: Duration = Duration::from_millis(200);

/// Starts looking, now and then every ten minutes, until the process ends.
pub(super) fn start(host: &Host, config: &Config) {
    let engine = host.engine().clone();
    let prune = Prune {
        succeeded: config.retention.succeeded.0,
        otherwise: config.retention.otherwise.0,
        limit: TOGETHER,
    };
    tokio::spawn(async move {
        loop {
            let rest = match engine.prune(prune.clone()).await {
                Ok(0) => LOOK_EVERY,
                Ok(forgotten) => {
                    tracing::info!(forgotten, "forgot tasks that ended long ago");
                    if forgotten < TOGETHER { LOOK_EVERY } else { REST }
                }
                Err(error) => {
                    tracing::warn!(?error, "forgetting old tasks failed and will be repeated");
                    LOOK_EVERY
                }
            };
            engine.clock().sleep(rest).await;
        }
    });
}
