//! The host and its worker, on a real store and a real clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use steadfast::core::engine::{Cancelled, Submitted};
use steadfast::core::step::{Batch, Outcome};
use steadfast::core::storage::{ClaimRequest, Claimed, Query, View};
use steadfast::core::wake::Hints;
use steadfast::{
    AnyStorage, Cause, Context, Error, Handler, Handlers, Host, Kind, NewTask, State, Storage, Task, TaskId,
    Verdict, task_id,
};

/// Longer than any test may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn kind(name: &str) -> Kind {
    Kind::new(name).unwrap()
}

pub(crate) async fn host() -> Host {
    Host::open(&"sqlite::memory:".parse().unwrap()).await.unwrap()
}

pub(crate) async fn submit(host: &Host, task: NewTask) -> TaskId {
    match host.engine().submit(task).await.unwrap() {
        Submitted::Accepted(accepted) => accepted.id,
        other => panic!("{other:?}"),
    }
}

/// A task of this kind that has one attempt.
pub(crate) fn once(kind_name: &str, payload: &[u8]) -> NewTask {
    let mut task = NewTask::new(task_id(), kind(kind_name), payload);
    task.attempts_max = 1;
    task
}

pub(crate) async fn ended(host: &Host, id: &TaskId) -> Task {
    let task = host.engine().wait(id, None, LONG).await.unwrap().expect("the task is there");
    assert!(task.state.is_terminal(), "{task:?}");
    task
}

fn handlers(name: &str, handler: impl Handler) -> Handlers {
    Handlers::new().with(kind(name), handler)
}

#[tokio::test]
async fn a_task_runs_to_its_end() {
    let host = host().await;
    let greet = |task: Context| async move { Verdict::done([b"hello, ", task.payload()].concat()) };
    let worker = host.work(handlers("greet", greet), host.worker_config()).unwrap();
    let id = submit(&host, NewTask::new(task_id(), kind("greet"), *b"world")).await;
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.output.as_deref()), (State::Succeeded, Some(&b"hello, world"[..])));
    worker.drain().await.unwrap();
    host.close().await;
}

#[tokio::test]
async fn a_panic_fails_the_attempt_and_nothing_else() {
    let host = host().await;
    let handler = |task: Context| async move {
        assert_eq!(task.payload(), b"good", "as the test wants it");
        Verdict::done([])
    };
    let _worker = host.work(handlers("touchy", handler), host.worker_config()).unwrap();
    let bad = submit(&host, once("touchy", b"bad")).await;
    let good = submit(&host, once("touchy", b"good")).await;
    let task = ended(&host, &bad).await;
    assert_eq!((task.state, task.cause), (State::Failed, Some(Cause::Panic)));
    assert!(task.error.unwrap().contains("as the test wants it"));
    assert_eq!(ended(&host, &good).await.state, State::Succeeded);
}

/// A handler that blocks its whole runtime must not lose its lease.
#[tokio::test]
async fn leases_are_renewed_while_a_handler_blocks_its_thread() {
    let host = host().await;
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let handlers_thread = {
        let (host, handlers) = (host.clone(), {
            let blocks = move |_: Context| {
                entered.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
                async { Verdict::done([]) }
            };
            handlers("blocks", blocks)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = host.worker_config();
        config.lease = Duration::from_millis(600);
        std::thread::spawn(move || {
            runtime.block_on(async { host.work(handlers, config).unwrap().ended().await })
        })
    };
    let id = submit(&host, once("blocks", b"")).await;
    tokio::task::spawn_blocking(move || has_entered.recv().unwrap()).await.unwrap();
    let lease = |task: Task| task.lease_expires_at.expect("it runs");
    let first = lease(host.engine().task(&id).await.unwrap().unwrap());
    // Renewals aren't hinted: asked again and again, until several leases have passed.
    loop {
        let task = host.engine().task(&id).await.unwrap().unwrap();
        assert_eq!((task.state, task.fence), (State::Running, 1));
        if lease(task).since(first) > 3 * Duration::from_millis(600) {
            break;
        }
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    assert_eq!(ended(&host, &id).await.state, State::Succeeded);
    host.close().await;
    handlers_thread.join().unwrap().unwrap();
}

#[tokio::test]
async fn draining_gives_attempts_back_and_aborts_what_does_not_stop() {
    let host = host().await;
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(1);
    let (dropped, mut was_dropped) = tokio::sync::mpsc::channel::<()>(1);
    let stubborn = move |_: Context| {
        let (entered, dropped) = (entered.clone(), dropped.clone());
        async move {
            entered.send(()).await.unwrap();
            let _held_until_dropped = dropped;
            std::future::pending().await
        }
    };
    let mut config = host.worker_config();
    config.grace = Duration::from_millis(50);
    let worker = host.work(handlers("stubborn", stubborn), config).unwrap();
    let id = submit(&host, once("stubborn", b"")).await;
    has_entered.recv().await.unwrap();
    worker.drain().await.unwrap();
    let task = host.engine().task(&id).await.unwrap().unwrap();
    assert_eq!((task.state, task.cause, task.attempt), (State::Ready, Some(Cause::Drained), 0));
    // The handler's own sender went with the worker, the attempt's with its task.
    assert_eq!(was_dropped.recv().await, None);
}

#[tokio::test]
async fn a_cancel_reaches_the_handler() {
    let host = host().await;
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(1);
    let waits = move |task: Context| {
        let entered = entered.clone();
        async move {
            entered.send(()).await.unwrap();
            Verdict::Cancel { reason: task.stopped().await.to_string() }
        }
    };
    let _worker = host.work(handlers("waits", waits), host.worker_config()).unwrap();
    let id = submit(&host, once("waits", b"")).await;
    has_entered.recv().await.unwrap();
    assert_eq!(host.engine().cancel(&id, "enough").await.unwrap(), Cancelled::Requested);
    let task = ended(&host, &id).await;
    assert_eq!((task.state, task.cause), (State::Cancelled, Some(Cause::Cancelled)));
    assert!(task.error.unwrap().contains("enough"));
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let error = Host::open(&"sqlite:/nowhere/at/all.db".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all.db"), "{error}");
}

/// A store at which the first look for lapsed leases panics.
#[derive(Debug, Clone)]
struct Touchy {
    store: AnyStorage,
    /// Is told of each such look.
    looks: mpsc::SyncSender<()>,
    first: Arc<AtomicBool>,
}

impl Storage for Touchy {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.store.claim(request).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.store.apply(batches).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        if matches!(query, Query::Lapsed { .. }) {
            let _ = self.looks.try_send(());
            assert!(!self.first.swap(false, Ordering::Relaxed), "as the test wants it");
        }
        self.store.read(query).await
    }

    fn hints(&self) -> Hints {
        self.store.hints()
    }
}

#[tokio::test]
async fn a_sweeper_that_panics_begins_anew() {
    let (looks, look) = mpsc::sync_channel(2);
    let open = async move || {
        let store = AnyStorage::open(&"sqlite::memory:".parse().unwrap()).await?;
        Ok(Touchy { store, looks, first: Arc::new(AtomicBool::new(true)) })
    };
    let host = Host::start(open).await.unwrap();
    host.sweep(Duration::from_millis(1));
    look.recv_timeout(LONG).unwrap();
    look.recv_timeout(LONG).expect("there is another sweeper after the one that panicked");
    host.close().await;
}
