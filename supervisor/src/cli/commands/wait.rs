//! `wait`.

use serde::Serialize;

use crate::cli::args::{WaitArgs, WaitFor};
use crate::cli::context::Context;
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::follow::{Show, follow};
use crate::cli::{Outcome, output};
use crate::vm::{End, LaunchError, Phase};

/// What `wait -o json` prints.
#[derive(Serialize)]
struct Waited<'a> {
    name: &'a str,
    phases: &'a [Phase],
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'a End>,
}

/// `midge wait`.
pub(super) fn wait(context: &Context, args: &WaitArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    let mut client = match crate::vm::connect(context.home()?, &vm) {
        Ok(client) => client,
        // What was waited for has come.
        Err(LaunchError::NotRunning(_)) if args.what == WaitFor::End => {
            let last = vm.last_run()?;
            return told(args, &[], last.map(|last| last.end).as_ref());
        }
        Err(error) => return Err(error.into()),
    };
    let timeout = args.timeout.or((args.what != WaitFor::End).then_some(DEFAULT_WAIT));
    let mut evidence = Evidence::of_this_run(&vm);
    let show = Show { phases: context.voice.verbose, prefix: "", notes: !context.voice.quiet };
    let followed = follow(&mut client, &args.what.until(), Deadline::after(timeout), &mut evidence, show)?;
    told(args, &followed.phases, followed.end.as_ref())
}

fn told(args: &WaitArgs, phases: &[Phase], end: Option<&End>) -> Outcome {
    if args.output.json() {
        output::json(&Waited { name: &args.name, phases, end })?;
    } else if let Some(end) = end {
        output::line(end)?;
    }
    Ok(0)
}
