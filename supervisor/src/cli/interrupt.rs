//! Ctrl-C while a command looks after something: a build, a console, a VM.
//!
//! The signals are caught by a handler, not blocked: a blocked signal stays blocked in every program that is started meanwhile (a
//! supervisor, and QEMU after it), as `std` lets children inherit the mask, while a handler ends at execve(2).

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The signals of people and systems that end a command are caught while this lives, and become something to poll(2) for.
///
/// One may be made while another lives; it gets the signals until it is dropped, which it must be first.
#[derive(Debug)]
pub(super) struct Pipe {
    // First, as it is to be gone before the pipe is closed.
    _caught: handler::Caught,
    reader: PipeReader,
}

impl Pipe {
    /// From now on.
    pub(super) fn catch() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { _caught: handler::Caught::by(writer)?, reader })
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// The same signals, for a thread that waits for them and acts while this lives.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// The first signal; 0 for none.
    first: Arc<AtomicU8>,
    _caught: handler::Caught,
}

impl Interrupts {
    /// Calls `act` with 1, 2, … and the exit code of such an end at each signal, on a thread of its own.
    pub(super) fn catch(mut act: impl FnMut(u32, u8) + Send + 'static) -> io::Result<Self> {
        let (mut reader, writer) = io::pipe()?;
        let first = Arc::new(AtomicU8::new(0));
        let seen = Arc::clone(&first);
        let caught = handler::Caught::by(writer)?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let (mut count, mut signal) = (0, [0]);
            while reader.read_exact(&mut signal).is_ok() {
                let _ = seen.compare_exchange(0, signal[0], Ordering::SeqCst, Ordering::SeqCst);
                count += 1;
                act(count, 128 + signal[0]);
            }
        })?;
        Ok(Self { first, _caught: caught })
    }

    /// The exit code after a signal, as a shell counts it; nothing when there was none.
    pub(super) fn code(&self) -> Option<u8> {
        match self.first.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal),
        }
    }
}

mod handler {
    #![allow(unsafe_code, reason = "sigaction(2) with a handler: what it does must be async-signal-safe")]

    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::sync::atomic::{AtomicI32, Ordering};

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::PipeWriter;

    const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

    /// Where the handler writes to; -1 for nowhere.
    static TARGET: AtomicI32 = AtomicI32::new(-1);

    /// Writes the signal's number to the pipe. write(2) is async-signal-safe (signal-safety(7)).
    extern "C" fn tell(signal: i32) {
        let errno = Errno::last_raw();
        let fd = TARGET.load(Ordering::SeqCst);
        if let (true, Ok(signal)) = (fd >= 0, u8::try_from(signal)) {
            // SAFETY: the descriptor is open: `Caught` puts another one in its place before it closes it, and what is written to
            // a number that was closed in this very moment is one byte lost.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // A pipe that is full has enough to tell.
            let _ = nix::unistd::write(fd, &[signal]);
        }
        Errno::set_raw(errno);
    }

    /// The handler is in place while this lives.
    #[derive(Debug)]
    pub(super) struct Caught {
        before: Vec<(Signal, SigAction)>,
        target: i32,
        writer: PipeWriter,
    }

    impl Caught {
        /// From now on, signals go to this pipe.
        pub(super) fn by(writer: PipeWriter) -> io::Result<Self> {
            // The handler must never wait.
            fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let target = TARGET.swap(writer.as_raw_fd(), Ordering::SeqCst);
            let mut caught = Self { before: Vec::new(), target, writer };
            let action = SigAction::new(SigHandler::Handler(tell), SaFlags::SA_RESTART, SigSet::empty());
            for signal in SIGNALS {
                // SAFETY: `tell` calls nothing that is not async-signal-safe.
                caught.before.push((signal, unsafe { sigaction(signal, &action) }?));
            }
            Ok(caught)
        }
    }

    impl Drop for Caught {
        fn drop(&mut self) {
            for (signal, action) in &self.before {
                // SAFETY: what was in force before; it is `tell`, or what this process was started with.
                let _ = unsafe { sigaction(*signal, action) };
            }
            let _ = TARGET.compare_exchange(
                self.writer.as_raw_fd(),
                self.target,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// The signals that this process catches (proc_pid_status(5)), as a mask.
    fn caught() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    /// One test, as the handlers belong to the whole process.
    #[test]
    fn signals_are_caught_for_as_long_as_it_is_wanted_and_no_child_is_deaf_to_them() {
        let ours = (1 << 0) | (1 << 1) | (1 << 14);
        let before = caught();
        assert_eq!(before & ours, 0);

        let outer = Interrupts::catch(|_, _| {}).unwrap();
        {
            let mut pipe = Pipe::catch().unwrap();
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
            let mut signal = [0];
            pipe.reader.read_exact(&mut signal).unwrap();
            assert_eq!(signal, [15]);
            let child = Command::new("grep").args(["SigBlk", "/proc/self/status"]).output().unwrap();
            assert_eq!(String::from_utf8(child.stdout).unwrap().trim_end(), "SigBlk:\t0000000000000000");
        }
        assert_eq!(outer.code(), None, "the inner one took it");
        assert_eq!(caught() & ours, ours);
        drop(outer);
        assert_eq!(caught() & ours, 0);

        let (told, tell) = std::sync::mpsc::channel();
        let interrupts = Interrupts::catch(move |count, code| told.send((count, code)).unwrap()).unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        assert_eq!((tell.recv().unwrap(), interrupts.code()), ((1, 130), Some(130)));
        drop(interrupts);
        assert!(tell.recv().is_err(), "the thread has ended");
        assert_eq!(caught(), before);
    }
}
