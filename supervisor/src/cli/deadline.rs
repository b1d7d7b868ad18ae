//! One limit for a whole conversation.

use std::time::{Duration, Instant};

use super::exit::Failed;
use crate::vm::control::{Client, ClientError, Reply};

/// How long `--wait` stays when `--timeout` says nothing: Debian under emulation on a busy two-core host needs minutes.
pub(super) const DEFAULT_WAIT: Duration = Duration::from_mins(5);

/// A point in time, or never.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    end: Option<Instant>,
    total: Duration,
}

impl Deadline {
    /// This long from now; never where none is given, or where it is further away than the clock counts.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        Self {
            end: limit.and_then(|limit| Instant::now().checked_add(limit)),
            total: limit.unwrap_or_default(),
        }
    }

    /// The time left; nothing where there is no limit.
    pub(super) fn left(self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// The next reply, if it comes in time.
    pub(super) fn receive(self, client: &mut Client) -> Result<Reply, ClientError> {
        let left = self.left();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(ClientError::Timeout(self.total));
        }
        client.set_timeout(left)?;
        client.receive().map_err(|error| match error {
            // The limit that the user knows, not what was left of it.
            ClientError::Timeout(_) => ClientError::Timeout(self.total),
            other => other,
        })
    }
}

/// Asks a supervisor for something and hands what comes before the end of the answer to `each`.
pub(super) fn call(
    client: &mut Client,
    request: &crate::vm::control::Request,
    deadline: Deadline,
    mut each: impl FnMut(Reply) -> Result<(), Failed>,
) -> Result<serde_json::Value, Failed> {
    client.send(request)?;
    loop {
        match deadline.receive(client)? {
            Reply::Done { value } => return Ok(value),
            reply => each(reply)?,
        }
    }
}
