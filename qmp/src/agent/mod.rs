//! A client of the QEMU guest agent.
//!
//! The agent sits behind a virtio-serial port of the guest; on the host that is a socket chardev of QEMU. It does
//! one command after the other and its answers carry no ids (agents older than QEMU 4.0 refuse commands with one),
//! so calls of several tasks take turns, and after a call that was cut short (timeout, cancellation, broken answer)
//! the next call first gets the stream back in step with `guest-sync-delimited`. The first call does so too: the
//! port may hold what an earlier client left.
//!
//! While no agent runs in the guest nobody reads: calls end in [`Error::Timeout`]. A [`sync`](Agent::sync) that is
//! under way when the agent starts is answered then, so one call with a long deadline waits for the agent.

mod connection;
mod exec;
mod file;
mod guest;
pub mod replies;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

pub use self::exec::{Exec, ExecStatus, Exit, Pid};
pub use self::file::GuestFile;
pub use self::guest::{Address, Info, Interface, Shutdown};
pub use self::stream::{ExecStream, Output};

use crate::client::from_value;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::wire::{self, AGENT_LIMIT, Mode, Refusal};
use connection::Connection;

/// A handle on one guest's agent: cheap to clone, usable from many tasks. Dropping the last one closes the socket.
///
/// Every call has a deadline that includes waiting for its turn, and every call may be cancelled by dropping its
/// future; the agent carries out a command it has received all the same.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use qmp::agent::{Agent, Exec};
/// let second = Duration::from_secs(1);
/// let agent = Agent::connect(tokio::net::UnixStream::connect("/run/vm/agent.sock").await?);
/// agent.sync(60 * second).await?;
/// let pid = agent.exec(&Exec::new("/bin/uname").arg("-a"), second).await?;
/// let status = agent.exec_wait(pid, 10 * second).await?;
/// println!("{}", String::from_utf8_lossy(&status.stdout));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Agent {
    connection: Arc<Mutex<Connection>>,
}

impl Agent {
    /// A client on a connected socket. Nothing is sent before the first call.
    pub fn connect(stream: UnixStream) -> Self {
        Self::connect_with_limit(stream, AGENT_LIMIT)
    }

    /// As [`connect`](Self::connect), with another limit for the length of one answer, in bytes.
    pub fn connect_with_limit(stream: UnixStream, limit: usize) -> Self {
        Self { connection: Arc::new(Mutex::new(Connection::new(stream, limit))) }
    }

    /// Gets the stream in step: discards stale answers until the agent has repeated a fresh number.
    ///
    /// Calls do this by themselves where it is needed. Use it to wait for the agent's start, and after the guest's
    /// memory was put back to an earlier state under an open connection.
    pub async fn sync(&self, deadline: Duration) -> Result<(), Error> {
        let work = async { self.connection.lock().await.sync().await };
        Deadline::after(deadline).limit("guest-sync-delimited", work).await
    }

    /// Asks the agent for a sign of life.
    pub async fn ping(&self, deadline: Duration) -> Result<(), Error> {
        self.call("guest-ping", json!({}), Deadline::after(deadline)).await.map(drop)
    }

    /// Runs one command of the agent and gives its typed result.
    pub async fn execute<C: qapi::Command>(&self, command: C, deadline: Duration) -> Result<C::Ok, Error> {
        let line = encode(C::NAME, &command)?;
        let mut answers = self.exchange(C::NAME, &line, 1, Deadline::after(deadline)).await?;
        from_value(C::NAME, one(C::NAME, answers.pop())?)
    }

    /// Runs a command by name, with an object (or null) as its arguments.
    pub async fn execute_raw(
        &self,
        name: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, Error> {
        self.call(name, arguments, Deadline::after(deadline)).await
    }

    async fn call(&self, name: &str, arguments: Value, deadline: Deadline) -> Result<Value, Error> {
        let line = encode(name, &arguments)?;
        let mut answers = self.exchange(name, &line, 1, deadline).await?;
        one(name, answers.pop())
    }

    /// Several commands in one round trip; the agent does them in order whether or not one of them is refused.
    /// Only for short commands: all of them are written before the first answer is read.
    async fn batch(
        &self,
        commands: &[(&str, Value)],
        deadline: Deadline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut lines = Vec::new();
        for (name, arguments) in commands {
            lines.append(&mut encode(name, arguments)?);
        }
        let first = commands.first().map_or("", |(name, _)| name);
        let answers = self.exchange(first, &lines, commands.len(), deadline).await?;
        Ok(commands.iter().zip(answers).map(|((name, _), answer)| one(name, Some(answer))).collect())
    }

    async fn exchange(
        &self,
        name: &str,
        lines: &[u8],
        count: usize,
        deadline: Deadline,
    ) -> Result<Vec<Result<Value, Refusal>>, Error> {
        let work = async { self.connection.lock().await.exchange(lines, count).await };
        deadline.limit(name, work).await
    }
}

fn encode<A: serde::Serialize + ?Sized>(name: &str, arguments: &A) -> Result<Vec<u8>, Error> {
    wire::encode(name, arguments, Mode::InBand, None)
        .map_err(|source| Error::Arguments { command: name.to_owned(), source: Arc::new(source) })
}

fn one(name: &str, answer: Option<Result<Value, Refusal>>) -> Result<Value, Error> {
    match answer {
        Some(Ok(value)) => Ok(value),
        Some(Err(refusal)) => Err(refused(name, refusal)),
        None => Err(Error::Closed),
    }
}

fn refused(name: &str, refusal: Refusal) -> Error {
    Error::Qemu { command: name.to_owned(), class: refusal.class, desc: refusal.desc }
}
