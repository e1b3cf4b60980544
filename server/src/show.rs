//! What people see on a terminal: aligned, quiet, with coloured states where colours are wanted.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::units::{rough_text, time};
use crate::wire::TaskJson;

/// How much of a payload, an output or an error is shown, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// stdout that drops colours where they aren't wanted: not a terminal, or `NO_COLOR`.
pub fn stdout() -> impl Write {
    anstream::stdout()
}

/// Writes a task as a page of its own.
///
/// # Errors
/// As the writer says.
pub fn page(out: &mut dyn Write, task: &TaskJson) -> io::Result<()> {
    let state = state_style(&task.state);
    writeln!(out, "{}  {state}{}{state:#}", task.id, task.state)?;
    let mut line = |name: &str, value: &str| writeln!(out, "  {name:<10} {value}");
    line("kind", &task.kind)?;
    line("queue", &task.queue)?;
    for (name, value) in [("slot", &task.slot), ("key", &task.key)] {
        if let Some(value) = value {
            line(name, value)?;
        }
    }
    if !task.parents.is_empty() {
        line("after", &cut(&task.parents.join(", ")))?;
    }
    let rescued = if task.rescues > 0 {
        format!(", rescued {} of {}", task.rescues, task.rescues_max)
    } else {
        String::new()
    };
    line("attempt", &format!("{} of {}{rescued}", task.attempt, task.attempts_max))?;
    let times = [
        ("submitted", Some(&task.submitted_at)),
        ("due", Some(&task.due_at).filter(|due| **due > task.submitted_at)),
        ("deadline", task.deadline_at.as_ref()),
        ("claimed", task.claimed_at.as_ref()),
        ("entered", task.entered_at.as_ref()),
        ("finished", task.finished_at.as_ref()),
        ("leased to", task.lease_expires_at.as_ref()),
    ];
    for (name, at) in times {
        if let Some(at) = at {
            line(name, &format!("{at}  {}", relative(at)))?;
        }
    }
    if let Some(progress) = &task.progress {
        line("progress", &cut(format!("{} % {}", progress.percent, progress.message).trim_end()))?;
    }
    let texts =
        [("worker", &task.worker), ("cause", &task.cause), ("error", &task.error), ("cancel", &task.cancel)];
    for (name, text) in texts {
        if let Some(text) = text {
            line(name, &cut(text))?;
        }
    }
    let data = [
        ("payload", task.payload.as_ref().map(|json| json.get()), &task.payload_base64),
        ("output", task.output.as_ref().map(|json| json.get()), &task.output_base64),
    ];
    for (name, json, base64) in data {
        match (json, base64) {
            (Some(json), _) => line(name, &cut(json))?,
            (None, Some(base64)) => line(name, &format!("{} (base64)", cut(base64)))?,
            (None, None) => {}
        }
    }
    Ok(())
}

/// Writes tasks as a table.
///
/// # Errors
/// As the writer says.
pub fn tasks(out: &mut dyn Write, tasks: &[TaskJson]) -> io::Result<()> {
    let rows: Vec<[String; 7]> = tasks.iter().map(row).collect();
    table(out, ["ID", "STATE", "CAUSE", "KIND", "QUEUE", "ATTEMPT", "SUBMITTED"], &rows)
}

/// Writes a table; its second column has the colour of a state.
///
/// # Errors
/// As the writer says.
pub fn table<const COLUMNS: usize>(
    out: &mut dyn Write,
    head: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> io::Result<()> {
    let head = head.map(String::from);
    let width =
        |column: usize| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let bold = Style::new().bold();
    for (number, row) in std::iter::once(&head).chain(rows).enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let style = match (number, column) {
                (0, _) => bold,
                (_, 1) => state_style(cell),
                _ => Style::new(),
            };
            let last = column + 1 == row.len();
            let pad = if last { 0 } else { widths[column] - cell.chars().count() + 2 };
            write!(out, "{style}{cell}{style:#}{:pad$}", "")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn row(task: &TaskJson) -> [String; 7] {
    [
        task.id.clone(),
        task.state.clone(),
        task.cause.clone().map_or_else(|| "-".into(), Into::into),
        task.kind.clone(),
        // One made for this task alone says nothing more than its id.
        if task.queue.starts_with("_run.") { "-".into() } else { task.queue.clone() },
        format!("{}/{}", task.attempt, task.attempts_max),
        relative(&task.submitted_at),
    ]
}

pub(crate) fn state_style(state: &str) -> Style {
    let color = match state {
        "succeeded" => AnsiColor::Green,
        "failed" => AnsiColor::Red,
        "cancelled" => AnsiColor::Yellow,
        "running" => AnsiColor::Cyan,
        _ => return Style::new(),
    };
    Style::new().fg_color(Some(color.into()))
}

/// How long ago, or in how long, by this machine's clock.
fn relative(at: &str) -> String {
    let Ok(at) = time(at) else { return String::new() };
    let away = at.as_micros() - jiff::Timestamp::now().as_microsecond();
    let text = rough_text(Duration::from_micros(away.unsigned_abs()));
    if away > 0 { format!("in {text}") } else { format!("{text} ago") }
}

/// One line, of a readable length.
pub(crate) fn cut(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.chars().map(printable).take(SHOWN_CHARS_MAX).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
