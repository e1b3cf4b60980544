//! What the tests' handlers have in common: scripts that show two attempts of a task at once, and how to find the
//! processes of attempts.

use crate::place::{Place, until};

/// The configuration of a handler that does this, in a shell, and puts out its task's id. Each attempt holds a lock
/// while it runs, so that two at once of one task are seen; the marker among its arguments finds its processes. It
/// survives any number of lost workers.
pub(crate) fn exclusive(kind: &str, marker: &str, script: &str) -> String {
    format!(
        r#"
[handlers.{kind}]
exec = ["sh", "-c", """
exec 9> lock.$STEADFAST_TASK_ID
flock -n 9 || echo $STEADFAST_TASK_ID >> overlaps
{script}
echo $STEADFAST_TASK_ID > $STEADFAST_OUTPUT
""", "{marker}"]
attempts = 1
rescues = 100
"#
    )
}

/// No two attempts of an [`exclusive`] handler's task ran at the same time.
#[track_caller]
pub(crate) fn assert_no_overlaps(place: &Place) {
    let overlaps = std::fs::read_to_string(place.path().join("overlaps")).unwrap_or_default();
    assert_eq!(overlaps, "", "two attempts of one task ran at once");
}

/// The output of an [`exclusive`] handler, as the API shows it.
pub(crate) fn output(id: &str) -> String {
    steadfast_server::wire::to_base64(format!("{id}\n").as_bytes())
}

/// What no other process has among its arguments.
pub(crate) fn marker(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// The command lines of the processes that have this marker among their arguments: the attempts' shells.
pub(crate) fn processes(marker: &str) -> Vec<String> {
    let found = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(marker).then_some(line)
    });
    found.collect()
}

/// The lines of the file `entered`, into which handlers write when they are entered.
pub(crate) fn entered(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path().join("entered")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until handlers have been entered so many times, and says by which tasks, in order.
#[track_caller]
pub(crate) fn entered_times(place: &Place, times: usize) -> Vec<String> {
    until("the handlers were entered", || {
        let lines = entered(place);
        assert!(lines.len() <= times, "{times} were to be entered: {lines:?}");
        (lines.len() == times).then_some(lines)
    })
}
