//! `start` and `restart`.

use std::time::Duration;

use serde::Serialize;

use crate::cli::args::{Output, RestartArgs, StartArgs, WaitFor};
use crate::cli::context::{Context, each};
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::exit::Failed;
use crate::cli::follow::{self, Followed, Show};
use crate::cli::{Outcome, output};
use crate::store::VmDir;
use crate::vm::control::{Client, Until};
use crate::vm::{self, Phase};

/// `midge start`.
pub(super) fn start(context: &Context, args: &StartArgs) -> Outcome {
    let stay = Stay {
        wait: args.wait.as_ref(),
        timeout: args.timeout,
        output: args.output,
        many: args.names.len() > 1,
    };
    each(&args.names, |name| start_one(context, name, stay))
}

/// `midge restart`.
pub(super) fn restart(context: &Context, args: &RestartArgs) -> Outcome {
    let names = &args.stop.names;
    let stay = Stay {
        wait: args.wait.as_ref(),
        timeout: args.wait_timeout,
        output: args.output,
        many: names.len() > 1,
    };
    each(names, |name| {
        super::stop::stop_one(context, name, args.stop.timeout, args.stop.force)?;
        start_one(context, name, stay)
    })
}

#[derive(Debug, Clone, Copy)]
struct Stay<'a> {
    wait: Option<&'a WaitFor>,
    timeout: Option<Duration>,
    output: Output,
    many: bool,
}

/// What `start -o json` prints.
#[derive(Serialize)]
struct StartedVm<'a> {
    name: &'a str,
    already: bool,
    phases: &'a [Phase],
}

fn start_one(context: &Context, name: &str, stay: Stay<'_>) -> Result<(), Failed> {
    let vm = context.vm(name)?;
    let prefix = if stay.many { format!("{name}: ") } else { String::new() };
    let show = Show {
        phases: !context.voice.quiet && (stay.wait.is_some() || context.voice.verbose),
        prefix: &prefix,
        notes: !context.voice.quiet,
    };
    let (_, already, followed) = begin(context, &vm, stay.wait, stay.timeout, show)?;
    if already && stay.wait.is_none() {
        context.voice.detail(format_args!("`{name}` runs already"));
    }
    if stay.output.json() {
        print_started(name, already, &followed.phases)?;
    }
    Ok(())
}

/// Starts a VM and stays until its first instruction, or until what is waited for.
pub(super) fn begin(
    context: &Context,
    vm: &VmDir,
    wait: Option<&WaitFor>,
    timeout: Option<Duration>,
    show: Show<'_>,
) -> Result<(Client, bool, Followed), Failed> {
    let mut evidence = Evidence::of_next_run(vm);
    let started = vm::start(context.home()?, vm)?;
    if started.already {
        evidence = Evidence::of_this_run(vm);
    }
    if show.notes {
        started.notes.iter().for_each(|note| output::say(format_args!("midge: {}{note}", show.prefix)));
    }
    let mut client = started.client;
    let until = wait.map_or(Until::Resumed, WaitFor::until);
    let deadline = Deadline::after(Some(timeout.unwrap_or(DEFAULT_WAIT)));
    let followed = follow::follow(&mut client, &until, deadline, &mut evidence, show)?;
    Ok((client, started.already, followed))
}

/// One JSON object about a start.
pub(super) fn print_started(name: &str, already: bool, phases: &[Phase]) -> Result<(), Failed> {
    output::json(&StartedVm { name, already, phases })
}
