//! The commands' side of the control socket: blocking, because a command has nothing else to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Failure, Reply, Request};

/// The longest reply line; a supervisor sends output in pieces far below it.
const LONGEST_LINE: u64 = 16 << 20;

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

/// What can go wrong on it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The supervisor said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The connection ended in the middle.
    #[error("the VM's supervisor ended in the middle of this; `midge ls` shows what became of the VM")]
    Gone,
    /// Nothing came in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The supervisor said something that this midge does not know.
    #[error(
        "the VM's supervisor answered what this midge does not understand: {0}; was midge upgraded while the VM runs? Restart the VM"
    )]
    Strange(String),
    /// The operating system refused.
    #[error("cannot talk to the VM's supervisor")]
    Io(#[source] io::Error),
}

impl Client {
    /// A client on a connected socket.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    /// Sends the request.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_string(request).map_err(|e| ClientError::Strange(e.to_string()))?;
        line.push('\n');
        self.send_raw(line.as_bytes())
    }

    /// Sends bytes as they are (`write-file` and `console`).
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.reader.get_mut().write_all(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Gone,
            _ => ClientError::Io(e),
        })
    }

    /// Bounds the wait for each reply; none waits for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        // A zero timeout would mean "none" to the system call.
        let timeout = timeout.map(|t| t.max(Duration::from_millis(1)));
        self.reader.get_ref().set_read_timeout(timeout).map_err(ClientError::Io)
    }

    /// The next reply; a refusal is an error.
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let timeout = self.reader.get_ref().read_timeout().ok().flatten();
        match (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(0) => return Err(ClientError::Gone),
            Ok(_) if line.len() as u64 == LONGEST_LINE => {
                return Err(ClientError::Strange("a line without an end".to_owned()));
            }
            Ok(_) => return Err(ClientError::Gone),
            Err(e) => match (e.kind(), timeout) {
                (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(after)) => {
                    return Err(ClientError::Timeout(after));
                }
                (io::ErrorKind::ConnectionReset, _) => return Err(ClientError::Gone),
                _ => return Err(ClientError::Io(e)),
            },
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Error(failure)) => Err(ClientError::Refused(failure)),
            Ok(reply) => Ok(reply),
            Err(e) => Err(ClientError::Strange(format!("{e} in {}", String::from_utf8_lossy(&line)))),
        }
    }

    /// Sends the request and reads to the end of it, handing what comes before `done` to `each`.
    pub fn call(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Reply),
    ) -> Result<serde_json::Value, ClientError> {
        self.send(request)?;
        loop {
            match self.receive()? {
                Reply::Done { value } => return Ok(value),
                other => each(other),
            }
        }
    }

    /// The socket for raw bytes after `console`, and what has been read from it already.
    pub fn into_raw(self) -> io::Result<(UnixStream, Vec<u8>)> {
        let read_ahead = self.reader.buffer().to_vec();
        let fd: OwnedFd = self.reader.get_ref().as_fd().try_clone_to_owned()?;
        Ok((UnixStream::from(fd), read_ahead))
    }
}
