//! `net check`.

use netbr::check::{Cause, Certainty, Facts, Subject, causes};
use serde::Serialize;

use super::{facts, with_links};
use crate::cli::args::NetCheckArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, describe, output};
use crate::vm::control::{Family, Request};

/// How long a supervisor may take to say what it knows of its guest.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Report<'a> {
    network: &'a str,
    /// Nothing certainly keeps guests from the network.
    fit: bool,
    causes: &'a [Cause],
}

/// `midge net check`: ends with [`ExitKind::HostUnfit`] when something certainly keeps guests from the network.
pub(super) fn check(context: &Context, args: &NetCheckArgs) -> Outcome {
    let facts = with_links(|links| async move { facts(&links).await })?;
    let own = crate::vm::own_network();
    let name = args.bridge.as_deref().unwrap_or(own);
    let subject = if name == own { Subject::Nat(name) } else { Subject::Bridge(name) };
    let found = causes(&facts, subject, unanswered(context, name)?);
    let fit = found.iter().all(|cause| cause.certainty != Certainty::Certain);
    if args.output.json() {
        output::json_pretty(&Report { network: name, fit, causes: &found })?;
    } else {
        let text = text(name, &facts, &found);
        output::print(|out| out.write_all(text.as_bytes()))?;
    }
    Ok(if fit { 0 } else { ExitKind::HostUnfit.code() })
}

/// Whether a guest on the bridge was heard asking for an address and never answered.
fn unanswered(context: &Context, bridge: &str) -> Result<bool, Failed> {
    let home = context.home()?;
    for name in home.vm_names()? {
        let vm = home.vm(&name);
        let status = vm.status();
        let Some(run) = describe::running(&status) else { continue };
        if !run.addresses.is_empty() || run.ports.iter().all(|port| port.bridge != bridge) {
            continue;
        }
        let request = Request::Addresses { family: Family::Any, source: None, within_ms: 0 };
        let Ok(mut client) = context.connect(&vm) else { continue };
        if let Err(failed) = call(&mut client, &request, Deadline::after(Some(LIMIT)), |_| Ok(()))
            && failed.error.to_string().contains("no-dhcp-answer")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The causes as people read them, what to do below each.
fn text(name: &str, facts: &Facts, causes: &[Cause]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for cause in causes {
        let word = match cause.certainty {
            Certainty::Certain => "FAIL",
            Certainty::Likely => "warn",
            Certainty::Suspected => "hint",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{word:<5} {:<24} {}", cause.id.to_string(), cause.what);
        let _ = writeln!(text, "{:31}next: {}", "", cause.next_step);
    }
    if causes.is_empty() {
        let _ = writeln!(text, "ok    nothing on this host keeps guests on {name} from the network");
    }
    if facts.filters.is_none() {
        let _ = writeln!(
            text,
            "hint  the firewall's rules are shown to root only: `sudo midge net check` sees more"
        );
    }
    text
}
