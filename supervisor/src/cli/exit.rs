//! Exit codes, and failures as people see them.

use std::io;

use crate::store::StoreError;
use crate::vm::LaunchError;
use crate::vm::control::{ClientError, Failure, FailureKind};

/// What the exit code of `midge` says. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
    /// It worked.
    Ok = 0,
    /// A failure that has no code of its own.
    Other = 1,
    /// The command line or the spec makes no sense.
    Usage = 2,
    /// No such VM, image or file.
    NotFound = 3,
    /// The VM is not in a state for this.
    WrongState = 4,
    /// Something took too long.
    Timeout = 5,
    /// The host cannot do it.
    HostUnfit = 6,
    /// The snapshot does not fit this host or QEMU.
    Incompatible = 7,
    /// No room on a disk or in memory.
    NoSpace = 8,
    /// A clone did not confirm its new identity.
    Unconfirmed = 9,
    /// midge's own failure inside `exec` and `run -- CMD`, whose other codes are the guest command's.
    OwnFailure = 125,
    /// Ctrl-C, or another signal that asks to end; the number is the one that shells have for SIGINT.
    Interrupted = 130,
}

impl ExitKind {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<FailureKind> for ExitKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::WrongState | FailureKind::Claimed | FailureKind::Supervised => Self::WrongState,
            FailureKind::Timeout => Self::Timeout,
            FailureKind::HostUnfit => Self::HostUnfit,
            FailureKind::Incompatible => Self::Incompatible,
            FailureKind::Unconfirmed => Self::Unconfirmed,
            FailureKind::NoSpace => Self::NoSpace,
            FailureKind::NotFound => Self::NotFound,
            FailureKind::Usage => Self::Usage,
            FailureKind::GuestEnded | FailureKind::Agent | FailureKind::Other => Self::Other,
        }
    }
}

/// Lines that explain a failure: a guest's last words, or QEMU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// What the lines are, and where the rest is.
    pub(super) title: String,
    /// The lines, clean of control characters.
    pub(super) lines: Vec<String>,
}

/// A command that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// For the exit code.
    pub(super) kind: ExitKind,
    /// What failed and why, outermost first.
    pub(super) error: anyhow::Error,
    /// One thing to try next.
    pub(super) hint: Option<String>,
    /// What explains it.
    pub(super) sections: Vec<Section>,
    /// Nobody reads what the command writes: not worth a word (`midge ls | head -1`).
    pub(super) unheard: bool,
}

impl Failed {
    /// A failure in one sentence.
    pub(super) fn new(kind: ExitKind, message: impl Into<String>) -> Self {
        Self::wrap(kind, anyhow::Error::msg(message.into()))
    }

    /// A failure from an error and its sources.
    pub(super) fn wrap(kind: ExitKind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into(), hint: None, sections: Vec::new(), unheard: false }
    }

    /// A failed system call, with what was tried.
    pub(super) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::wrap(io_kind(&error), anyhow::Error::new(error).context(what.into()))
    }

    /// A failed write to stdout.
    pub(super) fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            let quiet = Self::new(ExitKind::Ok, "nobody reads stdout any more");
            return Self { unheard: true, ..quiet };
        }
        Self::io("cannot write to stdout", error)
    }

    /// With one thing to try next.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what was being done.
    pub(super) fn context(mut self, what: impl Into<String>) -> Self {
        self.error = self.error.context(what.into());
        self
    }

    /// With lines that explain it.
    pub(super) fn sections(mut self, sections: Vec<Section>) -> Self {
        self.sections.extend(sections);
        self
    }

    /// As a failure of `exec` or `run -- CMD`.
    pub(super) fn inside_exec(mut self) -> Self {
        if !self.unheard && self.kind != ExitKind::Interrupted {
            self.kind = ExitKind::OwnFailure;
        }
        self
    }
}

/// The sort of an operating system's refusal.
pub(super) fn io_kind(error: &io::Error) -> ExitKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            ExitKind::NoSpace
        }
        io::ErrorKind::NotFound => ExitKind::NotFound,
        io::ErrorKind::TimedOut => ExitKind::Timeout,
        _ => ExitKind::Other,
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NotFound { .. } => ExitKind::NotFound,
            StoreError::Taken(_) => ExitKind::WrongState,
            StoreError::NoFolder { .. } => ExitKind::HostUnfit,
            StoreError::Io { source, .. } => match io_kind(source) {
                ExitKind::NotFound => ExitKind::Other,
                kind => kind,
            },
            StoreError::Damaged { .. } | StoreError::Newer { .. } => ExitKind::Other,
        };
        Self::wrap(kind, error)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let hint = failure.hint.clone();
        Self { hint, ..Self::wrap(failure.kind.into(), failure) }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(failure) => failure.into(),
            ClientError::Timeout(_) => Self::wrap(ExitKind::Timeout, error),
            _ => Self::wrap(ExitKind::Other, error),
        }
    }
}

impl From<LaunchError> for Failed {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Store(error) => error.into(),
            LaunchError::Refused(failure) => failure.into(),
            LaunchError::Client(error) => error.into(),
            LaunchError::NotRunning(_) => Self::wrap(ExitKind::WrongState, error),
            LaunchError::Spawn(_) => Self::wrap(ExitKind::Other, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_promised() {
        let all = [
            (ExitKind::Ok, 0),
            (ExitKind::Other, 1),
            (ExitKind::Usage, 2),
            (ExitKind::NotFound, 3),
            (ExitKind::WrongState, 4),
            (ExitKind::Timeout, 5),
            (ExitKind::HostUnfit, 6),
            (ExitKind::Incompatible, 7),
            (ExitKind::NoSpace, 8),
            (ExitKind::Unconfirmed, 9),
            (ExitKind::OwnFailure, 125),
            (ExitKind::Interrupted, 130),
        ];
        for (kind, code) in all {
            assert_eq!(kind.code(), code, "{kind:?}");
        }
    }

    #[test]
    fn refusals_keep_their_kind_and_hint() {
        let refusal = Failure::new(FailureKind::NoSpace, "no room").hint("make some");
        let failed = Failed::from(LaunchError::Client(ClientError::Refused(refusal)));
        assert_eq!(failed.kind, ExitKind::NoSpace);
        assert_eq!(failed.hint.as_deref(), Some("make some"));
        assert_eq!(format!("{:#}", failed.error), "no room");
    }

    #[test]
    fn store_errors_have_their_codes() {
        let full = StoreError::Io {
            action: "write",
            path: "/x".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        };
        assert_eq!(Failed::from(full).kind, ExitKind::NoSpace);
        let missing = StoreError::NotFound { name: "a".to_owned(), near: None };
        assert_eq!(Failed::from(missing).kind, ExitKind::NotFound);
        assert_eq!(Failed::from(StoreError::Taken("a".to_owned())).kind, ExitKind::WrongState);
    }

    #[test]
    fn a_closed_stdout_is_silent_success_even_inside_exec() {
        let failed = Failed::stdout(io::Error::from(io::ErrorKind::BrokenPipe)).inside_exec();
        assert!(failed.unheard);
        assert_eq!(failed.kind, ExitKind::Ok);
    }

    #[test]
    fn a_chain_is_told_once() {
        let error = StoreError::Io {
            action: "write",
            path: "/x".into(),
            source: io::Error::other("the disk is on fire"),
        };
        let failed = Failed::from(error).context("creating `web`");
        assert_eq!(format!("{:#}", failed.error), "creating `web`: cannot write /x: the disk is on fire");
    }
}
