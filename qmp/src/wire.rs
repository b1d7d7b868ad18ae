//! One JSON line in or out: pure, incremental, no I/O.
//!
//! QMP and the guest agent send one JSON object per line (`docs/interop/qmp-spec.rst` in QEMU; a monitor with
//! `pretty=on` does not and is not supported). [`Framer`] cuts the byte stream into lines under a size limit and
//! [`parse`] reads one of them; [`encode`] writes a command.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::error::{ErrorClass, ProtocolError};
use crate::event::Event;

/// The longest line taken from a monitor, in bytes. `query-qmp-schema`, the longest regular answer, is about 0.3 MB.
pub const MONITOR_LIMIT: usize = 16 << 20;

/// The longest line taken from a guest agent, in bytes. `guest-exec-status` may carry two streams of 16 MiB in
/// base64, which makes 43 MiB.
pub const AGENT_LIMIT: usize = 64 << 20;

/// The byte that `guest-sync-delimited` puts before its answer; it occurs in no UTF-8 text.
pub const SENTINEL: u8 = 0xff;

/// How much of a wrong line goes into an error.
const EXCERPT: usize = 120;

/// Buffers beyond this size are given back once they are empty.
const KEEP: usize = 1 << 20;

/// A piece of the byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A line without its line ending, never blank.
    Line(Vec<u8>),
    /// The agent's [`SENTINEL`]; whatever came before it is stale.
    Sentinel,
}

/// A line passed the limit. It is dropped up to its end, so the framer can be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Cuts a byte stream into lines, whatever pieces it arrives in.
///
/// ```
/// use qmp::wire::{Frame, Framer};
/// let mut framer = Framer::monitor(1024);
/// framer.push(b"{\"return\": ");
/// assert_eq!(framer.next_frame(), Ok(None));
/// framer.push(b"{}}\r\n");
/// assert_eq!(framer.next_frame(), Ok(Some(Frame::Line(b"{\"return\": {}}".to_vec()))));
/// ```
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Start of the current line in `buffer`.
    start: usize,
    /// Everything before this has been searched for a line's end.
    scanned: usize,
    limit: usize,
    sentinel: bool,
    skip: Skip,
}

/// What is being thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// The rest of a line that was too long.
    Line,
    /// Everything up to the sentinel.
    ToSentinel,
}

impl Framer {
    /// For a monitor: lines only. `limit` is the longest line, in bytes.
    pub fn monitor(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, limit, sentinel: false, skip: Skip::Nothing }
    }

    /// For a guest agent: lines and sentinels. `limit` is the longest line, in bytes.
    pub fn agent(limit: usize) -> Self {
        Self { sentinel: true, ..Self::monitor(limit) }
    }

    /// Adds bytes as they came in.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Throws away what is buffered and what will come, up to the next sentinel.
    pub fn skip_to_sentinel(&mut self) {
        self.clear();
        self.skip = Skip::ToSentinel;
    }

    /// True when nothing is held: no unread frame and no unfinished line.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next line or sentinel; `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, TooLong> {
        loop {
            let sentinel = self.sentinel;
            let skip = self.skip;
            let found = self.buffer[self.scanned..].iter().position(|&byte| match skip {
                Skip::ToSentinel => byte == SENTINEL,
                _ => byte == b'\n' || (sentinel && byte == SENTINEL),
            });
            let Some(offset) = found else {
                self.scanned = self.buffer.len();
                if skip != Skip::Nothing {
                    self.clear();
                } else if self.buffer.len() - self.start > self.limit {
                    self.clear();
                    self.skip = Skip::Line;
                    return Err(TooLong { limit: self.limit });
                }
                if self.is_empty() {
                    self.clear();
                }
                return Ok(None);
            };
            let end = self.scanned + offset;
            let line = self.start..end;
            if skip == Skip::Nothing && line.len() > self.limit {
                // Told before its end, as it would have been had the end come later.
                self.start = end;
                self.scanned = end;
                self.skip = Skip::Line;
                return Err(TooLong { limit: self.limit });
            }
            let is_sentinel = sentinel && self.buffer[end] == SENTINEL;
            self.start = end + 1;
            self.scanned = self.start;
            self.skip = Skip::Nothing;
            if is_sentinel {
                return Ok(Some(Frame::Sentinel));
            }
            if skip == Skip::Line {
                continue;
            }
            let line = self.buffer[line].trim_ascii();
            if !line.is_empty() {
                return Ok(Some(Frame::Line(line.to_vec())));
            }
        }
    }

    fn clear(&mut self) {
        self.buffer.clear();
        if self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
        self.start = 0;
        self.scanned = 0;
    }
}

/// The first line of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// QEMU's version.
    pub version: Version,
    /// The capabilities on offer, such as `oob`; unknown ones are kept.
    pub capabilities: Vec<String>,
}

/// QEMU's version. Compares by `(major, minor, micro)` first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
    /// The distributor's package text; may be empty.
    pub package: String,
}

impl Version {
    /// True for this version or a later one.
    ///
    /// ```
    /// let version = qmp::wire::Version { major: 10, minor: 0, micro: 2, package: String::new() };
    /// assert!(version.at_least(8, 2) && version.at_least(10, 0) && !version.at_least(10, 1));
    /// ```
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// The answer to one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The command's id as the peer repeats it.
    pub id: Option<Value>,
    /// The returned value, or the refusal.
    pub result: Result<Value, Refusal>,
}

/// An error as the peer words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class, for programs.
    pub class: ErrorClass,
    /// The text, for people.
    pub desc: String,
}

/// One line, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The monitor's first line.
    Greeting(Greeting),
    /// An answer.
    Reply(Reply),
    /// An event, known or not.
    Event(Event),
}

/// Reads one line. Fields that are not known are ignored; unknown events and error classes are kept by name.
pub fn parse(line: &[u8]) -> Result<Message, ProtocolError> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|source| ProtocolError::NotJson { excerpt: excerpt(line), source: Arc::new(source) })?;
    let not_a_message = || ProtocolError::NotAMessage { excerpt: excerpt(line) };
    let Value::Object(mut object) = value else { return Err(not_a_message()) };
    if let Some(Value::String(name)) = object.get("event") {
        let name = name.clone();
        let data = object.remove("data").unwrap_or_else(|| Value::Object(serde_json::Map::default()));
        let timestamp = object.get("timestamp");
        return Ok(Message::Event(Event::from_wire(name, data, timestamp, line.len())));
    }
    if let Some(greeting) = object.get("QMP") {
        return greeting_from(greeting).map(Message::Greeting).ok_or_else(not_a_message);
    }
    let id = object.remove("id");
    if let Some(value) = object.remove("return") {
        return Ok(Message::Reply(Reply { id, result: Ok(value) }));
    }
    let error = object.get("error").and_then(Value::as_object).ok_or_else(not_a_message)?;
    let text = |key| error.get(key).and_then(Value::as_str);
    let class = text("class").map(ErrorClass::from_name).ok_or_else(not_a_message)?;
    let desc = text("desc").unwrap_or_default().to_owned();
    Ok(Message::Reply(Reply { id, result: Err(Refusal { class, desc }) }))
}

fn greeting_from(value: &Value) -> Option<Greeting> {
    let version = value.get("version")?;
    let triple = version.get("qemu")?;
    let number = |key| triple.get(key)?.as_u64().and_then(|number| u32::try_from(number).ok());
    let capabilities = value.get("capabilities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Some(Greeting {
        version: Version {
            major: number("major")?,
            minor: number("minor")?,
            micro: number("micro")?,
            package: version.get("package").and_then(Value::as_str).unwrap_or_default().to_owned(),
        },
        capabilities: capabilities.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// How a command is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In order, after the commands before it.
    InBand,
    /// At once, beside whatever is running (`exec-oob`).
    OutOfBand,
    /// In order, with a file descriptor; only one such command is under way at a time.
    Descriptor,
}

/// Writes one command with its line ending. `id` is left out for the agent, whose older versions refuse it.
///
/// The arguments must serialise to an object, or to null or nothing, which is sent as an empty object.
pub fn encode<A: Serialize + ?Sized>(
    name: &str,
    arguments: &A,
    mode: Mode,
    id: Option<&str>,
) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Command<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        execute: Option<&'a str>,
        #[serde(rename = "exec-oob", skip_serializing_if = "Option::is_none")]
        exec_oob: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    let oob = mode == Mode::OutOfBand;
    let head = Command { execute: (!oob).then_some(name), exec_oob: oob.then_some(name), id };
    let mut line = serde_json::to_vec(&head)?;
    let mut arguments = serde_json::to_vec(arguments)?;
    if arguments == b"null" {
        arguments = b"{}".to_vec();
    }
    if arguments.first() != Some(&b'{') {
        return Err(serde::ser::Error::custom("arguments must be an object"));
    }
    line.pop();
    line.extend_from_slice(b",\"arguments\":");
    line.append(&mut arguments);
    line.extend_from_slice(b"}\n");
    Ok(line)
}

fn excerpt(line: &[u8]) -> String {
    let head = &line[..line.len().min(EXCERPT)];
    let mut text = head.escape_ascii().to_string();
    if line.len() > EXCERPT {
        text.push('…');
    }
    text
}
