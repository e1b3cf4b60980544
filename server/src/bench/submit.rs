//! Submitting: callers one after the other, callers at once, and sets.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use steadfast::core::engine::Submitted;
use steadfast::{AnyStorage, Engine, Host, NewTask, TokioClock};

use super::{Error, SET, new_task, rate};

/// How long callers go on submitting.
const CALLING_TIME: Duration = Duration::from_secs(1);
/// How many sets are on their way at once: one is committed while the next is put together.
const SETS_AT_ONCE: usize = 4;

/// Submits a second by this many callers, each a task of its own, which submits again when it has its answer.
pub(super) async fn by_callers(host: &Host<AnyStorage>, callers: usize) -> Result<f64, Error> {
    let began = Instant::now();
    let calling = (0..callers).map(|_| {
        let engine = host.engine().clone();
        tokio::spawn(async move {
            let mut submitted = 0;
            while began.elapsed() < CALLING_TIME {
                submit(&engine, new_task()).await?;
                submitted += 1;
            }
            Ok::<_, Error>(submitted)
        })
    });
    let counts = try_join_all(calling).await.map_err(|error| Error::Wrong(error.to_string()))?;
    let took = began.elapsed();
    let counts = counts.into_iter().collect::<Result<Vec<usize>, Error>>()?;
    Ok(rate(counts.iter().sum(), took))
}

/// Submits a second in sets, several callers taking turns. The tasks are made beforehand.
pub(super) async fn in_sets(host: &Host<AnyStorage>, tasks: usize) -> Result<f64, Error> {
    let all: Vec<NewTask> = (0..tasks).map(|_| new_task()).collect();
    let sets: Vec<Vec<NewTask>> = all.chunks(SET).map(<[NewTask]>::to_vec).collect();
    drop(all);
    let mut shares: Vec<Vec<Vec<NewTask>>> = (0..SETS_AT_ONCE).map(|_| Vec::new()).collect();
    for (number, set) in sets.into_iter().enumerate() {
        shares[number % SETS_AT_ONCE].push(set);
    }
    let began = Instant::now();
    let calling = shares.into_iter().map(|sets| {
        let engine = host.engine().clone();
        tokio::spawn(async move {
            for set in sets {
                try_join_all(set.into_iter().map(|task| submit(&engine, task))).await?;
            }
            Ok::<_, Error>(())
        })
    });
    let ends = try_join_all(calling).await.map_err(|error| Error::Wrong(error.to_string()))?;
    let took = began.elapsed();
    ends.into_iter().collect::<Result<(), Error>>()?;
    Ok(rate(tasks, took))
}

/// Submits one task, which must be accepted as new.
pub(super) async fn submit(engine: &Engine<AnyStorage, TokioClock>, task: NewTask) -> Result<(), Error> {
    match engine.submit(task).await? {
        Submitted::Accepted(accepted) if accepted.is_new => Ok(()),
        other => Err(Error::Wrong(format!("a new task was answered with {other:?}"))),
    }
}
