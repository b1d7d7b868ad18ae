//! `rm`.

use std::time::Duration;

use serde::Serialize;

use crate::cli::args::RmArgs;
use crate::cli::context::{Context, each};
use crate::cli::describe;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output, snapshots};
use crate::host::proc::{ProcessId, Signal};
use crate::store::{RunState, Status, StoreError, VmDir};
use crate::vm::control::Request;

/// How often a VM that starts again is ended before giving up.
const ATTEMPTS: usize = 5;
/// How long a killed process may take to vanish.
const VANISH: Duration = Duration::from_secs(10);

/// What `rm -o json` prints.
#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    /// Not where `--if-exists` found nothing.
    removed: bool,
}

/// `midge rm`.
pub(super) fn rm(context: &Context, args: &RmArgs) -> Outcome {
    let names = if args.all { context.home()?.vm_names()? } else { args.names.clone() };
    each(&names, |name| {
        let removed = match context.home()?.existing_vm(name) {
            Ok(vm) => {
                remove(context, &vm, args.force)?;
                true
            }
            Err(StoreError::NotFound { .. }) if args.if_exists => false,
            Err(error) => return Err(error.into()),
        };
        if args.output.json() { output::json(&Removed { name, removed }) } else { Ok(()) }
    })
}

/// Removes a VM. One that is gone already, because it removes itself or another command did it, is no failure.
pub(super) fn remove(context: &Context, vm: &VmDir, force: bool) -> Result<(), Failed> {
    let home = context.home()?;
    for _ in 0..ATTEMPTS {
        {
            let _lock = match vm.lock() {
                Err(StoreError::NotFound { .. }) => return Ok(()),
                lock => lock?,
            };
            // The supervisor's lock tells the truth also where the state file cannot be read.
            let supervisor = if vm.run_dir().is_dir() { vm.try_lock_supervisor()? } else { None };
            let unsupervised = supervisor.is_some() || !vm.run_dir().is_dir();
            if unsupervised && vm.status() == Status::Stopped {
                crate::vm::refuse_nameless_qemu(vm)?;
                if let (Err(error), false) = (vm.record(), force) {
                    return Err(error.into());
                }
                let macs = vm.record().map(|record| record.macs).unwrap_or_default();
                vm.remove(home)?;
                // It may have been the last to need what is left of a removed snapshot.
                snapshots::prune(context, false)?;
                crate::vm::forget_leases(home, &macs);
                return Ok(());
            }
        }
        // The lock is free again: whoever ends the VM may need it.
        match describe::running(&vm.status()).cloned() {
            // No supervisor that answers: one is leaving. Else the state file is damaged, and the VM runs.
            None if crate::vm::connect(home, vm).is_err() => left(vm)?,
            _ if !force => {
                let text = format!("the VM `{}` is running", vm.name());
                let hint = format!("`midge stop {0}` first, or `midge rm --force {0}`", vm.name());
                return Err(Failed::new(ExitKind::WrongState, text).hint(hint));
            }
            Some(run) if vm.record().is_err() => end_processes(&run)?,
            _ => drop(super::stop::end(context, vm, &Request::Kill, Duration::ZERO)?),
        }
    }
    Err(Failed::new(ExitKind::WrongState, format!("the VM `{}` does not stay stopped", vm.name())))
}

/// Waits for a supervisor that has ended its VM and is about to leave. It may remove the VM itself, for which it needs the
/// lock that the caller must not hold here.
fn left(vm: &VmDir) -> Result<(), Failed> {
    super::stop::settled(vm)?;
    match vm.lock_supervisor() {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends the processes of a VM whose record cannot be read, so that no supervisor could look after it any more.
fn end_processes(run: &RunState) -> Result<(), Failed> {
    // The supervisor first: it might start QEMU again.
    end_process(&run.supervisor)?;
    [&run.qemu, &run.successor, &run.predecessor].into_iter().flatten().try_for_each(end_process)
}

fn end_process(id: &ProcessId) -> Result<(), Failed> {
    let act = || -> std::io::Result<bool> {
        let Some(process) = id.open()? else { return Ok(true) };
        process.signal(Signal::KILL)?;
        process.wait_for(VANISH)
    };
    match act() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failed::new(ExitKind::Timeout, format!("process {} does not end", id.pid))),
        Err(e) => Err(Failed::io(format!("cannot end process {}", id.pid), e)),
    }
}
