//! Commands in the guest whose output is handed over at their end.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Agent;
use crate::client::from_value;
use crate::deadline::Deadline;
use crate::error::{Error, ProtocolError};

/// The first pause between two questions for a status.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A process in the guest, as the agent names it (on Linux its process id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pid(pub i64);

/// What to run in the guest.
///
/// ```
/// use qmp::agent::Exec;
/// let exec = Exec::new("/usr/bin/sort").arg("-r").stdin("a\nb\n");
/// # let _ = exec;
/// ```
#[derive(Debug, Clone)]
pub struct Exec {
    pub(super) path: String,
    pub(super) args: Vec<String>,
    env: Vec<String>,
    stdin: Option<Vec<u8>>,
    capture: bool,
    pub(super) scratch: String,
}

impl Exec {
    /// A program by path, or by name as the agent's own `PATH` finds it. Its output is captured and its input empty.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            capture: true,
            scratch: "/tmp".to_owned(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of the environment. The first one replaces the agent's whole environment (`PATH` too): the agent
    /// takes all or nothing.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// What the program reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Whether the output is kept for [`Agent::exec_wait`] (the default) or thrown away. With output kept, a program
    /// counts as ended only when everything that holds its output is: a daemon it leaves behind too.
    #[must_use]
    pub fn capture(mut self, capture: bool) -> Self {
        self.capture = capture;
        self
    }

    /// The folder in the guest that takes the output of [`Agent::exec_stream`] while it runs; `/tmp` if not set.
    #[must_use]
    pub fn scratch(mut self, folder: impl Into<String>) -> Self {
        self.scratch = folder.into();
        self
    }

    /// The arguments of `guest-exec`. Not qapi's type: that one writes `capture-output` in a form (since QEMU 8.0
    /// an alternate) which older agents refuse.
    pub(super) fn arguments(&self) -> Value {
        let mut object = Map::new();
        object.insert("path".to_owned(), json!(self.path));
        object.insert("arg".to_owned(), json!(self.args));
        if !self.env.is_empty() {
            object.insert("env".to_owned(), json!(self.env));
        }
        if let Some(stdin) = &self.stdin {
            object.insert("input-data".to_owned(), json!(BASE64_STANDARD.encode(stdin)));
        }
        object.insert("capture-output".to_owned(), json!(self.capture));
        Value::Object(object)
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal (in a Windows guest: an exception code).
    Signal(i32),
}

impl Exit {
    /// True for code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// How a program ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// The exit code or signal.
    pub exit: Exit,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// The agent keeps 16 MiB of each stream; true when there was more.
    pub stdout_truncated: bool,
    /// As `stdout_truncated`, for standard error.
    pub stderr_truncated: bool,
}

impl Agent {
    /// Starts a program. An error tells that it could not be started at all.
    pub async fn exec(&self, exec: &Exec, deadline: Duration) -> Result<Pid, Error> {
        self.start(exec.arguments(), Deadline::after(deadline)).await
    }

    pub(super) async fn start(&self, arguments: Value, deadline: Deadline) -> Result<Pid, Error> {
        let name = "guest-exec";
        let started: qapi::qga::GuestExec = from_value(name, self.call(name, arguments, deadline).await?)?;
        Ok(Pid(started.pid))
    }

    /// Waits until a program has ended.
    ///
    /// The agent has no event for that, so its status is asked for at growing intervals, from 1 ms to 50 ms: a short
    /// command costs little more than its own time, a long one twenty questions a second.
    ///
    /// After [`Error::Timeout`] the program still runs and can be waited for again. The agent tells each end only
    /// once: a wait that is cut short at that very moment loses it, and the next one is refused.
    pub async fn exec_wait(&self, pid: Pid, deadline: Duration) -> Result<ExecStatus, Error> {
        self.wait(pid, Deadline::after(deadline)).await
    }

    /// How a program ended; nothing while it runs. The agent tells each end only once.
    pub async fn exec_status(&self, pid: Pid, deadline: Duration) -> Result<Option<ExecStatus>, Error> {
        self.status(pid, Deadline::after(deadline)).await
    }

    async fn status(&self, pid: Pid, deadline: Deadline) -> Result<Option<ExecStatus>, Error> {
        status_from(self.call("guest-exec-status", json!({"pid": pid.0}), deadline).await?)
    }

    async fn wait(&self, pid: Pid, deadline: Deadline) -> Result<ExecStatus, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(status) = self.status(pid, deadline).await? {
                return Ok(status);
            }
            deadline.pause("guest-exec-status", Instant::now() + pause).await?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends a signal (`TERM`, `KILL`, `INT`, …) to a program that the agent started in a Unix guest. A program that
    /// is gone already is no error.
    pub async fn signal(&self, pid: Pid, signal: &str, deadline: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(deadline);
        let kill = Exec::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.0.to_string()]);
        let kill = self.start(kill.arguments(), deadline).await?;
        self.wait(kill, deadline).await.map(drop)
    }
}

/// The status of an ended program; `None` while it runs.
pub(super) fn status_from(value: Value) -> Result<Option<ExecStatus>, Error> {
    let status: qapi::qga::GuestExecStatus = from_value("guest-exec-status", value)?;
    if !status.exited {
        return Ok(None);
    }
    // Codes of Windows are unsigned 32-bit numbers; the bits are kept.
    #[allow(clippy::cast_possible_truncation)]
    let exit = match (status.exitcode, status.signal) {
        (Some(code), _) => Exit::Code(code as i32),
        (None, Some(signal)) => Exit::Signal(signal as i32),
        (None, None) => {
            let text = "the agent calls a program ended but gives neither code nor signal";
            return Err(ProtocolError::Nonsense(text.to_owned()).into());
        }
    };
    Ok(Some(ExecStatus {
        exit,
        stdout: status.out_data.unwrap_or_default(),
        stderr: status.err_data.unwrap_or_default(),
        stdout_truncated: status.out_truncated.unwrap_or(false),
        stderr_truncated: status.err_truncated.unwrap_or(false),
    }))
}
