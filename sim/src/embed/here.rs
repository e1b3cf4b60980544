//! Where a thread is in a simulation: whose future is being polled, so that a fake that the test owns can note what
//! was done to it.

use std::cell::RefCell;
use std::sync::Arc;

use steadfast_core::TaskId;

use crate::history::Event;
use crate::panics;
use crate::world::World;

thread_local! {
    static HERE: RefCell<Option<Arc<Here>>> = const { RefCell::new(None) };
}

/// Whose future is being polled.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) world: World,
    /// The process; `None` for the test itself.
    pub(super) node: Option<String>,
    /// The task whose handler it is.
    pub(super) task: Option<TaskId>,
}

/// Notes something in the history of the run that this thread is in, for the failure page: a fake says what was done to
/// it, a test how far it is. Outside of a run it does nothing.
pub fn note(text: impl Into<String>) {
    HERE.with_borrow(|here| {
        if let Some(here) = here {
            let event = Event::Noted { node: here.node.clone(), task: here.task.clone(), text: text.into() };
            here.world.record(event);
        }
    });
}

/// Who makes the choices of what is done here: the task, so that they don't depend on who else is there, or the test.
pub(super) fn actor() -> u64 {
    HERE.with_borrow(|here| {
        let task = here.as_ref().and_then(|here| here.task.as_ref());
        task.map_or(super::TEST, super::trouble::actor)
    })
}

/// Puts back what was there before, also where the act panics.
struct Restore(Option<Arc<Here>>);

impl Drop for Restore {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

/// Acts there. A panic is an error that says what the panic said, and where.
pub(super) fn act<T>(here: &Arc<Here>, act: impl FnOnce() -> T) -> Result<T, String> {
    let _restore = Restore(HERE.replace(Some(here.clone())));
    panics::catch(act)
}
