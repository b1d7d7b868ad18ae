//! What an agent's bytes mean: pure, no I/O.
//!
//! The agent answers in order and without ids, so a client must know which answer is the next. It knows after a
//! `guest-sync-delimited` with a number of its own: everything before the sentinel byte, and every sentinel that is
//! followed by something else, is stale (QEMU, `qga/qapi-schema.json`, `guest-sync-delimited`).

use serde_json::Value;

use crate::error::{Error, ProtocolError};
use crate::wire::{self, Frame, Framer, Message, Refusal};

/// What came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The stream is in step: the next answer is that to the next command.
    InStep,
    /// The answer to a command.
    Answer(Result<Value, Refusal>),
}

/// The agent's side of the stream.
#[derive(Debug)]
pub struct Replies {
    framer: Framer,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    InStep,
    /// Nothing counts before a sentinel.
    Searching(i64),
    /// The next line tells whether it was the right sentinel.
    Found(i64),
}

impl Replies {
    /// For answers of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { framer: Framer::agent(limit), state: State::InStep }
    }

    /// A `guest-sync-delimited` with this number is about to be sent: all else is stale.
    pub fn begin_sync(&mut self, id: i64) {
        self.framer.skip_to_sentinel();
        self.state = State::Searching(id);
    }

    /// True when nothing is held that has not been looked at.
    pub fn is_empty(&self) -> bool {
        self.framer.is_empty()
    }

    /// Adds bytes as they came in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// The next thing that counts; `None` when more bytes are needed. While a synchronisation is under way nothing
    /// is an error.
    pub fn next_incoming(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            let frame = match self.framer.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(None),
                Err(long) => match self.state {
                    State::InStep => return Err(Error::TooLong { limit: long.limit }),
                    State::Searching(id) | State::Found(id) => {
                        // The framer drops the rest of that line; what follows may be the answer.
                        self.state = State::Searching(id);
                        continue;
                    }
                },
            };
            match (self.state, frame) {
                (State::InStep, Frame::Line(line)) => {
                    return match wire::parse(&line)? {
                        Message::Reply(reply) => Ok(Some(Incoming::Answer(reply.result))),
                        Message::Greeting(_) | Message::Event(_) => Err(ProtocolError::NotAMessage {
                            excerpt: line.escape_ascii().take(120).map(char::from).collect(),
                        }
                        .into()),
                    };
                }
                (State::Searching(id) | State::Found(id), Frame::Sentinel) => self.state = State::Found(id),
                (State::InStep, Frame::Sentinel) | (State::Searching(_), Frame::Line(_)) => {}
                (State::Found(id), Frame::Line(line)) => {
                    let answer = wire::parse(&line).ok().and_then(|message| match message {
                        Message::Reply(reply) => reply.result.ok()?.as_i64(),
                        _ => None,
                    });
                    if answer == Some(id) {
                        self.state = State::InStep;
                        return Ok(Some(Incoming::InStep));
                    }
                    // The answer to an earlier synchronisation. No skipping over the buffer: ours may be in it.
                    self.state = State::Searching(id);
                }
            }
        }
    }
}
