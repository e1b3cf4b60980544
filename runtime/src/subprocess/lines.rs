//! stdout and stderr as lines of bytes, in bounded memory, handed to a sink one at a time.
//!
//! Bytes stay bytes here: what isn't UTF-8, and NUL, is for whoever shows or stores a line to deal with. The
//! sink sets the pace: while it is busy nothing is read, and a command that writes on waits at a full pipe.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A longer line is handed over in pieces of this many bytes.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// How long, after the command and its group are gone, their output may stay open without anything in it:
/// only a process that left the group can hold it, and nobody waits for that one.
pub const OUTPUT_DRAIN: Duration = Duration::from_secs(1);

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// More than this can't be left in a pipe (Linux's `pipe-max-size`): what comes beyond it after
/// `OUTPUT_DRAIN` is written by a process that escaped.
const PIPE_BYTES_MAX: usize = 1024 * 1024;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The command's stdout.
    Stdout,
    /// The command's stderr.
    Stderr,
}

/// A line, or a piece of one that is longer than [`LINE_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where it came from.
    pub stream: Stream,
    /// Its bytes, without the newline.
    pub bytes: &'a [u8],
    /// This piece goes on where the last one of the same stream was cut.
    pub continues: bool,
    /// The line goes on with the next piece.
    pub cut: bool,
    /// A newline followed: every line has one but for the last of a stream, and pieces that are cut.
    pub newline: bool,
}

impl Line<'_> {
    /// Whether this is a whole line: only those may be read as a [`directive`](super::directive()). What a command wrote
    /// last without a newline may be the beginning of a line that it couldn't finish.
    pub fn is_whole(&self) -> bool {
        !self.continues && self.newline
    }
}

/// Takes an attempt's lines: those of one stream in order, those of both about in the order of arrival.
pub trait LineSink: Send + 'static {
    /// Takes one line. The next one is read when the future is ready, so a slow sink slows the command.
    /// It must not block the thread. It is not called any more once the attempt's `wait` has returned; after an
    /// attempt was dropped, the last lines may still come.
    fn line(&mut self, line: Line<'_>) -> impl Future<Output = ()> + Send;
}

/// For sinks that are done at once.
impl<F: FnMut(Line<'_>) + Send + 'static> LineSink for F {
    fn line(&mut self, line: Line<'_>) -> impl Future<Output = ()> + Send {
        self(line);
        std::future::ready(())
    }
}

/// Sends each line, copied, without regard to whether it is whole. Lines nobody receives are dropped.
impl LineSink for mpsc::Sender<(Stream, Vec<u8>)> {
    async fn line(&mut self, line: Line<'_>) {
        let _ = self.send((line.stream, line.bytes.to_vec())).await;
    }
}

/// Delivers both streams until they end, or until `gone` (the group has ended) and `OUTPUT_DRAIN` are past.
/// Returns whether they ended: if not, a process outside the group holds them open.
pub(super) async fn deliver(
    stdout: impl AsyncRead + Unpin,
    stderr: impl AsyncRead + Unpin,
    mut sink: impl LineSink,
    mut gone: oneshot::Receiver<()>,
) -> bool {
    let mut stdout = Source::new(Stream::Stdout, stdout);
    let mut stderr = Source::new(Stream::Stderr, stderr);
    let mut drained_at: Option<Instant> = None;
    let mut late_bytes = 0;
    while stdout.open || stderr.open {
        let read = async {
            tokio::select! {
                bytes = stdout.read(), if stdout.open => (Stream::Stdout, bytes),
                bytes = stderr.read(), if stderr.open => (Stream::Stderr, bytes),
            }
        };
        // In this order: what is there is taken, however late the sink has let us come.
        let (stream, bytes) = tokio::select! {
            biased;
            _ = &mut gone, if drained_at.is_none() => {
                drained_at = Some(Instant::now() + OUTPUT_DRAIN);
                continue;
            }
            read = read => read,
            () = tokio::time::sleep_until(drained_at.unwrap_or_else(Instant::now)), if drained_at.is_some() => break,
        };
        match stream {
            Stream::Stdout => stdout.hand_over(bytes, &mut sink).await,
            Stream::Stderr => stderr.hand_over(bytes, &mut sink).await,
        }
        if drained_at.is_some_and(|at| Instant::now() > at) {
            late_bytes += bytes;
            if late_bytes > 2 * PIPE_BYTES_MAX {
                break;
            }
        }
    }
    let ended = !stdout.open && !stderr.open;
    stdout.finish(&mut sink).await;
    stderr.finish(&mut sink).await;
    ended
}

/// One of the two streams: what was read last, and the unfinished line before it.
struct Source<R> {
    stream: Stream,
    from: R,
    open: bool,
    chunk: Box<[u8]>,
    splitter: LineSplitter,
}

impl<R: AsyncRead + Unpin> Source<R> {
    fn new(stream: Stream, from: R) -> Self {
        let chunk = vec![0; READ_BYTES].into_boxed_slice();
        Self { stream, from, open: true, chunk, splitter: LineSplitter::new(LINE_BYTES_MAX) }
    }

    /// Reads the next chunk; 0 bytes at the end. Nothing is lost where the future is dropped.
    async fn read(&mut self) -> usize {
        // A pipe fails only when it is broken beyond use: the same as its end.
        self.from.read(&mut self.chunk).await.unwrap_or(0)
    }

    async fn hand_over(&mut self, bytes: usize, sink: &mut impl LineSink) {
        self.open = bytes > 0;
        let mut rest = &self.chunk[..bytes];
        while let Some(piece) = self.splitter.next(&mut rest) {
            sink.line(piece.from(self.stream)).await;
        }
    }

    async fn finish(mut self, sink: &mut impl LineSink) {
        if let Some(piece) = self.splitter.finish() {
            sink.line(piece.from(self.stream)).await;
        }
    }
}

/// Cuts chunks into lines. Pure, and never holds more than its limit.
#[derive(Debug)]
pub struct LineSplitter {
    bytes_max: usize,
    /// The beginning of a line whose end hasn't come yet.
    partial: Vec<u8>,
    /// `partial` was handed out, to be emptied when next called.
    spent: bool,
    /// The line's beginning was already handed out as a piece.
    continues: bool,
}

/// What a [`LineSplitter`] cuts off: the fields are those of [`Line`].
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `Line`")]
pub struct Piece<'a> {
    pub bytes: &'a [u8],
    pub continues: bool,
    pub cut: bool,
    pub newline: bool,
}

impl<'a> Piece<'a> {
    /// As a line of this stream.
    pub fn from(self, stream: Stream) -> Line<'a> {
        let Self { bytes, continues, cut, newline } = self;
        Line { stream, bytes, continues, cut, newline }
    }
}

impl LineSplitter {
    /// Nothing has been read yet; a line of more than so many bytes, at least 1, comes in pieces of that length.
    pub fn new(bytes_max: usize) -> Self {
        assert!(bytes_max > 0, "a piece has at least one byte");
        Self { bytes_max, partial: Vec::new(), spent: false, continues: false }
    }

    /// The next piece, taken from the front of `chunk`; `None` when `chunk` is used up.
    pub fn next<'p, 'c: 'p>(&'p mut self, chunk: &mut &'c [u8]) -> Option<Piece<'p>> {
        self.forget_spent();
        let room = self.bytes_max - self.partial.len();
        let within = &chunk[..chunk.len().min(room + 1)];
        let Some(length) = within.iter().position(|byte| *byte == b'\n') else {
            return self.next_without_newline(chunk, room);
        };
        let (line, rest) = chunk.split_at(length);
        *chunk = &rest[1..];
        let continues = std::mem::take(&mut self.continues);
        Some(Piece { bytes: self.join(line), continues, cut: false, newline: true })
    }

    /// A full piece, if the line is longer than that; else keeps the chunk for later.
    fn next_without_newline<'p, 'c: 'p>(
        &'p mut self,
        chunk: &mut &'c [u8],
        room: usize,
    ) -> Option<Piece<'p>> {
        if chunk.len() <= room {
            self.partial.extend_from_slice(chunk);
            *chunk = &[];
            return None;
        }
        let (piece, rest) = chunk.split_at(room);
        *chunk = rest;
        let continues = std::mem::replace(&mut self.continues, true);
        Some(Piece { bytes: self.join(piece), continues, cut: true, newline: false })
    }

    /// The last line, where it had no newline.
    pub fn finish(&mut self) -> Option<Piece<'_>> {
        self.forget_spent();
        let any = !self.partial.is_empty();
        let continues = self.continues;
        any.then_some(Piece { bytes: &self.partial, continues, cut: false, newline: false })
    }

    fn join<'a>(&'a mut self, end: &'a [u8]) -> &'a [u8] {
        if self.partial.is_empty() {
            return end;
        }
        self.partial.extend_from_slice(end);
        self.spent = true;
        &self.partial
    }

    fn forget_spent(&mut self) {
        if std::mem::take(&mut self.spent) {
            self.partial.clear();
            // One long line shouldn't cost its memory for the rest of the attempt.
            self.partial.shrink_to(READ_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines, put together from their pieces, of `text` given in chunks of these lengths.
    fn split(text: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
        let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut whole = Vec::new();
        let mut take = |piece: Piece<'_>| {
            assert!(piece.bytes.len() <= LINE_BYTES_MAX);
            assert!(!piece.cut || (piece.bytes.len() == LINE_BYTES_MAX && !piece.newline));
            whole.extend_from_slice(piece.bytes);
            whole.extend(piece.newline.then_some(b'\n'));
            match lines.last_mut() {
                Some(line) if piece.continues => line.extend_from_slice(piece.bytes),
                _ => lines.push(piece.bytes.to_vec()),
            }
        };
        let mut rest = text;
        for length in lengths.iter().cycle() {
            let (mut chunk, after) = rest.split_at((*length).min(rest.len()));
            rest = after;
            while let Some(piece) = splitter.next(&mut chunk) {
                take(piece);
            }
            assert!(splitter.partial.len() <= LINE_BYTES_MAX);
            if rest.is_empty() {
                break;
            }
        }
        if let Some(piece) = splitter.finish() {
            take(piece);
        }
        assert_eq!(whole, text);
        lines
    }

    #[track_caller]
    fn check(text: &[u8], lengths: &[usize]) {
        let mut expected: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        expected.pop_if(|last| last.is_empty());
        assert_eq!(split(text, lengths), expected);
    }

    #[test]
    fn lines_about_as_long_as_the_limit_are_put_together_again() {
        for length in [
            LINE_BYTES_MAX - 1,
            LINE_BYTES_MAX,
            LINE_BYTES_MAX + 1,
            2 * LINE_BYTES_MAX,
            2 * LINE_BYTES_MAX + 1,
        ] {
            let mut text = vec![b'x'; length];
            text.extend_from_slice(b"\nnext\n");
            check(&text, &[READ_BYTES]);
            check(&text, &[LINE_BYTES_MAX]);
            text.truncate(length);
            check(&text, &[READ_BYTES]);
        }
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_its_line(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            lengths in proptest::collection::vec(1usize..40, 1..10),
        ) {
            check(&text, &lengths);
        }
    }
}
