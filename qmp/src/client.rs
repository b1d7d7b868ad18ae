//! The handle on a monitor.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::connection::{Outgoing, Shared, serve};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::event::Events;
use crate::random;
use crate::router::{CallId, Dropped};
use crate::wire::{self, Greeting, MONITOR_LIMIT, Mode, Version};

/// A handle on one QEMU's monitor: cheap to clone, usable from many tasks at once.
///
/// Every call has a deadline, from its start to its answer. Every call is cancel-safe: dropping its future never
/// disturbs other calls. A call that was not sent yet is then not carried out; one that was sent is, and its late
/// answer is dropped. Calls are sent in the order they are made, at most
/// [`IN_FLIGHT`](crate::router::IN_FLIGHT) of them at a time.
///
/// Dropping the last handle closes the connection.
#[derive(Debug, Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    greeting: Greeting,
    oob: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.release();
    }
}

/// Ends the task if the handshake does not come to its end.
struct Release<'a>(Option<&'a Shared>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.release();
        }
    }
}

/// Takes a call out of the router however its future ends.
struct CancelOnDrop<'a>(&'a Shared, CallId);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel(self.1);
    }
}

impl Monitor {
    /// Speaks the greeting and `qmp_capabilities` (with `oob` where it is on offer) on a connected socket.
    ///
    /// The socket may still wait in the backlog of a listening socket that QEMU has yet to inherit and to accept
    /// from: QEMU's greeting is simply waited for until the deadline. A monitor serves one client at a time, so a
    /// second connection gets its greeting, or its timeout, only after the first is gone.
    ///
    /// Must be called within a tokio runtime with I/O and time enabled; the connection lives in a task of it.
    pub async fn connect(stream: UnixStream, deadline: Duration) -> Result<(Self, Events), Error> {
        Self::connect_with_limit(stream, deadline, MONITOR_LIMIT).await
    }

    /// As [`connect`](Self::connect), with another limit for the length of one message, in bytes.
    pub async fn connect_with_limit(
        stream: UnixStream,
        deadline: Duration,
        limit: usize,
    ) -> Result<(Self, Events), Error> {
        let deadline = Deadline::after(deadline);
        let (shared, greeting) = Shared::new(format!("{:016x}", random::fresh()));
        let shared = Arc::new(shared);
        let events = shared.subscribe();
        tokio::spawn(serve(stream, Arc::clone(&shared), limit));
        let mut release = Release(Some(&*shared));
        let greeting =
            deadline.limit("greeting", async { greeting.await.unwrap_or(Err(Error::Closed)) }).await?;
        let oob = greeting.capabilities.iter().any(|name| name == "oob");
        release.0 = None;
        let monitor = Self { inner: Arc::new(Inner { shared: Arc::clone(&shared), greeting, oob }) };
        let enable = if oob { json!({"enable": ["oob"]}) } else { json!({}) };
        monitor.execute_raw("qmp_capabilities", enable, deadline.left()).await?;
        Ok((monitor, events))
    }

    /// Runs one command and gives its typed result.
    ///
    /// ```no_run
    /// # async fn example(monitor: qmp::Monitor) -> Result<(), qmp::Error> {
    /// use std::time::Duration;
    /// let status = monitor.execute(qapi::qmp::query_status {}, Duration::from_secs(1)).await?;
    /// assert!(status.running);
    /// # Ok(()) }
    /// ```
    pub fn execute<C: qapi::Command>(
        &self,
        command: C,
        deadline: Duration,
    ) -> impl Future<Output = Result<C::Ok, Error>> + Send {
        self.typed::<C>(command, Mode::InBand, None, deadline)
    }

    /// Runs one command out of band: beside, not after, the commands under way. For the few commands that allow it
    /// (`migrate-pause`, `migrate-recover`, `yank`, `query-yank`); others do not compile.
    pub fn execute_oob<C: qapi::Command>(
        &self,
        command: C,
        deadline: Duration,
    ) -> impl Future<Output = Result<C::Ok, Error>> + Send {
        const { assert!(C::ALLOW_OOB, "this command cannot run out of band") }
        self.typed::<C>(command, Mode::OutOfBand, None, deadline)
    }

    /// Runs one command that takes a file descriptor (`getfd`, `add-fd`). The descriptor is duplicated: the
    /// caller's own can be closed at once.
    ///
    /// Such commands run one after the other, because QEMU keeps only the last descriptor it was sent until a
    /// command takes it.
    pub fn execute_with_fd<C: qapi::Command>(
        &self,
        command: C,
        fd: BorrowedFd<'_>,
        deadline: Duration,
    ) -> impl Future<Output = Result<C::Ok, Error>> + Send {
        let fd = fd.try_clone_to_owned();
        async move { self.typed::<C>(command, Mode::Descriptor, Some(fd?), deadline).await }
    }

    /// Runs a command by name, with an object (or null) as its arguments: for what `qapi` does not know.
    pub async fn execute_raw(
        &self,
        name: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, Error> {
        self.call(name, &arguments, Mode::InBand, None, Deadline::after(deadline)).await
    }

    /// Runs a line of the human monitor and gives what it prints (`human-monitor-command`).
    pub async fn human(&self, command_line: &str, deadline: Duration) -> Result<String, Error> {
        let command =
            qapi::qmp::human_monitor_command { cpu_index: None, command_line: command_line.to_owned() };
        self.execute(command, deadline).await
    }

    /// QEMU's version as its greeting told it.
    pub fn version(&self) -> &Version {
        &self.inner.greeting.version
    }

    /// True when this connection can run commands out of band.
    pub fn has_oob(&self) -> bool {
        self.inner.oob
    }

    /// A further receiver of events, from now on: subscribe before the command whose events are waited for.
    pub fn subscribe(&self) -> Events {
        self.inner.shared.subscribe()
    }

    /// Waits for the end of the connection and gives its reason. Cancel-safe.
    pub async fn closed(&self) -> Error {
        self.inner.shared.closed().await
    }

    /// Why the connection ended, if it has.
    pub fn closed_now(&self) -> Option<Error> {
        self.inner.shared.closed_now()
    }

    /// How many answers reached nobody: of cancelled calls, and of an earlier client's.
    pub fn dropped(&self) -> Dropped {
        self.inner.shared.dropped()
    }

    async fn typed<C: qapi::Command>(
        &self,
        command: C,
        mode: Mode,
        fd: Option<std::os::fd::OwnedFd>,
        deadline: Duration,
    ) -> Result<C::Ok, Error> {
        let value = self.call(C::NAME, &command, mode, fd, Deadline::after(deadline)).await?;
        from_value(C::NAME, value)
    }

    pub(crate) async fn call<A: Serialize + Sync + ?Sized>(
        &self,
        name: &str,
        arguments: &A,
        mode: Mode,
        fd: Option<std::os::fd::OwnedFd>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        if mode == Mode::OutOfBand && !self.inner.oob {
            return Err(Error::NoOob { command: name.to_owned() });
        }
        let shared = &*self.inner.shared;
        let (id, text) = shared.allot();
        let line = wire::encode(name, arguments, mode, Some(&text))
            .map_err(|source| Error::Arguments { command: name.to_owned(), source: Arc::new(source) })?;
        let answer = shared.queue(id, mode, Outgoing { line, fd })?;
        let _cancel = CancelOnDrop(shared, id);
        let result = deadline.limit(name, async { answer.await.unwrap_or(Err(Error::Closed)) }).await?;
        result.map_err(|refusal| Error::Qemu {
            command: name.to_owned(),
            class: refusal.class,
            desc: refusal.desc,
        })
    }
}

/// An answer as the type it should have.
pub(crate) fn from_value<T: DeserializeOwned>(command: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|source| Error::Answer { command: command.to_owned(), source: Arc::new(source) })
}
