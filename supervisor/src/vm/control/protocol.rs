//! The lines that are spoken.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Wanted;
use crate::snapshot::{SnapshotError, SnapshotName};
use crate::spec::Ready;
use crate::store::{RunState, Source, StoreError};
use crate::vm::{Claim, End, How, Phase};

/// What a command asks of a supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The run's state; done with [`Reply::State`] before it.
    Status,
    /// Phases as they are reached, those of before at once, until `until` holds; done then. An end of the guest
    /// before that is an error of kind [`FailureKind::GuestEnded`].
    Follow {
        /// What to wait for.
        until: Until,
    },
    /// Stop in good order; done when the VM has ended, with [`Reply::Ended`] before it.
    Stop {
        /// Milliseconds until force is used; zero uses it at once.
        within_ms: u64,
    },
    /// Stop by SIGKILL to QEMU; as `stop`.
    Kill,
    /// Stop the guest's CPUs; done when they stand still.
    Pause,
    /// Let the guest's CPUs go on; done when they run.
    Resume,
    /// Run a program in the guest through its agent: [`Reply::Output`]s, then [`Reply::Exited`].
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment, added to the agent's.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// Working directory.
        #[serde(default)]
        dir: Option<String>,
        /// Standard input, base64.
        #[serde(default)]
        input: Option<String>,
    },
    /// Read a file of the guest through its agent: [`Reply::Output`]s of stdout.
    ReadFile {
        /// Absolute path in the guest.
        path: String,
    },
    /// Write a file of the guest through its agent. Lines of base64 follow the request; an empty line ends them.
    WriteFile {
        /// Absolute path in the guest.
        path: String,
        /// Permission bits for the file.
        mode: Option<u32>,
    },
    /// The serial console: after the first `done` the connection carries raw bytes both ways.
    Console,
    /// The guest's addresses of a family and source, waited for until there is one or the time is over: `done` carries an
    /// array of [`Heard`](crate::store::Heard), the most wanted first. Where there is none, the failure says why.
    Addresses {
        /// Only these.
        #[serde(default)]
        family: Family,
        /// Only those that became known so; the agent is asked anew.
        #[serde(default)]
        source: Option<Source>,
        /// How long to wait, in milliseconds; zero takes what is known.
        within_ms: u64,
    },
    /// Where a TCP port of the guest is reached from this host: at its own address, or at a port of the host that leads there,
    /// made where there is none. A guest without an address is waited for. `done` carries `{"address": "127.0.0.1", "port": N}`.
    Reach {
        /// The guest's port.
        port: u16,
    },
    /// Save the VM: [`Reply::Progress`] while RAM is written; `done` carries a [`Saved`](crate::vm::Saved).
    Save {
        /// What the snapshot is to be called.
        name: SnapshotName,
        /// What is saved, and what becomes of the VM.
        how: How,
        /// The user's own words.
        #[serde(default)]
        note: Option<String>,
        /// It may take the place of a snapshot of this name.
        #[serde(default)]
        replace: bool,
    },
    /// Make this spare a VM and let it run: `done` carries a [`Claimed`](crate::vm::Claimed) as soon as it does. Only the first of
    /// several such requests succeeds; the others fail as [`FailureKind::Claimed`].
    Claim(Claim),
    /// End this spare; done when that has begun. What is no spare (any more) fails as [`FailureKind::Claimed`].
    Retire,
    /// Give the running guest an identity: `done` carries a [`Report`](crate::identity::Report), which is no success by itself.
    Identify {
        /// What is to change.
        wanted: Box<Wanted>,
        /// How long it may take, in milliseconds.
        within_ms: u64,
    },
    /// Use of CPU, memory and disk; `done` carries it.
    Stats,
    /// The QEMU command line in use, the program first: `done` carries an array of strings.
    CommandLine,
}

/// Addresses of which version of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether an address is one of these.
    #[must_use]
    pub const fn has(self, address: std::net::IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What [`Request::Follow`] waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// The guest's first instruction has run.
    Resumed,
    /// The guest is who it is to be: a clone has confirmed its new identity, any other runs.
    Identified,
    /// The VM's own sign of readiness: its spec's, its image's, or its kind's; the first instruction where it has none.
    Ready,
    /// This sign.
    Sign(Ready),
    /// The guest is a spare that can be claimed, or has been claimed already.
    Spare,
    /// The end of the guest.
    Ended,
}

/// What a supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// The run's state.
    State(Box<RunState>),
    /// A phase was reached.
    Phase(Phase),
    /// How far a long work has come.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Something happened that a person may want to know.
    Note {
        /// One line.
        text: String,
    },
    /// Bytes of a program or file, base64.
    Output {
        /// `stdout` or `stderr`.
        stream: Stream,
        /// The bytes.
        data: String,
    },
    /// A program in the guest ended.
    Exited {
        /// Its exit status, or 128 + the signal that ended it, as a shell has it.
        code: u8,
    },
    /// The guest ended.
    Ended(End),
    /// The request is fulfilled.
    Done {
        /// What was asked for, where it is a value.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        value: Value,
    },
    /// The request failed.
    Error(Failure),
}

/// Which output of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure, for the exit code.
    pub kind: FailureKind,
    /// What failed and why.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The end of the guest, for [`FailureKind::GuestEnded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// Sorts of failure; each has an exit code of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request does not fit the VM's state.
    WrongState,
    /// This is no spare that can be claimed, or not any more.
    Claimed,
    /// A supervisor is not needed: the VM has one.
    Supervised,
    /// The guest ended before what was waited for.
    GuestEnded,
    /// Something took too long.
    Timeout,
    /// The host cannot do it: no QEMU, no KVM, a port in use.
    HostUnfit,
    /// The snapshot does not fit this host or QEMU.
    Incompatible,
    /// A clone did not confirm its new identity.
    Unconfirmed,
    /// No room on a disk or in memory.
    NoSpace,
    /// The image or a file of the guest is missing.
    NotFound,
    /// The request makes no sense.
    Usage,
    /// The guest has no agent, or it failed.
    Agent,
    /// Anything else.
    Other,
}

impl From<&SnapshotError> for FailureKind {
    fn from(error: &SnapshotError) -> Self {
        match error {
            SnapshotError::Name { .. } => Self::Usage,
            SnapshotError::NotFound { .. } | SnapshotError::NoImage { .. } => Self::NotFound,
            SnapshotError::Taken(_)
            | SnapshotError::InUse { .. }
            | SnapshotError::NotMigratable(_)
            | SnapshotError::OpenForWriting(_) => Self::WrongState,
            SnapshotError::Io { source, .. } if is_full(source) => Self::NoSpace,
            SnapshotError::Store(StoreError::Io { source, .. }) if is_full(source) => Self::NoSpace,
            _ => Self::Other,
        }
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Self::new(FailureKind::from(&error), crate::error::chain(&error))
    }
}

/// Whether there was no room.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | OutOfMemory)
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, end: None }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
