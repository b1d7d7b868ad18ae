//! Why something about an interface cannot be done.

use std::fmt;
use std::io;

use nix::errno::Errno;

use super::state::LinkKind;
use crate::ns::NamespaceError;

/// Why something about an interface cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No route netlink socket could be made.
    #[error("cannot open a route netlink socket")]
    Socket(#[source] io::Error),
    /// It was called outside of a tokio runtime, or the runtime that the connection lived in has ended.
    #[error("the route netlink connection is closed: it lives in the tokio runtime that opened it")]
    Closed,
    /// The kernel would not take the text as a name.
    #[error(
        "`{0}` cannot be an interface's name: 1 to 15 bytes, without spaces, `/`, `:` and `%`, and neither `.` nor `..`"
    )]
    Name(String),
    /// There is such an interface, but it is no bridge.
    #[error(
        "`{name}` is {kind}, not a bridge: name a bridge, or give the bridge that is to be made another name"
    )]
    NotBridge {
        /// Its name.
        name: String,
        /// What it is instead.
        kind: LinkKind,
    },
    /// The kernel refused.
    #[error("cannot {operation} {interface}: {reason}")]
    Failed {
        /// What was to be done, as in "cannot … eth0".
        operation: &'static str,
        /// The interface's name, or `interface N` where it is gone.
        interface: String,
        /// What the refusal means.
        reason: Reason,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
}

/// What the kernel's refusal means for an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// EPERM, EACCES: a privilege is missing.
    NotPermitted,
    /// The permissions of /dev/net/tun keep this user from opening it.
    DeviceClosed,
    /// EOPNOTSUPP and the like: a module or a part of the kernel is missing.
    Unsupported,
    /// EXFULL (a bridge's ports), ENOSPC, ENOMEM, ENFILE, EMFILE: a table is full.
    Full,
    /// EEXIST: it is there already.
    Exists,
    /// EBUSY: somebody has it.
    Busy,
    /// ENODEV, ENXIO: it is not there, or no longer.
    Gone,
    /// Anything else.
    Other,
}

impl Reason {
    /// What an error number that the route netlink socket answered with means.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => Self::NotPermitted,
            Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => Self::Unsupported,
            // EXFULL: net/bridge/br_if.c, find_portno(), which has 1024 numbers of which 0 is not given.
            Some(Errno::EXFULL | Errno::ENOSPC | Errno::ENOMEM | Errno::ENOBUFS) => Self::Full,
            Some(Errno::ENFILE | Errno::EMFILE) => Self::Full,
            Some(Errno::EEXIST) => Self::Exists,
            Some(Errno::EBUSY) => Self::Busy,
            Some(Errno::ENODEV | Errno::ENXIO) => Self::Gone,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => {
                "that needs CAP_NET_ADMIN in its network namespace: run as root, or let root make it for your user beforehand"
            }
            Self::DeviceClosed => {
                "taps are opened by a device file that this user may not open: `chmod 666 /dev/net/tun`, as udev does, gives no privilege away"
            }
            Self::Unsupported => {
                "the kernel lacks what it takes: load the module (`modprobe bridge`, `modprobe tun`), or use a kernel that has it"
            }
            Self::Full => {
                "a table is full: a bridge has at most 1023 ports, and memory and open files have limits of their own"
            }
            Self::Exists => "it is there already",
            Self::Busy => "something else has it open",
            Self::Gone => "there is no such interface",
            Self::Other => "the kernel refuses",
        })
    }
}

impl LinkError {
    /// An answer of the kernel, told in the words of what was to be done.
    pub(super) fn failed(operation: &'static str, interface: impl Into<String>, source: io::Error) -> Self {
        let reason = Reason::of(&source);
        Self::Failed { operation, interface: interface.into(), reason, source }
    }

    /// What the kernel's refusal means, where it was one.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Failed { reason, .. } => Some(*reason),
            _ => None,
        }
    }

    /// The kernel's error number, where it was a refusal.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Failed { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (errno, reason) in [
            (Errno::EPERM, Reason::NotPermitted),
            (Errno::EOPNOTSUPP, Reason::Unsupported),
            (Errno::EXFULL, Reason::Full),
            (Errno::ENOMEM, Reason::Full),
            (Errno::EEXIST, Reason::Exists),
            (Errno::EBUSY, Reason::Busy),
            (Errno::ENODEV, Reason::Gone),
            (Errno::EINVAL, Reason::Other),
        ] {
            let error = LinkError::failed("join the bridge of", "tap0", errno.into());
            assert_eq!(error.reason(), Some(reason), "{errno}");
            assert!(error.to_string().starts_with("cannot join the bridge of tap0: "), "{error}");
        }
    }

    #[test]
    fn a_missing_privilege_is_named() {
        let error = LinkError::failed("add the bridge", "br0", Errno::EPERM.into());
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }
}
