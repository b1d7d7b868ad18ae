//! An identity of its own for a guest that was resumed from another's memory, given in the guest through its agent.
//!
//! One program does it, a static one of a few tens of kilobytes, by system calls (`identify/` at the root). [`prepare`] puts it into a guest
//! ahead of time, best before its snapshot is taken: every resumed guest then has it, and [`apply`] starts one process in it. That needs an
//! agent that may run programs and a `/run` that programs may be run from, and preparing also `/bin/sh` and `install`. What the program
//! answers ([`Report`]) comes out of a guest, which may lie; who has to be sure that two guests differ looks at them from outside.
//!
//! docs/identity.md says what each item means.

mod clock;
mod report;
mod request;
mod wanted;

use std::time::Duration;

use ::qmp::agent::{Agent, Exec, ExecStatus, Exit, Pid};
use tokio::time::Instant;

pub use clock::ClockOffset;
pub use report::{GenerationId, Item, ItemName, Report, ReportError, State};
pub use wanted::{Nic, RandomSeed, Renew, Wanted};

use crate::spec::Arch;

/// Puts the program in its place: whole, or not at all.
const SCRIPT: &str = r#"install -m 700 /dev/stdin "$0.new" && mv -f "$0.new" "$0""#;
/// The first pause before it is asked whether the program has ended.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How much of what a guest says of a failure is passed on, in letters.
const LONGEST_REASON: usize = 300;

/// Why it is not known whether a guest has its identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no program for this guest.
    #[error("this midge has no program for the identity of {0} guests")]
    NoProgram(Arch),
    /// More than the program takes.
    #[error("that is more than the program for guests' identities takes: {0}")]
    TooMuch(String),
    /// The agent.
    #[error("the guest's agent did not do it")]
    Agent(#[from] ::qmp::Error),
    /// The agent tells no time.
    #[error("the guest's agent told no time of day")]
    Time,
    /// The program did not run, or did not come to its end.
    #[error("the program for the guest's identity failed in the guest ({how}): {said}")]
    Program {
        /// How it ended.
        how: String,
        /// What was said on standard error.
        said: String,
    },
    /// What it said.
    #[error("the guest's answer is not believed")]
    Report(#[from] ReportError),
}

impl IdentityError {
    /// True when the guest did not answer in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Agent(e) if e.is_timeout())
    }
}

/// Gives the guest behind this agent an identity. It takes at most `deadline`, whatever the agent does; after an error nothing is known
/// of what the guest is.
///
/// An answer is no success: [`Report::confirmed`] says whether it is.
pub async fn apply(
    agent: &Agent,
    arch: Arch,
    wanted: &Wanted,
    deadline: Duration,
) -> Result<Report, IdentityError> {
    let until = Instant::now() + deadline;
    let left = || until.saturating_duration_since(Instant::now());
    let before = if wanted.clock { Some(clock::offset(agent, until).await?) } else { None };
    let forward = before.map(|offset| offset.us.saturating_neg().saturating_mul(1000));
    let program = request::program(arch)?;
    let exec = Exec::new(request::path(program)).stdin(request::request(wanted, forward)?);
    let pid = match agent.exec(&exec, left()).await {
        // Most often because it is not there.
        Err(::qmp::Error::Qemu { .. }) => {
            prepare(agent, arch, left()).await?;
            agent.exec(&exec, left()).await?
        }
        started => started?,
    };
    let status = ended(agent, pid, until).await?;
    let mut report = Report::read(&status.stdout, wanted)?;
    if let Some(before) = before {
        let after = clock::offset(agent, until).await?;
        report.clock_offset = Some(after);
        if let Some(item) = report.items.get_mut(&ItemName::Clock)
            && item.state == State::Done
            && !clock::is_right(before, after)
        {
            item.state = State::Failed;
            item.detail = format!("it was set, and is {} ms from the host's", after.us / 1000);
        }
    }
    Ok(report)
}

/// Puts the program for [`apply`] into a guest, for as long as that is not booted anew.
pub async fn prepare(agent: &Agent, arch: Arch, deadline: Duration) -> Result<(), IdentityError> {
    let until = Instant::now() + deadline;
    let program = request::program(arch)?;
    let exec = Exec::new("/bin/sh").args(["-c", SCRIPT, &request::path(program)]).stdin(program);
    let pid = agent.exec(&exec, deadline).await?;
    ended(agent, pid, until).await.map(drop)
}

/// Waits for the end of a program, which must be a good one.
///
/// Each question costs a slow guest milliseconds, in its agent and in its log, and the answers come the later: so they are few, the next
/// when half as much time again has passed.
async fn ended(agent: &Agent, pid: Pid, until: Instant) -> Result<ExecStatus, IdentityError> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    let status = loop {
        tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
        let left = until.saturating_duration_since(Instant::now());
        if let Some(status) = agent.exec_status(pid, left).await? {
            break status;
        }
        pause = (start.elapsed() / 2).clamp(FIRST_PAUSE / 2, LONGEST_PAUSE);
    };
    let how = match status.exit {
        Exit::Code(0) => return Ok(status),
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    };
    Err(IdentityError::Program { how, said: reason(&status.stderr, &status.stdout) })
}

/// A guest's words for a failure, as they may be shown.
fn reason(stderr: &[u8], stdout: &[u8]) -> String {
    let said = if stderr.is_empty() { stdout } else { stderr };
    let said = said.get(..4 * LONGEST_REASON).unwrap_or(said);
    let text = String::from_utf8_lossy(said);
    let text = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = text.take(LONGEST_REASON).collect();
    if text.is_empty() { "it did not say why".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
