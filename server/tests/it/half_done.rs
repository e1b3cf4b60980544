//! What was done and can't be shown: the store takes what is written, and its figures don't come.

use steadfast::core::step::Outcome;
use steadfast::core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast::core::wake::Hints;
use steadfast::core::{Batch, Engine};
use steadfast::{AnyStorage, Error, ErrorKind, Queue, Storage, StoreId, StoreUrl, TokioClock};
use steadfast_server::metrics::Metrics;
use steadfast_server::service::Service;

#[derive(Debug, Clone, Copy)]
enum Figures {
    Fail,
    Hang,
}

/// A store without figures.
#[derive(Debug, Clone)]
struct Mute(AnyStorage, Figures);

impl Storage for Mute {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.0.claim(request).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.0.apply(batches).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        match (query, self.1) {
            (Query::Stats { .. }, Figures::Fail) => {
                Err(Error::new(ErrorKind::Unavailable, "no figures today"))
            }
            (Query::Stats { .. }, Figures::Hang) => std::future::pending().await,
            _ => self.0.read(query).await,
        }
    }

    fn hints(&self) -> Hints {
        self.0.hints()
    }
}

async fn service(figures: Figures) -> (Service<Mute, TokioClock>, AnyStorage) {
    let storage = AnyStorage::open(&StoreUrl::SqliteInMemory).await.unwrap();
    let (engine, commits) = Engine::new(Mute(storage.clone(), figures), TokioClock);
    tokio::spawn(commits);
    (Service { engine, store: StoreId::trusted("mute") }, storage)
}

#[tokio::test]
async fn a_pause_that_cannot_be_shown_is_not_told_as_nothing_changed() {
    let (service, storage) = service(Figures::Fail).await;
    let queue = Queue::trusted("default");
    for problem in [
        service.pause(queue.clone(), true).await.unwrap_err(),
        service.limit(queue.clone(), Some(3)).await.unwrap_err(),
    ] {
        assert_eq!(problem.status, 503);
        let help = problem.help.unwrap();
        assert!(help.contains("it is set"), "{help}");
    }
    let (engine, commits) = Engine::new(storage, TokioClock);
    tokio::spawn(commits);
    let figures = Service { engine, store: StoreId::trusted("same") }.queues().await.unwrap();
    assert_eq!((figures.queues[0].paused, figures.queues[0].concurrency), (true, Some(3)));
}

#[tokio::test(start_paused = true)]
async fn metrics_do_not_wait_for_figures_that_do_not_come() {
    let (service, _) = service(Figures::Hang).await;
    let metrics = Metrics::new();
    let begun = tokio::time::Instant::now();
    let (_, page) = metrics.page(&service).await;
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("steadfast_run_seconds") && !page.contains("steadfast_stale_queued"), "{page}");
}
