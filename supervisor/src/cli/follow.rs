//! Following a boot: phases as they come, and what to say when it fails.

use super::deadline::{Deadline, call};
use super::evidence::Evidence;
use super::exit::{ExitKind, Failed};
use super::output;
use crate::vm::control::{Client, ClientError, Reply, Request, Until};
use crate::vm::{End, Phase};

/// What was seen while waiting.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// The phases, in the order in which they were reached.
    pub(super) phases: Vec<Phase>,
    /// How the guest ended, when that was waited for.
    pub(super) end: Option<End>,
}

/// How to show what comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show<'a> {
    /// Print each phase on stderr.
    pub(super) phases: bool,
    /// What to put before each, where several VMs are followed.
    pub(super) prefix: &'a str,
    /// Print notes of the supervisor on stderr.
    pub(super) notes: bool,
}

/// Waits until `until` holds for the VM that `client` leads to.
///
/// # Errors
/// With the last lines of the guest and of QEMU when the guest ends first or the time is over.
pub(super) fn follow(
    client: &mut Client,
    until: &Until,
    deadline: Deadline,
    evidence: &mut Evidence,
    show: Show<'_>,
) -> Result<Followed, Failed> {
    let mut followed = Followed::default();
    let request = Request::Follow { until: until.clone() };
    let result = call(client, &request, deadline, |reply| {
        evidence.refresh();
        match reply {
            Reply::Phase(phase) => {
                if show.phases {
                    output::say(format_args!("{}{:<10} {:>9.1} ms", show.prefix, phase.name, phase.ms));
                }
                followed.phases.push(phase);
            }
            Reply::Note { text } if show.notes => output::say(format_args!("midge: {text}")),
            Reply::Ended(end) => followed.end = Some(end),
            _ => {}
        }
        Ok(())
    });
    match result {
        Ok(_) => Ok(followed),
        Err(failed) => {
            // The end is what was waited for, however it is told.
            if *until == Until::Ended
                && let Some(end) = end_of(&failed)
            {
                followed.end = Some(end);
                return Ok(followed);
            }
            Err(explain(failed, until, evidence))
        }
    }
}

/// The end that a failure tells of.
pub(super) fn end_of(failed: &Failed) -> Option<End> {
    failed.error.downcast_ref::<crate::vm::control::Failure>()?.end.clone()
}

fn explain(failed: Failed, until: &Until, evidence: &mut Evidence) -> Failed {
    let ended = failed
        .error
        .downcast_ref::<crate::vm::control::Failure>()
        .is_some_and(|failure| failure.end.is_some());
    let gone = matches!(failed.error.downcast_ref(), Some(ClientError::Gone));
    let late = failed.kind == ExitKind::Timeout;
    if !(ended || gone || late) {
        return failed;
    }
    let failed = failed.sections(evidence.sections());
    if late {
        let what = match until {
            Until::Resumed => "the guest's first instruction was not seen".to_owned(),
            Until::Identified => "the guest has not confirmed its new identity".to_owned(),
            Until::Spare => "the spare is not ready".to_owned(),
            Until::Ready => "the guest is not ready".to_owned(),
            Until::Sign(sign) => format!("the guest did not show `{sign}`"),
            Until::Ended => "the guest has not ended".to_owned(),
        };
        return failed
            .context(what)
            .hint("the VM still runs: give it longer with `midge wait`, or look at `midge console`");
    }
    failed
}
