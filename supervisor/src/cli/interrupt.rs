//! Ctrl-C while a command looks after a VM.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals by which people and systems end a command.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// From its making on, these signals do not end the process: a thread waits for them and acts.
///
/// The mask is inherited by threads only; `std` gives child processes an empty one.
#[derive(Debug, Clone)]
pub(super) struct Interrupts(Arc<AtomicI32>);

impl Interrupts {
    /// Calls `act` with 1, 2, … at each signal, on a thread of its own.
    pub(super) fn catch(mut act: impl FnMut(u32) + Send + 'static) -> io::Result<Self> {
        let signals: SigSet = SIGNALS.into_iter().collect();
        signals.thread_block()?;
        let caught = Arc::new(AtomicI32::new(0));
        let first = Arc::clone(&caught);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut count = 0;
            while let Ok(signal) = signals.wait() {
                let _ = first.compare_exchange(0, signal as i32, Ordering::SeqCst, Ordering::SeqCst);
                count += 1;
                act(count);
            }
        })?;
        Ok(Self(caught))
    }

    /// The exit code after a signal, as a shell counts it; nothing when there was none.
    pub(super) fn code(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}

/// The same signals as something to poll(2) for.
#[derive(Debug)]
pub(super) struct Pipe(SignalFd);

impl Pipe {
    /// From now on.
    pub(super) fn catch() -> io::Result<Self> {
        let signals: SigSet = SIGNALS.into_iter().collect();
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?))
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
