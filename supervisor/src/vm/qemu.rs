//! QEMU's process: spawned as our child, or adopted from a supervisor that was killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::unix::AsyncFd;

use super::state::ExitStatus;
use crate::host::proc::ProcessId;

/// QEMU's process.
#[derive(Debug)]
pub(super) struct Process {
    id: ProcessId,
    /// Readable when the process has ended (`pidfd_open(2)`); no signal handler and no reaper thread is needed.
    pidfd: AsyncFd<OwnedFd>,
    /// Our child, unless it was adopted.
    child: Option<Child>,
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
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let watched = Self::watch(pid);
        match watched {
            Ok((id, pidfd)) => Ok(Self { id, pidfd, child: Some(child) }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Takes charge of a process that is there already; nothing when it is gone.
    pub(super) fn adopt(id: &ProcessId) -> io::Result<Option<Self>> {
        match id.open()? {
            Some(pidfd) => Ok(Some(Self { id: id.clone(), pidfd: AsyncFd::new(pidfd.into())?, child: None })),
            None => Ok(None),
        }
    }

    /// A child cannot be reaped behind our back, so its pid is its own for as long as we hold it.
    fn watch(pid: i32) -> io::Result<(ProcessId, AsyncFd<OwnedFd>)> {
        let id = ProcessId::of(pid)?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
        Ok((id, AsyncFd::new(pidfd)?))
    }

    pub(super) fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Sends SIGKILL; a process that is gone already is fine.
    pub(super) fn kill(&self) {
        let fd = self.pidfd.get_ref();
        if let Err(e) = rustix::process::pidfd_send_signal(fd, rustix::process::Signal::KILL)
            && e != rustix::io::Errno::SRCH
        {
            tracing::warn!("cannot kill QEMU (descriptor {}): {e}", fd.as_raw_fd());
        }
    }

    /// Resolves when the process has ended, with how it did if it was our child.
    pub(super) async fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let _ready = self.pidfd.readable().await?;
        match &mut self.child {
            None => Ok(None),
            Some(child) => {
                let status = child.wait()?;
                Ok(match (status.code(), status.signal()) {
                    // An exit status is what `_exit(2)` leaves of it: the low eight bits.
                    (Some(code), _) => Some(ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
                    (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
                    (None, None) => None,
                })
            }
        }
    }
}
