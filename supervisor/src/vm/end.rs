//! How guests end.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How one run of a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What happened.
    #[serde(flatten)]
    pub cause: Cause,
    /// On whose wish, where it was somebody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<AskedBy>,
}

/// What ended a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// The guest switched itself off (ACPI, PSCI).
    PoweredOff,
    /// The guest reset itself, and the VM is to stop then (`--no-reboot`).
    Reset,
    /// The guest wrote to the `isa-debug-exit` device.
    DebugExit {
        /// The number it wrote.
        code: u8,
    },
    /// The guest's kernel told the `pvpanic` device that it panicked.
    Panicked,
    /// KVM met an instruction or a state that it cannot handle. QEMU stays alive and paused then
    /// (`RUN_STATE_INTERNAL_ERROR`); the guest is dead all the same.
    KvmInternalError,
    /// QEMU itself ended without being asked to.
    QemuCrashed {
        /// Its exit status or signal, in words.
        detail: String,
    },
    /// QEMU could not be started, or ended before its monitor answered.
    QemuFailed {
        /// Its own words on stderr, or the operating system's.
        detail: String,
    },
    /// Ended by midge at once, without asking the guest.
    Killed,
    /// It was saved, and ended so that it can go on from there.
    Saved,
    /// A snapshot could not be loaded.
    NotRestored {
        /// Why.
        detail: String,
    },
    /// A new identity was asked of it, and it did not confirm it.
    Unconfirmed {
        /// What is known.
        detail: String,
    },
    /// The kernel's out-of-memory killer took QEMU.
    OomKilled {
        /// Where the kernel said so.
        detail: String,
    },
    /// QEMU ended while nobody watched (its supervisor had been killed), or the host went down.
    Unknown {
        /// What is known.
        detail: String,
    },
}

/// Who wished a guest to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AskedBy {
    /// A command.
    User,
    /// The VM's time to live was over.
    Ttl,
    /// The supervisor was told to end (SIGTERM: the host goes down).
    Host,
}

impl End {
    /// Whether the guest failed, as against having ended in good order or by somebody's wish.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.asked_by.is_none()
            && !matches!(
                self.cause,
                Cause::PoweredOff | Cause::Reset | Cause::Saved | Cause::DebugExit { code: 0 }
            )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("powered off"),
            Self::Reset => f.write_str("reset"),
            Self::DebugExit { code } => write!(f, "exit {code}"),
            Self::Panicked => f.write_str("guest panicked"),
            Self::KvmInternalError => f.write_str("KVM internal error"),
            Self::QemuCrashed { detail } => write!(f, "QEMU crashed ({detail})"),
            Self::QemuFailed { detail } => write!(f, "QEMU did not start ({detail})"),
            Self::Killed => f.write_str("killed"),
            Self::Saved => f.write_str("saved"),
            Self::NotRestored { detail } => write!(f, "the snapshot could not be loaded ({detail})"),
            Self::Unconfirmed { detail } => write!(f, "it did not confirm its new identity ({detail})"),
            Self::OomKilled { .. } => f.write_str("out of memory"),
            Self::Unknown { detail } => write!(f, "unknown ({detail})"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        match self.asked_by {
            Some(AskedBy::User) => f.write_str(", as asked"),
            Some(AskedBy::Ttl) => f.write_str(", its time to live was over"),
            Some(AskedBy::Host) => f.write_str(", the host asked"),
            None => Ok(()),
        }
    }
}
