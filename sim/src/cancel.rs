//! Cancel everywhere: an operation is dropped at each of its await points in turn, and then every property is checked.
//!
//! A *story* is a future that sets the stage in a world, hands one operation to [`Trial::operate`], and goes on from
//! what came of it: it looks, asks again, waits until all has ended. [`cancel_everywhere`] tells it once with the operation
//! left alone, which shows where it waits and for how long; and then once for each [`Cut`]: at an await point as soon as
//! the operation waits there, while it waits, and when it would have gone on. The store is slow at each of its
//! statements, so that much may lie between the first and the last of these.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use steadfast_core::handler::Running;
use steadfast_core::{Context, Handler};

use crate::choices::{Choices, ODDS};
use crate::history::{Event, Word};
use crate::oracle;
use crate::scheduler::{Bounds, Scheduler};
use crate::world::{Faults, Kind, Node, Profile, World};

/// What one telling of a story may cost.
const BOUNDS: Bounds = Bounds { polls: 1_000_000, time: Duration::from_secs(3600) };
/// The latencies of the store are drawn from this seed.
const SEED: u64 = 0x5eed;
/// How often an operation is dropped at most between the beginning of a wait and its end.
const CUTS_WITHIN_MAX: u32 = 6;
/// The resolution of virtual time.
const TICK: Duration = Duration::from_millis(1);

/// Where an operation is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// At the how-manieth await point, from 1: a poll that came back pending.
    pub point: u32,
    /// When.
    pub moment: Moment,
}

/// When an operation that waits is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// As soon as it waits.
    AtOnce,
    /// When it has waited for so long.
    After(Duration),
    /// When it has been woken and would have gone on.
    Woken,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dropped at await point {}", self.point)?;
        match self.moment {
            Moment::AtOnce => f.write_str(" at once"),
            Moment::After(wait) => write!(f, " after {wait:?}"),
            Moment::Woken => f.write_str(" when it was woken"),
        }
    }
}

/// The world of a story, and the operation's executioner. Clones are one trial.
#[derive(Debug, Clone)]
pub struct Trial {
    world: World,
    knife: Arc<Mutex<Knife>>,
}

#[derive(Debug)]
struct Knife {
    cut: Option<Cut>,
    /// How long the operation waited at each of its await points; `None` while it does.
    waits: Vec<Option<Duration>>,
    has_cut: bool,
}

/// What the operation does next.
enum Next {
    GoOn,
    /// It waits at the point where it is to be dropped when so much time has passed, or when it is woken.
    Armed(Option<Duration>),
    Drop,
}

impl Trial {
    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Whether the operation was dropped.
    pub fn has_cut(&self) -> bool {
        self.lock().has_cut
    }

    /// Runs the operation, and drops it where it is to be dropped: then there is no answer. What is operated after that,
    /// and in the telling in which nothing is dropped, comes to its end.
    pub async fn operate<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        let mut operation = Some(Box::pin(operation));
        let mut since: Option<tokio::time::Instant> = None;
        let mut armed = None;
        std::future::poll_fn(|context| {
            let running = operation.as_mut().expect("it is polled until it has ended");
            match &mut armed {
                None => {}
                // Whoever polls it has woken it.
                Some(None) => return self.cut(operation.take()),
                Some(Some(timer)) => {
                    let timer: &mut std::pin::Pin<Box<tokio::time::Sleep>> = timer;
                    if timer.as_mut().poll(context).is_ready() {
                        return self.cut(operation.take());
                    }
                }
            }
            if let Some(since) = since.take() {
                self.waited(since.elapsed());
            }
            if let Poll::Ready(value) = running.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            since = Some(tokio::time::Instant::now());
            match self.next() {
                Next::GoOn => {}
                Next::Drop => return self.cut(operation.take()),
                Next::Armed(None) => armed = Some(None),
                Next::Armed(Some(wait)) => {
                    let mut timer = Box::pin(tokio::time::sleep(wait));
                    assert!(timer.as_mut().poll(context).is_pending(), "the wait isn't over yet");
                    armed = Some(Some(timer));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// A handler, [noted], whose process is lost where the operation is to be dropped: the node crashes with all that is
    /// on it.
    pub fn handler(&self, node: &Node, handler: impl Handler) -> impl Handler {
        let (trial, node, handler) = (self.clone(), node.clone(), noted(node, handler));
        move |context: Context| {
            let (trial, node) = (trial.clone(), node.clone());
            let running: Running = handler.call(context);
            async move {
                match trial.operate(running).await {
                    Some(verdict) => verdict,
                    None => {
                        node.crash();
                        std::future::pending().await
                    }
                }
            }
        }
    }

    fn cut<F, T>(&self, operation: Option<F>) -> Poll<Option<T>> {
        self.lock().has_cut = true;
        // Outside the lock: destructors may do anything.
        drop(operation);
        Poll::Ready(None)
    }

    fn waited(&self, time: Duration) {
        let mut knife = self.lock();
        if let (false, Some(last)) = (knife.has_cut, knife.waits.last_mut()) {
            *last = Some(time);
        }
    }

    /// Counts an await point.
    fn next(&self) -> Next {
        let mut knife = self.lock();
        if knife.has_cut {
            return Next::GoOn;
        }
        knife.waits.push(None);
        match knife.cut {
            Some(Cut { point, moment }) if point as usize == knife.waits.len() => match moment {
                Moment::AtOnce => Next::Drop,
                Moment::After(wait) => Next::Armed(Some(wait)),
                Moment::Woken => Next::Armed(None),
            },
            Some(_) | None => Next::GoOn,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Knife> {
        // Nothing under this lock can panic half-way.
        self.knife.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes when a handler is entered and what it says, as the oracle has to know of every handler.
pub fn noted(node: &Node, handler: impl Handler) -> impl Handler {
    let node = node.clone();
    move |context: Context| {
        let (node, task, fence) = (node.clone(), context.task_id().clone(), context.fence());
        // What is in the payload is the handler's alone.
        let payload_id = task.to_string();
        node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
        let running = handler.call(context);
        async move {
            let verdict = running.await;
            node.record(Event::Said { task, fence, word: Word::of(&verdict) });
            verdict
        }
    }
}

/// One telling of a story.
#[derive(Debug)]
pub struct Told<T> {
    /// Where the operation was dropped; nowhere in the first telling.
    pub cut: Option<Cut>,
    /// What the story came to; or what went wrong: a property that is broken, a panic, a run that got stuck.
    pub outcome: Result<T, String>,
}

/// All tellings of a story.
#[derive(Debug)]
pub struct Everywhere<T> {
    /// How many await points the operation has.
    pub points: u32,
    /// The tellings, the undisturbed one first.
    pub told: Vec<Told<T>>,
}

impl<T> Everywhere<T> {
    /// What went wrong, and where the operation had been dropped.
    pub fn broken(&self) -> Vec<String> {
        let broken = self.told.iter().filter_map(|told| Some((told.cut, told.outcome.as_ref().err()?)));
        broken
            .map(|(cut, why)| match cut {
                Some(cut) => format!("{cut}: {why}"),
                None => format!("left alone: {why}"),
            })
            .collect()
    }

    /// That nothing went wrong.
    ///
    /// # Panics
    /// Something did.
    #[track_caller]
    pub fn assert_holds(&self) {
        let broken = self.broken();
        assert!(
            broken.is_empty(),
            "of {} tellings {} went wrong:\n{}",
            self.told.len(),
            broken.len(),
            broken.join("\n")
        );
    }
}

impl<T: Ord + Clone> Everywhere<T> {
    /// What the story came to where the operation was dropped, and how often.
    pub fn outcomes(&self) -> BTreeMap<T, u32> {
        let mut outcomes = BTreeMap::new();
        for told in self.told.iter().filter(|told| told.cut.is_some()) {
            if let Ok(outcome) = &told.outcome {
                *outcomes.entry(outcome.clone()).or_default() += 1;
            }
        }
        outcomes
    }
}

/// Tells a story once with its operation left alone, and once for each place at which it can be dropped. At the end of
/// each telling every property of the oracle must hold of its history; so the story must end at rest, with all
/// tasks ended, and must note what its clients do ([`Event`]) and its handlers ([`noted`]). A task's output is its
/// attempt's word where it says under which fence: `fence 3`.
pub fn cancel_everywhere<T, F>(profile: Profile, story: impl Fn(Trial) -> F) -> Everywhere<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (first, waits) = tell(profile, None, &story);
    let points = u32::try_from(waits.len()).expect("bounded by the polls of a run");
    let mut told = vec![first];
    for (point, wait) in (1..).zip(waits) {
        let moments = [Moment::AtOnce]
            .into_iter()
            .chain(wait.into_iter().flat_map(within))
            .chain(wait.map(|_| Moment::Woken));
        told.extend(moments.map(|moment| tell(profile, Some(Cut { point, moment }), &story).0));
    }
    Everywhere { points, told }
}

/// Moments between the beginning of a wait and its end, evenly.
fn within(wait: Duration) -> impl Iterator<Item = Moment> {
    let ticks = u32::try_from(wait.as_millis().saturating_sub(1)).unwrap_or(u32::MAX);
    let cuts = ticks.min(CUTS_WITHIN_MAX);
    (1..=cuts).map(move |number| {
        Moment::After(TICK * (u64::from(ticks) * u64::from(number) / u64::from(cuts)) as u32)
    })
}

fn tell<T, F>(
    profile: Profile,
    cut: Option<Cut>,
    story: impl Fn(Trial) -> F,
) -> (Told<T>, Vec<Option<Duration>>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let choices = Choices::from_seed(SEED);
    let faults = Faults { latency: ODDS, ..Faults::default() };
    let scheduler = Scheduler::new(choices.clone(), 0);
    let world = World::on(scheduler.clone(), choices, Kind { faults, ..Kind::of(profile) });
    let knife = Arc::new(Mutex::new(Knife { cut, waits: Vec::new(), has_cut: false }));
    let trial = Trial { world: world.clone(), knife };
    let ran = catch_unwind(AssertUnwindSafe(|| scheduler.run(BOUNDS, story(trial.clone()))));
    let broken = oracle::judge(&world.history().entries(), true);
    let outcome = match ran {
        Err(panic) => Err(format!("the story panicked: {}", words(&*panic))),
        Ok(Err(stuck)) => Err(stuck.to_string()),
        Ok(Ok(_)) if cut.is_some() && !trial.has_cut() => {
            Err("the operation never came there: it isn't the same each time".into())
        }
        Ok(Ok(_)) if !broken.is_empty() => {
            let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
            Err(broken.join("; "))
        }
        Ok(Ok(value)) => Ok(value),
    };
    let waits = std::mem::take(&mut trial.lock().waits);
    (Told { cut, outcome }, waits)
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits twice, and leaves a mark after each; and one when it is dropped.
    async fn two_waits(marks: Arc<Mutex<Vec<&'static str>>>) {
        struct Last(Arc<Mutex<Vec<&'static str>>>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.lock().expect("not poisoned").push("dropped");
            }
        }
        let _last = Last(marks.clone());
        tokio::time::sleep(Duration::from_millis(4)).await;
        marks.lock().expect("not poisoned").push("first");
        crate::scheduler::yield_now().await;
        marks.lock().expect("not poisoned").push("second");
    }

    #[test]
    fn an_operation_is_dropped_at_each_of_its_await_points() {
        let everywhere = cancel_everywhere(Profile::Postgres, |trial| async move {
            let marks = Arc::new(Mutex::new(Vec::new()));
            let start = tokio::time::Instant::now();
            let ended = trial.operate(two_waits(marks.clone())).await;
            let marks = marks.lock().expect("not poisoned").join(" ");
            (start.elapsed().as_millis(), marks, ended.is_some())
        });
        everywhere.assert_holds();
        assert_eq!(everywhere.points, 2);
        let told: Vec<_> =
            everywhere.told.iter().map(|told| (told.cut, told.outcome.clone().expect("it holds"))).collect();
        let cut = |point, moment| Some(Cut { point, moment });
        let after = |millis| Moment::After(Duration::from_millis(millis));
        let expected = [
            (None, (4, "first second dropped", true)),
            (cut(1, Moment::AtOnce), (0, "dropped", false)),
            (cut(1, after(1)), (1, "dropped", false)),
            (cut(1, after(2)), (2, "dropped", false)),
            (cut(1, after(3)), (3, "dropped", false)),
            (cut(1, Moment::Woken), (4, "dropped", false)),
            (cut(2, Moment::AtOnce), (4, "first dropped", false)),
            (cut(2, Moment::Woken), (4, "first dropped", false)),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(cut, (ms, marks, ended))| (cut, (ms, marks.to_owned(), ended)))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn what_goes_wrong_is_told_with_its_place() {
        let everywhere = cancel_everywhere(Profile::Sqlite, |trial| async move {
            let ended = trial.operate(crate::scheduler::yield_now()).await;
            assert!(ended.is_some(), "it was dropped");
        });
        let broken = everywhere.broken();
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert_eq!(broken[0], "dropped at await point 1 at once: the story panicked: it was dropped");
    }
}
