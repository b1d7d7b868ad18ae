//! `start` and `restart`.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::{Output, RestartArgs, StartArgs, WaitFor};
use crate::cli::context::{Context, each};
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::follow::{self, Followed, Show};
use crate::cli::table::Table;
use crate::cli::{Outcome, output};
use crate::store::VmDir;
use crate::vm::control::{Client, Until};
use crate::vm::{self, Begin, Phase, PhaseName};

/// `midge start`.
pub(super) fn start(context: &Context, args: &StartArgs) -> Outcome {
    let stay = Stay {
        wait: args.wait.as_ref(),
        timeout: args.timeout,
        output: args.output,
        many: args.names.len() > 1,
    };
    if !stay.many || stay.wait.is_none() {
        return each(&args.names, |name| start_one(context, name, stay).map(drop));
    }
    // Side by side: the guests boot at the same time, and each is followed by a thread of its own.
    let started: Vec<_> = thread::scope(|scope| {
        let followers: Vec<_> =
            args.names.iter().map(|name| scope.spawn(move || start_one(context, name, stay))).collect();
        followers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut booted = Vec::new();
    let mut outcome = Ok(0);
    for (name, started) in args.names.iter().zip(started) {
        let failed = match started {
            Ok(Ok(phases)) => {
                booted.push((name.as_str(), phases));
                continue;
            }
            Ok(Err(failed)) => failed,
            Err(_) => Failed::new(ExitKind::Other, format!("the start of `{name}` broke off")),
        };
        if let Err(before) = std::mem::replace(&mut outcome, Err(failed)) {
            output::failure(&before);
        }
    }
    if !args.output.json() && !context.voice.quiet {
        output::table(&side_by_side(&booted))?;
    }
    outcome
}

/// The phases of several boots, a column each.
fn side_by_side(booted: &[(&str, Vec<Phase>)]) -> Table {
    let mut table = Table::new(["PHASE (ms)"].into_iter().chain(booted.iter().map(|(name, _)| *name)));
    let mut names: Vec<PhaseName> = booted.iter().flat_map(|(_, phases)| phases).map(|p| p.name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let reached =
            |phases: &[Phase]| phases.iter().find(|p| p.name == name).map(|p| format!("{:.1}", p.ms));
        let cells = booted.iter().map(|(_, phases)| reached(phases).unwrap_or_default());
        table.row([name.to_string()].into_iter().chain(cells));
    }
    table
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
        super::stop::stop_one(context, name, &args.stop)?;
        start_one(context, name, stay).map(drop)
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

/// Lets a suspended VM go on.
pub(super) fn go_on(context: &Context, vm: &VmDir, output: Output) -> Result<(), Failed> {
    start_one(context, vm.name(), Stay { wait: None, timeout: None, output, many: false }).map(drop)
}

/// Answers the phases that were reached.
fn start_one(context: &Context, name: &str, stay: Stay<'_>) -> Result<Vec<Phase>, Failed> {
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
    Ok(followed.phases)
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
    let started = vm::start(context.home()?, vm, &Begin::Boot)?;
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
    if wait == Some(&WaitFor::CloudInit) {
        super::cloud_init::report(context, vm, deadline)?.judge(vm.name())?;
    }
    Ok((client, started.already, followed))
}

/// One JSON object about a start.
pub(super) fn print_started(name: &str, already: bool, phases: &[Phase]) -> Result<(), Failed> {
    output::json(&StartedVm { name, already, phases })
}
