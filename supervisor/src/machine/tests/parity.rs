//! Guests of different kinds get the same machine.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::spec::arbitrary;

/// What an option's difference between two kinds may be.
fn allowed(difference: &Difference, board: Board) -> bool {
    let part = difference.part.as_deref().unwrap_or_default();
    match difference.option.as_str() {
        "-kernel" | "-initrd" | "-append" => true,
        "-blockdev" => part == "disk" || part == "disk-file",
        "-device" if part == "disk0" => true,
        "-device" => {
            let property = difference.property.as_deref();
            board.pci()
                && part.starts_with("nic")
                && matches!(property, Some("disable-legacy" | "disable-modern"))
        }
        _ => false,
    }
}

/// The list without its boot source and without the NIC's generations: what all kinds must share, in its
/// order.
fn machine_only(list: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = list.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-kernel" | "-initrd" | "-append" | "-blockdev" => _ = words.next(),
            "-device" => {
                let device = words.next().unwrap();
                if !device.contains("drive=disk") {
                    out.push(word.clone());
                    let rest = device.split(',').filter(|word| !word.starts_with("disable-"));
                    out.push(rest.collect::<Vec<_>>().join(","));
                }
            }
            _ => out.push(word.clone()),
        }
    }
    out
}

/// A unikernel's run of the same spec: a kernel and nothing else.
fn unikernel(spec: &VmSpec, kind: Kind, accel: ResolvedAccel) -> Resources {
    Resources {
        kernel: Some("/images/unikernel".into()),
        initrd: None,
        append: kernel_words(spec, kind, false).unwrap().join(" "),
        bios: None,
        disk: None,
        ..resources(spec, kind, accel)
    }
}

#[test]
fn every_kind_gets_debians_machine_on_every_board_and_accelerator() {
    for (machine, arch) in BOARDS {
        for version in [(7, 2, 22), (10, 0, 2)] {
            for accel in [ResolvedAccel::Kvm, ResolvedAccel::Tcg] {
                let spec = spec(machine, arch);
                let board = Board::of(&spec).unwrap();
                let qemu = facts(arch, version);
                let debian = arguments(&spec, &qemu, &resources(&spec, Kind::Linux, accel)).unwrap();
                for kind in Kind::ALL {
                    let list = arguments(&spec, &qemu, &unikernel(&spec, *kind, accel)).unwrap();
                    let differences = diff(&debian, &list);
                    let wrong: Vec<_> = differences.iter().filter(|d| !allowed(d, board)).collect();
                    assert!(wrong.is_empty(), "{kind} on {machine} differs from Debian: {wrong:?}");
                    assert!(differences.iter().any(|d| d.option == "-kernel"), "{differences:?}");
                    assert_eq!(machine_only(&debian), machine_only(&list), "{kind} on {machine}");

                    let nic = differences
                        .iter()
                        .filter(|d| d.option == "-device" && d.part.as_deref() == Some("nic0"));
                    let nic: Vec<_> = nic.map(|d| (d.property.as_deref(), d.right.as_deref())).collect();
                    let wanted = if *kind == Kind::Hermit && board.pci() {
                        vec![(Some("disable-legacy"), Some("on"))]
                    } else {
                        vec![]
                    };
                    assert_eq!(nic, wanted, "{kind} on {machine}");
                }
            }
        }
    }
}

proptest! {
    /// The same for specs of any shape, with any boot source.
    #[test]
    fn any_spec_gives_all_kinds_the_same_machine(
        spec in arbitrary::spec(),
        kind in prop::sample::select(Kind::ALL),
        kvm: bool,
    ) {
        let accel = if kvm { ResolvedAccel::Kvm } else { ResolvedAccel::Tcg };
        let board = Board::of(&spec).unwrap();
        let qemu = facts(spec.arch, (10, 0, 2));
        let debian = arguments(&spec, &qemu, &resources(&spec, Kind::Linux, accel)).unwrap();
        let list = arguments(&spec, &qemu, &unikernel(&spec, kind, accel)).unwrap();
        prop_assert_eq!(machine_only(&debian), machine_only(&list));
        // The user's own arguments may be anything, so the structured view is only asked about lists without
        // them.
        if spec.qemu_args.is_empty() {
            let wrong: Vec<_> = diff(&debian, &list).into_iter().filter(|d| !allowed(d, board)).collect();
            prop_assert!(wrong.is_empty(), "{wrong:?}");
        }
    }

    /// Whatever a path holds, each argument still has the properties it was written with.
    #[test]
    fn no_path_leaks_into_other_properties(name in "[ -~\u{e0}-\u{ff}]{0,40}") {
        let path = PathBuf::from(format!("/vms/{name}"));
        let spec = spec(Machine::Auto, Arch::X86_64);
        let qemu = facts(Arch::X86_64, (10, 0, 2));
        let mut given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
        let plain = arguments(&spec, &qemu, &given).unwrap();
        given.serial_log = path.clone();
        given.ram = Ram::File(path.clone());
        given.disk = Some(Disk { path: path.clone(), format: DiskFormat::Qcow2 });
        let list = arguments(&spec, &qemu, &given).unwrap();
        let differences = diff(&plain, &list);
        let got: Vec<_> = differences
            .iter()
            .map(|d| (d.part.as_deref(), d.property.as_deref(), d.right.as_deref()))
            .collect();
        let path = path.to_str();
        prop_assert_eq!(got, [
            (Some("ram"), Some("mem-path"), path),
            (Some("serial"), Some("logfile"), path),
            (Some("disk-file"), Some("filename"), path),
        ]);
    }
}

#[test]
fn a_path_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff]));
    let spec = spec(Machine::Auto, Arch::X86_64);
    let mut given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
    given.kernel = Some(path.clone());
    let error = arguments(&spec, &facts(Arch::X86_64, (10, 0, 2)), &given);
    assert_eq!(error, Err(MachineError::NotText { path }));
}
