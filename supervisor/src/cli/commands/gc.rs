//! `gc`: clears away what killed commands, reboots and expired VMs left behind. Nothing depends on it being run.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::args::GcArgs;
use crate::cli::context::Context;
use crate::cli::describe;
use crate::cli::exit::Failed;
use crate::cli::{Outcome, images, output, snapshots, units};
use crate::pool;
use crate::store::{Status, VmDir};
use crate::vm::control::Request;

use super::{rm, stop};

/// How long an expired guest may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// One thing that is, or would be, cleared away.
#[derive(Debug, Serialize)]
struct Cleared {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// `midge gc`.
pub(super) fn gc(context: &Context, args: &GcArgs) -> Outcome {
    let home = context.home()?;
    let mut cleared = Vec::new();
    if !args.dry_run {
        cleared.extend(home.sweep()?.into_iter().map(|path| Cleared::file("unfinished work", path)));
    }
    for name in home.vm_names()? {
        if let Some(what) = clear_vm(context, &home.vm(&name), args.dry_run)? {
            cleared.push(Cleared { what, vm: Some(name), path: None, bytes: None });
        }
    }
    cleared.extend(spares(context, args.dry_run)?);
    cleared.extend(
        run_folders(context, args.dry_run)?.into_iter().map(|p| Cleared::file("run folder without a VM", p)),
    );
    if !args.dry_run {
        let bytes = images::prune(context, false)?.iter().map(|pruned| pruned.bytes).sum();
        if bytes > 0 {
            cleared.push(Cleared {
                what: "files of replaced images",
                vm: None,
                path: None,
                bytes: Some(bytes),
            });
        }
    }
    for (path, bytes) in snapshots::prune(context, args.dry_run)? {
        cleared.push(Cleared { bytes: Some(bytes), ..Cleared::file("file that no snapshot needs", path) });
    }
    if args.output.json() {
        output::json_lines(&cleared)?;
    } else {
        output::print(|out| cleared.iter().try_for_each(|c| writeln!(out, "{}", c.line())))?;
    }
    Ok(0)
}

impl Cleared {
    fn file(what: &'static str, path: PathBuf) -> Self {
        Self { what, vm: None, path: Some(path), bytes: None }
    }

    fn line(&self) -> String {
        let Self { what, vm, path, bytes } = self;
        let more = [vm.clone(), path.as_ref().map(|p| p.display().to_string()), bytes.map(units::bytes)];
        [Some((*what).to_owned()), Some(more.into_iter().flatten().collect::<Vec<_>>().join(" "))]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ")
    }
}

/// Puts one VM right, and says what was amiss.
fn clear_vm(context: &Context, vm: &VmDir, dry_run: bool) -> Result<Option<&'static str>, Failed> {
    let status = vm.status();
    if let Some(run) = describe::running(&status) {
        let expired = run.expires.is_some_and(|at| at < Timestamp::now());
        if expired {
            if !dry_run {
                let within_ms = u64::try_from(STOP_WITHIN.as_millis()).unwrap_or(u64::MAX);
                stop::end(context, vm, &Request::Stop { within_ms }, STOP_WITHIN)?;
            }
            return Ok(Some("expired VM"));
        }
        if matches!(status, Status::Orphaned(_)) {
            if !dry_run {
                // Gets a supervisor again, which looks after its time to live.
                drop(context.connect(vm)?);
            }
            return Ok(Some("VM without a supervisor"));
        }
        return Ok(None);
    }
    let Ok(record) = vm.record() else { return Ok(None) };
    let unfinished = vm.unfinished_run().is_some();
    // One that was never started stays, however old: it may be on its way up at this moment, or wait for its start since
    // `create --rm`. A `run` that is killed before the start leaves such a one; any other signal takes it away.
    if record.spec.ephemeral && (unfinished || vm.last_run()?.is_some()) {
        if !dry_run {
            rm::remove(context, vm, false)?;
        }
        return Ok(Some("VM that was to be removed after its end"));
    }
    if unfinished {
        if !dry_run {
            let _lock = vm.lock()?;
            crate::vm::close_unfinished(vm)?;
        }
        return Ok(Some("run that was cut short"));
    }
    Ok(None)
}

/// Spares whose supervisors are gone, and pools whose removal was cut short.
fn spares(context: &Context, dry_run: bool) -> Result<Vec<Cleared>, Failed> {
    let home = context.home()?;
    let mut cleared = Vec::new();
    for pool in home.pools()? {
        let what =
            if pool.record()?.is_none() { "spare of a removed pool" } else { "spare without a supervisor" };
        for spare in pool::leftovers(home, &pool, dry_run)? {
            cleared.push(Cleared { what, vm: Some(spare), path: None, bytes: None });
        }
    }
    Ok(cleared)
}

/// Run folders that no VM belongs to: their VM's state folder was removed by hand.
fn run_folders(context: &Context, dry_run: bool) -> Result<Vec<PathBuf>, Failed> {
    let home = context.home()?;
    let entries = fs::read_dir(home.run().join("vms")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut vms: Vec<VmDir> = names.map(|name| home.vm(&name)).collect();
    vms.extend(home.lost_spares()?);
    let mut stale = Vec::new();
    for vm in vms {
        if vm.state_dir().exists() || vm.status() != Status::Stopped {
            continue;
        }
        // A supervisor that is just removing its VM still holds its lock.
        let Some(_lock) = vm.try_lock_supervisor()? else { continue };
        if !dry_run {
            vm.clear_run();
            fs::remove_dir_all(vm.run_dir())
                .map_err(|e| Failed::io(format!("cannot remove {}", vm.run_dir().display()), e))?;
        }
        stale.push(vm.run_dir().to_owned());
    }
    Ok(stale)
}
