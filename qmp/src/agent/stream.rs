//! Commands in the guest whose output arrives while they run.
//!
//! The agent itself hands output over only at a command's end. So the command runs behind a one-line shell that
//! sends its output into two files of a fresh folder (mode 0700, random name), and the agent reads them as they
//! grow. A pipe would not do: the agent drops what it has read when a pipe runs empty within one read.
//!
//! Round trips: one until the command runs, one to open both files, then one for each look at both files and at the
//! status. The folder is removed as soon as the files are open, so the guest frees their space with the last handle
//! however this ends.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Agent;
use super::exec::{Exec, Exit, PAUSE_MAX, PAUSE_MIN, Pid, status_from};
use super::file::{CHUNK, CLEANUP, GuestFile};
use crate::client::from_value;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::random;

/// Makes the folder `$0` and becomes the command in the other arguments. `exec` with a failing redirection ends the
/// shell (POSIX, "Consequences of Shell Errors").
const WRAPPER: &str = "mkdir -m 700 -- \"$0\" || exit 125; exec >\"$0/out\" 2>\"$0/err\"; exec \"$@\"";

/// How long the agent may take for one look.
const LOOK: Duration = Duration::from_secs(30);

/// A piece of what a running command gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended; the last piece. 127 also where the program was not found, 126 where it cannot be run.
    Exit(Exit),
}

/// A command in the guest whose output arrives while it runs.
///
/// Output is fetched when it is asked for, at intervals from 1 ms to 50 ms while there is none, so a reader that
/// takes its time costs nothing but space in the guest: all output stays in the guest's scratch folder until the
/// command has ended, and where that is full the command sees its own writes fail.
///
/// Dropping it leaves the command running and frees the guest's handles in the background.
#[derive(Debug)]
pub struct ExecStream {
    agent: Agent,
    pid: Pid,
    out: Source,
    err: Source,
    exit: Option<Exit>,
    ready: VecDeque<Output>,
    /// The look that is under way. It is a task of its own, so that cancelling [`ExecStream::next`] does not cut it
    /// short: the agent tells a command's end only once.
    look: Option<JoinHandle<Result<Look, Error>>>,
    /// The last look failed, so the positions in the guest's handles are not known.
    unsure: bool,
    ended: bool,
    pause: Duration,
    /// When to look again.
    again: Instant,
}

/// What one look at a running command found.
#[derive(Debug)]
struct Look {
    exit: Option<Exit>,
    out: Vec<u8>,
    err: Vec<u8>,
}

#[derive(Debug)]
struct Source {
    file: GuestFile,
    offset: u64,
}

impl Agent {
    /// Starts a command in a Unix guest so that its output can be read while it runs. Needs `/bin/sh`, `mkdir` and
    /// `rm` there, and room in [`Exec::scratch`]: [`Error::Scratch`] where there is none.
    ///
    /// ```no_run
    /// # async fn example(agent: qmp::agent::Agent) -> Result<(), qmp::Error> {
    /// use std::time::Duration;
    /// use qmp::agent::{Exec, Output};
    /// let exec = Exec::new("apt-get").arg("update");
    /// let mut stream = agent.exec_stream(&exec, Duration::from_secs(10)).await?;
    /// while let Some(output) = stream.next(Duration::from_secs(60)).await? {
    ///     match output {
    ///         Output::Stdout(bytes) | Output::Stderr(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
    ///         Output::Exit(exit) => println!("{exit:?}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn exec_stream(&self, exec: &Exec, deadline: Duration) -> Result<ExecStream, Error> {
        let deadline = Deadline::after(deadline);
        let folder = format!("{}/qmp-exec-{:016x}", exec.scratch.trim_end_matches('/'), random::fresh());
        let mut wrapped = exec.clone().capture(true);
        wrapped.path = String::from("/bin/sh");
        wrapped.args = ["-c", WRAPPER, &folder, &exec.path].map(str::to_owned).into();
        wrapped.args.extend(exec.args.iter().cloned());
        let pid = self.start(wrapped.arguments(), deadline).await?;
        let opened = self.open_outputs(exec, &folder, pid, deadline).await;
        // Also after a failure: one of the two may be there.
        let remove = Exec::new("rm").args(["-rf", "--", &folder]).capture(false);
        let remover = self.start(remove.arguments(), deadline).await;
        if let Ok(remover) = remover {
            let agent = self.clone();
            // Asked for so that the agent forgets it; the command's output need not wait for that.
            tokio::spawn(async move { agent.exec_wait(remover, CLEANUP).await.map(drop) });
        }
        let (out, err, exit) = opened?;
        remover?;
        Ok(ExecStream {
            agent: self.clone(),
            pid,
            out: Source { file: out, offset: 0 },
            err: Source { file: err, offset: 0 },
            exit,
            ready: VecDeque::new(),
            look: None,
            unsure: false,
            ended: false,
            pause: PAUSE_MIN,
            again: Instant::now(),
        })
    }

    /// Opens both files as soon as the shell has made them.
    async fn open_outputs(
        &self,
        exec: &Exec,
        folder: &str,
        pid: Pid,
        deadline: Deadline,
    ) -> Result<(GuestFile, GuestFile, Option<Exit>), Error> {
        let paths = [format!("{folder}/out"), format!("{folder}/err")];
        let mut files = [None, None];
        let mut ended = None;
        let mut pause = PAUSE_MIN;
        loop {
            // The status first: files that are missing after the end were never made.
            let mut commands = Vec::new();
            if ended.is_none() {
                commands.push(("guest-exec-status", json!({"pid": pid.0})));
            }
            for (path, file) in paths.iter().zip(&files) {
                if file.is_none() {
                    commands.push(("guest-file-open", json!({"path": path, "mode": "r"})));
                }
            }
            let mut answers = self.batch(&commands, deadline).await?.into_iter();
            if ended.is_none() {
                ended = answers.next().map_or(Ok(None), |status| status_from(status?))?;
            }
            let mut failure = None;
            for (path, file) in paths.iter().zip(&mut files) {
                if file.is_some() {
                    continue;
                }
                match answers.next() {
                    Some(Ok(handle)) => {
                        let handle = from_value("guest-file-open", handle)?;
                        *file = Some(GuestFile::new(self.clone(), path, handle));
                    }
                    Some(Err(error)) => failure = Some(error),
                    None => return Err(Error::Closed),
                }
            }
            if let [Some(_), Some(_)] = files {
                let [out, err] = files;
                return out
                    .zip(err)
                    .map(|(out, err)| (out, err, ended.map(|end| end.exit)))
                    .ok_or(Error::Closed);
            }
            if let Some(end) = ended {
                let said = String::from_utf8_lossy(&end.stderr).trim().to_owned();
                let desc =
                    if said.is_empty() { failure.map(|e| e.to_string()).unwrap_or_default() } else { said };
                return Err(Error::Scratch {
                    command: exec.path.clone(),
                    folder: exec.scratch.clone(),
                    desc,
                });
            }
            deadline.pause("output files", Instant::now() + pause).await?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl ExecStream {
    /// The process, to be signalled by [`Agent::signal`]. It is the command itself, not the shell it began as.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The next piece of output; [`Output::Exit`] is the last one, then comes `None`. Cancel-safe.
    ///
    /// [`Error::Timeout`] when there was nothing new until the deadline; the command still runs and the next call
    /// goes on. No error loses output that can still be had by a further call.
    pub async fn next(&mut self, deadline: Duration) -> Result<Option<Output>, Error> {
        let deadline = Deadline::after(deadline);
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Ok(Some(output));
            }
            if self.ended {
                return Ok(None);
            }
            if self.look.is_none() {
                deadline.pause("output", self.again).await?;
            }
            let commands = self.commands();
            let (agent, seeks, known) = (&self.agent, self.unsure, self.exit);
            let look = self
                .look
                .get_or_insert_with(|| tokio::spawn(take_look(agent.clone(), commands, seeks, known)));
            let result = deadline.limit("output", async { Ok(look.await) }).await?;
            self.look = None;
            self.unsure = true;
            let look = result.unwrap_or(Err(Error::Closed))?;
            self.unsure = false;
            self.take(look, deadline).await;
        }
    }

    /// The commands of one look: seeks where the positions are not known, the status, both reads.
    fn commands(&self) -> Vec<(&'static str, Value)> {
        let sources = [&self.out, &self.err];
        let mut commands = Vec::new();
        for source in sources.into_iter().filter(|_| self.unsure) {
            let seek = json!({"handle": source.file.handle(), "offset": source.offset, "whence": "set"});
            commands.push(("guest-file-seek", seek));
        }
        // The status before the reads: what they find after the end is all there is.
        if self.exit.is_none() {
            commands.push(("guest-exec-status", json!({"pid": self.pid.0})));
        }
        for source in sources {
            commands.push(("guest-file-read", json!({"handle": source.file.handle(), "count": CHUNK})));
        }
        commands
    }

    async fn take(&mut self, look: Look, deadline: Deadline) {
        self.exit = look.exit;
        let any = !(look.out.is_empty() && look.err.is_empty());
        if !look.out.is_empty() {
            self.out.offset += look.out.len() as u64;
            self.ready.push_back(Output::Stdout(look.out));
        }
        if !look.err.is_empty() {
            self.err.offset += look.err.len() as u64;
            self.ready.push_back(Output::Stderr(look.err));
        }
        if any {
            self.pause = PAUSE_MIN;
            self.again = Instant::now();
        } else if let Some(exit) = self.exit {
            self.ready.push_back(Output::Exit(exit));
            self.ended = true;
            self.finish(deadline).await;
        } else {
            self.again = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Frees what the agent holds for this command. A failure is not worth the output that was read.
    async fn finish(&mut self, deadline: Deadline) {
        let commands = [&self.out, &self.err]
            .map(|source| ("guest-file-close", json!({"handle": source.file.handle()})));
        if self.agent.batch(&commands, deadline).await.is_ok() {
            self.out.file.forget();
            self.err.file.forget();
        }
    }
}

/// Runs the commands of one look in one round trip. `known` is the exit if that was told before.
async fn take_look(
    agent: Agent,
    commands: Vec<(&'static str, Value)>,
    seeks: bool,
    known: Option<Exit>,
) -> Result<Look, Error> {
    let mut answers = agent.batch(&commands, Deadline::after(LOOK)).await?.into_iter();
    for seek in answers.by_ref().take(if seeks { 2 } else { 0 }) {
        seek?;
    }
    let exit = match known {
        Some(exit) => Some(exit),
        None => status_from(answers.next().unwrap_or(Err(Error::Closed))?)?.map(|status| status.exit),
    };
    Ok(Look { exit, out: piece_from(answers.next())?, err: piece_from(answers.next())? })
}

fn piece_from(answer: Option<Result<Value, Error>>) -> Result<Vec<u8>, Error> {
    let value = answer.unwrap_or(Err(Error::Closed))?;
    let read: qapi::qga::GuestFileRead = from_value("guest-file-read", value)?;
    Ok(read.buf_b64)
}
