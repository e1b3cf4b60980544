//! What worker and guard say to each other over their socket, as bytes.
//!
//! A frame is a tag, the body's length (4 bytes, little endian) and the body. Both ends come from one build
//! as a rule; `PROTOCOL` in the guard's first frame finds out where they don't. Here is only the form: no
//! process, no clock.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::command::PAYLOAD_BYTES_MAX;

/// Said first by the guard; another number means another build.
pub(super) const PROTOCOL: u32 = 1;
/// The length of a frame's tag and length.
pub(super) const HEADER_BYTES: usize = 5;
/// The longest body of a report: a path and a sentence.
pub(super) const REPORT_BYTES_MAX: usize = 64 * 1024;

/// From the worker to the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Start this command. The first frame.
    Start(Spec),
    /// The whole of the command's stdin. The second frame.
    Payload(Vec<u8>),
    /// The lease lasts until then.
    Lease { until_ns: u64 },
    /// SIGTERM to the group.
    Terminate,
    /// SIGKILL to the group then, unless the command has ended before.
    KillBy { at_ns: u64 },
}

/// All that the guard needs to know in order to start the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    /// The whole environment.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: Option<PathBuf>,
    /// The attempt's private directory, removed by the guard if the worker is gone.
    pub(super) scratch: Option<PathBuf>,
    pub(super) lease_until_ns: u64,
}

/// From the guard to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    Hello {
        protocol: u32,
    },
    /// The command runs under this process id, which is also its group's.
    Started {
        pid: u32,
    },
    /// The last frame if it is sent at all.
    NotStarted(Refusal, String),
    /// The last frame otherwise: nothing of the group runs any more.
    Ended(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    NotExecutable,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
    /// The guard killed it because the lease had passed.
    Lapsed,
    /// SIGKILL was sent and the command is still there.
    NotGone,
}

impl Order {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start(spec) => frame(1, &spec.encode()),
            Self::Payload(bytes) => frame(2, bytes),
            Self::Lease { until_ns } => frame(3, &until_ns.to_le_bytes()),
            Self::Terminate => frame(4, &[]),
            Self::KillBy { at_ns } => frame(5, &at_ns.to_le_bytes()),
        }
    }

    /// The header of a payload of `length` bytes, for a writer that has the payload elsewhere.
    pub(super) fn payload_header(length: usize) -> [u8; HEADER_BYTES] {
        header(2, length)
    }

    /// Reads the next order; `None` where the other end has closed between two frames.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        match from.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let (tag, length) = split_header(header);
        if length > PAYLOAD_BYTES_MAX {
            return Err(malformed());
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::decode(tag, body).map(Some)
    }

    fn decode(tag: u8, body: Vec<u8>) -> io::Result<Self> {
        if tag == 2 {
            return Ok(Self::Payload(body));
        }
        let mut fields = Fields(&body);
        let order = match tag {
            1 => Self::Start(Spec::decode(&mut fields)?),
            3 => Self::Lease { until_ns: fields.u64()? },
            4 => Self::Terminate,
            5 => Self::KillBy { at_ns: fields.u64()? },
            _ => return Err(malformed()),
        };
        fields.end()?;
        Ok(order)
    }
}

impl Report {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { protocol } => frame(1, &protocol.to_le_bytes()),
            Self::Started { pid } => frame(2, &pid.to_le_bytes()),
            Self::NotStarted(refusal, why) => {
                let mut body = vec![*refusal as u8];
                let end = why.floor_char_boundary(REPORT_BYTES_MAX - 8);
                put_bytes(&mut body, &why.as_bytes()[..end]);
                frame(3, &body)
            }
            Self::Ended(ending) => {
                let (kind, number) = match ending {
                    Ending::Code(code) => (0, *code),
                    Ending::Signal(signal) => (1, *signal),
                    Ending::Lapsed => (2, 0),
                    Ending::NotGone => (3, 0),
                };
                let mut body = vec![kind];
                body.extend_from_slice(&number.to_le_bytes());
                frame(4, &body)
            }
        }
    }

    pub(super) fn decode(tag: u8, body: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(body);
        let report = match tag {
            1 => Self::Hello { protocol: fields.u32()? },
            2 => Self::Started { pid: fields.u32()? },
            3 => {
                let refusal = match fields.u8()? {
                    0 => Refusal::NotFound,
                    1 => Refusal::NotExecutable,
                    2 => Refusal::Other,
                    _ => return Err(malformed()),
                };
                Self::NotStarted(refusal, String::from_utf8_lossy(fields.bytes()?).into_owned())
            }
            4 => {
                let (kind, number) = (fields.u8()?, fields.i32()?);
                Self::Ended(match kind {
                    0 => Ending::Code(number),
                    1 => Ending::Signal(number),
                    2 => Ending::Lapsed,
                    3 => Ending::NotGone,
                    _ => return Err(malformed()),
                })
            }
            _ => return Err(malformed()),
        };
        fields.end()?;
        Ok(report)
    }
}

impl Spec {
    fn encode(&self) -> Vec<u8> {
        let mut body = self.lease_until_ns.to_le_bytes().to_vec();
        put_bytes(&mut body, self.program.as_bytes());
        put_list(&mut body, self.args.iter().map(OsString::as_os_str));
        put_list(&mut body, self.env.iter().flat_map(|(name, value)| [name.as_os_str(), value.as_os_str()]));
        put_list(&mut body, self.cwd.iter().map(|path| path.as_os_str()));
        put_list(&mut body, self.scratch.iter().map(|path| path.as_os_str()));
        body
    }

    fn decode(fields: &mut Fields<'_>) -> io::Result<Self> {
        let lease_until_ns = fields.u64()?;
        let program = fields.os_string()?;
        let args = fields.list()?;
        let pairs = fields.list()?;
        let env =
            pairs.as_chunks::<2>().0.iter().map(|[name, value]| (name.clone(), value.clone())).collect();
        let cwd = fields.list()?.pop().map(PathBuf::from);
        let scratch = fields.list()?.pop().map(PathBuf::from);
        Ok(Self { program, args, env, cwd, scratch, lease_until_ns })
    }
}

/// A frame's tag and the length of its body.
pub(super) fn split_header(header: [u8; HEADER_BYTES]) -> (u8, usize) {
    let [tag, a, b, c, d] = header;
    let length = u32::from_le_bytes([a, b, c, d]);
    (tag, usize::try_from(length).expect("a usize has 32 bits or more wherever there are processes"))
}

/// The error for bytes that are no frame.
pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a frame of the guard's protocol")
}

fn header(tag: u8, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length_u32(length).to_le_bytes();
    [tag, a, b, c, d]
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&header(tag, body.len()));
    bytes.extend_from_slice(body);
    bytes
}

fn put_list<'a>(body: &mut Vec<u8>, items: impl Iterator<Item = &'a OsStr> + Clone) {
    body.extend_from_slice(&length_u32(items.clone().count()).to_le_bytes());
    items.for_each(|item| put_bytes(body, item.as_bytes()));
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(&length_u32(bytes.len()).to_le_bytes());
    body.extend_from_slice(bytes);
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("spawn refuses commands and payloads beyond PAYLOAD_BYTES_MAX")
}

/// The fields of a body, taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives the length asked for"))
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::try_from(self.u32()?).map_err(|_| malformed())?;
        self.take(length)
    }

    fn os_string(&mut self) -> io::Result<OsString> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()))
    }

    fn list(&mut self) -> io::Result<Vec<OsString>> {
        (0..self.u32()?).map(|_| self.os_string()).collect()
    }

    fn end(&self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = OsString> + Clone {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec)
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let list = proptest::collection::vec(text(), 0..4);
        let env = proptest::collection::vec((text(), text()), 0..4);
        let path = proptest::option::of(text().prop_map(PathBuf::from));
        (text(), list, env, path.clone(), path, any::<u64>()).prop_map(
            |(program, args, env, cwd, scratch, lease_until_ns)| Spec {
                program,
                args,
                env,
                cwd,
                scratch,
                lease_until_ns,
            },
        )
    }

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![
            spec().prop_map(Order::Start),
            proptest::collection::vec(any::<u8>(), 0..100).prop_map(Order::Payload),
            any::<u64>().prop_map(|until_ns| Order::Lease { until_ns }),
            Just(Order::Terminate),
            any::<u64>().prop_map(|at_ns| Order::KillBy { at_ns }),
        ]
    }

    fn report() -> impl Strategy<Value = Report> {
        let refusal =
            prop_oneof![Just(Refusal::NotFound), Just(Refusal::NotExecutable), Just(Refusal::Other)];
        prop_oneof![
            any::<u32>().prop_map(|protocol| Report::Hello { protocol }),
            any::<u32>().prop_map(|pid| Report::Started { pid }),
            (refusal, ".*").prop_map(|(refusal, why)| Report::NotStarted(refusal, why)),
            any::<i32>().prop_map(|code| Report::Ended(Ending::Code(code))),
            any::<i32>().prop_map(|signal| Report::Ended(Ending::Signal(signal))),
            Just(Report::Ended(Ending::Lapsed)),
            Just(Report::Ended(Ending::NotGone)),
        ]
    }

    proptest! {
        #[test]
        fn an_order_is_read_as_it_was_written(order in order()) {
            let bytes = order.encode();
            let mut from = &bytes[..];
            prop_assert_eq!(Order::read(&mut from).unwrap(), Some(order));
            prop_assert_eq!(Order::read(&mut from).unwrap(), None);
        }

        #[test]
        fn a_report_is_read_as_it_was_written(report in report()) {
            let bytes = report.encode();
            let (header, body) = bytes.split_first_chunk().unwrap();
            let (tag, length) = split_header(*header);
            prop_assert_eq!(length, body.len());
            prop_assert_eq!(Report::decode(tag, body).unwrap(), report);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(tag in 0u8..8, body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Report::decode(tag, &body);
            let _ = Order::decode(tag, body);
        }
    }
}
