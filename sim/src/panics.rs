//! Panics that are part of what is told: their words and their place go on the page, not to the terminal.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

thread_local! {
    /// How deep in calls whose panics are caught.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// What the last of them said.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How the standard library begins to tell of a panic after which it aborts: one in a destructor while another unwinds.
const NO_RETURN: &str = "panic in a ";

/// Acts. A panic is an error that says what the panic said, and where.
#[expect(clippy::print_stderr, reason = "the last words of the process")]
pub(crate) fn catch<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let otherwise = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let words = words(panic);
            if CATCHING.get() == 0 {
                otherwise(panic);
            } else if words.starts_with(NO_RETURN) {
                // The process ends here: what led to it would be lost.
                eprintln!("{}", SAID.take().unwrap_or_default());
                otherwise(panic);
            } else {
                SAID.set(Some(words));
            }
        }));
    });
    CATCHING.set(CATCHING.get() + 1);
    let caught = catch_unwind(AssertUnwindSafe(act));
    CATCHING.set(CATCHING.get() - 1);
    caught.map_err(|payload| {
        // `resume_unwind` doesn't pass the hook.
        let said = SAID.take().or_else(|| payload.downcast_ref::<String>().cloned());
        said.unwrap_or_else(|| "a panic without words".to_owned())
    })
}

/// One line: `assert_eq!` says its sides on lines of their own.
fn words(panic: &PanicHookInfo<'_>) -> String {
    let said = panic.payload_as_str().unwrap_or("a panic without words");
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
    lines.join("; ") + &place.unwrap_or_default()
}
