//! The lists themselves: pure properties, and the same lists handed to the real QEMU.

mod live;
mod parity;
mod restore;

use std::path::PathBuf;

use crate::host::QemuFacts;
use crate::spec::{Arch, Kind, Mac, Machine, Net, VmSpec};

use super::*;

/// Facts as a QEMU of this version for these guests would give them.
fn facts(arch: Arch, version: (u32, u32, u32)) -> QemuFacts {
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    QemuFacts {
        path: PathBuf::from(format!("/usr/bin/qemu-system-{arch}")),
        arch,
        version,
        version_line: String::new(),
        machines: match arch {
            Arch::X86_64 => text(&[
                "microvm",
                "pc-q35-9.2",
                "pc-q35-10.0",
                "pc-q35-7.2",
                "pc-q35-4.0.1",
                "pc-q35-10.1",
                "q35",
                "pc",
            ]),
            Arch::Aarch64 => {
                text(&["virt-7.2", "virt-10.0", "virt-9.2", "virt", "xlnx-versal-virt", "virt-2.12"])
            }
        },
        devices: text(&[
            "virtio-net-pci",
            "virtio-blk-pci",
            "virtio-rng-pci",
            "virtio-serial-pci",
            "virtio-net-device",
            "virtio-blk-device",
            "virtio-rng-device",
            "virtio-serial-device",
            "pvpanic",
            "pvpanic-pci",
            "vmgenid",
            "isa-debug-exit",
        ]),
        cpus: Vec::new(),
    }
}

/// A run of `spec` as the supervisor would prepare it, with a Linux kernel and disk.
fn resources(spec: &VmSpec, kind: Kind, accel: ResolvedAccel) -> Resources {
    let words = kernel_words(spec, kind, true).unwrap();
    Resources {
        kind,
        accel,
        kvm_cpu: true,
        kernel: Some("/images/vmlinuz".into()),
        initrd: Some("/images/initrd".into()),
        append: format!("root=/dev/vda {}", words.join(" ")),
        bios: None,
        disk: Some(Disk { path: "/vms/disk.qcow2".into(), format: DiskFormat::Qcow2 }),
        ram: Ram::File("/dev/shm/ram".into()),
        monitor_fd: 3,
        serial_fd: 4,
        serial_log: "/vms/serial.log".into(),
        agent_fd: 5,
        macs: (0..spec.nets.len()).map(|index| Mac::local([0, 0, u8::try_from(index).unwrap()])).collect(),
        taps: spec.nets.iter().zip(10..).map(|(net, fd)| net.has_tap().then_some(fd)).collect(),
        uuid: uuid::Uuid::nil(),
        credentials: vec![("ssh.authorized_keys.root".to_owned(), "/run/midge/a,b".into())],
        seed: None,
        restore: None,
    }
}

fn spec(machine: Machine, arch: Arch) -> VmSpec {
    VmSpec { arch, machine, ..VmSpec::named("vm") }
}

/// The boards that exist, as a spec names them.
const BOARDS: [(Machine, Arch); 3] =
    [(Machine::Q35, Arch::X86_64), (Machine::Microvm, Arch::X86_64), (Machine::Virt, Arch::Aarch64)];

/// The value of the first `option` in a list.
fn value<'a>(list: &'a [String], option: &str) -> Option<&'a str> {
    let at = list.iter().position(|word| word == option)?;
    list.get(at + 1).map(String::as_str)
}

#[test]
fn the_machine_type_is_the_newest_that_qemu_itself_has_reached() {
    let of = |machine, arch, version| {
        let spec = spec(machine, arch);
        let list =
            arguments(&spec, &facts(arch, version), &resources(&spec, Kind::Linux, ResolvedAccel::Tcg))
                .unwrap();
        value(&list, "-machine").unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(of(Machine::Auto, Arch::X86_64, (10, 0, 2)), "pc-q35-10.0");
    assert_eq!(of(Machine::Auto, Arch::X86_64, (7, 2, 22)), "pc-q35-7.2");
    assert_eq!(of(Machine::Auto, Arch::X86_64, (9, 0, 0)), "pc-q35-7.2");
    assert_eq!(of(Machine::Microvm, Arch::X86_64, (10, 0, 2)), "microvm");
    assert_eq!(of(Machine::Auto, Arch::Aarch64, (10, 0, 2)), "virt-10.0");
}

#[test]
fn a_qemu_that_cannot_run_the_vm_is_refused_by_name() {
    let arm = spec(Machine::Auto, Arch::Aarch64);
    let x86 = spec(Machine::Auto, Arch::X86_64);
    let given = resources(&x86, Kind::Linux, ResolvedAccel::Tcg);
    let new = facts(Arch::X86_64, (10, 0, 2));

    let error = arguments(&arm, &new, &given).unwrap_err().to_string();
    assert_eq!(
        error,
        "/usr/bin/qemu-system-x86_64 runs x86_64 guests, and this VM is aarch64: install qemu-system-arm"
    );
    let error = arguments(&x86, &facts(Arch::X86_64, (7, 1, 0)), &given).unwrap_err().to_string();
    assert_eq!(error, "QEMU 7.1.0 is too old: midge needs 7.2 or later (Debian 12 has it)");

    let mut bare = new.clone();
    bare.machines = vec!["q35".into(), "microvm".into()];
    assert!(matches!(
        arguments(&x86, &bare, &given),
        Err(MachineError::NoMachineType { prefix: "pc-q35-", .. })
    ));
    let mut poor = new.clone();
    poor.devices.retain(|device| device != "virtio-net-pci");
    let error = arguments(&x86, &poor, &given).unwrap_err();
    assert!(
        matches!(error, MachineError::NoDevice { ref device, .. } if device == "virtio-net-pci"),
        "{error}"
    );

    let pair = spec(Machine::Microvm, Arch::Aarch64);
    assert!(matches!(arguments(&pair, &new, &given), Err(MachineError::Pair { .. })));
}

#[test]
fn what_a_board_cannot_boot_is_refused() {
    for (machine, arch) in BOARDS {
        let spec = spec(machine, arch);
        let qemu = facts(arch, (10, 0, 2));
        let mut given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
        given.kernel = None;
        let list = arguments(&spec, &qemu, &given);
        // A PC's firmware boots from the disk; the others have no firmware that could.
        assert_eq!(list.is_ok(), machine == Machine::Q35, "{list:?}");
        given.disk = None;
        assert_eq!(
            arguments(&spec, &qemu, &given),
            Err(MachineError::NothingToBoot { machine: Board::of(&spec).unwrap() })
        );
    }
}

#[test]
fn a_microvm_with_too_many_devices_is_refused() {
    let mut spec = spec(Machine::Microvm, Arch::X86_64);
    spec.nets = vec![Net::User { forwards: vec![], mac: None }; 6];
    let given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
    let qemu = facts(Arch::X86_64, (10, 0, 2));
    assert_eq!(arguments(&spec, &qemu, &given), Err(MachineError::Slots));
    spec.nets.pop();
    assert_eq!(arguments(&spec, &qemu, &given), Err(MachineError::Macs { nets: 5, macs: 6 }));
    let given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
    assert!(arguments(&spec, &qemu, &given).is_ok());
}

#[test]
fn a_volume_for_cloud_init_is_read_only_and_the_only_source() {
    for (machine, arch) in BOARDS {
        let spec = spec(machine, arch);
        let mut given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
        let list = |given: &Resources| arguments(&spec, &facts(arch, (10, 0, 2)), given).unwrap();
        assert_eq!(value(&list(&given), "-smbios"), None);
        given.seed = Some("/run/midge/vms/a,b/seed.img".into());
        let list = list(&given);
        let file = "driver=file,node-name=seed-file,filename=/run/midge/vms/a,,b/seed.img,read-only=on";
        assert!(list.contains(&file.to_owned()), "{list:?}");
        let told = (machine != Machine::Microvm).then_some("type=1,serial=ds=nocloud");
        assert_eq!(value(&list, "-smbios"), told);
    }
}

#[test]
fn credentials_are_named_by_their_files() {
    let spec = spec(Machine::Auto, Arch::X86_64);
    let given = resources(&spec, Kind::Linux, ResolvedAccel::Tcg);
    let list = arguments(&spec, &facts(Arch::X86_64, (10, 0, 2)), &given).unwrap();
    let told = "name=opt/io.systemd.credentials/ssh.authorized_keys.root,file=/run/midge/a,,b";
    assert_eq!(value(&list, "-fw_cfg"), Some(told));
}

#[test]
fn the_users_own_arguments_come_last() {
    let mut spec = spec(Machine::Auto, Arch::X86_64);
    spec.qemu_args = vec!["-device".into(), "edu".into()];
    let list = arguments(
        &spec,
        &facts(Arch::X86_64, (10, 0, 2)),
        &resources(&spec, Kind::Linux, ResolvedAccel::Tcg),
    )
    .unwrap();
    assert_eq!(list[list.len() - 2..], ["-device", "edu"]);
}

#[test]
fn the_kernel_learns_of_its_console_and_a_microvms_devices() {
    let words = |machine, arch, kind| kernel_words(&spec(machine, arch), kind, true).unwrap().join(" ");
    assert_eq!(words(Machine::Auto, Arch::X86_64, Kind::Hermit), "", "its words are its application's");
    assert_eq!(words(Machine::Auto, Arch::X86_64, Kind::Linux), "console=ttyS0");
    assert_eq!(words(Machine::Auto, Arch::Aarch64, Kind::Linux), "console=ttyAMA0");
    assert_eq!(words(Machine::Microvm, Arch::X86_64, Kind::Linux), "console=ttyS0");
    assert_eq!(
        words(Machine::Microvm, Arch::X86_64, Kind::Unikraft),
        "virtio_mmio.device=512@0xfeb00e00:23 virtio_mmio.device=512@0xfeb00c00:22 \
         virtio_mmio.device=512@0xfeb00a00:21 virtio_mmio.device=512@0xfeb00800:20"
    );
}

#[test]
fn an_unplugged_interface_leads_nowhere_and_is_named() {
    let mut spec = spec(Machine::Auto, Arch::X86_64);
    spec.nets.push(Net::None { mac: None });
    assert_eq!(unplugged(&spec), ["nic1"]);
    let qemu = facts(Arch::X86_64, (10, 0, 2));
    let list = arguments(&spec, &qemu, &resources(&spec, Kind::Linux, ResolvedAccel::Tcg)).unwrap();
    assert!(list.contains(&"user,id=net1,restrict=on".to_owned()), "{list:?}");
}

#[test]
fn boards_that_can_be_snapshot_have_versioned_types() {
    for (machine, arch) in BOARDS {
        let board = Board::of(&spec(machine, arch)).unwrap();
        let name = board.machine_type(&facts(arch, (10, 0, 2))).unwrap();
        assert_eq!(board.snapshots(), name.ends_with("10.0"), "{name}");
    }
}

#[test]
fn the_cpu_model_is_named_unless_kvm_cannot_run_it() {
    let model = |machine, arch, accel, kvm_cpu, cpu: Option<&str>| {
        let spec = VmSpec { cpu: cpu.map(str::to_owned), ..spec(machine, arch) };
        let given = Resources { kvm_cpu, ..resources(&spec, Kind::Linux, accel) };
        let list = arguments(&spec, &facts(arch, (10, 0, 2)), &given).unwrap();
        value(&list, "-cpu").unwrap().to_owned()
    };
    let (kvm, tcg) = (ResolvedAccel::Kvm, ResolvedAccel::Tcg);
    assert_eq!(model(Machine::Q35, Arch::X86_64, tcg, false, None), "Westmere-v1,rdrand=on");
    assert_eq!(model(Machine::Q35, Arch::X86_64, kvm, true, None), "Westmere-v1,rdrand=on");
    assert_eq!(model(Machine::Q35, Arch::X86_64, kvm, false, None), "host");
    assert_eq!(model(Machine::Virt, Arch::Aarch64, tcg, true, None), "cortex-a72");
    assert_eq!(model(Machine::Virt, Arch::Aarch64, kvm, true, None), "host");
    assert_eq!(model(Machine::Q35, Arch::X86_64, kvm, false, Some("EPYC-v4,avx2=off")), "EPYC-v4,avx2=off");
}
