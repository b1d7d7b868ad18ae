//! This terminal at a guest's serial console.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};

use crate::cli::exit::Failed;
use crate::cli::logfile::Follower;
use crate::cli::output;

/// Ctrl-], by which telnet(1) is left, too.
const DETACH: u8 = 0x1d;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The user left.
    Detached,
    /// The guest's side did.
    Guest,
}

/// A terminal in raw mode (cfmakeraw(3)), put back when dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    /// Nothing when stdin is no terminal.
    fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Joins this terminal, or whatever stdin and stdout are, to a console's socket until either side ends.
///
/// The end of a stdin that is no terminal is the end of typing, not of reading.
pub(super) fn join(socket: &UnixStream) -> Result<Ended, Failed> {
    let raw = Raw::enter().map_err(terminal)?;
    // Ends by a signal, too, must put the terminal back.
    let signals = crate::cli::interrupt::Pipe::catch().map_err(terminal)?;
    let mut typing = true;
    let mut buffer = [0; 16 << 10];
    loop {
        let mut fds = vec![input(socket.as_fd()), input(signals.as_fd())];
        let stdin = io::stdin();
        if typing {
            fds.push(input(stdin.as_fd()));
        }
        wait(&mut fds).map_err(terminal)?;
        let [from_guest, signal] = [ready(&fds[0]), ready(&fds[1])];
        let typed = typing && ready(&fds[2]);
        if signal {
            return Ok(Ended::Detached);
        }
        if from_guest {
            match (&*socket).read(&mut buffer) {
                Ok(0) => return Ok(Ended::Guest),
                Ok(n) => output::bytes(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Ended::Guest),
                Err(e) => return Err(Failed::io("cannot read the console", e)),
            }
        }
        if typed {
            match keys(raw.is_some(), &mut buffer)? {
                Keys::Typed(n) => type_to(socket, &buffer[..n])?,
                Keys::Detach(n) => {
                    type_to(socket, &buffer[..n])?;
                    return Ok(Ended::Detached);
                }
                Keys::End => typing = false,
            }
        }
    }
}

/// Shows a guest's console log from its first byte on until `ended` is closed or the user leaves. What is typed goes to
/// `console`, when stdin is a terminal; what comes back from there is in the log already.
pub(super) fn watch(
    follower: &mut Follower,
    ended: &OwnedFd,
    console: Option<&UnixStream>,
) -> Result<Ended, Failed> {
    let raw = match console {
        Some(_) => Raw::enter().map_err(terminal)?,
        None => None,
    };
    let console = raw.as_ref().and(console);
    let mut buffer = [0; 16 << 10];
    let (mut growing, mut answering) = (true, console.is_some());
    loop {
        follower.read(|bytes| output::bytes(bytes).map_err(Stop::Output)).map_err(Stop::failed)?;
        let stdin = io::stdin();
        let mut fds = vec![input(ended.as_fd())];
        if growing {
            fds.push(input(follower.changes().as_fd()));
        }
        let keyboard = fds.len();
        if let Some(console) = console {
            fds.push(input(stdin.as_fd()));
            if answering {
                fds.push(input(console.as_fd()));
            }
        }
        wait(&mut fds).map_err(terminal)?;
        let over = ready(&fds[0]);
        let changed = growing && ready(&fds[1]);
        let typed = fds.get(keyboard).is_some_and(ready);
        let answered = fds.get(keyboard + 1).is_some_and(ready);
        drop(fds);
        if changed {
            growing = follower.changed().map_err(|e| Failed::io("cannot watch the console log", e))?;
        }
        if over {
            // What the guest wrote last.
            follower.read(|bytes| output::bytes(bytes).map_err(Stop::Output)).map_err(Stop::failed)?;
            return Ok(Ended::Guest);
        }
        let Some(mut socket) = console else { continue };
        if answered {
            answering = matches!(socket.read(&mut buffer), Ok(n) if n > 0);
        }
        if typed {
            match keys(true, &mut buffer)? {
                // Keys for a guest that is leaving are lost, as on any terminal.
                Keys::Typed(n) => drop(socket.write_all(&buffer[..n])),
                Keys::Detach(_) | Keys::End => return Ok(Ended::Detached),
            }
        }
    }
}

enum Keys {
    Typed(usize),
    /// After so many bytes.
    Detach(usize),
    End,
}

fn keys(terminal: bool, buffer: &mut [u8]) -> Result<Keys, Failed> {
    // Past the buffer of `std`, which poll(2) cannot see.
    match nix::unistd::read(io::stdin().as_fd(), buffer) {
        // Closed, or the terminal is gone.
        Ok(0) | Err(Errno::EIO) => Ok(Keys::End),
        Ok(n) => match buffer[..n].iter().position(|b| *b == DETACH).filter(|_| terminal) {
            Some(at) => Ok(Keys::Detach(at)),
            None => Ok(Keys::Typed(n)),
        },
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(Keys::Typed(0)),
        Err(e) => Err(Failed::io("cannot read stdin", e.into())),
    }
}

fn type_to(mut socket: &UnixStream, keys: &[u8]) -> Result<(), Failed> {
    match socket.write_all(keys) {
        // The next read tells.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|e| Failed::io("cannot write to the console", e)),
    }
}

fn input(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

fn ready(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(false)
}

fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

fn terminal(error: impl Into<io::Error>) -> Failed {
    Failed::io("cannot use this terminal", error.into())
}

/// Why reading the log stopped.
enum Stop {
    Output(Failed),
    Log(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

impl Stop {
    fn failed(self) -> Failed {
        match self {
            Self::Output(failed) => failed,
            Self::Log(error) => Failed::io("cannot read the console log", error),
        }
    }
}
