//! What runs in a worker's process: what a handler waits for, handlers themselves, and the futures that a process runs
//! for as long as it lives.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use steadfast_core::name::{Kind, TaskId};
use steadfast_core::step::Report;
use steadfast_core::task::{LogLine, NewTask, Stream};
use steadfast_core::{Context, Engine, ErrorKind, ReportError, State, Verdict, sweeper};
use steadfast_sim::cancel::noted;
use steadfast_sim::history::Event;

use super::Operation;
use super::bench::{Bench, LEASE, SECOND, done, story, task};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { name: "`report`", holds: "the same report again is kept once", story: report },
    Operation {
        name: "`Context::checkpoint`",
        holds: "the same checkpoint again is stored; the attempt goes on",
        story: checkpoint,
    },
    Operation {
        name: "`Context::checkpoints`",
        holds: "asked again, the steps of the attempt before are there",
        story: checkpoints,
    },
    Operation {
        name: "`Context::step`",
        holds: "the step again answers with one result, which is stored",
        story: step,
    },
    Operation { name: "`Context::alias`", holds: "the same alias again stands for the task", story: alias },
    Operation {
        name: "`Context::stopped`",
        holds: "asked again, it answers why the attempt is to stop",
        story: stopped,
    },
    Operation {
        name: "a handler with two steps; its process is lost with it",
        holds: "another worker finishes it: no finished step is done again",
        story: handler,
    },
    Operation {
        name: "`Supervisor::run`; its process goes on",
        holds: "its attempts' leases lapse, and another worker does the tasks",
        story: supervisor,
    },
    Operation {
        name: "`Supervisor::run`, while it is drained",
        holds: "another worker does what it had not given back",
        story: drained,
    },
    Operation { name: "`sweeper::run`", holds: "another sweeper reclaims the lost task, once", story: swept },
    Operation {
        name: "the committer, under a submit; its process ends",
        holds: "a submit with a definite error left nothing; the same submit of another process is accepted",
        story: committer,
    },
];

/// A worker of its own, `w`, which runs the kind `own` with this handler; tasks of other kinds as all do.
fn work_on<F>(bench: &Bench, own: impl Fn(Context) -> F + Send + Sync + 'static)
where
    F: Future<Output = Verdict> + Send + 'static,
{
    let worker = bench.process("w");
    let handlers = worker.handlers().with(Kind::trusted("own"), worker.noted(own));
    let (supervisor, _drain) = worker.supervisor(handlers);
    worker.node.spawn("supervisor", supervisor.run());
}

story!(report, |bench| {
    let _worker = bench.work("w");
    bench.submit(task("a", "steady")).await;
    bench.reach("a", State::Running).await;
    let id = TaskId::trusted("a");
    let mut said = Report::new(id.clone(), 1);
    said.lines.push(LogLine { number: 1, ago: SECOND / 10, stream: Stream::Log, text: "here".into() });
    bench.trial.operate(bench.engine.report(said.clone())).await;
    bench.quiet().await;
    let lines = async || bench.engine.log(&id, (0, 0), 10).await.expect("nothing disturbs it").len();
    let found = if lines().await == 1 { "kept" } else { "not kept" };
    bench.engine.report(said).await.expect("nothing disturbs it");
    bench.node.record(Event::Reported { task: id.clone(), fence: 1, number: 1, kept: true });
    assert_eq!(lines().await, 1);
    bench.rest().await;
    found
});

type Said = Pin<Box<dyn Future<Output = Result<&'static str, ReportError>> + Send>>;

/// Plays a handler that drops its operation, and says how it was found then.
async fn in_handler(bench: &Bench, handler: fn(Bench, Context) -> Said) -> &'static str {
    let (own, found) = (bench.clone(), Arc::new(Mutex::new(None)));
    let say = found.clone();
    work_on(bench, move |context: Context| {
        let (own, say) = (own.clone(), say.clone());
        async move {
            match handler(own, context.clone()).await {
                Ok(said) => {
                    say.lock().expect("not poisoned").get_or_insert(said);
                    done(&context)
                }
                Err(error) => error.into(),
            }
        }
    });
    bench.submit(NewTask { attempts_max: 2, ..task("a", "own") }).await;
    bench.rest().await;
    let task = bench.find("a").await.expect("it is stored");
    assert_eq!(task.state, State::Succeeded, "{:?}", task.error);
    let said = *found.lock().expect("not poisoned");
    said.expect("the handler ran")
}

/// A story that is a handler's.
macro_rules! in_handler {
    ($name:ident, |$bench:ident, $context:ident| $body:block) => {
        story!($name, |bench| {
            in_handler(&bench, |$bench, $context| Box::pin(async move { $body })).await
        });
    };
}

/// How many finished steps the store has of the task.
async fn stored_steps(bench: &Bench) -> Vec<(String, Vec<u8>)> {
    let steps = bench.engine.checkpoints(&TaskId::trusted("a")).await.expect("nothing disturbs it");
    steps.into_iter().map(|step| (step.name, step.value.to_vec())).collect()
}

fn one_step(value: &str) -> Vec<(String, Vec<u8>)> {
    vec![("one".to_owned(), value.as_bytes().to_vec())]
}

in_handler!(checkpoint, |bench, context| {
    bench.trial.operate(context.checkpoint("one", *b"1")).await;
    bench.quiet().await;
    let found = if stored_steps(&bench).await.is_empty() { "not stored" } else { "stored" };
    context.checkpoint("one", *b"1").await?;
    assert_eq!(stored_steps(&bench).await, one_step("1"));
    Ok(found)
});

in_handler!(step, |bench, context| {
    let work = async |value: &'static str| {
        steadfast_sim::scheduler::yield_now().await;
        Ok::<_, ReportError>(value.as_bytes().to_vec())
    };
    bench.trial.operate(context.step("one", || work("first"))).await;
    bench.quiet().await;
    let found = if stored_steps(&bench).await.is_empty() { "not stored" } else { "stored" };
    let value = context.step("one", || work("second")).await?;
    // What is stored counts, also where nobody was told.
    let expected = if found == "stored" { "first" } else { "second" };
    assert_eq!((&*value, stored_steps(&bench).await), (expected.as_bytes(), one_step(expected)));
    Ok(found)
});

in_handler!(checkpoints, |bench, context| {
    if context.attempt() == 1 {
        context.checkpoint("one", *b"1").await?;
        return Err(ReportError::Invalid("the next attempt reads".into()));
    }
    bench.trial.operate(context.checkpoints()).await;
    bench.quiet().await;
    assert_eq!(context.checkpoints().await?.keys().map(String::as_str).collect::<Vec<_>>(), ["one"]);
    Ok("nothing to find")
});

in_handler!(alias, |bench, context| {
    let alias = TaskId::trusted("another");
    bench.trial.operate(context.alias(alias.clone())).await;
    bench.quiet().await;
    let found = if bench.find("another").await.is_some() { "stored" } else { "not stored" };
    context.alias(alias).await?;
    assert_eq!(bench.find("another").await.map(|task| task.id), Some(TaskId::trusted("a")));
    Ok(found)
});

story!(stopped, |bench| {
    let own = bench.clone();
    work_on(&bench, move |context: Context| {
        let bench = own.clone();
        async move {
            bench.trial.operate(context.stopped()).await;
            Verdict::error(context.stopped().await)
        }
    });
    bench.submit(task("a", "own")).await;
    bench.reach("a", State::Running).await;
    tokio::time::sleep(SECOND / 10).await;
    bench.engine.cancel(&TaskId::trusted("a"), "enough").await.expect("nothing disturbs it");
    bench.node.record(Event::Cancelled { task: TaskId::trusted("a"), acknowledged: true });
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Cancelled);
    "nothing to find"
});

/// What a handler did outside: how often each of its steps.
type Deeds = Arc<Mutex<[u32; 2]>>;

story!(handler, |bench| {
    let deeds: Deeds = Arc::default();
    let two_steps = |deeds: &Deeds| {
        let deeds = deeds.clone();
        move |context: Context| {
            let deeds = deeds.clone();
            async move {
                for (number, name) in ["one", "two"].into_iter().enumerate() {
                    let work = async || {
                        tokio::time::sleep(SECOND / 100).await;
                        deeds.lock().expect("not poisoned")[number] += 1;
                        Ok::<_, ReportError>(*b"")
                    };
                    if let Err(error) = context.step(name, work).await {
                        return error.into();
                    }
                }
                done(&context)
            }
        }
    };
    let lost = bench.process("lost");
    let own = bench.trial.handler(&lost.node, two_steps(&deeds));
    let (supervisor, _drain) = lost.supervisor(lost.handlers().with(Kind::trusted("own"), own));
    lost.node.spawn("supervisor", supervisor.run());
    bench.submit(task("a", "own")).await;
    tokio::time::sleep(SECOND).await;
    let found = match stored_steps(&bench).await.len() {
        0 => "no step stored",
        1 => "one step stored",
        _ => "both steps stored",
    };
    let before = *deeds.lock().expect("not poisoned");
    let worker = bench.process("w");
    let handlers = worker.handlers().with(Kind::trusted("own"), noted(&worker.node, two_steps(&deeds)));
    let (supervisor, _drain) = worker.supervisor(handlers);
    worker.node.spawn("supervisor", supervisor.run());
    worker.node.spawn("sweeper", sweeper::run(worker.engine.clone(), SECOND));
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    let after = *deeds.lock().expect("not poisoned");
    let stored = stored_steps(&bench).await.len();
    let expected = match found {
        "no step stored" => [before[0] + 1, 1],
        "one step stored" => [1, before[1] + 1],
        _ => [1, 1],
    };
    assert_eq!((after, stored), (expected, 2), "from {before:?}");
    found
});

/// Where a task of a worker was when that was dropped.
async fn standing(bench: &Bench) -> &'static str {
    match bench.state("a").await {
        State::Ready => "waiting",
        State::Running => "running",
        State::Succeeded => "succeeded",
        other => panic!("it is {other}"),
    }
}

story!(supervisor, |bench| {
    let lost = bench.process("lost");
    let (supervisor, drain) = lost.supervisor(lost.handlers());
    bench.submit(task("a", "steady")).await;
    let run = async {
        // It ends when it has nothing more to do.
        let drained = async {
            bench.reach("a", State::Succeeded).await;
            drain.drain();
        };
        futures_util::future::join(bench.trial.operate(supervisor.run()), drained).await
    };
    tokio::time::timeout(SECOND * 5, run).await.ok();
    let found = standing(&bench).await;
    let _worker = bench.work("w");
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    found
});

story!(drained, |bench| {
    let lost = bench.process("lost");
    let (supervisor, drain) = lost.supervisor(lost.handlers());
    bench.submit(NewTask { rescues_max: 1, ..task("a", "steady") }).await;
    let mut running = Box::pin(supervisor.run());
    let until = tokio::time::sleep(SECOND);
    futures_util::future::select(running.as_mut(), std::pin::pin!(until)).await;
    assert_eq!(standing(&bench).await, "running");
    drain.drain();
    bench.trial.operate(running).await;
    bench.quiet().await;
    let found = standing(&bench).await;
    let _worker = bench.work("w");
    bench.rest().await;
    assert_eq!(bench.state("a").await, State::Succeeded);
    found
});

story!(swept, |bench| {
    let lost = bench.process("lost");
    let (supervisor, _drain) = lost.supervisor(lost.handlers());
    lost.node.spawn("supervisor", supervisor.run());
    bench.submit(task("a", "steady")).await;
    bench.reach("a", State::Running).await;
    lost.node.crash();
    tokio::time::sleep(LEASE - SECOND).await;
    let swept = bench.trial.operate(sweeper::run(bench.engine.clone(), SECOND));
    tokio::time::timeout(SECOND * 3, swept).await.ok();
    bench.quiet().await;
    let found = standing(&bench).await;
    let _worker = bench.work("w");
    bench.rest().await;
    let task = bench.find("a").await.expect("it is stored");
    assert_eq!((task.state, task.fence, task.rescues), (State::Succeeded, 2, 1));
    found
});

story!(committer, |bench| {
    let node = bench.trial.world().start("other", 100);
    let (engine, commits) = Engine::new(node.storage(), node.clock());
    bench.announce(&["a"]);
    let submit = async {
        let answer = engine.submit(task("a", "quick")).await;
        // The last handle goes, and the committer ends.
        drop(engine);
        answer
    };
    let commits = async {
        if bench.trial.operate(commits).await.is_none() {
            node.crash();
        }
    };
    let ((), answer) = futures_util::future::join(commits, submit).await;
    let id = TaskId::trusted("a");
    bench.quiet().await;
    let found = if bench.find("a").await.is_some() { "stored" } else { "not stored" };
    match answer {
        Ok(answer) => drop(bench.told(&id, Some(answer))),
        Err(error) if error.kind() == ErrorKind::Unknown => bench.unheard("a"),
        Err(error) => assert_eq!(found, "not stored", "after a definite error: {error}"),
    }
    let _worker = bench.work("w");
    bench.submit(task("a", "quick")).await;
    bench.rest().await;
    found
});
