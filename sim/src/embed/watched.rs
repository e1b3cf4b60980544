//! A service's own handler, as the simulated worker calls it: noted when it is entered and when it has its say, struck at
//! its edges, and its panics told.

use std::sync::Arc;
use std::task::Poll;

use steadfast_core::handler::Running;
use steadfast_core::{Context, Handler, Verdict};

use crate::history::{Event, Word};

use super::here::{self, Here};
use super::trouble::{ENTRY, LAST_WORD};
use super::workers::{Place, Process};

/// A handler of a service in one incarnation of a worker.
pub(super) struct Watched {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) place: Arc<Place>,
    pub(super) incarnation: u32,
    pub(super) process: Process,
}

impl Handler for Watched {
    fn call(&self, context: Context) -> Running {
        let Self { handler, place, incarnation, process } = self;
        let (handler, place, process, incarnation) =
            (handler.clone(), place.clone(), process.clone(), *incarnation);
        Box::pin(async move {
            let (task, fence) = (context.task_id().clone(), context.fence());
            let node = process.node();
            // A service's payload needn't hold the id, as those of the simulator's own scenarios do.
            let payload_id = task.to_string();
            node.record(Event::Entered { node: node.name().into(), task: task.clone(), payload_id, fence });
            place.stage.entered(place.name(), &task, fence);
            place.edge(incarnation, ENTRY, &task).await;
            let verdict = Attempt { handler, place: place.clone(), incarnation, process: process.clone() }
                .run(context)
                .await;
            node.record(Event::Said { task: task.clone(), fence, word: Word::of(&verdict) });
            place.edge(incarnation, LAST_WORD, &task).await;
            verdict
        })
    }
}

struct Attempt {
    handler: Arc<dyn Handler>,
    place: Arc<Place>,
    incarnation: u32,
    process: Process,
}

impl Attempt {
    async fn run(self, context: Context) -> Verdict {
        let task = context.task_id().clone();
        let node = self.process.node().name().to_owned();
        let world = self.process.node().world().clone();
        let here = Arc::new(Here { world, node: Some(node), task: Some(task.clone()) });
        let mut running: Option<Running> = None;
        let mut context = Some(context);
        std::future::poll_fn(move |polled_by| {
            let polled = here::act(&here, || {
                let running = running.get_or_insert_with(|| {
                    self.handler.call(context.take().expect("a handler is called once for an attempt"))
                });
                running.as_mut().poll(polled_by)
            });
            match polled {
                Ok(Poll::Pending) => {
                    self.place.edge_while_waiting(self.incarnation, &task);
                    Poll::Pending
                }
                Ok(ready) => ready,
                Err(panic) => {
                    self.place.stage.handler_panicked(&task, &panic);
                    // To the supervisor, which records it: this doesn't pass the hook.
                    std::panic::resume_unwind(Box::new(panic))
                }
            }
        })
        .await
    }
}
