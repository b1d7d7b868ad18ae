//! What can go wrong on a monitor or an agent connection, as values a program can match on.
//!
//! Every error is cheap to clone, because one cause (the peer went away) ends many waiting calls at once.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a call, or the whole connection, failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer closed the connection: QEMU exited, or another client took its place.
    #[error("the connection was closed by the other side; QEMU has exited or dropped this client")]
    Closed,
    /// No answer came in time. The command may still be carried out: its late answer is dropped.
    #[error("no answer to `{command}` within {after:?}")]
    Timeout {
        /// The command that was waited for.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// QEMU or the guest agent answered with an error.
    #[error("`{command}` was refused: {desc}")]
    Qemu {
        /// The command that was refused.
        command: String,
        /// The error class of the protocol; programs match on this, never on `desc`.
        class: ErrorClass,
        /// The peer's own words, for people.
        desc: String,
    },
    /// One message grew past the size limit. A monitor connection ends by this; an agent is synchronised again.
    #[error("the other side sent one message of more than {limit} bytes, or was asked for more than that")]
    TooLong {
        /// The limit that was passed, in bytes.
        limit: usize,
    },
    /// The peer broke the protocol.
    #[error("the other side broke the protocol")]
    Protocol(#[source] ProtocolError),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] Arc<io::Error>),
    /// Events pile up unread; see [`Events`](crate::Events).
    #[error("more than {limit} bytes of events wait unread; read the event stream or drop it")]
    EventBacklog {
        /// The limit that was passed, in bytes.
        limit: usize,
    },
    /// The answer is well-formed JSON, but not of the form this command has. The connection stays usable.
    #[error("the answer to `{command}` does not have the expected form")]
    Answer {
        /// The command whose answer it is.
        command: String,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The command's arguments cannot be written as a JSON object. Nothing was sent.
    #[error("the arguments of `{command}` cannot be written as a JSON object")]
    Arguments {
        /// The command that was not sent.
        command: String,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// Out-of-band execution was asked for, but this monitor does not offer it.
    #[error("`{command}` cannot run out of band: this monitor did not offer the `oob` capability")]
    NoOob {
        /// The command that was not sent.
        command: String,
    },
    /// A background job of QEMU ended with an error.
    #[error("job `{id}` failed: {desc}")]
    Job {
        /// The job's id.
        id: String,
        /// QEMU's words.
        desc: String,
    },
    /// A migration failed or was cancelled.
    #[error("the migration ended as `{status}`: {desc}")]
    Migration {
        /// QEMU's `MigrationStatus`: `failed` or `cancelled`.
        status: String,
        /// QEMU's words, empty where it gave none.
        desc: String,
    },
    /// A streamed command could not be set up in the guest, so it never ran.
    #[error("the guest could not make room for the output of `{command}` under {folder}: {desc}")]
    Scratch {
        /// The program that was to be run.
        command: String,
        /// The folder in the guest that should have taken the output.
        folder: String,
        /// What the guest's shell said.
        desc: String,
    },
    /// Reading from, or writing to, the caller's own end of a file transfer failed.
    #[error("the local side of the transfer of {path} failed")]
    Local {
        /// The file in the guest.
        path: String,
        /// What failed.
        #[source]
        source: Arc<io::Error>,
    },
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A line is not JSON (or not UTF-8).
    #[error("not a line of JSON: {excerpt}")]
    NotJson {
        /// The beginning of the line.
        excerpt: String,
        /// What the JSON parser said.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A line is JSON, but no greeting, reply or event.
    #[error("neither a greeting nor a reply nor an event: {excerpt}")]
    NotAMessage {
        /// The beginning of the line.
        excerpt: String,
    },
    /// A greeting in the middle of a conversation.
    #[error("a second greeting")]
    SecondGreeting,
    /// A reply carries one of this connection's ids, but no such command is under way.
    #[error("a reply to id {id}, which is not under way")]
    UnknownId {
        /// The id of the reply.
        id: String,
    },
    /// A reply without an id although every command carries one.
    #[error("a reply without an id")]
    NoId,
    /// QEMU could not read what it was sent (it answers such input with an error that has no id).
    #[error("it could not read a command: {desc}")]
    Unreadable {
        /// QEMU's words.
        desc: String,
    },
    /// A value of the answer makes no sense.
    #[error("{0}")]
    Nonsense(String),
}

/// The error classes of QMP (`QapiErrorClass` in QEMU's `qapi/error.json`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Any error without a class of its own.
    GenericError,
    /// This QEMU or agent does not know the command.
    CommandNotFound,
    /// A device is not active.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// KVM lacks a capability that was needed.
    KvmMissingCap,
    /// A class of a later protocol version, by its name.
    Other(String),
}

impl ErrorClass {
    /// The class by its name on the wire.
    ///
    /// ```
    /// use qmp::ErrorClass;
    /// assert_eq!(ErrorClass::from_name("DeviceNotFound"), ErrorClass::DeviceNotFound);
    /// assert_eq!(ErrorClass::from_name("New").name(), "New");
    /// ```
    pub fn from_name(name: &str) -> Self {
        match name {
            "GenericError" => Self::GenericError,
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KvmMissingCap,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<io::Error> for Error {
    /// Errors that only say "the peer is gone" become [`Error::Closed`].
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl Error {
    /// True when the other side is gone or the socket has failed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }

    /// True when a call ran into its deadline.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// The class of the peer's refusal, if this is one.
    pub fn class(&self) -> Option<&ErrorClass> {
        match self {
            Self::Qemu { class, .. } => Some(class),
            _ => None,
        }
    }
}
