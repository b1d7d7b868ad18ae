//! Whether this host can run a snapshot, told before anything is spawned.

use std::fmt;

use serde::Serialize;

use super::manifest::{Machine, Manifest};
use super::ram;
use crate::host::qemu::QemuError;
use crate::host::{self, Cpu, HostRoot, KvmState, QemuFacts, qemu};
use crate::machine::{self, Difference, ResolvedAccel};
use crate::spec::Arch;

/// What is known of the host that is to run a snapshot.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The QEMU for the guest's instruction set.
    pub qemu: QemuFacts,
    /// KVM can be used for guests of that instruction set.
    pub kvm: bool,
    /// The CPU's name.
    pub cpu: Option<String>,
    /// The CPU's features: the words of `/proc/cpuinfo`, `flags` on x86, `Features` on Arm.
    pub features: Vec<String>,
    /// The size of the pages in bytes.
    pub page_size: u64,
}

impl HostView {
    /// Looks at this host, for guests of this instruction set. QEMU and KVM are probed once and remembered (see [`qemu::facts`] and
    /// [`host::kvm::state`]): the next look takes about a millisecond.
    ///
    /// # Errors
    /// When there is no QEMU for such guests.
    pub fn of_this_host(arch: Arch) -> Result<Self, QemuError> {
        let qemu = qemu::facts(arch)?;
        // Without /proc the CPU is an unknown one without features.
        let cpu = Cpu::of(&HostRoot::system()).unwrap_or_default();
        Ok(Self {
            qemu,
            // Where it only emulates, a guest that was saved there goes on.
            kvm: arch == Arch::host() && !matches!(host::kvm::state(), KvmState::Absent { .. }),
            cpu: cpu.model,
            features: cpu.features,
            page_size: ram::page_size() as u64,
        })
    }
}

/// One thing that the host lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The manifest's field.
    pub field: Field,
    /// What the snapshot needs.
    pub wanted: String,
    /// What there is.
    pub found: String,
}

/// A field of the manifest that decides whether a host can run a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// The guest's instruction set.
    Arch,
    /// QEMU's version.
    Qemu,
    /// The machine type.
    MachineType,
    /// KVM or TCG.
    Accel,
    /// The CPU model.
    Cpu,
    /// The CPU's features.
    Features,
    /// The size of pages.
    PageSize,
    /// The device models.
    Devices,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arch => "instruction set",
            Self::Qemu => "QEMU version",
            Self::MachineType => "machine type",
            Self::Accel => "accelerator",
            Self::Cpu => "CPU model",
            Self::Features => "CPU features",
            Self::PageSize => "page size",
            Self::Devices => "devices",
        })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, wanted, found } = self;
        write!(f, "{field}: the snapshot needs {wanted}, this host has {found}")
    }
}

/// What keeps `host` from running a snapshot; empty where nothing does. A snapshot of a disk only runs wherever its VM can be started.
#[must_use]
pub fn check(manifest: &Manifest, host: &HostView) -> Vec<Mismatch> {
    manifest.machine.as_ref().map(|machine| check_machine(machine, host)).unwrap_or_default()
}

fn check_machine(machine: &Machine, host: &HostView) -> Vec<Mismatch> {
    let mut found = Vec::new();
    let mut differs = |field, wanted: String, has: String| found.push(Mismatch { field, wanted, found: has });
    if machine.arch != host.qemu.arch {
        // Nothing else can be compared.
        differs(Field::Arch, machine.arch.to_string(), host.qemu.arch.to_string());
        return found;
    }
    // QEMU keeps loading what older ones of the same machine type wrote; the other way round it promises nothing
    // (docs/devel/migration/compatibility.rst).
    let release = |version: (u32, u32, u32)| (version.0, version.1);
    if release(host.qemu.version) < release(machine.qemu) {
        let wanted = format!("{} or later", qemu::dotted(machine.qemu));
        differs(Field::Qemu, wanted, qemu::dotted(host.qemu.version));
    }
    if !host.qemu.machines.contains(&machine.machine_type) {
        let family = machine.machine_type.rsplit_once('-').map_or("", |(family, _)| family);
        let has: Vec<&str> =
            host.qemu.machines.iter().map(String::as_str).filter(|name| name.starts_with(family)).collect();
        differs(Field::MachineType, machine.machine_type.clone(), list(&has));
    }
    if machine.accel == ResolvedAccel::Kvm && !host.kvm {
        differs(Field::Accel, "KVM".to_owned(), "only emulation (TCG)".to_owned());
    }
    let model = machine.cpu.split(',').next().unwrap_or_default();
    if is_hosts_own(model) && machine.accel == ResolvedAccel::Kvm {
        if machine.host_cpu != host.cpu {
            let name = |cpu: &Option<String>| cpu.clone().unwrap_or_else(|| "an unknown CPU".to_owned());
            let wanted = format!("`{model}` as on {}", name(&machine.host_cpu));
            differs(Field::Cpu, wanted, name(&host.cpu));
        }
    } else if !host.qemu.cpus.is_empty() && !host.qemu.cpus.iter().any(|known| known == model) {
        differs(Field::Cpu, model.to_owned(), "a QEMU without it".to_owned());
    }
    let missing: Vec<&str> = machine
        .features
        .iter()
        .filter(|feature| !host.features.contains(feature))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        differs(Field::Features, list(&missing), "a CPU without".to_owned());
    }
    if host.page_size == 0 || !machine.memory.is_multiple_of(host.page_size) {
        let wanted = format!("pages of which {} bytes of memory are a multiple", machine.memory);
        differs(Field::PageSize, wanted, format!("{} bytes", host.page_size));
    }
    let mut missing: Vec<&str> = machine
        .devices()
        .into_iter()
        .filter(|device| !host.qemu.devices.iter().any(|known| known == device))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        differs(Field::Devices, list(&missing), "a QEMU without".to_owned());
    }
    found
}

/// The features of this host's CPU that a guest of this CPU model may have come to rely on, and that another host must have too.
///
/// Under TCG none: QEMU brings them. `host` and `max` hand through what there is. A named model holds what its name says, and KVM
/// leaves out with a warning what the CPU lacks: those of midge's own model are listed, those of others are the user's choice.
#[must_use]
pub fn needed_features(cpu: &str, accel: ResolvedAccel, host: &[String]) -> Vec<String> {
    const WESTMERE: [&str; 9] =
        ["pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt", "aes", "pclmulqdq", "rdrand"];
    let model = cpu.split(',').next().unwrap_or_default();
    match accel {
        ResolvedAccel::Tcg => Vec::new(),
        ResolvedAccel::Kvm if is_hosts_own(model) => host.to_vec(),
        ResolvedAccel::Kvm if model.starts_with("Westmere") => {
            WESTMERE.into_iter().filter(|f| host.iter().any(|h| h == f)).map(str::to_owned).collect()
        }
        ResolvedAccel::Kvm => Vec::new(),
    }
}

fn is_hosts_own(model: &str) -> bool {
    matches!(model, "host" | "max")
}

fn list(words: &[&str]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// What in the command line of a QEMU that is to load a snapshot makes its machine another than the one that was saved. Empty is what
/// it must be: QEMU would notice some of it and report it less clearly, and not notice the rest.
///
/// Names, sockets, files, MAC addresses, forwarded ports and what is booted may differ. The kind of a network backend may not: QEMU's
/// user network has a part in the device state, a tap has none.
#[must_use]
pub fn machine_differences(saved: &[String], planned: &[String]) -> Vec<Difference> {
    machine::diff(saved, planned).into_iter().filter(|difference| !may_differ(difference)).collect()
}

fn may_differ(difference: &Difference) -> bool {
    let part = difference.part.as_deref().unwrap_or_default();
    let property = difference.property.as_deref();
    match difference.option.as_str() {
        "-name" | "-uuid" | "-fw_cfg" | "-kernel" | "-initrd" | "-append" | "-incoming" | "-sandbox"
        | "-action" => true,
        "-object" => part == "ram" && matches!(property, Some("mem-path" | "share" | "readonly" | "rom")),
        "-chardev" => matches!(property, Some("fd" | "logfile" | "logappend")),
        "-netdev" => property.is_some(),
        "-device" => part.starts_with("nic") && property == Some("mac"),
        "-blockdev" => property == Some("filename"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::QemuFacts;
    use crate::spec::Arch;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// As recorded on a Debian 12 host with QEMU 10.0 from its backports.
    fn machine() -> Machine {
        Machine {
            arch: Arch::X86_64,
            qemu: (10, 0, 2),
            qemu_line: "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)".to_owned(),
            machine_type: "pc-q35-10.0".to_owned(),
            cpu: "Westmere-v1,rdrand=on".to_owned(),
            accel: ResolvedAccel::Kvm,
            cpus: 2,
            memory: 512 << 20,
            page_size: 4096,
            host_cpu: Some("Intel(R) Xeon(R) Processor".to_owned()),
            features: words(&["pni", "aes", "rdrand"]),
            arguments: words(&[
                "-machine",
                "pc-q35-10.0,memory-backend=ram",
                "-object",
                "memory-backend-file,id=ram,mem-path=/run/a.ram,size=512M,share=on",
                "-netdev",
                "user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22",
                "-device",
                "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01",
                "-device",
                "vmgenid,id=vmgenid0,guid=auto",
            ]),
        }
    }

    fn host() -> HostView {
        HostView {
            qemu: QemuFacts {
                path: "/usr/bin/qemu-system-x86_64".into(),
                arch: Arch::X86_64,
                version: (10, 0, 2),
                version_line: String::new(),
                machines: words(&["pc-q35-10.0", "pc-q35-7.2", "q35", "microvm"]),
                devices: words(&["virtio-net-pci", "vmgenid"]),
                cpus: words(&["Westmere-v1", "host", "max"]),
            },
            kvm: true,
            cpu: Some("Intel(R) Xeon(R) Processor".to_owned()),
            features: words(&["fpu", "pni", "aes", "rdrand"]),
            page_size: 4096,
        }
    }

    fn found(machine: &Machine, host: &HostView) -> Vec<Field> {
        check_machine(machine, host).into_iter().map(|mismatch| mismatch.field).collect()
    }

    #[test]
    fn the_host_that_saved_it_can_run_it_and_so_can_a_newer_one() {
        assert_eq!(check_machine(&machine(), &host()), []);
        let mut newer = host();
        newer.qemu.version = (11, 1, 0);
        newer.features.push("avx".to_owned());
        newer.page_size = 16 << 10;
        newer.cpu = Some("AMD EPYC".to_owned());
        assert_eq!(check_machine(&machine(), &newer), []);
        let patch = Machine { qemu: (10, 0, 9), ..machine() };
        assert_eq!(check_machine(&patch, &host()), [], "a fix release changes no state");
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let mut old = host();
        old.qemu.version = (7, 2, 22);
        old.qemu.machines = words(&["pc-q35-7.2", "pc-q35-7.1", "q35", "pc"]);
        let mismatches = check_machine(&machine(), &old);
        assert_eq!(
            mismatches.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "QEMU version: the snapshot needs 10.0.2 or later, this host has 7.2.22",
                "machine type: the snapshot needs pc-q35-10.0, this host has pc-q35-7.2, pc-q35-7.1",
            ]
        );
        assert_eq!(found(&machine(), &HostView { kvm: false, ..host() }), [Field::Accel]);
        let without = HostView { features: words(&["pni"]), ..host() };
        assert_eq!(check_machine(&machine(), &without)[0].wanted, "aes, rdrand");
        assert_eq!(found(&machine(), &HostView { page_size: 3 << 20, ..host() }), [Field::PageSize]);
        let mut poor = host();
        poor.qemu.devices.clear();
        assert_eq!(check_machine(&machine(), &poor)[0].wanted, "virtio-net-pci, vmgenid");
        let mut cpus = host();
        cpus.qemu.cpus = words(&["max"]);
        assert_eq!(found(&machine(), &cpus), [Field::Cpu]);
        let arm = QemuFacts { arch: Arch::Aarch64, ..host().qemu };
        assert_eq!(found(&machine(), &HostView { qemu: arm, ..host() }), [Field::Arch]);
    }

    #[test]
    fn a_guest_of_the_hosts_own_cpu_stays_on_such_a_cpu() {
        let own = Machine { cpu: "host".to_owned(), ..machine() };
        assert_eq!(check_machine(&own, &host()), []);
        let other = HostView { cpu: Some("Intel(R) Core(TM)".to_owned()), ..host() };
        assert_eq!(found(&own, &other), [Field::Cpu]);
        let emulated = Machine { accel: ResolvedAccel::Tcg, cpu: "max".to_owned(), ..machine() };
        assert_eq!(check_machine(&emulated, &HostView { kvm: false, ..other }), []);
    }

    #[test]
    fn features_are_needed_under_kvm_only() {
        let host = words(&["fpu", "aes", "avx512f"]);
        assert_eq!(needed_features("host", ResolvedAccel::Kvm, &host), host);
        assert_eq!(needed_features("Westmere-v1,rdrand=on", ResolvedAccel::Kvm, &host), ["aes"]);
        assert!(needed_features("host", ResolvedAccel::Tcg, &host).is_empty());
    }

    #[test]
    fn another_machine_is_told_from_one_of_another_name() {
        let saved = machine().arguments;
        let planned = |from: &str, to: &str| {
            let list: Vec<String> = saved.iter().map(|word| word.replace(from, to)).collect();
            machine_differences(&saved, &list).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(
            planned(
                "mem-path=/run/a.ram,size=512M,share=on",
                "mem-path=/s/ram,size=512M,share=off,readonly=on,rom=off"
            )
            .is_empty()
        );
        assert!(planned(",hostfwd=tcp:127.0.0.1:2222-:22", "").is_empty());
        assert!(planned("mac=52:54:00:00:00:01", "mac=52:54:00:00:00:02").is_empty());
        assert_eq!(planned("size=512M", "size=1G"), ["-object ram size: 512M | 1G"]);
        assert_eq!(planned("pc-q35-10.0", "pc-q35-10.1").len(), 1);
        assert_eq!(
            planned("user,id=net0", "tap,id=net0").len(),
            1,
            "the user network has a state of its own"
        );
        assert_eq!(planned("virtio-net-pci", "e1000e").len(), 1);
    }
}
