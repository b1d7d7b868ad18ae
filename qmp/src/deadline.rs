//! One point in time shared by the steps of a call.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::Error;

/// When a call must be over, and how long that was from its start (for the error text).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    pub(crate) fn after(after: Duration) -> Self {
        // As tokio does for durations that no clock can hold: a time that never comes.
        let never = Duration::from_hours(24 * 365 * 30);
        let now = Instant::now();
        Self { at: now.checked_add(after).unwrap_or(now + never), after }
    }

    /// What is left of it.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(crate) fn error(self, command: &str) -> Error {
        Error::Timeout { command: command.to_owned(), after: self.after }
    }

    /// Runs `work` until the deadline; `command` is what the error names.
    pub(crate) async fn limit<T>(
        self,
        command: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout_at(self.at, work).await.unwrap_or_else(|_| Err(self.error(command)))
    }

    /// Waits for a while, or fails at the deadline if that comes first.
    pub(crate) async fn pause(self, command: &str, until: Instant) -> Result<(), Error> {
        sleep_until(until.min(self.at)).await;
        if until > self.at { Err(self.error(command)) } else { Ok(()) }
    }
}
