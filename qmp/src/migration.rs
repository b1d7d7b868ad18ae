//! Migrations and their end, by their events.
//!
//! With the capability `events` QEMU reports each change of a migration's state with `MIGRATION`, on both sides
//! (QEMU, `qapi/migration.json`). One query after the command covers a change that came before it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Monitor;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::Events;
use crate::wire::Mode;

/// What `query-migrate` told about a completed migration; zero where it does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Migration {
    /// From the command to the end.
    pub total_time: Duration,
    /// How long the guest stood still.
    pub downtime: Duration,
    /// Bytes of guest memory sent.
    pub transferred: u64,
}

impl Monitor {
    /// Sends this machine's state to `uri` (`fd:NAME`, `unix:PATH`, `file:PATH` from QEMU 8.2 on, …) and waits for
    /// the end. `capabilities` are switched on besides `events`, such as `x-ignore-shared`.
    ///
    /// [`Error::Migration`] tells that it failed or was cancelled; after [`Error::Timeout`] it still runs: send
    /// `migrate_cancel`.
    ///
    /// ```no_run
    /// # async fn example(monitor: qmp::Monitor, file: std::fs::File) -> Result<(), qmp::Error> {
    /// use std::{os::fd::AsFd, time::Duration};
    /// let second = Duration::from_secs(1);
    /// monitor.execute_with_fd(qapi::qmp::getfd { fdname: "state".into() }, file.as_fd(), second).await?;
    /// monitor.migrate("fd:state", &["x-ignore-shared"], 60 * second).await?;
    /// # Ok(()) }
    /// ```
    pub async fn migrate(
        &self,
        uri: &str,
        capabilities: &[&str],
        deadline: Duration,
    ) -> Result<Migration, Error> {
        self.migration("migrate", uri, capabilities, Deadline::after(deadline)).await
    }

    /// Loads a machine's state from `uri` into a QEMU that was started with `-incoming defer`, and waits for the
    /// end. The machine then runs or stands as `-S` on its command line says.
    pub async fn migrate_incoming(
        &self,
        uri: &str,
        capabilities: &[&str],
        deadline: Duration,
    ) -> Result<Migration, Error> {
        self.migration("migrate-incoming", uri, capabilities, Deadline::after(deadline)).await
    }

    async fn migration(
        &self,
        command: &str,
        uri: &str,
        capabilities: &[&str],
        deadline: Deadline,
    ) -> Result<Migration, Error> {
        let list: Vec<_> = std::iter::once(&"events")
            .chain(capabilities)
            .map(|name| json!({"capability": name, "state": true}))
            .collect();
        let arguments = json!({"capabilities": list});
        self.call("migrate-set-capabilities", &arguments, Mode::InBand, None, deadline).await?;
        let events = self.subscribe();
        self.call(command, &json!({"uri": uri}), Mode::InBand, None, deadline).await?;
        self.migration_end(command, events, deadline).await
    }

    async fn migration_end(
        &self,
        command: &str,
        mut events: Events,
        deadline: Deadline,
    ) -> Result<Migration, Error> {
        loop {
            let info = self.call("query-migrate", &json!({}), Mode::InBand, None, deadline).await?;
            let text = |key: &str| info.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            match text("status").as_str() {
                "completed" => return Ok(Migration::from_wire(&info)),
                status @ ("failed" | "cancelled") => {
                    return Err(Error::Migration { status: status.to_owned(), desc: text("error-desc") });
                }
                _ => {}
            }
            // Only an event that tells of an end is worth the next query.
            let end = async {
                while let Some(event) = events.recv().await {
                    let status = event.data.get("status").and_then(Value::as_str);
                    let ended = matches!(status, Some("completed" | "failed" | "cancelled"));
                    if event.name == "MIGRATION" && ended {
                        return Ok(());
                    }
                }
                Err(self.closed_now().unwrap_or(Error::Closed))
            };
            deadline.limit(command, end).await?;
        }
    }
}

impl Migration {
    fn from_wire(info: &Value) -> Self {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        Self {
            total_time: Duration::from_millis(number(info.get("total-time"))),
            downtime: Duration::from_millis(number(info.get("downtime"))),
            transferred: number(info.get("ram").and_then(|ram| ram.get("transferred"))),
        }
    }
}
