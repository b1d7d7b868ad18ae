//! Files in the guest.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;

use super::Agent;
use crate::client::from_value;
use crate::deadline::Deadline;
use crate::error::{Error, ProtocolError};

/// How much goes in one command, in bytes: large enough that round trips do not count, small enough that other
/// commands soon get their turn.
pub(super) const CHUNK: usize = 256 << 10;

/// How long tidying up in the background may take.
pub(super) const CLEANUP: Duration = Duration::from_secs(5);

/// An open file in the guest. Dropping it closes it in the background where a tokio runtime is at hand; only
/// [`close`](Self::close) tells whether everything was written.
#[derive(Debug)]
pub struct GuestFile {
    agent: Agent,
    path: String,
    /// `None` once closed.
    handle: Option<i64>,
}

impl Agent {
    /// Opens a file; `mode` is that of `fopen(3)`. The agent gives files it creates the mode 0666, whatever its umask.
    pub async fn open(&self, path: &str, mode: &str, deadline: Duration) -> Result<GuestFile, Error> {
        self.open_until(path, mode, Deadline::after(deadline)).await
    }

    async fn open_until(&self, path: &str, mode: &str, deadline: Deadline) -> Result<GuestFile, Error> {
        let name = "guest-file-open";
        let value = self.call(name, json!({"path": path, "mode": mode}), deadline).await?;
        Ok(GuestFile::new(self.clone(), path, from_value(name, value)?))
    }

    /// Reads a whole file of at most `max` bytes; a longer one gives [`Error::TooLong`].
    pub async fn read_file(&self, path: &str, max: usize, deadline: Duration) -> Result<Vec<u8>, Error> {
        let deadline = Deadline::after(deadline);
        let mut file = self.open_until(path, "r", deadline).await?;
        let mut content = Vec::new();
        loop {
            let piece = file.read_until(CHUNK, deadline).await?;
            if piece.is_empty() {
                break;
            }
            if content.len() + piece.len() > max {
                return Err(Error::TooLong { limit: max });
            }
            content.extend_from_slice(&piece);
        }
        file.close_until(deadline).await?;
        Ok(content)
    }

    /// Copies a file of any size out of the guest and gives its size. `deadline` is for the whole of it.
    pub async fn read_file_to<W: AsyncWrite + Unpin + Send>(
        &self,
        path: &str,
        to: &mut W,
        deadline: Duration,
    ) -> Result<u64, Error> {
        let deadline = Deadline::after(deadline);
        let mut file = self.open_until(path, "r", deadline).await?;
        let mut total = 0;
        loop {
            let piece = file.read_until(CHUNK, deadline).await?;
            let write = async {
                to.write_all(&piece).await?;
                if piece.is_empty() { to.flush().await } else { Ok(()) }
            };
            deadline
                .limit("guest-file-read", async { write.await.map_err(|error| local(path, error)) })
                .await?;
            if piece.is_empty() {
                break;
            }
            total += piece.len() as u64;
        }
        file.close_until(deadline).await?;
        Ok(total)
    }

    /// Writes a whole file, in place of what was there. Not atomic: rename in the guest where that matters.
    pub async fn write_file(&self, path: &str, content: &[u8], deadline: Duration) -> Result<(), Error> {
        self.write_file_from(path, &mut &content[..], deadline).await.map(drop)
    }

    /// Copies everything from a reader into a file in the guest and gives its size. `deadline` is for the whole of it.
    pub async fn write_file_from<R: AsyncRead + Unpin + Send>(
        &self,
        path: &str,
        from: &mut R,
        deadline: Duration,
    ) -> Result<u64, Error> {
        let deadline = Deadline::after(deadline);
        let mut file = self.open_until(path, "w", deadline).await?;
        let mut piece = Vec::with_capacity(CHUNK);
        let mut total = 0;
        loop {
            piece.clear();
            let mut source = (&mut *from).take(CHUNK as u64);
            let read = async { source.read_to_end(&mut piece).await.map_err(|error| local(path, error)) };
            if deadline.limit("guest-file-write", read).await? == 0 {
                break;
            }
            file.write_until(&piece, deadline).await?;
            total += piece.len() as u64;
        }
        file.close_until(deadline).await?;
        Ok(total)
    }
}

impl GuestFile {
    pub(super) fn new(agent: Agent, path: &str, handle: i64) -> Self {
        Self { agent, path: path.to_owned(), handle: Some(handle) }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn handle(&self) -> i64 {
        self.handle.unwrap_or(-1)
    }

    /// Reads at most `max` bytes (the agent refuses more than 48 MiB); empty at the end of the file, where later
    /// calls see what was written since.
    pub async fn read(&mut self, max: usize, deadline: Duration) -> Result<Vec<u8>, Error> {
        self.read_until(max, Deadline::after(deadline)).await
    }

    async fn read_until(&mut self, max: usize, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let name = "guest-file-read";
        let value = self.agent.call(name, json!({"handle": self.handle(), "count": max}), deadline).await?;
        let read: qapi::qga::GuestFileRead = from_value(name, value)?;
        Ok(read.buf_b64)
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8], deadline: Duration) -> Result<(), Error> {
        self.write_until(bytes, Deadline::after(deadline)).await
    }

    async fn write_until(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        let name = "guest-file-write";
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(CHUNK)];
            let arguments = json!({"handle": self.handle(), "buf-b64": BASE64_STANDARD.encode(piece)});
            let value = self.agent.call(name, arguments, deadline).await?;
            let written: qapi::qga::GuestFileWrite = from_value(name, value)?;
            let count = usize::try_from(written.count).ok().filter(|count| (1..=piece.len()).contains(count));
            let Some(count) = count else {
                let text = format!("{} of {} bytes written to {}", written.count, piece.len(), self.path);
                return Err(ProtocolError::Nonsense(text).into());
            };
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Closes the file; an error tells that the guest could not write out all of it.
    pub async fn close(mut self, deadline: Duration) -> Result<(), Error> {
        self.close_until(Deadline::after(deadline)).await
    }

    /// It was closed by other means.
    pub(super) fn forget(&mut self) {
        self.handle = None;
    }

    async fn close_until(&mut self, deadline: Deadline) -> Result<(), Error> {
        let arguments = json!({"handle": self.handle()});
        self.agent.call("guest-file-close", arguments, deadline).await?;
        self.handle = None;
        Ok(())
    }
}

impl Drop for GuestFile {
    fn drop(&mut self) {
        let Some(handle) = self.handle else { return };
        let agent = self.agent.clone();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // Nobody is left to be told.
                let _ = agent.execute_raw("guest-file-close", json!({"handle": handle}), CLEANUP).await;
            });
        }
    }
}

fn local(path: &str, error: std::io::Error) -> Error {
    Error::Local { path: path.to_owned(), source: Arc::new(error) }
}
