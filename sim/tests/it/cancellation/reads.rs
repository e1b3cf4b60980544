//! Calls that only read: dropped anywhere they have changed nothing, and answer when they are asked again.

use std::pin::Pin;
use std::time::Duration;

use steadfast_core::Error;
use steadfast_core::name::TaskId;
use steadfast_core::storage::{Query, TaskFilter};
use steadfast_core::task::{NewTask, OnParentFailure, Parent};
use steadfast_sim::cancel::Trial;

use super::bench::{Bench, SECOND, SimEngine, story, task};
use super::{Operation, Story};

const HOLDS: &str = "nothing has changed; asked again, it answers";

macro_rules! reads {
    ($($name:literal, $story:ident, |$engine:ident, $id:ident| $read:expr;)*) => {
        pub(crate) const OPERATIONS: &[Operation] = &[
            $(Operation { name: $name, holds: HOLDS, story: $story },)*
            Operation {
                name: "`wait`: until a task ends",
                holds: "nothing has changed; asked again, it answers with the task's end",
                story: wait_for_the_end,
            },
        ];
        $(fn $story(trial: Trial) -> Story {
            Box::pin(read(trial, |$engine, $id| Box::pin(async move { $read.await.map(drop) })))
        })*
    };
}

reads! {
    "`task`", one, |engine, id| engine.task(&id);
    "`tasks`", list, |engine, _id| engine.tasks(TaskFilter { limit: 10, ..TaskFilter::default() });
    "`attempts`", attempts, |engine, id| engine.attempts(&id);
    "`parents`", parents, |engine, _id| engine.parents(&TaskId::trusted("child"));
    "`log`", log, |engine, id| engine.log(&id, (0, 0), 10);
    "`checkpoints`", checkpoints, |engine, id| engine.checkpoints(&id);
    "`heads`", heads, |engine, id| engine.heads(vec![id]);
    "`stats`", stats, |engine, _id| engine.stats(SECOND, SECOND);
    "`workers`", workers, |engine, _id| engine.workers();
    "`read`", raw, |engine, id| engine.read(&Query::Task(id));
    "`diagnose`: a task that has ended", diagnose, |engine, id| engine.diagnose(&id);
    "`diagnose`: a task that waits", diagnose_waiting, |engine, _id| engine.diagnose(&TaskId::trusted("child"));
    "`wait`: for a later revision, in vain", wait_in_vain, |engine, id| engine.wait(&id, Some(u64::MAX), SECOND);
}

type Read = fn(SimEngine, TaskId) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A store with a task that was tried twice and one that waits for ever; nobody works on it while it is read.
async fn read(trial: Trial, read: Read) -> &'static str {
    let bench = Bench::new(&trial);
    let worker = bench.work("w");
    bench.submit(task("a", "again")).await;
    bench.reach("a", steadfast_core::State::Succeeded).await;
    worker.drain();
    tokio::time::sleep(SECOND * 2).await;
    let parent = Parent { id: TaskId::trusted("parent"), on_failure: OnParentFailure::Fail };
    bench.submit(task("parent", "quick")).await;
    bench.submit(NewTask { parents: vec![parent], ..task("child", "quick") }).await;
    let before = trial.world().history().entries().len();
    if let Some(answer) = trial.operate(read(bench.engine.clone(), TaskId::trusted("a"))).await {
        answer.expect("nothing disturbs a read");
    }
    bench.quiet().await;
    assert_eq!(trial.world().history().entries().len(), before, "a read has changed something");
    read(bench.engine.clone(), TaskId::trusted("a")).await.expect("nothing disturbs a read");
    let _worker = bench.work("w2");
    bench.rest().await;
    "nothing to find"
}

story!(wait_for_the_end, |bench| {
    let _worker = bench.work("w");
    let wait = async || {
        let ended = bench.engine.wait(&TaskId::trusted("a"), None, Duration::from_secs(30)).await;
        ended.expect("nothing disturbs a read").expect("it is stored")
    };
    bench.submit(NewTask { due: steadfast_core::task::Due::After(SECOND / 2), ..task("a", "quick") }).await;
    if let Some(ended) = bench.trial.operate(wait()).await {
        assert!(ended.state.is_terminal());
    }
    assert!(wait().await.state.is_terminal());
    bench.rest().await;
    "nothing to find"
});
