//! `stop`, `kill`, `pause` and `resume`.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::args::{Names, Output, StopArgs, Stopping};
use crate::cli::context::{Context, each};
use crate::cli::deadline::{Deadline, call};
use crate::cli::describe;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::store::{Status, StoreError, VmDir};
use crate::vm::control::{Reply, Request};
use crate::vm::{Cause, End, LaunchError};

/// What a supervisor may take beyond the guest's own time: QEMU leaving, and being killed when it does not.
const GRACE: Duration = Duration::from_secs(30);

/// `midge stop`.
pub(super) fn stop(context: &Context, args: &StopArgs) -> Outcome {
    each(&args.stop.names, |name| {
        let end = stop_one(context, name, &args.stop)?;
        print_ended(name, end, args.output)
    })
}

/// What `stop` and `kill` print with `-o json`.
#[derive(Serialize)]
struct EndedVm<'a> {
    name: &'a str,
    /// It did not run.
    already: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

fn print_ended(name: &str, end: Option<End>, output: Output) -> Result<(), Failed> {
    if output.json() { output::json(&EndedVm { name, already: end.is_none(), end }) } else { Ok(()) }
}

/// Stops one VM, which may be stopped already: then there is no end.
pub(super) fn stop_one(context: &Context, name: &str, how: &Stopping) -> Result<Option<End>, Failed> {
    let force = how.force;
    let within = if force { Duration::ZERO } else { how.timeout };
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let asked = Instant::now();
    let end = end(context, &context.vm(name)?, &Request::Stop { within_ms }, within)?;
    match &end {
        None => context.voice.detail(format_args!("`{name}` is not running")),
        // A guest that cannot be asked is ended at once, and that is no news.
        Some(End { cause: Cause::Killed, .. }) if !force && asked.elapsed() >= within => {
            let seconds = within.as_secs();
            context
                .voice
                .note(format_args!("`{name}` did not end within {seconds} s and was ended by force"));
        }
        Some(end) => context.voice.detail(format_args!("`{name}`: {end}")),
    }
    Ok(end)
}

/// `midge kill`.
pub(super) fn kill(context: &Context, args: &Names) -> Outcome {
    each(&args.names, |name| {
        let vm = context.vm(name)?;
        match end(context, &vm, &Request::Kill, Duration::ZERO)? {
            Some(end) => print_ended(name, Some(end), args.output),
            None => Err(LaunchError::NotRunning(name.clone()).into()),
        }
    })
}

/// Asks for the end of a VM and waits for it, and for its supervisor to leave. Nothing when the VM did not run.
pub(super) fn end(
    context: &Context,
    vm: &VmDir,
    request: &Request,
    within: Duration,
) -> Result<Option<End>, Failed> {
    // The supervisor's socket, not the state file, tells whether there is something to end: the file may be damaged.
    let mut client = match crate::vm::connect(context.home()?, vm) {
        Ok(client) => client,
        // One that removes itself after its end may be gone since it was looked up.
        Err(LaunchError::NotRunning(_) | LaunchError::Store(StoreError::NotFound { .. })) => {
            settled(vm)?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut end = None;
    let deadline = Deadline::after(within.checked_add(GRACE));
    let answer = call(&mut client, request, deadline, |reply| {
        if let Reply::Ended(how) = reply {
            end = Some(how);
        }
        Ok(())
    });
    // A supervisor that leaves has done its work when the VM is gone.
    if let Err(failed) = answer
        && describe::running(&vm.status()).is_some()
    {
        return Err(failed);
    }
    settled(vm)?;
    Ok(end.or_else(|| vm.last_run().ok().flatten().map(|last| last.end)))
}

/// Waits until the supervisor of a VM that has ended is gone, so that the next command finds nothing in its way.
pub(super) fn settled(vm: &VmDir) -> Result<(), Failed> {
    let Status::Supervised(run) = vm.status() else { return Ok(()) };
    if describe::running(&Status::Supervised(run.clone())).is_some() {
        // Started again meanwhile.
        return Ok(());
    }
    let what = || format!("cannot wait for the supervisor of `{}`", vm.name());
    let gone = match run.supervisor.open().map_err(|e| Failed::io(what(), e))? {
        Some(process) => process.wait_for(GRACE).map_err(|e| Failed::io(what(), e))?,
        None => true,
    };
    if gone {
        return Ok(());
    }
    Err(Failed::new(ExitKind::Timeout, format!("the supervisor of `{}` does not end", vm.name())))
}

/// `midge pause`.
pub(super) fn pause(context: &Context, args: &Names) -> Outcome {
    each(&args.names, |name| stand(context, name, true, args.output))
}

/// `midge resume`.
pub(super) fn resume(context: &Context, args: &Names) -> Outcome {
    each(&args.names, |name| stand(context, name, false, args.output))
}

/// What `pause` and `resume` print with `-o json`.
#[derive(Serialize)]
struct Stands<'a> {
    name: &'a str,
    paused: bool,
}

fn stand(context: &Context, name: &str, paused: bool, output: Output) -> Result<(), Failed> {
    let suspended = context.vm(name)?;
    // Its supervisor may be just leaving.
    if !paused && suspended.suspended().is_some() && describe::running(&suspended.status()).is_none() {
        return super::start::go_on(context, &suspended, output);
    }
    let mut client = context.connect(&context.vm(name)?)?;
    let request = if paused { Request::Pause } else { Request::Resume };
    call(&mut client, &request, Deadline::after(Some(GRACE)), |_| Ok(()))?;
    if output.json() { output::json(&Stands { name, paused }) } else { Ok(()) }
}
