//! A proxy between a client and PostgreSQL that knows just enough of the protocol to count round trips, and to cut the
//! connection where it hurts.
//!
//! It must not know what is asked: messages are told apart by their first byte alone.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where a call loses its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before anything of it reaches the server.
    Unsent,
    /// When the server has all of it and the client nothing of the answer. The server doesn't notice.
    Unanswered,
    /// When the server has answered, and so has committed, and the client has seen nothing of it.
    Answered,
}

/// How often a client waited for the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trips {
    /// Messages after which a client waits: Sync, Flush, Query.
    pub asked: u32,
    /// How often the server was ready for the next.
    pub answered: u32,
}

#[derive(Debug, Default)]
struct State {
    trips: Trips,
    cut: Option<Cut>,
    cuts: u32,
}

/// A proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    state: Arc<Mutex<State>>,
    _connections: JoinSet<()>,
}

impl Wire {
    /// A proxy to the server at this port of 127.0.0.1.
    ///
    /// # Errors
    /// If it can't listen.
    pub async fn open(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = shared.clone();
                open.spawn(async move {
                    // Whoever is cut off finds out by itself.
                    let _ = carry(client, server, &shared).await;
                });
            }
        });
        Ok(Self { port, state, _connections: connections })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The round trips so far, handshakes left out.
    #[must_use]
    pub fn trips(&self) -> Trips {
        lock(&self.state).trips
    }

    /// The next message that isn't part of a handshake begins a call that is cut like this.
    pub fn cut_next(&self, cut: Cut) {
        lock(&self.state).cut = Some(cut);
    }

    /// How many calls were cut.
    #[must_use]
    pub fn cuts(&self) -> u32 {
        lock(&self.state).cuts
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The messages of one direction.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    /// Whether the next one begins with its type: a client's first has none.
    typed: bool,
}

impl Messages {
    /// The next whole message and its type.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let start = usize::from(self.typed);
        let length = self.bytes.get(start..start + 4)?.try_into().expect("four bytes");
        let end = start + usize::try_from(u32::from_be_bytes(length)).expect("of this size");
        if self.bytes.len() < end {
            return None;
        }
        let kind = if self.typed { self.bytes[0] } else { 0 };
        self.typed = true;
        Some((kind, self.bytes.drain(..end).collect()))
    }
}

/// Carries messages to and fro until one side ends or the connection is cut.
async fn carry(mut client: TcpStream, server: u16, state: &Mutex<State>) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let mut asked = Messages::default();
    let mut answered = Messages { typed: true, ..Messages::default() };
    let mut is_ready = false;
    let mut cut = None;
    loop {
        let from_client = tokio::select! {
            read = client.read_buf(&mut asked.bytes) => { if read? == 0 { return Ok(()); } true }
            read = server.read_buf(&mut answered.bytes) => { if read? == 0 { return Ok(()); } false }
        };
        if from_client {
            while let Some((kind, message)) = asked.next() {
                if is_ready && cut.is_none() && kind != b'X' {
                    cut = begin(state);
                }
                if cut == Some(Cut::Unsent) {
                    return Ok(());
                }
                server.write_all(&message).await?;
                if matches!(kind, b'S' | b'Q' | b'H' | b'F') {
                    lock(state).trips.asked += 1;
                    if cut == Some(Cut::Unanswered) {
                        drop(client);
                        return watch(server).await;
                    }
                }
            }
            continue;
        }
        while let Some((kind, message)) = answered.next() {
            if kind == b'Z' {
                if cut == Some(Cut::Answered) {
                    return Ok(());
                }
                lock(state).trips.answered += u32::from(is_ready);
                is_ready = true;
            }
            if cut.is_none() {
                client.write_all(&message).await?;
            }
        }
    }
}

/// A call begins: whether it is to be cut.
fn begin(state: &Mutex<State>) -> Option<Cut> {
    let mut state = lock(state);
    let cut = state.cut.take();
    state.cuts += u32::from(cut.is_some());
    cut
}

/// Keeps the server's end open until it has answered or is gone, as a broken network would.
async fn watch(mut server: TcpStream) -> io::Result<()> {
    let mut answered = Messages { typed: true, ..Messages::default() };
    while server.read_buf(&mut answered.bytes).await? > 0 {
        while let Some((kind, _)) = answered.next() {
            if kind == b'Z' {
                return Ok(());
            }
        }
    }
    Ok(())
}
