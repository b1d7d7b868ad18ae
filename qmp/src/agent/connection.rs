//! The agent's socket, and how it gets back in step.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::replies::{Incoming, Replies};
use crate::error::Error;
use crate::random;
use crate::wire::{self, Mode, Refusal, SENTINEL};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Owned by one call at a time. Every await may be the last: until an exchange is through, `in_step` is false, and
/// the next exchange synchronises first.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    replies: Replies,
    chunk: Box<[u8]>,
    in_step: bool,
    gone: Option<Error>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, limit: usize) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { stream, replies: Replies::new(limit), chunk, in_step: false, gone: None }
    }

    /// Sends `lines`, which hold `count` commands, and gives their answers in order.
    pub(super) async fn exchange(
        &mut self,
        lines: &[u8],
        count: usize,
    ) -> Result<Vec<Result<Value, Refusal>>, Error> {
        self.get_in_step().await?;
        self.in_step = false;
        self.send(lines).await?;
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            if let Incoming::Answer(answer) = self.receive().await? {
                answers.push(answer);
            }
        }
        self.in_step = true;
        Ok(answers)
    }

    /// Sends a command that is answered only when it is refused. What tells success is the answer to a
    /// synchronisation right behind it.
    pub(super) async fn exchange_silent(&mut self, line: &[u8]) -> Result<Result<(), Refusal>, Error> {
        self.get_in_step().await?;
        self.in_step = false;
        let id = sync_id();
        // Without the flushing byte in front: the agent would answer that one with an error of its own.
        let mut lines = line.to_vec();
        lines.extend_from_slice(&sync_line(id)?);
        self.send(&lines).await?;
        let mut result = Ok(());
        loop {
            match self.receive().await? {
                Incoming::Answer(Err(refusal)) => result = Err(refusal),
                Incoming::Answer(Ok(value)) if value.as_i64() == Some(id) => break,
                _ => {}
            }
        }
        self.in_step = true;
        Ok(result)
    }

    /// Discards whatever is stale, until the agent has repeated a number that nobody else can have sent.
    pub(super) async fn sync(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        self.in_step = false;
        let id = sync_id();
        self.replies.begin_sync(id);
        // The byte makes the agent drop a half-received command.
        let mut line = vec![SENTINEL];
        line.extend_from_slice(&sync_line(id)?);
        self.send(&line).await?;
        while self.receive().await? != Incoming::InStep {}
        self.in_step = true;
        Ok(())
    }

    async fn get_in_step(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        // Between two calls the agent has nothing to say. If it did, that is an answer to an older question.
        if self.in_step && self.replies.is_empty() && !self.has_input() {
            return Ok(());
        }
        self.sync().await
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.gone.clone().map_or(Ok(()), Err)
    }

    /// Looks past tokio's readiness, which may not have heard of the newest bytes yet.
    fn has_input(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !matches!(recv(self.stream.as_raw_fd(), &mut byte, flags), Err(Errno::EAGAIN))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await.map_err(|error| self.lost(error.into()))
    }

    async fn receive(&mut self) -> Result<Incoming, Error> {
        loop {
            if let Some(incoming) = self.replies.next_incoming()? {
                return Ok(incoming);
            }
            match self.stream.read(&mut self.chunk).await {
                Ok(0) => return Err(self.lost(Error::Closed)),
                Ok(count) => self.replies.push(&self.chunk[..count]),
                Err(error) => return Err(self.lost(error.into())),
            }
        }
    }

    fn lost(&mut self, error: Error) -> Error {
        self.gone = Some(error.clone());
        error
    }
}

fn sync_id() -> i64 {
    // Within what every JSON implementation holds exactly.
    i64::try_from(random::fresh() >> 11).unwrap_or_default()
}

fn sync_line(id: i64) -> Result<Vec<u8>, Error> {
    let name = "guest-sync-delimited";
    wire::encode(name, &serde_json::json!({"id": id}), Mode::InBand, None)
        .map_err(|source| Error::Arguments { command: name.to_owned(), source: source.into() })
}
