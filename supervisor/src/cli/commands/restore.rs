//! `restore` and `suspend`.

use std::time::Duration;

use serde::Serialize;

use super::snapshot::save;
use crate::cli::args::{RestoreArgs, SuspendArgs};
use crate::cli::context::{Context, each};
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::follow::{self, Show};
use crate::cli::{Outcome, output, snapshots};
use crate::clone;
use crate::fault::{self, Point};
use crate::machine::DiskFormat;
use crate::snapshot::store::Snapshot;
use crate::snapshot::{SnapshotError, SnapshotName};
use crate::spec::VmSpec;
use crate::store::{Status, VmDir};
use crate::vm::control::{Request, Until};
use crate::vm::{self, Begin, How, Identity, Phase, Restore, Unconfirmed};

/// What `restore -o json` prints.
#[derive(Serialize)]
struct Restored<'a> {
    name: &'a str,
    snapshot: &'a SnapshotName,
    running: bool,
    phases: &'a [Phase],
}

/// `midge restore`: the VM goes on from where it was saved.
pub(super) fn restore(context: &Context, args: &RestoreArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let snapshot = store.get(&args.name)?;
    let vm = context.vm(args.name.vm()).map_err(|failed| {
        failed.hint(format!("`midge clone {0} {1}` makes a new VM of it", args.name, args.name.vm()))
    })?;
    let memory = snapshot.manifest.machine.is_some() && !args.stopped;
    if memory {
        snapshots::refuse_differences(&snapshot, &snapshots::differences(&snapshot.manifest)?)
            .map_err(|failed| failed.hint("`--stopped` puts the disk back alone"))?;
    }
    let _pins = store.pin(&snapshot)?;
    // All that can be known before the VM is ended is looked at before.
    if memory {
        store.check_links(&snapshot)?;
        store.refuse_writers(&snapshot)?;
        refuse_another_machine(&vm, &snapshot)?;
    }
    if vm.disk_format() == DiskFormat::Raw && vm.disk().exists() {
        let text = format!("the disk of `{}` shares blocks with its image's", vm.name());
        return Err(Failed::new(ExitKind::WrongState, text)
            .hint(format!("`midge clone {} NEW` makes a new VM of the snapshot", args.name)));
    }
    if vm.status() != Status::Stopped {
        if !args.force {
            let text = format!("the VM `{}` is running", vm.name());
            return Err(Failed::new(ExitKind::WrongState, text).hint(format!(
                "`midge restore --force {}` ends it, and loses what it has done since",
                args.name
            )));
        }
        super::stop::end(context, &vm, &Request::Kill, Duration::ZERO)?;
        super::stop::settled(&vm)?;
        fault::at(Point::SourceEnded);
    }
    {
        let _lock = vm.lock()?;
        if vm.status() != Status::Stopped {
            return Err(Failed::new(ExitKind::WrongState, format!("`{}` was started just now", vm.name())));
        }
        vm::refuse_nameless_qemu(&vm)?;
        clone::put_back(&vm, &snapshot, memory)?;
    }
    let phases = if memory { go_on(context, &vm, &snapshot)? } else { Vec::new() };
    snapshots::prune(context, false)?;
    if args.output.json() {
        output::json(&Restored { name: vm.name(), snapshot: &args.name, running: memory, phases: &phases })?;
    } else {
        output::line(vm.name())?;
    }
    Ok(0)
}

/// Refuses to load a memory into a machine that has been changed since.
fn refuse_another_machine(vm: &VmDir, snapshot: &Snapshot) -> Result<(), Failed> {
    let (now, then) = (vm.record()?.spec, &snapshot.manifest.spec);
    let nets = |spec: &VmSpec| spec.nets.iter().map(std::mem::discriminant).collect::<Vec<_>>();
    let mut changed = Vec::new();
    for (what, differs) in [
        ("memory", now.memory != then.memory),
        ("CPUs", now.cpus != then.cpus),
        ("machine", now.machine != then.machine),
        ("networks", nets(&now) != nets(then)),
    ] {
        if differs {
            changed.push(what);
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let text = format!("`{}` has other {} than when it was saved", vm.name(), changed.join(" and "));
    Err(Failed::new(ExitKind::Incompatible, text)
        .hint("`midge set` changes it back, or `--stopped` puts the disk back alone"))
}

fn go_on(context: &Context, vm: &VmDir, snapshot: &Snapshot) -> Result<Vec<Phase>, Failed> {
    let begin = Begin::Restore(Restore {
        snapshot: snapshot.id(),
        identity: Identity::Same,
        spare: None,
        unconfirmed: Unconfirmed::Keep,
    });
    let mut evidence = Evidence::of_next_run(vm);
    let started = vm::start(context.home()?, vm, &begin)?;
    if !context.voice.quiet {
        started.notes.iter().for_each(|note| output::say(format_args!("midge: {note}")));
    }
    let mut client = started.client;
    let show = Show { phases: context.voice.verbose, prefix: "", notes: !context.voice.quiet };
    let deadline = Deadline::after(Some(DEFAULT_WAIT));
    Ok(follow::follow(&mut client, &Until::Resumed, deadline, &mut evidence, show)?.phases)
}

/// `midge suspend`: each VM is saved and ended, and `midge resume` or `midge start` lets it go on from there.
pub(super) fn suspend(context: &Context, args: &SuspendArgs) -> Outcome {
    snapshots::sweep(context)?;
    each(&args.names.names, |name| {
        let vm = context.vm(name)?;
        let tag: SnapshotName =
            format!("{name}@suspended").parse().map_err(|e: SnapshotError| Failed::from(e))?;
        // One of that name is what an earlier suspension has left, and nobody goes on from it any more.
        save::of_running(context, &vm, tag, How::Suspend, None, true)?;
        super::stop::settled(&vm)?;
        if args.names.output.json() {
            output::json(&serde_json::json!({ "name": name, "suspended": true }))
        } else {
            Ok(())
        }
    })
}
