//! The supervisor's side of the control socket.

use std::io;
use std::rc::Rc;

use base64::Engine as _;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Failure, Reply, Request, Stream};

/// The longest line that a command may send: a piece of a file, or the whole standard input of an `exec`.
const LONGEST_LINE: usize = 64 << 20;

/// One connection of a command.
#[derive(Debug)]
pub(in crate::vm) struct Conversation {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Conversation {
    pub(in crate::vm) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    /// The next request; nothing when the command has hung up or does not speak our language.
    pub(in crate::vm) async fn request(&mut self) -> Option<Result<Request, Failure>> {
        let line = self.line().await.ok()??;
        Some(serde_json::from_slice(&line).map_err(|e| {
            Failure::new(
                super::FailureKind::Usage,
                format!("the supervisor does not understand the request: {e}"),
            )
            .hint("was midge upgraded while the VM runs? Restart the VM to let the new one supervise it")
        }))
    }

    /// A line of the request's body, without its end; nothing when the command has hung up.
    pub(in crate::vm) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let end = buffer.iter().position(|b| *b == b'\n');
            let taken = end.map_or(buffer.len(), |at| at + 1);
            line.extend_from_slice(&buffer[..end.unwrap_or(buffer.len())]);
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(line));
            }
            if line.len() > LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
        }
    }

    /// Sends one reply. An error means that the command has hung up.
    pub(in crate::vm) async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// Sends bytes of a program or a file.
    pub(in crate::vm) async fn output(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(256 << 10) {
            let data = base64::engine::general_purpose::STANDARD.encode(piece);
            self.send(&Reply::Output { stream, data }).await?;
        }
        Ok(())
    }

    /// Ends the request in success.
    pub(in crate::vm) async fn done(&mut self, value: serde_json::Value) -> io::Result<()> {
        self.send(&Reply::Done { value }).await
    }

    /// Resolves when the command has hung up, or has sent something that nobody asked for.
    pub(in crate::vm) async fn hung_up(&mut self) {
        let _ = self.reader.fill_buf().await;
    }

    /// The two directions as raw bytes.
    pub(in crate::vm) fn into_raw(self) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        (self.reader, self.writer)
    }
}

/// Accepts connections for ever and hands each to `serve` on a task of its own.
pub(in crate::vm) async fn accept<F>(listener: tokio::net::UnixListener, serve: Rc<dyn Fn(Conversation) -> F>)
where
    F: Future<Output = ()> + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve(Conversation::new(stream)));
            }
            Err(e) => {
                // Out of descriptors, most likely; those in use come back, and accepting at once would spin.
                tracing::warn!("cannot accept a command: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
