//! What a command prints: cut into lines, taken for directives, put into the task's log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use steadfast::core::handler::Orders;
use steadfast::core::report::LOG_LINE_COST;
use steadfast::core::step::Report;
use steadfast::core::storage::Lease;
use steadfast::core::task::{
    Backoff, CHECKPOINT_NAME_BYTES_MAX, LOG_BYTES_MAX, LOG_LINE_BYTES_MAX, PROGRESS_BYTES_MAX,
};
use steadfast::core::time::Moment;
use steadfast::exec;
use steadfast::subprocess::{Directive, LineSplitter, Piece, Stream, directive};
use steadfast::{Context, Kind, Queue, TaskId};
use tokio::sync::watch;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "output_lines",
    about: "the longest piece, the length of the chunks, how often it is printed, then what a command prints",
    run,
};

fn run(bytes: &[u8]) {
    let [longest, length, times, output @ ..] = bytes else { return };
    let (bytes_max, length) = (piece_bytes_max(*longest), usize::from(*length) + 1);
    // Again and again, so that few bytes come to the limits of a line and of a log: at most a MiB of libFuzzer's 4 KiB.
    let output = output.repeat(usize::from(*times) + 1);
    let context = context();
    let mut splitter = LineSplitter::new(bytes_max);
    let mut whole = Vec::new();
    let mut take = |piece: Piece<'_>| {
        assert!(piece.bytes.len() <= bytes_max, "a piece is too long");
        assert!(!piece.cut || (piece.bytes.len() == bytes_max && !piece.newline), "{piece:?}");
        assert!(!piece.bytes.contains(&b'\n'), "{piece:?}");
        whole.extend_from_slice(piece.bytes);
        whole.extend(piece.newline.then_some(b'\n'));
        let line = piece.from(if length.is_multiple_of(16) { Stream::Stderr } else { Stream::Stdout });
        if line.is_whole() {
            means_what_it_says(line.bytes);
        }
        let heard = exec::hear(&context, &line).now_or_never();
        assert!(heard.is_some(), "nobody is waited for: the context is a test's");
    };
    for chunk in output.chunks(length) {
        let mut chunk = chunk;
        while let Some(piece) = splitter.next(&mut chunk) {
            take(piece);
        }
    }
    splitter.finish().map(&mut take);
    assert!(whole == output, "every byte arrives once, in order");
    can_be_stored(&context.reported());
}

/// Short ones, each by itself, for where lines are cut; and some up to twice what a line of a log can be.
fn piece_bytes_max(byte: u8) -> usize {
    let byte = usize::from(byte);
    if byte < 128 { byte + 1 } else { (byte - 127) * 256 }
}

/// A directive is read as it was written, and is what a task can have.
fn means_what_it_says(line: &[u8]) {
    let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let said = match directive(line) {
        Ok(None) => {
            let is_one = [&b"::progress "[..], b"::checkpoint ", b"::alias "];
            assert!(!is_one.iter().any(|word| line.starts_with(word)), "{line:?} was passed over");
            return;
        }
        Ok(Some(Directive::Progress { percent, message })) => {
            assert!(percent <= 100);
            words(&format!("::progress {} {message}", first_number(line).unwrap_or_default()))
        }
        Ok(Some(Directive::Checkpoint { name, json })) => {
            assert!((1..=CHECKPOINT_NAME_BYTES_MAX).contains(&name.len()));
            words(&format!("::checkpoint {name} {json}"))
        }
        Ok(Some(Directive::Alias { id })) => words(&format!("::alias {id}")),
        Err(malformed) => {
            assert!(!malformed.to_string().is_empty());
            return;
        }
    };
    assert_eq!(said, words(str::from_utf8(line).expect("a directive is text")));
}

/// The percentage as it stands there: it may have zeros before it.
fn first_number(line: &[u8]) -> Option<&str> {
    str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)
}

/// What a handler said is within the limits that the stores hold to.
fn can_be_stored(report: &Report) {
    if let Some(progress) = &report.progress {
        assert!(progress.percent <= 100 && progress.message.len() <= PROGRESS_BYTES_MAX, "{progress:?}");
    }
    let (mut number, mut bytes) = (0, 0);
    for line in &report.lines {
        assert!(line.text.len() <= LOG_LINE_BYTES_MAX && !line.text.contains(['\n', '\0']), "{line:?}");
        assert_eq!(line.number, number + 1, "lines are numbered one by one");
        number = line.number;
        bytes += line.text.len() + LOG_LINE_COST;
    }
    assert!(bytes <= LOG_BYTES_MAX, "a log of {bytes} bytes");
    for checkpoint in &report.checkpoints {
        assert!((1..=CHECKPOINT_NAME_BYTES_MAX).contains(&checkpoint.name.len()), "{checkpoint:?}");
    }
    assert!(report.alias.as_ref().is_none_or(|alias| TaskId::new(alias.as_str()).is_ok()));
}

fn context() -> Context {
    let lease = Lease {
        task: TaskId::trusted("t"),
        fence: 1,
        kind: Kind::trusted("command"),
        queue: Queue::default_queue(),
        slot: None,
        payload: (*b"").into(),
        attempt: 1,
        attempts_max: 1,
        timeout: Duration::from_secs(60),
        backoff: Backoff::default(),
        deadline: None,
    };
    let orders = Orders { stop: None, lease_until: Moment::from_origin(Duration::from_secs(60)) };
    // The attempt is told nothing: a context that isn't waited on doesn't mind that nobody could.
    let (_, orders) = watch::channel(orders);
    Context::new(Arc::new(lease), orders)
}
