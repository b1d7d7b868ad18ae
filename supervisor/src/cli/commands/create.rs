//! `create`, and the making of a VM that `run` shares.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli::args::{CreateArgs, SpecFlags};
use crate::cli::context::Context;
use crate::cli::draft::{self, Draft};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::images;
use crate::cli::{Outcome, output, snapshots, ssh_key};
use crate::host::{HostFacts, HostRoot};
use crate::image::cow::Cow;
use crate::image::{self, Image};
use crate::spec::{Kind, Mac, SpecErrors, VmSpec};
use crate::store::{Home, Record, SCHEMA, StoreError, VmDir};

/// How often a MAC address is drawn anew when it is in use: with 2^24 of them, twice is rare already.
const DRAWS: usize = 64;

/// `midge create`.
pub(super) fn create(context: &Context, args: &CreateArgs) -> Outcome {
    let name = args.positional.as_deref().or(args.name.as_deref());
    if args.if_not_exists
        && !args.dry_run
        && let Some(name) = name
        && let Ok(vm) = context.home()?.existing_vm(name)
    {
        return print(&vm, args);
    }
    let spec = draft::spec(&Draft { flags: &args.spec, name, target: None })?;
    if args.dry_run {
        output::json_pretty(&spec)?;
        return Ok(0);
    }
    match make(context, spec, arch_given(&args.spec), args.cow) {
        Ok((vm, _)) => print(&vm, args),
        // Made by another command at this very moment.
        Err(failed) if args.if_not_exists && is_taken(&failed) => {
            print(&context.vm(name.unwrap_or_default())?, args)
        }
        Err(failed) => Err(failed),
    }
}

/// Prints what there is now, whoever made it.
fn print(vm: &VmDir, args: &CreateArgs) -> Outcome {
    if args.output.json() {
        output::json(&Created { name: vm.name(), record: &vm.record()? })?;
    } else {
        output::line(vm.name())?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct Created<'a> {
    name: &'a str,
    record: &'a Record,
}

fn is_taken(failed: &Failed) -> bool {
    matches!(failed.error.downcast_ref(), Some(StoreError::Taken(_)))
}

/// Whether the user chose the instruction set, as against leaving it to the image.
pub(super) fn arch_given(flags: &SpecFlags) -> bool {
    flags.arch.is_some() || flags.spec.is_some()
}

/// Makes a VM: its image is found or built, its disk and addresses are made, and its record appears last and whole.
pub(super) fn make(
    context: &Context,
    mut spec: VmSpec,
    arch_given: bool,
    cow: Cow,
) -> Result<(VmDir, Record), Failed> {
    let home = context.home()?;
    // This and the next look come before an image is built for nothing.
    fits_host(&spec)?;
    snapshots::sweep(context)?;
    if home.vm(&spec.name).state_dir().exists() {
        return Err(StoreError::Taken(spec.name).into());
    }
    let image = match &spec.boot.image {
        Some(name) => Some(images::find(context, name, true)?),
        None => None,
    };
    if let Some(image) = &image {
        fit(context, &mut spec, image, arch_given)?;
    }
    if let Some(kernel) = &spec.boot.kernel {
        // Again at every start, as the file may change; here so that no VM is made that cannot start.
        image::inspect_kernel(kernel, spec.arch).map_err(|e| Failed::wrap(ExitKind::Usage, e))?;
    }
    // Every start tells the guest midge's own key.
    if linux(&spec, image.as_ref())
        && let Err(failed) = ssh_key::ensure(home)
    {
        // The VM is of use without it: there are the console and the agent.
        context.voice.note(format_args!("`midge ssh` will not work: {:#}", failed.error));
    }
    spec.validate().map_err(|errors| draft::wrong(&errors))?;
    let record = Record {
        schema: SCHEMA,
        id: uuid::Uuid::new_v4(),
        created: jiff::Timestamp::now(),
        image: image.as_ref().map(|image| image.manifest.clone()),
        macs: macs(home, &spec, &[])?,
        spec,
    };
    let vm = home.create_vm(&record, |folder| -> Result<(), Failed> {
        match &image {
            Some(image) if image.manifest.disk.is_some() => {
                images::make_disk(image, folder, record.spec.disk, cow)
            }
            _ => Ok(()),
        }
    })?;
    context.voice.detail(format_args!("created `{}`", vm.name()));
    Ok((vm, record))
}

/// Whether this host has the memory and CPUs that a valid spec asks for.
///
/// # Errors
/// [`ExitKind::NoSpace`] for memory, [`ExitKind::HostUnfit`] for CPUs alone.
pub(super) fn fits_host(spec: &VmSpec) -> Result<(), Failed> {
    let host = HostFacts::of(&HostRoot::system())
        .map_err(|e| Failed::io("cannot find out what this host has", e))?;
    spec.validate_against(host.memory.total, host.cpus).map_err(|errors| unfit(&errors))
}

fn unfit(errors: &SpecErrors) -> Failed {
    let memory = errors.0.iter().any(|error| error.field == "memory");
    let kind = if memory { ExitKind::NoSpace } else { ExitKind::HostUnfit };
    let texts: Vec<String> = errors.0.iter().map(|e| format!("{}: {}", e.field, e.problem)).collect();
    let hints: Vec<&str> = errors.0.iter().filter_map(|e| e.hint.as_deref()).collect();
    Failed::new(kind, texts.join("\n")).context("this host is too small for the VM").hint(hints.join("; "))
}

/// Brings a spec and its image together.
fn fit(context: &Context, spec: &mut VmSpec, image: &Image, arch_given: bool) -> Result<(), Failed> {
    let manifest = &image.manifest;
    // The record names the image that was meant, also when `debian` means another one tomorrow.
    spec.boot.image = Some(manifest.name.clone());
    if manifest.arch != spec.arch {
        if arch_given {
            let text = format!(
                "the image `{}` is for {}, and --arch says {}",
                manifest.name, manifest.arch, spec.arch
            );
            return Err(Failed::new(ExitKind::Usage, text));
        }
        spec.arch = manifest.arch;
    }
    if spec.boot.kernel.is_none()
        && let Some(note) = images::firmware_note(manifest)
    {
        context.voice.note(note);
    }
    match (&manifest.disk, spec.disk) {
        (None, Some(_)) => {
            context
                .voice
                .note(format_args!("the image `{}` has no disk: --disk has no effect", manifest.name));
        }
        (Some(disk), Some(size)) if size.bytes() < disk.virtual_size => {
            let least = crate::spec::Size::from_bytes(disk.virtual_size);
            let text = format!("the disk of `{}` is {least}, and --disk {size} is smaller", manifest.name);
            return Err(Failed::new(ExitKind::Usage, text)
                .hint(format!("ask for {least} or more, or leave --disk away")));
        }
        _ => {}
    }
    Ok(())
}

fn linux(spec: &VmSpec, image: Option<&Image>) -> bool {
    match spec.kind {
        Kind::Auto => image.is_some_and(|image| image.manifest.kind == Kind::Linux),
        kind => kind == Kind::Linux,
    }
}

/// The MAC address of each interface: the spec's, else the one of `before`, else one that no VM here has.
pub(super) fn macs(home: &Home, spec: &VmSpec, before: &[String]) -> Result<Vec<String>, Failed> {
    let own = home.vm(&spec.name);
    let others = home.vms_and_spares()?.into_iter().filter(|vm| *vm != own);
    let others = others.filter_map(|vm| vm.record().ok());
    let mut used: BTreeSet<String> = others.flat_map(|record| record.macs).collect();
    let mut macs = Vec::new();
    for (index, net) in spec.nets.iter().enumerate() {
        let mac = match net.mac() {
            Some(mac) if used.contains(&mac.to_string()) => {
                return Err(Failed::new(
                    ExitKind::Usage,
                    format!("the MAC address {mac} belongs to another VM"),
                ));
            }
            Some(mac) => mac.to_string(),
            None if before.get(index).is_some_and(|mac| !used.contains(mac)) => before[index].clone(),
            None => (0..DRAWS)
                .map(|_| Mac::random().to_string())
                .find(|mac| !used.contains(mac))
                .ok_or_else(|| Failed::new(ExitKind::Other, "no MAC address is free"))?,
        };
        used.insert(mac.clone());
        macs.push(mac);
    }
    Ok(macs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("home"), folder.path().join("run"));
        (folder, home)
    }

    fn record(spec: VmSpec, macs: Vec<String>) -> Record {
        let (id, created) = (uuid::Uuid::new_v4(), jiff::Timestamp::now());
        Record { schema: SCHEMA, id, created, spec, image: None, macs }
    }

    #[test]
    fn what_the_host_lacks_is_told_by_its_kind() {
        let mut spec = VmSpec::named("web");
        spec.cpus = 8;
        let failed = |memory| unfit(&spec.validate_against(memory, 4).unwrap_err());
        assert_eq!(failed(1 << 40).kind, ExitKind::HostUnfit);
        let both = failed(64 << 20);
        assert_eq!(both.kind, ExitKind::NoSpace);
        assert!(both.hint.unwrap().contains("at most 64M"));
    }

    #[test]
    fn a_mac_of_another_vm_is_refused_and_a_made_up_one_is_local() {
        let (_folder, home) = home();
        let mut spec = VmSpec::named("web");
        spec.boot.image = Some("hello".to_owned());
        let macs = macs(&home, &spec, &[]).unwrap();
        let first = u8::from_str_radix(&macs[0][..2], 16).unwrap();
        assert_eq!(first & 0b11, 0b10, "locally administered, unicast: {macs:?}");

        home.create_vm(&record(spec.clone(), macs.clone()), |_| Ok::<_, Failed>(())).unwrap();
        // The VM itself keeps it, wherever it is planned anew.
        assert_eq!(super::macs(&home, &spec, &macs).unwrap(), macs);
        spec.name = "other".to_owned();
        assert_ne!(super::macs(&home, &spec, &macs).unwrap(), macs);
        spec.nets = vec![crate::spec::Net::None { mac: Some(macs[0].parse().unwrap()) }];
        assert_eq!(super::macs(&home, &spec, &[]).unwrap_err().kind, ExitKind::Usage);
    }
}
