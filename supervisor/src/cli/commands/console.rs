//! `console`.

use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::Failed;
use crate::cli::{Outcome, output};
use crate::vm::control::Request;

use super::attach::{self, Ended};

/// How long a supervisor may take to hand its console over.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// `midge console`: joins this terminal to the guest's serial console, in both directions.
pub(super) fn console(context: &Context, name: &str) -> Outcome {
    let vm = context.vm(name)?;
    let mut client = context.connect(&vm)?;
    call(&mut client, &Request::Console, Deadline::after(Some(LIMIT)), |_| Ok(()))?;
    client.set_timeout(None)?;
    let (socket, early) = client.into_raw().map_err(|e| Failed::io("cannot use the console", e))?;
    context.voice.note(format_args!("console of `{name}`; Ctrl-] leaves it, Enter may wake it up"));
    output::bytes(&early)?;
    match attach::join(&socket)? {
        Ended::Detached => context.voice.note(format_args!("left the console; `{name}` goes on")),
        Ended::Guest => context.voice.note(format_args!("the console of `{name}` was closed")),
    }
    Ok(0)
}
