//! One session with a PostgreSQL server, over the simple query protocol and without threads.
//!
//! Certification has to see what client libraries hide: each command's tag (a COMMIT can answer ROLLBACK), an
//! answer that hasn't come yet, and what the server does when a socket is cut in the middle of a statement. So a
//! query is sent, and its reply is polled for.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::{backend, frontend};

/// A connection, with at most one query on its way.
#[derive(Debug)]
pub struct PostgresSession {
    stream: Stream,
    incoming: BytesMut,
    process: i32,
    reply: Option<Reply>,
    /// While it logs in.
    login: Option<Login>,
}

/// Where a server is, and who connects. Without TLS: certification is for servers near by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub host: Host,
    /// Who.
    pub user: String,
    /// Asked for by servers that don't trust everybody.
    pub password: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// On this Unix socket.
    Socket(PathBuf),
    /// On this host, at this port.
    Tcp(String, u16),
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

struct Login {
    user: String,
    password: Option<String>,
    scram: Option<ScramSha256>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Stream {
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
            Stream::Tcp(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }
}

impl Login {
    /// The answer to what the server asks for, if it asks for anything.
    fn answer(&mut self, asked: &backend::Message) -> io::Result<Option<BytesMut>> {
        use backend::Message;
        let password = || {
            let password = self.password.as_deref().map(str::as_bytes);
            password.ok_or_else(|| Error::other("the server asks for a password: put one into the URL"))
        };
        let mut answer = BytesMut::new();
        match asked {
            Message::AuthenticationCleartextPassword => frontend::password_message(password()?, &mut answer)?,
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(self.user.as_bytes(), password()?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut answer)?;
            }
            Message::AuthenticationSasl(_) => {
                let scram = ScramSha256::new(password()?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut answer)?;
                self.scram = Some(scram);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = self.scram.as_mut().ok_or_else(|| Error::other("the server goes on unasked"))?;
                scram.update(body.data())?;
                frontend::sasl_response(scram.message(), &mut answer)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let scram = self.scram.as_mut().ok_or_else(|| Error::other("the server ends unasked"))?;
                scram.finish(body.data())?;
                return Ok(None);
            }
            _ => return Ok(None),
        }
        Ok(Some(answer))
    }
}

/// What one query answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The rows of all its statements as text, `None` for null.
    pub rows: Vec<Vec<Option<String>>>,
    /// The tag of each statement that was executed, such as `UPDATE 2`.
    pub tags: Vec<String>,
    /// The SQLSTATE of the error that ended it.
    pub error: Option<String>,
    /// That error in words.
    pub message: Option<String>,
}

impl PostgresSession {
    /// Connects.
    ///
    /// # Errors
    /// If the server can't be reached or refuses.
    pub fn connect(server: impl Into<Address>, database: &str) -> io::Result<Self> {
        let Address { host, user, password } = server.into();
        let stream = match &host {
            Host::Socket(path) => Stream::Unix(UnixStream::connect(path)?),
            Host::Tcp(name, port) => Stream::Tcp(TcpStream::connect((name.as_str(), *port))?),
        };
        let reply = Some(Reply::default());
        let login = Some(Login { user: user.clone(), password, scram: None });
        let mut session = Self { stream, incoming: BytesMut::new(), process: 0, reply, login };
        let mut startup = BytesMut::new();
        frontend::startup_message([("user", user.as_str()), ("database", database)], &mut startup)?;
        session.stream.write_all(&startup)?;
        let reply = session.receive()?;
        session.login = None;
        match reply {
            Reply { error: None, .. } => Ok(session),
            Reply { message, .. } => Err(Error::other(message.unwrap_or_default())),
        }
    }

    /// The server process behind this session.
    #[must_use]
    pub fn process(&self) -> i32 {
        self.process
    }

    /// Whether a reply is still to come.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.reply.is_some()
    }

    /// Sends a query.
    ///
    /// # Errors
    /// If the connection is lost.
    ///
    /// # Panics
    /// If another one is on its way.
    pub fn send(&mut self, sql: &str) -> io::Result<()> {
        assert!(!self.is_busy(), "one query at a time: {sql}");
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)?;
        self.stream.write_all(&message)?;
        self.reply = Some(Reply::default());
        Ok(())
    }

    /// Sends a query and waits for its reply.
    ///
    /// # Errors
    /// If the connection is lost. A refusal by the server is in the reply.
    pub fn query(&mut self, sql: &str) -> io::Result<Reply> {
        self.send(sql)?;
        self.receive()
    }

    /// Waits for the reply to what was sent.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn receive(&mut self) -> io::Result<Reply> {
        self.stream.set_nonblocking(false)?;
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(reply);
            }
            self.read()?;
        }
    }

    /// The reply to what was sent, if it has come. Doesn't wait.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn poll(&mut self) -> io::Result<Option<Reply>> {
        self.stream.set_nonblocking(true)?;
        let polled = loop {
            match self.parse()? {
                Some(reply) => break Ok(Some(reply)),
                None => match self.read() {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(None),
                    Err(error) => break Err(error),
                },
            }
        };
        self.stream.set_nonblocking(false)?;
        polled
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.incoming.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// Takes in the messages that have come; the reply if that completes it.
    fn parse(&mut self) -> io::Result<Option<Reply>> {
        use backend::Message;
        while let Some(message) = Message::parse(&mut self.incoming)? {
            if let Some(login) = &mut self.login
                && let Some(answer) = login.answer(&message)?
            {
                self.stream.write_all(&answer)?;
                continue;
            }
            let reply = self.reply.get_or_insert_default();
            match message {
                Message::BackendKeyData(body) => self.process = body.process_id(),
                Message::DataRow(body) => reply.rows.push(cells(&body)?),
                Message::CommandComplete(body) => reply.tags.push(body.tag()?.to_owned()),
                Message::ErrorResponse(body) => {
                    let mut fields = body.fields();
                    while let Some(field) = fields.next()? {
                        let value = || Some(String::from_utf8_lossy(field.value_bytes()).into_owned());
                        match field.type_() {
                            b'C' => reply.error = value(),
                            b'M' => reply.message = value(),
                            _ => {}
                        }
                    }
                }
                Message::ReadyForQuery(_) => return Ok(self.reply.take()),
                // Notices, parameters and descriptions say nothing that a program depends on.
                _ => {}
            }
        }
        Ok(None)
    }
}

fn cells(row: &backend::DataRowBody) -> io::Result<Vec<Option<String>>> {
    let text = |range| {
        Ok::<_, io::Error>(Option::map(range, |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&row.buffer()[range]).into_owned()
        }))
    };
    row.ranges().map(text).collect()
}
