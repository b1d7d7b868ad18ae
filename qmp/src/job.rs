//! Waiting for QEMU's background jobs, by their events.
//!
//! A job (`blockdev-create`, `snapshot-save`, `block-commit`, …) reports each change of its state with
//! `JOB_STATUS_CHANGE` and ends as `concluded`, and as `null` once it is dismissed (QEMU, `qapi/job.json`). One
//! query at the start covers a change that happened before the events were subscribed to; nothing is polled.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Monitor;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorClass};
use crate::event::{Event, Events};
use crate::wire::Mode;

impl Monitor {
    /// Issues a command that starts the job `id`, waits until it has ended and dismisses it.
    ///
    /// ```no_run
    /// # async fn example(monitor: qmp::Monitor) -> Result<(), qmp::Error> {
    /// use std::time::Duration;
    /// let arguments = serde_json::json!({
    ///     "job-id": "make", "options": {"driver": "file", "filename": "disk.raw", "size": 1 << 20},
    /// });
    /// monitor.run_job("blockdev-create", arguments, "make", Duration::from_secs(10)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// After [`Error::Timeout`] the job still runs and keeps its id: wait again or send `job-cancel`.
    pub async fn run_job(
        &self,
        command: &str,
        arguments: Value,
        id: &str,
        deadline: Duration,
    ) -> Result<(), Error> {
        let deadline = Deadline::after(deadline);
        let events = self.subscribe();
        self.call(command, &arguments, Mode::InBand, None, deadline).await?;
        self.job_end(events, id, deadline).await
    }

    /// Waits until the job `id`, which runs already, has ended, and dismisses it.
    ///
    /// [`Error::Job`] tells that it failed. A job that is not there counts as ended: one that dismisses itself
    /// cannot be told from one that never was, except by having waited for it from its start as
    /// [`run_job`](Self::run_job) does.
    pub async fn wait_job(&self, id: &str, deadline: Duration) -> Result<(), Error> {
        let events = self.subscribe();
        self.job_end(events, id, Deadline::after(deadline)).await
    }

    async fn job_end(&self, mut events: Events, id: &str, deadline: Deadline) -> Result<(), Error> {
        let mut failure = None;
        let mut found = self.query_job(id, deadline).await?;
        while found.as_ref().is_some_and(|job| !job.ended()) {
            let waited =
                async { events.recv().await.ok_or_else(|| self.closed_now().unwrap_or(Error::Closed)) };
            let event = deadline.limit(&format!("job {id}"), waited).await?;
            failure = failure.or_else(|| block_job_error(&event, id));
            match status_change(&event, id) {
                Some("concluded") => found = self.query_job(id, deadline).await?,
                Some("null") => found = None,
                _ => {}
            }
        }
        // A job that dismissed itself before the query leaves its error in its last event only.
        while let Some(event) = events.try_recv() {
            failure = failure.or_else(|| block_job_error(&event, id));
        }
        if let Some(job) = found {
            failure = job.error.or(failure);
            let dismissed = self.call("job-dismiss", &json!({"id": id}), Mode::InBand, None, deadline).await;
            // Some jobs dismiss themselves, which may come first.
            match dismissed {
                Ok(_) | Err(Error::Qemu { class: ErrorClass::GenericError, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        failure.map_or(Ok(()), |desc| Err(Error::Job { id: id.to_owned(), desc }))
    }

    async fn query_job(&self, id: &str, deadline: Deadline) -> Result<Option<Job>, Error> {
        let jobs = self.call("query-jobs", &json!({}), Mode::InBand, None, deadline).await?;
        // Read by hand: one job of an unknown type must not hide the others.
        let text = |job: &Value, key: &str| job.get(key).and_then(Value::as_str).map(str::to_owned);
        let job = jobs.as_array().into_iter().flatten().find(|job| text(job, "id").as_deref() == Some(id));
        Ok(job.map(|job| Job { status: text(job, "status").unwrap_or_default(), error: text(job, "error") }))
    }
}

struct Job {
    status: String,
    error: Option<String>,
}

impl Job {
    fn ended(&self) -> bool {
        matches!(self.status.as_str(), "concluded" | "null")
    }
}

/// The new status of job `id`, if the event tells one.
fn status_change<'a>(event: &'a Event, id: &str) -> Option<&'a str> {
    if event.name != "JOB_STATUS_CHANGE" || event.data.get("id")?.as_str()? != id {
        return None;
    }
    event.data.get("status")?.as_str()
}

/// The error of a block job's last event: the only place that has it when the job dismisses itself.
fn block_job_error(event: &Event, id: &str) -> Option<String> {
    let ends = matches!(event.name.as_str(), "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED");
    if !ends || event.data.get("device")?.as_str()? != id {
        return None;
    }
    if event.name == "BLOCK_JOB_CANCELLED" {
        return Some("cancelled".to_owned());
    }
    Some(event.data.get("error")?.as_str()?.to_owned())
}
