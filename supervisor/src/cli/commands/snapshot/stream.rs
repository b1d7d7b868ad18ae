//! Streams that a signal ends as a failed disk would, so that whoever reads or writes clears up behind itself.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::exit::{ExitKind, Failed};
use crate::cli::interrupt::Pipe;

/// As much as a pipe takes without a wait when it says that it takes anything: POSIX's `PIPE_BUF` on Linux (pipe(7)).
const AT_ONCE: usize = 4096;

/// A stream that fails from the first signal on that asks this command to end, also while it waits for the other side.
pub(super) struct Interruptible<S> {
    inner: S,
    signals: Pipe,
    interrupted: Interrupted,
}

/// Whether there was such a signal.
#[derive(Clone, Default)]
pub(super) struct Interrupted(Rc<Cell<bool>>);

impl Interrupted {
    /// Tells a failure that the signal brought about as what it is.
    pub(super) fn explain(&self, failed: Failed) -> Failed {
        if self.0.get() {
            Failed::new(ExitKind::Interrupted, "interrupted; nothing of it is left behind")
        } else {
            failed
        }
    }
}

impl<S: AsFd> Interruptible<S> {
    /// Signals are caught from now on, until it is dropped.
    pub(super) fn new(inner: S) -> Result<Self, Failed> {
        let signals = Pipe::catch().map_err(|e| Failed::io("cannot look out for Ctrl-C", e))?;
        Ok(Self { inner, signals, interrupted: Interrupted::default() })
    }

    /// Tells of a signal also when the stream has gone.
    pub(super) fn interrupted(&self) -> Interrupted {
        self.interrupted.clone()
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn wait(&mut self, events: PollFlags) -> io::Result<()> {
        let mut fds =
            [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.inner.as_fd(), events)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => break,
            }
        }
        if fds[0].any().unwrap_or(false) {
            self.interrupted.0.set(true);
            // Not of the kind `Interrupted`, after which a call is tried again.
            return Err(io::Error::other("interrupted"));
        }
        Ok(())
    }
}

impl<S: Read + AsFd> Read for Interruptible<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.inner.read(into)
    }
}

impl<S: Write + AsFd> Write for Interruptible<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT)?;
        self.inner.write(&bytes[..bytes.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
