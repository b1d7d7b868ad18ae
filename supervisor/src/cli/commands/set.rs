//! `set` and `rename`.

use serde::Serialize;

use crate::cli::args::{RenameArgs, SetArgs, SetFlags};
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, describe, draft, images, output};
use crate::spec::{Net, VmSpec};
use crate::store::{Record, VmDir};

/// What `set -o json` prints.
#[derive(Serialize)]
struct Changed<'a> {
    name: &'a str,
    record: &'a Record,
}

/// `midge set`.
pub(super) fn set(context: &Context, args: &SetArgs) -> Outcome {
    let (name, flags) = (args.name.as_str(), &args.change);
    let vm = context.vm(name)?;
    let _lock = vm.lock()?;
    crate::vm::refuse_nameless_qemu(&vm)?;
    if !only_labels(flags) {
        stopped(&vm, "changed, but for its labels,")?;
    }
    let mut record = vm.record()?;
    let before = record.spec.disk;
    apply(&mut record.spec, flags)?;
    record.spec.validate().map_err(|errors| draft::wrong(&errors))?;
    if !flags.net.is_empty() {
        record.macs = super::create::macs(context.home()?, &record.spec, &record.macs)?;
    }
    if flags.memory.is_some() || flags.cpus.is_some() {
        super::create::fits_host(&record.spec)?;
    }
    if let (Some(size), true) = (record.spec.disk, record.spec.disk != before) {
        if !vm.disk().exists() {
            return Err(Failed::new(ExitKind::Usage, format!("the VM `{name}` has no disk")));
        }
        images::grow_disk(&vm.disk(), vm.disk_format(), size)?;
    }
    vm.write_record(&record)?;
    if args.output.json() {
        output::json(&Changed { name, record: &record })?;
    }
    Ok(0)
}

/// What `rename -o json` prints.
#[derive(Serialize)]
struct Renamed<'a> {
    name: &'a str,
    before: &'a str,
}

/// `midge rename`.
pub(super) fn rename(context: &Context, args: &RenameArgs) -> Outcome {
    let (name, new) = (args.name.as_str(), args.new.as_str());
    let vm = context.vm(name)?;
    if let Err(wrong) = crate::spec::check_name(new) {
        return Err(Failed::new(ExitKind::Usage, wrong.to_string()));
    }
    let _lock = vm.lock()?;
    crate::vm::refuse_nameless_qemu(&vm)?;
    stopped(&vm, "renamed")?;
    if name != new {
        vm.rename(context.home()?, new)?;
    }
    if args.output.json() {
        output::json(&Renamed { name: new, before: name })?;
    }
    Ok(0)
}

/// Fails unless the VM is stopped. The caller holds its lock.
fn stopped(vm: &VmDir, what: &str) -> Result<(), Failed> {
    if describe::running(&vm.status()).is_none() {
        // A supervisor that is about to leave still reads the record.
        return super::stop::settled(vm);
    }
    let name = vm.name();
    let failed = Failed::new(
        ExitKind::WrongState,
        format!("the VM `{name}` runs, and can only be {what} when it is stopped"),
    );
    Err(failed.hint(format!("midge stop {name}")))
}

fn only_labels(flags: &SetFlags) -> bool {
    let SetFlags {
        cpus,
        memory,
        disk,
        append,
        cpu,
        accel,
        machine,
        net,
        publish,
        restart,
        ttl,
        ready,
        label: _,
    } = flags;
    cpus.is_none()
        && memory.is_none()
        && disk.is_none()
        && append.is_none()
        && cpu.is_none()
        && accel.is_none()
        && machine.is_none()
        && net.is_empty()
        && publish.is_empty()
        && restart.is_none()
        && ttl.is_none()
        && ready.is_none()
}

/// Changes a spec as the flags say.
fn apply(spec: &mut VmSpec, flags: &SetFlags) -> Result<(), Failed> {
    let filled = |text: &String| (!text.is_empty()).then(|| text.clone());
    spec.cpus = flags.cpus.unwrap_or(spec.cpus);
    spec.memory = flags.memory.unwrap_or(spec.memory);
    spec.accel = flags.accel.unwrap_or(spec.accel);
    spec.machine = flags.machine.unwrap_or(spec.machine);
    spec.restart = flags.restart.unwrap_or(spec.restart);
    if let Some(append) = &flags.append {
        spec.boot.append = filled(append);
    }
    if let Some(cpu) = &flags.cpu {
        spec.cpu = filled(cpu);
    }
    if let Some(ttl) = flags.ttl {
        spec.ttl_seconds = Some(ttl.as_secs()).filter(|seconds| *seconds != 0);
    }
    if let Some(ready) = &flags.ready {
        let sign = filled(ready).map(|text| text.parse()).transpose();
        spec.ready = sign.map_err(|e: crate::spec::ReadyError| Failed::wrap(ExitKind::Usage, e))?;
    }
    if let Some(size) = flags.disk {
        if let Some(now) = spec.disk
            && size < now
        {
            let text = format!("the disk is {now} and can only grow; {size} is smaller");
            return Err(Failed::new(ExitKind::Usage, text));
        }
        spec.disk = Some(size);
    }
    if !flags.net.is_empty() {
        replace_nets(spec, &flags.net);
    }
    if !flags.publish.is_empty() {
        publish(spec, &flags.publish)?;
    }
    for (key, value) in &flags.label {
        if value.is_empty() {
            spec.labels.remove(key);
        } else {
            spec.labels.insert(key.clone(), value.clone());
        }
    }
    Ok(())
}

/// Puts other interfaces in place of a spec's, each with the MAC and forwarded ports of the one it replaces where it says
/// nothing else.
fn replace_nets(spec: &mut VmSpec, nets: &[Net]) {
    let before = std::mem::replace(&mut spec.nets, nets.to_vec());
    for (net, before) in spec.nets.iter_mut().zip(before) {
        if let Some(forwards) = net.forwards_mut() {
            forwards.extend_from_slice(before.forwards());
        }
        if net.mac().is_none() {
            net.set_mac(before.mac());
        }
    }
}

fn publish(spec: &mut VmSpec, ports: &[String]) -> Result<(), Failed> {
    let Some(forwards) = spec.nets.iter_mut().find_map(Net::forwards_mut) else {
        let text = "--publish needs a `nat` or `user` network, and this VM has none";
        return Err(Failed::new(ExitKind::Usage, text));
    };
    *forwards = match ports {
        [none] if none == "none" => Vec::new(),
        ports => ports
            .iter()
            .map(|text| text.parse().map_err(|e: crate::spec::ForwardError| Failed::wrap(ExitKind::Usage, e)))
            .collect::<Result<_, _>>()?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::Size;

    #[test]
    fn what_is_not_named_stays_and_empty_takes_away() {
        let mut spec = VmSpec::named("web");
        spec.boot.append = Some("quiet".to_owned());
        spec.labels.insert("a".to_owned(), "1".to_owned());
        let flags = SetFlags {
            cpus: Some(4),
            append: Some(String::new()),
            ttl: Some(Duration::from_mins(1)),
            label: vec![("a".to_owned(), String::new()), ("b".to_owned(), "2".to_owned())],
            publish: vec!["1:2".to_owned()],
            ..SetFlags::default()
        };
        apply(&mut spec, &flags).unwrap();
        assert_eq!((spec.cpus, spec.memory, spec.ttl_seconds), (4, VmSpec::named("x").memory, Some(60)));
        assert_eq!(spec.boot.append, None);
        assert_eq!(spec.labels.into_iter().collect::<Vec<_>>(), [("b".to_owned(), "2".to_owned())]);
        assert_eq!(spec.nets[0].forwards().len(), 1);
    }

    #[test]
    fn a_disk_only_grows() {
        let mut spec = VmSpec::named("web");
        let disk = |mib| SetFlags { disk: Some(Size::from_mib(mib)), ..SetFlags::default() };
        apply(&mut spec, &disk(2)).unwrap();
        apply(&mut spec, &disk(3)).unwrap();
        assert_eq!(apply(&mut spec, &disk(2)).unwrap_err().kind, ExitKind::Usage);
        assert_eq!(spec.disk, Some(Size::from_mib(3)));
    }

    #[test]
    fn labels_alone_can_be_set_at_any_time() {
        let label = vec![("a".to_owned(), "b".to_owned())];
        assert!(only_labels(&SetFlags { label: label.clone(), ..SetFlags::default() }));
        assert!(!only_labels(&SetFlags { label, cpus: Some(1), ..SetFlags::default() }));
    }
}
