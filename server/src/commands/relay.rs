//! The output of a command that `run` runs, on its way to our own stdout and stderr; and its end.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use steadfast::Context;
use steadfast::exec::Observer;
use steadfast::subprocess::{Control, Exit, Line, LineSink, Stream};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

/// Lines that wait for whoever reads us; then the command waits.
const LINES_MAX: usize = 256;

/// Our end: sees the attempts of the command.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    lines: mpsc::Sender<Piece>,
    attempt: Arc<Mutex<Attempt>>,
}

#[derive(Debug, Default)]
struct Attempt {
    control: Option<Control>,
    exit: Option<Exit>,
}

#[derive(Debug)]
struct Piece {
    stream: Stream,
    bytes: Vec<u8>,
    newline: bool,
}

/// The other end: what is left to wait for.
#[derive(Debug)]
pub(super) struct Written {
    /// Answered when somebody who read our stdout or stderr has gone.
    pub(super) reader_gone: oneshot::Receiver<()>,
    /// Dropped by the thread at its end.
    done: oneshot::Receiver<()>,
}

impl Relay {
    /// Starts the thread that writes: a full pipe must not hold up anything but the command.
    pub(super) fn start() -> io::Result<(Self, Written)> {
        let (lines, mut pieces) = mpsc::channel(LINES_MAX);
        let (gone, reader_gone) = oneshot::channel();
        let (ended, done) = oneshot::channel();
        thread::Builder::new().name("output".into()).spawn(move || {
            write(&mut pieces, gone);
            drop(ended);
        })?;
        Ok((Self { lines, attempt: Arc::default() }, Written { reader_gone, done }))
    }

    /// SIGKILL to the command, now.
    pub(super) fn kill(&self) {
        if let Some(control) = &self.lock().control {
            control.kill();
        }
    }

    /// How the last attempt ended.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.lock().exit.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// Waits until everything is written; every [`Relay`] must be gone. Where a reader stands still that is never: an
    /// attempt that was given up may still hold its lines, and waits for the reader as we do.
    ///
    /// # Cancellation
    /// Dropping the future leaves the thread behind.
    pub(super) async fn finish(self) {
        let _ = self.done.await;
    }
}

impl Observer for Relay {
    type Lines = RelayLines;

    fn lines(&self, _: &Context) -> RelayLines {
        RelayLines(self.lines.clone())
    }

    fn started(&self, _: &Context, control: Control) {
        *self.lock() = Attempt { control: Some(control), exit: None };
    }

    fn ended(&self, _: &Context, exit: &Exit) {
        *self.lock() = Attempt { control: None, exit: Some(exit.clone()) };
    }
}

/// The lines of one attempt.
#[derive(Debug)]
pub(super) struct RelayLines(mpsc::Sender<Piece>);

impl LineSink for RelayLines {
    async fn line(&mut self, line: Line<'_>) {
        let piece = Piece { stream: line.stream, bytes: line.bytes.to_vec(), newline: line.newline };
        // Where the thread has panicked there is nobody to write.
        let _ = self.0.send(piece).await;
    }
}

fn write(pieces: &mut mpsc::Receiver<Piece>, gone: oneshot::Sender<()>) {
    let mut stdout = Some(io::BufWriter::new(io::stdout()));
    let mut stderr = Some(io::BufWriter::new(io::stderr()));
    let mut gone = Some(gone);
    loop {
        let piece = match pieces.try_recv() {
            Ok(piece) => Some(piece),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                // Nothing more for now: what has come is shown.
                let ok = put(&mut stdout, Write::flush) & put(&mut stderr, Write::flush);
                report(ok, &mut gone);
                pieces.blocking_recv()
            }
        };
        let Some(Piece { stream, bytes, newline }) = piece else { break };
        let end: &[u8] = if newline { b"\n" } else { b"" };
        let ok = match stream {
            Stream::Stdout => put(&mut stdout, |to| to.write_all(&bytes).and_then(|()| to.write_all(end))),
            Stream::Stderr => put(&mut stderr, |to| to.write_all(&bytes).and_then(|()| to.write_all(end))),
        };
        report(ok, &mut gone);
    }
    let ok = put(&mut stdout, Write::flush) & put(&mut stderr, Write::flush);
    report(ok, &mut gone);
}

/// Writes to a stream that is still read; says whether it was.
fn put<W: Write>(to: &mut Option<W>, write: impl FnOnce(&mut W) -> io::Result<()>) -> bool {
    let Some(writer) = to else { return true };
    let ok = write(writer).is_ok();
    if !ok {
        *to = None;
    }
    ok
}

fn report(ok: bool, gone: &mut Option<oneshot::Sender<()>>) {
    if !ok && let Some(gone) = gone.take() {
        let _ = gone.send(());
    }
}
