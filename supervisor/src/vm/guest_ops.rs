//! What commands do inside a guest through its agent: run programs, read and write files.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ::qmp::agent::{Agent, Exec, Exit, Output};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::control::{Conversation, Failure, FailureKind, Reply, Stream};
use super::guest_agent::AGENT_DEADLINE;
use super::requests::Stopped;
use super::shared::Shared;

/// How long one piece of a running program's output is waited for before it is asked for again.
const PIECE: Duration = Duration::from_secs(60);
/// How long after its agent a guest that goes down may take to end.
const GUEST_GOES: Duration = Duration::from_secs(5);
/// How much of a file is read at a time.
const CHUNK: usize = 1 << 20;

/// A program to run.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) dir: Option<String>,
    /// Base64.
    pub(super) input: Option<String>,
}

impl Wanted {
    /// The program as the agent is to start it. The agent replaces the whole environment by the one it is given and knows
    /// no working directory, so env(1) and a shell add to its own.
    fn command(self) -> Result<Exec, Failure> {
        let usage = |text: String| Failure::new(FailureKind::Usage, text);
        let mut argv = Vec::new();
        if let Some(dir) = self.dir {
            argv.extend(["/bin/sh", "-c", r#"cd -- "$0" && exec "$@""#].map(str::to_owned));
            argv.push(dir);
        }
        if !self.env.is_empty() {
            argv.push("env".to_owned());
            argv.extend(self.env.iter().map(|(key, value)| format!("{key}={value}")));
        }
        argv.extend(self.argv);
        let mut argv = argv.into_iter();
        let program = argv.next().ok_or_else(|| usage("there is no command to run".to_owned()))?;
        let mut exec = Exec::new(program).args(argv);
        if let Some(input) = self.input {
            let bytes = STANDARD.decode(input).map_err(|e| usage(format!("the input is no base64: {e}")))?;
            exec = exec.stdin(bytes);
        }
        Ok(exec)
    }
}

/// Runs a program and passes its output on as it comes. A command that hangs up takes the program with it.
pub(super) async fn exec(
    shared: &Rc<Shared>,
    talk: &mut Conversation,
    wanted: Wanted,
) -> Result<(), Stopped> {
    let link = shared.link()?;
    let agent = link.agent.client().await?;
    let exec = wanted.command()?;
    let mut running = agent.exec_stream(&exec, AGENT_DEADLINE).await.map_err(|e| agent_failed(&e))?;
    loop {
        let piece = tokio::select! {
            piece = running.next(PIECE) => Some(piece),
            () = talk.hung_up() => None,
        };
        let sent = match piece {
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
            Some(Ok(Some(Output::Stdout(bytes)))) => talk.output(Stream::Stdout, &bytes).await,
            Some(Ok(Some(Output::Stderr(bytes)))) => talk.output(Stream::Stderr, &bytes).await,
            Some(Ok(Some(Output::Exit(exit)))) => {
                return Ok(talk.send(&Reply::Exited { code: exit_code(exit) }).await?);
            }
            Some(Ok(None)) => return Ok(()),
            // A quiet program, or a busy guest: as long as its agent is there, it is waited for.
            Some(Err(e)) if e.is_timeout() && link.agent.is_up() => Ok(()),
            Some(Err(e)) => return Err(agent_lost(shared, &e).await.into()),
        };
        if sent.is_err() {
            if let Err(e) = agent.signal(running.pid(), "TERM", AGENT_DEADLINE).await {
                tracing::debug!("cannot end the program of a command that was interrupted: {e}");
            }
            return Err(Stopped::HungUp);
        }
    }
}

/// Why the agent went away in the middle of a program: most often because the guest did.
async fn agent_lost(shared: &Rc<Shared>, e: &::qmp::Error) -> Failure {
    let mut snapshot = shared.snapshot.subscribe();
    let ended = snapshot.wait_for(|s| s.end.is_some());
    match tokio::time::timeout(GUEST_GOES, ended).await {
        Ok(Ok(snapshot)) => {
            let end = snapshot.end.clone();
            let how = end.as_ref().map(ToString::to_string).unwrap_or_default();
            let mut failure = Failure::new(
                FailureKind::GuestEnded,
                format!("the guest ended while the command ran: {how}"),
            );
            failure.end = end;
            failure
        }
        _ => agent_failed(e),
    }
}

/// As a shell has it in `$?`.
fn exit_code(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => code & 0xff,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Passes a file's content on.
pub(super) async fn read_file(
    shared: &Rc<Shared>,
    talk: &mut Conversation,
    path: &str,
) -> Result<(), Stopped> {
    let agent = shared.link()?.agent.client().await?;
    let mut file = agent.open(path, "r", AGENT_DEADLINE).await.map_err(|e| file_failed("read", path, &e))?;
    loop {
        let bytes = file.read(CHUNK, AGENT_DEADLINE).await.map_err(|e| file_failed("read", path, &e))?;
        if bytes.is_empty() {
            break;
        }
        talk.output(Stream::Stdout, &bytes).await?;
    }
    // Nothing was written, so nothing is lost if this fails.
    let _ = file.close(AGENT_DEADLINE).await;
    Ok(())
}

/// Writes a file: whole, under its name, or not at all.
pub(super) async fn write_file(
    shared: &Rc<Shared>,
    talk: &mut Conversation,
    path: &str,
    mode: Option<u32>,
) -> Result<(), Stopped> {
    let agent = shared.link()?.agent.client().await?;
    let unfinished = format!("{path}.midge-{}", uuid::Uuid::new_v4().simple());
    let written = async {
        let mut file =
            agent.open(&unfinished, "w", AGENT_DEADLINE).await.map_err(|e| file_failed("write", path, &e))?;
        loop {
            let line = talk.line().await?.ok_or(Stopped::HungUp)?;
            if line.is_empty() {
                break;
            }
            let bytes = STANDARD
                .decode(&line)
                .map_err(|e| Failure::new(FailureKind::Usage, format!("the content is no base64: {e}")))?;
            file.write(&bytes, AGENT_DEADLINE).await.map_err(|e| file_failed("write", path, &e))?;
        }
        file.close(AGENT_DEADLINE).await.map_err(|e| file_failed("write", path, &e))?;
        // A folder in the place of the file would take it in under its unfinished name: -T forbids that.
        let mode = format!("{:o}", mode.unwrap_or(0o644));
        shell(&agent, r#"chmod "$0" "$1" && mv -fT -- "$1" "$2""#, &[&mode, &unfinished, path]).await
    }
    .await;
    if written.is_err()
        && let Err(failure) = shell(&agent, r#"rm -f -- "$0""#, &[&unfinished]).await
    {
        tracing::debug!("cannot remove what was written of {path}: {failure:?}");
    }
    written
}

/// Runs a line of shell in the guest; its words on stderr are the failure.
async fn shell(agent: &Agent, script: &str, words: &[&str]) -> Result<(), Stopped> {
    let exec = Exec::new("/bin/sh").args(["-c", script]).args(words.iter().copied()).capture(true);
    let pid = agent.exec(&exec, AGENT_DEADLINE).await.map_err(|e| agent_failed(&e))?;
    let status = agent.exec_wait(pid, AGENT_DEADLINE).await.map_err(|e| agent_failed(&e))?;
    if status.exit.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&status.stderr);
    Err(Failure::new(FailureKind::Agent, format!("the guest says: {}", said.trim())).into())
}

fn agent_failed(e: &::qmp::Error) -> Failure {
    let kind = if e.is_timeout() { FailureKind::Timeout } else { FailureKind::Agent };
    Failure::new(kind, crate::error::chain(e))
}

fn file_failed(what: &str, path: &str, e: &::qmp::Error) -> Failure {
    let text = crate::error::chain(e);
    // The agent passes strerror(3) on.
    let kind = if text.contains("No such file") { FailureKind::NotFound } else { FailureKind::Agent };
    Failure::new(kind, format!("cannot {what} {path} in the guest: {text}"))
}
