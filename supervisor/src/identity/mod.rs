//! An identity of its own for a guest that was resumed from another's memory, given in the guest through its agent.
//!
//! One program is sent and run ([`request`]): a static one of a few tens of kilobytes, which does its work by system calls
//! (`identify/` at the root). It needs an agent that may run programs, `/bin/sh`, `install` and a `/run` that programs may be run from. What
//! it answers ([`Report`]) comes out of a guest, which may lie; who has to be sure that two guests differ looks at them from outside.
//!
//! docs/identity.md says what each item means.

mod clock;
mod report;
mod request;
mod wanted;

use std::time::Duration;

use ::qmp::agent::{Agent, Exec, Exit};
use tokio::time::Instant;

pub use clock::ClockOffset;
pub use report::{GenerationId, Item, ItemName, Report, ReportError, State};
pub use wanted::{Nic, RandomSeed, Renew, Wanted};

use crate::spec::Arch;

/// Puts the program in its place and becomes it. `install` sets the permissions as it writes: no second process for that.
const SCRIPT: &str = r#"trap 'rm -f "$0"' EXIT; install -m 700 /dev/stdin "$0" && exec "$0""#;
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
    let path = format!("/run/midge-identity-{}", uuid::Uuid::new_v4().simple());
    let file = request::file(arch, wanted, forward)?;
    let exec = Exec::new("/bin/sh").args(["-c", SCRIPT, &path]).stdin(file);
    let pid = agent.exec(&exec, left()).await?;
    let status = agent.exec_wait(pid, left()).await?;
    if status.exit != Exit::Code(0) {
        let how = match status.exit {
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        return Err(IdentityError::Program { how, said: reason(&status.stderr, &status.stdout) });
    }
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
