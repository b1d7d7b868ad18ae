//! QEMU's process: spawned as our child, or adopted from a supervisor that was killed.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::state::ExitStatus;
use crate::host::proc::{PidFd, ProcessId, Signal};

/// QEMU's process.
#[derive(Debug)]
pub(super) struct Process {
    /// Nothing for a child that ended before it could be looked at.
    id: Option<ProcessId>,
    /// Readable when the process has ended (`pidfd_open(2)`); no signal handler and no reaper thread is needed.
    pidfd: PidFd,
    /// Our child, unless it was adopted.
    child: RefCell<Option<Child>>,
}

impl Process {
    /// Starts `binary`. `inherited` descriptors keep their numbers in the child; the caller closes its own copies.
    ///
    /// The child has a process group of its own, so that a signal to the supervisor's does not reach it, and no tie to the
    /// supervisor's life: it goes on when the supervisor is killed.
    pub(super) fn spawn(
        binary: &Path,
        arguments: &[String],
        inherited: &[BorrowedFd<'_>],
        stderr: File,
    ) -> io::Result<Self> {
        for fd in inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .process_group(0)
            .current_dir("/")
            .spawn();
        for fd in inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let mut child = child?;
        // A child cannot be reaped behind our back, so its number is its own for as long as we hold it.
        match PidFd::open(child.id()) {
            Ok(Some(pidfd)) => {
                let id = ProcessId::of(child.id()).ok();
                Ok(Self { id, pidfd, child: RefCell::new(Some(child)) })
            }
            other => {
                let _ = child.kill();
                let _ = child.wait();
                Err(other.err().unwrap_or_else(|| io::ErrorKind::NotFound.into()))
            }
        }
    }

    /// Takes charge of a process that is there already; nothing when it is gone.
    pub(super) fn adopt(id: &ProcessId) -> io::Result<Option<Self>> {
        Ok(id.open()?.map(|pidfd| Self { id: Some(id.clone()), pidfd, child: RefCell::new(None) }))
    }

    pub(super) fn id(&self) -> Option<&ProcessId> {
        self.id.as_ref()
    }

    /// Sends SIGKILL; a process that is gone already is fine.
    pub(super) fn kill(&self) {
        if let Err(e) = self.pidfd.signal(Signal::KILL) {
            tracing::warn!("cannot kill QEMU: {e}");
        }
    }

    /// Resolves when the process has ended.
    pub(super) async fn gone(&self) -> io::Result<()> {
        self.pidfd.ended().await
    }

    /// Resolves when the process has ended, with how it did: of a child always, of an adopted process where the kernel
    /// tells.
    pub(super) async fn ended(&self) -> io::Result<Option<ExitStatus>> {
        self.gone().await?;
        // It has ended, so this wait only collects the status.
        let child = self.child.borrow_mut().take();
        let status = match child {
            Some(mut child) => Some(child.wait()?),
            None => self.id.as_ref().and_then(|id| id.exit_status(&self.pidfd)),
        };
        Ok(status.and_then(|status| match (status.code(), status.signal()) {
            // An exit status is what `_exit(2)` leaves of it: the low eight bits.
            (Some(code), _) => Some(ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
            (None, None) => None,
        }))
    }
}
