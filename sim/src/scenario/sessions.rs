//! Users' sessions beside the engine: a report that reads for long in one transaction at REPEATABLE READ, and handlers that
//! count in transactions of their own. The report goes on to see what it saw first (as in incident 4, and as it asked
//! for); the engine's reads and the next transaction see what is. A handler's transaction that meets another's
//! conflicts, and none of its work is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use steadfast_core::task::Task;
use steadfast_core::{Context, ErrorKind, State, Verdict};

use super::incidents::{Process, done, heal_and_end, new_task, number_of};
use super::{Goals, Scenario};
use crate::choices::Stream;
use crate::history::{Entry, Event};
use crate::session::{Level, Session};
use crate::world::World;

const PINNED: &str = "a report went on to see an old status, which the engine's reads did not";
const FRESH: &str = "its next transaction saw the end";
const CONFLICTED: &str = "a handler's transaction conflicted, and was done again";
const COUNTED: &str = "what handlers counted was all there";

/// This scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "sessions",
    about: "users' sessions at REPEATABLE READ: a report with a long snapshot, handlers that count in transactions",
    goals: Goals { all: &[PINNED, FRESH, CONFLICTED, COUNTED], reached, has_faults: false },
    run: &|world| Box::pin(run(world)),
};

const TASKS: u64 = 4;
/// What handlers count in.
const COUNT: &str = "count";
/// How often a handler begins its transaction again.
const ROUNDS_MAX: u32 = 30;

async fn run(world: World) {
    let api = Process::start(&world, "api");
    for name in ["w0", "w1"] {
        Process::start_worker(&world, name, 2, |process, context| Box::pin(count(process, context)));
    }
    let report = world.start("report", 100);
    let mut session = report.session();
    for number in 0..TASKS {
        let task = new_task("task", number);
        let id = task.id.clone();
        api.submit(task, 0).await;
        api.pause("report begins", number, &[20, 0, 400, 1_500]).await;
        let begun = session.begin(Level::RepeatableRead).await.is_ok();
        let pinned = session.task(&id).await.ok().flatten();
        let asked_at = world.now();
        let waited = api.engine.wait(&id, None, Duration::from_secs(30)).await;
        if let Ok(Some(task)) = &waited {
            looked(&api, task, asked_at);
        }
        let again = session.task(&id).await.ok().flatten();
        let ended = waited.ok().flatten().filter(|task| task.state.is_terminal());
        if let (true, Some(pinned), Some(again), Some(ended)) = (begun, pinned, again, ended)
            && pinned.rev < ended.rev
        {
            let is_same = (pinned.rev, pinned.state) == (again.rev, again.state);
            assert!(is_same, "a snapshot moved: {pinned:?} became {again:?}");
            world.record(Event::Did { what: PINNED });
            let _ = session.commit().await;
            if session.task(&id).await.ok().flatten().is_some_and(|task| task.rev >= ended.rev) {
                world.record(Event::Did { what: FRESH });
            }
        }
        // A session that was lost is never the same again.
        session = report.session();
    }
    drop(session);
    heal_and_end(&world).await;
    all_is_counted(&world, &report.session()).await;
}

fn looked(api: &Process, task: &Task, asked_at: steadfast_core::Timestamp) {
    let reader = api.node.name().to_owned();
    let (task, rev, state) = (task.id.clone(), task.rev, task.state);
    api.node.record(Event::Looked { reader, task, rev, state, asked_at });
}

/// A handler: adds one under its task's name, once for each task however often it runs.
async fn count(process: Process, context: Context) -> Verdict {
    let mine = context.task_id().to_string();
    for _ in 0..ROUNDS_MAX {
        match add(&process, &context, &mine).await {
            Ok(()) => return done(&context),
            Err(error) => {
                if error.kind() == ErrorKind::Conflict {
                    process.node.record(Event::Did { what: CONFLICTED });
                }
                process.pause("begins again", number_of(&context), &[10, 1, 50]).await;
            }
        }
    }
    Verdict::error("the database is too busy")
}

async fn add(process: &Process, context: &Context, mine: &str) -> Result<(), steadfast_core::Error> {
    let session = process.node.session();
    session.begin(Level::RepeatableRead).await?;
    if session.value(mine).await?.is_none() {
        let count = number(session.value(COUNT).await?);
        let pause = process.pick(Stream::Workload, "computes", number_of(context), 3);
        tokio::time::sleep(Duration::from_millis([0, 5, 40][pause])).await;
        session.put(COUNT, (count + 1).to_string()).await?;
        session.put(mine, *b"counted").await?;
    }
    session.commit().await
}

/// Nobody's work was overwritten: so many were counted as have left their mark.
async fn all_is_counted(world: &World, session: &Session) {
    let mut marks = 0;
    for task in world.history().tasks().values() {
        let mark = session.value(task.id.as_str()).await.expect("faults have stopped");
        assert!(mark.is_some() || task.state != State::Succeeded, "{} succeeded and didn't count", task.id);
        marks += u64::from(mark.is_some());
    }
    let count = number(session.value(COUNT).await.expect("faults have stopped"));
    assert_eq!(count, marks, "an update was lost");
    world.record(Event::Did { what: COUNTED });
}

fn number(value: Option<Vec<u8>>) -> u64 {
    let text = value.map(|value| String::from_utf8(value).expect("only numbers are stored"));
    text.map_or(0, |text| text.parse().expect("only numbers are stored"))
}

fn reached(entries: &[Entry]) -> BTreeSet<&'static str> {
    let did = |entry: &Entry| if let Event::Did { what } = entry.event { Some(what) } else { None };
    entries.iter().filter_map(did).collect()
}

#[cfg(test)]
mod tests {
    use super::super::holds_and_reaches_its_goals;

    #[test]
    fn sessions_conflict_and_lose_nothing() {
        holds_and_reaches_its_goals(&super::SCENARIO);
    }
}
