//! `snapshot save`, and `suspend`, which is one that `resume` goes on from.

use serde::Serialize;

use super::super::stop;
use crate::cli::args::SaveArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::progress::Transfer;
use crate::cli::{Outcome, output, snapshots, units};
use crate::snapshot::manifest::{MANIFEST_SCHEMA, Manifest, Source};
use crate::snapshot::store::Snapshot;
use crate::snapshot::{SnapshotName, save as steps};
use crate::spec::Kind;
use crate::store::{Status, VmDir};
use crate::vm::control::{Reply, Request};
use crate::vm::{How, Saved};

/// What `snapshot save -o json` prints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    saved: &'a Saved,
    /// How much of the VM it has.
    extent: super::Extent,
}

/// `midge snapshot save`.
pub(super) fn save(context: &Context, args: &SaveArgs) -> Outcome {
    snapshots::sweep(context)?;
    let vm = context.vm(args.name.vm())?;
    let how = match (args.stop, args.disk_only) {
        (true, _) => How::Stop,
        (_, true) => How::Disk,
        _ => How::Live,
    };
    let (saved, extent) = if vm.status() == Status::Stopped {
        if args.stop {
            let text = format!("`{}` is stopped: only its disk can be saved", vm.name());
            return Err(Failed::new(ExitKind::WrongState, text).hint("leave --stop away"));
        }
        let snapshot = of_stopped(context, &vm, args.name.clone(), args.note.clone(), args.replace)?;
        let sizes = snapshots::store(context)?.sizes(&snapshot)?;
        let (id, name) = (snapshot.id(), args.name.clone());
        (Saved { name, id, pause_ms: None, own: sizes.own, shared: sizes.shared }, super::Extent::Disk)
    } else {
        let saved = of_running(context, &vm, args.name.clone(), how, args.note.clone(), args.replace)?;
        if args.stop {
            stop::settled(&vm)?;
        }
        let extent = if how == How::Disk { super::Extent::Disk } else { super::Extent::Memory };
        (saved, extent)
    };
    if args.output.json() {
        output::json(&Report { saved: &saved, extent })?;
        return Ok(0);
    }
    let pause = saved.pause_ms.map(|ms| format!("; the guest stood still for {ms:.1} ms"));
    context.voice.note(format_args!(
        "{} of its own, {} shared{}",
        units::bytes(saved.own),
        units::bytes(saved.shared),
        pause.unwrap_or_default()
    ));
    output::line(&saved.name)?;
    Ok(0)
}

/// Saves a VM that runs.
pub(in crate::cli::commands) fn of_running(
    context: &Context,
    vm: &VmDir,
    name: SnapshotName,
    how: How,
    note: Option<String>,
    replace: bool,
) -> Result<Saved, Failed> {
    let mut client = context.connect(vm)?;
    let mut transfer = Transfer::new(context.voice);
    let request = Request::Save { name, how, note, replace };
    let saved = call(&mut client, &request, Deadline::after(None), |reply| {
        if let Reply::Progress { done, total } = reply {
            transfer.show(done, Some(total));
        }
        Ok(())
    })?;
    transfer.end();
    serde_json::from_value(saved)
        .map_err(|e| Failed::new(ExitKind::Other, format!("the supervisor's answer makes no sense: {e}")))
}

/// Saves the disk of a VM that is stopped: the file becomes the snapshot's, and the VM goes on with a layer on top of it.
pub(in crate::cli::commands) fn of_stopped(
    context: &Context,
    vm: &VmDir,
    name: SnapshotName,
    note: Option<String>,
    replace: bool,
) -> Result<Snapshot, Failed> {
    let store = snapshots::store(context)?;
    let _lock = vm.lock()?;
    if vm.status() != Status::Stopped {
        return Err(Failed::new(ExitKind::WrongState, format!("`{}` was started just now", vm.name())));
    }
    crate::vm::refuse_nameless_qemu(vm)?;
    let record = vm.record()?;
    let disk = vm.disk();
    if !disk.exists() {
        let text = format!("`{}` has no disk, and is stopped: there is nothing to save", vm.name());
        return Err(Failed::new(ExitKind::Usage, text).hint("start it first, to save its memory"));
    }
    steps::settle_disk(&disk)?;
    let below = crate::snapshot::qcow2::backing(&disk)?.and_then(|below| store.owner(&below));
    let needs = below.map(|id| store.by_id(id)).transpose()?.flatten();
    let draft =
        if replace { store.begin_over(needs.as_slice())? } else { store.begin(&name, needs.as_slice())? };
    let captured = steps::take_disk(&store, &draft, &disk)?;
    let kind = match (record.spec.kind, &record.image) {
        (Kind::Auto, Some(image)) => image.kind,
        (kind, _) => kind,
    };
    let manifest = Manifest {
        schema: MANIFEST_SCHEMA,
        id: draft.id(),
        name,
        taken: jiff::Timestamp::now(),
        pause_us: None,
        note,
        parent: None,
        source: Source {
            id: record.id,
            macs: record.macs.clone(),
            hostname: Some(record.spec.name.clone()),
            addresses: Vec::new(),
            heard: Vec::new(),
            machine_id: None,
        },
        kernel: record.spec.boot.kernel.as_ref().map(|from| draft.copy_in("kernel", from)).transpose()?,
        initrd: record.spec.boot.initrd.as_ref().map(|from| draft.copy_in("initrd", from)).transpose()?,
        spec: record.spec,
        kind,
        image: record.image,
        machine: None,
        tied: Vec::new(),
        state: None,
        ram: None,
        disk: captured.disk,
    };
    Ok(draft.publish(&manifest, captured.digests)?)
}
