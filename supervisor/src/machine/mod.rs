//! From a spec to a QEMU argument list: a pure function.
//!
//! For one spec the lists of any two kinds of guest differ only in what is booted (kernel, initrd, command
//! line, disk) and, on PCI, in which virtio generations the NIC speaks. So a measurement compares guests and
//! not machines.
//!
//! # The boards
//!
//! **q35** in its newest versioned form, SeaBIOS, devices on the PCI Express root bus (where virtio devices
//! are transitional), no SATA, SMBus, SMM or VMware port: nothing here uses them and each costs time at boot.
//!
//! **microvm** boots by qboot and has ACPI. Without ACPI a stock Debian kernel finds none of its devices, as
//! it is built without `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`, and can neither hear the power button nor switch
//! the machine off; with ACPI QEMU's own choice of firmware would be SeaBIOS, twice as slow as qboot, which
//! reads the tables just as well. The second I/O APIC stays off, which keeps to eight transports at their
//! well-known addresses. The clock is on: without one Linux's `rtc_cmos` waits 1.1 s. All transports speak
//! virtio 1 (`force-legacy=off`): Hermit and Nanos demand it, Linux, Unikraft and midge's own guest take it.
//! A microvm has neither HPET nor ACPI timer, so a Linux that fails to measure its TSC against the PIT, as
//! can happen under TCG on a busy host, stalls at `tsc: No reference`; KVM's paravirtual clock spares it
//! that. For Linux under TCG q35 is the better board.
//!
//! **virt** in its newest versioned form, with the interrupt controller that KVM has, or GICv3.

use std::path::PathBuf;

use crate::host::QemuFacts;
use crate::spec::{Arch, Kind, Mac, Machine, Net, OnReset, VmSpec};

mod choose;
mod devices;
mod diff;
mod option;
mod successor;
#[cfg(test)]
mod tests;

pub use choose::{Board, KVM_CPU_ECX, OLDEST_QEMU};
pub use devices::{DISK_DEVICE, MICROVM_SLOTS, disk_layer};
pub use diff::{Difference, diff};
pub use successor::{Succession, Successor, successor, tap_number};

use devices::Bus;
use option::{Opt, text};

/// The id of the guest agent's character device (QMP `query-chardev`).
pub const AGENT_CHARDEV: &str = "agent";

/// The oldest QEMU that maps RAM private from a file which it may only read.
pub(crate) const READONLY_RAM: (u32, u32) = (8, 2);

/// What the supervisor has prepared for one run of QEMU.
///
/// Listening sockets are passed by number: the supervisor binds them, QEMU inherits them, and a connection
/// made before QEMU is up waits in the backlog.
#[derive(Debug, Clone)]
pub struct Resources {
    /// The guest's kind, decided from spec and image; `auto` counts as `other`.
    pub kind: Kind,
    /// Acceleration, decided: `kvm` or `tcg`.
    pub accel: ResolvedAccel,
    /// KVM offers what midge's own CPU model for x86_64 consists of: CPUID leaf 1, ECX, of
    /// `KVM_GET_SUPPORTED_CPUID` holds [`KVM_CPU_ECX`]. Of no meaning elsewhere.
    pub kvm_cpu: bool,
    /// Kernel to boot directly.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The whole kernel command line, with [`kernel_words`]; unused without a kernel.
    pub append: String,
    /// Firmware in place of the machine's own, to boot the disk by; unused with a kernel.
    pub bios: Option<PathBuf>,
    /// The VM's own disk.
    pub disk: Option<Disk>,
    /// Guest RAM.
    pub ram: Ram,
    /// Listening socket for the monitor.
    pub monitor_fd: i32,
    /// Listening socket for the serial console.
    pub serial_fd: i32,
    /// File to which QEMU appends everything that the guest writes to its serial console.
    pub serial_log: PathBuf,
    /// Listening socket for the guest agent's port.
    pub agent_fd: i32,
    /// MAC address of each interface of the spec, in order.
    pub macs: Vec<Mac>,
    /// For each interface of the spec the open tap that is its other end, where it has one.
    pub taps: Vec<Option<i32>>,
    /// The VM's UUID (SMBIOS system UUID).
    pub uuid: uuid::Uuid,
    /// systemd credentials by name, in files, passed by fw_cfg (systemd.system-credentials(7)): what is on a command line anybody
    /// can read, and a private key is among them.
    pub credentials: Vec<(String, PathBuf)>,
    /// A volume for cloud-init.
    pub seed: Option<PathBuf>,
    /// Present where QEMU is to load a snapshot instead of booting.
    pub restore: Option<Restore>,
}

/// What a QEMU that loads a snapshot takes over from the one that was saved, where this host's own choice could be another.
///
/// The device state is laid out as the machine type and the CPU model say, so both are those of the source, also on a newer QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The versioned machine type, such as `pc-q35-10.0`.
    pub machine_type: String,
    /// The CPU model with its flags, as in QEMU's `-cpu`.
    pub cpu: String,
}

/// Acceleration as decided on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolvedAccel {
    /// Hardware.
    Kvm,
    /// Emulation.
    Tcg,
}

/// The disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// Format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Plain bytes.
    Raw,
}

/// Guest RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ram {
    /// A shared mapping of a file on tmpfs, as snapshots need it.
    File(PathBuf),
    /// A private mapping of a snapshot's file: what the guest writes is its own, and the file never changes.
    Private(PathBuf),
    /// Anonymous memory: no snapshots.
    Anonymous,
}

/// A command line that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The machine model is none of the instruction set's.
    #[error("machine `{machine}` has no {arch} form: use q35 or microvm for x86_64, virt for aarch64")]
    Pair {
        /// What was asked for.
        machine: Machine,
        /// The guest's instruction set.
        arch: Arch,
    },
    /// This QEMU runs other guests.
    #[error("{program} runs {qemu} guests, and this VM is {wanted}: install qemu-system-{package}", package = package(*.wanted))]
    WrongQemu {
        /// The QEMU binary.
        program: String,
        /// What it runs.
        qemu: Arch,
        /// What is wanted.
        wanted: Arch,
    },
    /// Older than [`OLDEST_QEMU`].
    #[error("QEMU {version} is too old: midge needs {} or later (Debian 12 has it)", oldest())]
    TooOld {
        /// What is installed.
        version: String,
    },
    /// QEMU lists no versioned machine type of this family.
    #[error(
        "QEMU {version} offers no machine type `{prefix}*` of its own version or older: its packages are mixed or broken, reinstall them"
    )]
    NoMachineType {
        /// Start of the machine type's name.
        prefix: &'static str,
        /// QEMU's version.
        version: String,
    },
    /// QEMU lacks a device that every machine here has.
    #[error(
        "QEMU {version} has no device `{device}`: it was built without it, install the distribution's full package"
    )]
    NoDevice {
        /// The device model.
        device: String,
        /// QEMU's version.
        version: String,
    },
    /// Neither a kernel nor firmware that could boot a disk.
    #[error("there is nothing to boot: {}", boot_hint(*.machine))]
    NothingToBoot {
        /// The board.
        machine: Board,
    },
    /// More virtio devices than a microvm has places for.
    #[error(
        "a microvm holds {MICROVM_SLOTS} virtio devices and this VM has more: remove network interfaces or use machine q35"
    )]
    Slots,
    /// Not one MAC address for each interface.
    #[error("{nets} network interfaces, but {macs} MAC addresses")]
    Macs {
        /// Interfaces of the spec.
        nets: usize,
        /// Addresses given.
        macs: usize,
    },
    /// An interface on a bridge without a tap.
    #[error("the network interface {net} has no tap")]
    Tap {
        /// Its index.
        net: usize,
    },
    /// A path that QEMU's command line cannot carry as text.
    #[error("{path:?} is not UTF-8: rename it, or move it to a path that is")]
    NotText {
        /// The path.
        path: PathBuf,
    },
}

/// Debian's package of the QEMU for these guests, without `qemu-system-`.
fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86",
        Arch::Aarch64 => "arm",
    }
}

fn boot_hint(board: Board) -> &'static str {
    match board {
        Board::Q35 => "give a kernel or an image",
        Board::Microvm => "a microvm boots kernels only, give one or use machine q35",
        Board::Virt => "without firmware this machine boots kernels only, give one or an image that has one",
    }
}

fn oldest() -> String {
    format!("{}.{}", OLDEST_QEMU.0, OLDEST_QEMU.1)
}

/// An argument list in the making.
#[derive(Debug, Default)]
struct List(Vec<String>);

impl List {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn value(&mut self, option: &str, value: impl Into<String>) {
        self.flag(option);
        self.0.push(value.into());
    }

    fn pair(&mut self, option: &str, value: Opt) {
        self.value(option, value.done());
    }
}

/// The arguments of QEMU (without the program) for one run of `spec`.
///
/// QEMU starts paused (`-S`): the supervisor connects its monitor, takes down the links of [`unplugged`]
/// interfaces and then says `cont`, so it misses nothing of the guest. When the guest ends QEMU stays, paused
/// (`-action shutdown=pause`), so that a supervisor that was dead at that moment still learns how the guest
/// ended. With [`Resources::restore`] everything that a guest can see is as it was at the source, for the same spec and resources,
/// and QEMU waits for a state to load. Exceptions end QEMU at once: `isa-debug-exit` before QEMU 10, and a crash.
pub fn arguments(
    spec: &VmSpec,
    qemu: &QemuFacts,
    resources: &Resources,
) -> Result<Vec<String>, MachineError> {
    let board = Board::of(spec)?;
    check(spec, qemu, board, resources)?;

    let mut list = List::default();
    identity(&mut list, spec, resources);
    machine(&mut list, spec, qemu, board, resources)?;
    for (name, path) in &resources.credentials {
        let name = format!("opt/io.systemd.credentials/{name}");
        list.pair("-fw_cfg", Opt::word("").set("name", &name).path("file", path)?);
    }
    consoles(&mut list, resources)?;
    let mut bus = Bus::new(board);
    devices::nics(&mut list, &mut bus, &spec.nets, resources.kind, &resources.macs, &resources.taps)?;
    devices::common(&mut list, &mut bus, &qemu.devices, resources)?;

    // From here on: what is booted, and the user's own words.
    if let Some(disk) = &resources.disk {
        devices::disk(&mut list, &mut bus, disk)?;
    }
    if let Some(seed) = &resources.seed {
        devices::seed(&mut list, &mut bus, seed)?;
    }
    if let Some(kernel) = &resources.kernel {
        list.value("-kernel", text(kernel)?);
        if let Some(initrd) = &resources.initrd {
            list.value("-initrd", text(initrd)?);
        }
        if !resources.append.is_empty() {
            list.value("-append", resources.append.as_str());
        }
    } else if let Some(bios) = &resources.bios {
        list.value("-bios", text(bios)?);
    }
    if resources.restore.is_some() {
        // What is to be loaded comes by the monitor, after the capabilities.
        list.value("-incoming", "defer");
    }
    list.0.extend(spec.qemu_args.iter().cloned());
    Ok(list.0)
}

/// Words that the machine adds to a kernel command line: the console, and on a microvm where the virtio
/// devices are, for kernels that do not read ACPI. Linux does, and gets no such words.
pub fn kernel_words(spec: &VmSpec, kind: Kind, disk: bool) -> Result<Vec<String>, MachineError> {
    let board = Board::of(spec)?;
    let mut words = Vec::new();
    if kind == Kind::Linux {
        // Unikernels have one console, and pass words that they do not know on to their application.
        words.push(board.console_word().to_owned());
    }
    if board == Board::Microvm && kind != Kind::Linux {
        // Entropy and the agent's port beside the interfaces and the disk.
        words.extend(devices::microvm_words(spec.nets.len() + 2 + usize::from(disk)));
    }
    Ok(words)
}

/// The id of the first user-mode network of a spec, for forwarding further ports (`hostfwd_add`).
#[must_use]
pub fn user_netdev(spec: &VmSpec) -> Option<String> {
    spec.nets.iter().position(|net| matches!(net, Net::User { .. })).map(|index| format!("net{index}"))
}

/// The ids of the interfaces whose link must be taken down (QMP `set_link`) before the guest runs: those of
/// [`Net::None`].
#[must_use]
pub fn unplugged(spec: &VmSpec) -> Vec<String> {
    let nets = spec.nets.iter().enumerate();
    nets.filter(|(_, net)| matches!(net, Net::None { .. })).map(|(index, _)| format!("nic{index}")).collect()
}

/// Refuses what QEMU would refuse later and less clearly.
fn check(spec: &VmSpec, qemu: &QemuFacts, board: Board, resources: &Resources) -> Result<(), MachineError> {
    if qemu.arch != spec.arch {
        let program = qemu.path.display().to_string();
        return Err(MachineError::WrongQemu { program, qemu: qemu.arch, wanted: spec.arch });
    }
    let firmware = board == Board::Q35 || (board == Board::Virt && resources.bios.is_some());
    let firmware_boots = firmware && resources.disk.is_some();
    if resources.kernel.is_none() && !firmware_boots {
        return Err(MachineError::NothingToBoot { machine: board });
    }
    let version = || choose::version_text(qemu);
    if (qemu.version.0, qemu.version.1) < OLDEST_QEMU {
        return Err(MachineError::TooOld { version: version() });
    }
    let transport = if board.pci() { "pci" } else { "device" };
    let mut needed = vec![format!("virtio-rng-{transport}"), format!("virtio-serial-{transport}")];
    if !spec.nets.is_empty() {
        needed.push(format!("virtio-net-{transport}"));
    }
    if resources.disk.is_some() {
        needed.push(format!("virtio-blk-{transport}"));
    }
    match needed.into_iter().find(|device| !qemu.devices.contains(device)) {
        Some(device) => Err(MachineError::NoDevice { device, version: version() }),
        None => Ok(()),
    }
}

/// Who the VM is, and what QEMU itself may do.
fn identity(list: &mut List, spec: &VmSpec, resources: &Resources) {
    list.pair(
        "-name",
        Opt::word("")
            .set("guest", &spec.name)
            // Seen in `ps` and `top`; the kernel keeps 15 bytes of it.
            .show("process", format_args!("midge:{}", spec.name))
            .switch("debug-threads", true),
    );
    list.value("-uuid", resources.uuid.to_string());
    list.flag("-nodefaults");
    list.flag("-no-user-config");
    list.value("-display", "none");
    list.flag("-S");
    list.pair(
        "-sandbox",
        Opt::word("on")
            .set("obsolete", "deny")
            .set("elevateprivileges", "deny")
            .set("spawn", "deny")
            .set("resourcecontrol", "deny"),
    );
    let reboot = match spec.on_reset {
        OnReset::Reboot => "reset",
        OnReset::Stop => "shutdown",
    };
    list.pair("-action", Opt::word("").set("reboot", reboot).set("shutdown", "pause").set("panic", "pause"));
}

/// Board, CPU and memory.
fn machine(
    list: &mut List,
    spec: &VmSpec,
    qemu: &QemuFacts,
    board: Board,
    resources: &Resources,
) -> Result<(), MachineError> {
    let accel = match resources.accel {
        ResolvedAccel::Kvm => "kvm",
        ResolvedAccel::Tcg => "tcg",
    };
    list.value("-accel", accel);

    let machine_type = match &resources.restore {
        Some(restore) => restore.machine_type.clone(),
        None => board.machine_type(qemu)?,
    };
    let kind = Opt::word(&machine_type)
        .set("memory-backend", "ram")
        // With the section below: a saved state is the devices and nothing beside them.
        .switch("suppress-vmdesc", true)
        // A core dump of QEMU's must not hold the guest's memory.
        .switch("dump-guest-core", false)
        .switch("usb", false);
    list.pair(
        "-machine",
        match board {
            Board::Q35 => {
                kind.switch("smm", false).switch("vmport", false).switch("sata", false).switch("smbus", false)
            }
            Board::Microvm => ["acpi", "isa-serial", "rtc", "pit", "pic"]
                .into_iter()
                .fold(kind, |kind, part| kind.switch(part, true))
                .switch("ioapic2", false)
                .switch("pcie", false),
            Board::Virt => kind.set(
                "gic-version",
                match resources.accel {
                    ResolvedAccel::Kvm => "host",
                    ResolvedAccel::Tcg => "3",
                },
            ),
        },
    );
    if board == Board::Microvm {
        list.value("-bios", "qboot.rom");
        list.value("-global", "virtio-mmio.force-legacy=off");
    }

    // The state of a clone is saved without this section (`snapshot::stream`), and a QEMU expects it or does not, so no
    // state has it.
    list.value("-global", "migration.send-configuration=off");

    list.value("-cpu", choose::cpu(spec, resources));
    list.pair(
        "-smp",
        Opt::word("")
            .show("cpus", spec.cpus)
            .set("sockets", "1")
            .show("cores", spec.cpus)
            .set("threads", "1"),
    );
    list.pair("-m", Opt::word("").show("size", spec.memory));
    let memory = match &resources.ram {
        Ram::File(path) => Opt::word("memory-backend-file")
            .set("id", "ram")
            .path("mem-path", path)?
            .show("size", spec.memory)
            .switch("share", true),
        Ram::Private(path) => {
            let backend = Opt::word("memory-backend-file")
                .set("id", "ram")
                .path("mem-path", path)?
                .show("size", spec.memory)
                .switch("share", false);
            // Opens the file for reading only, and still lets the guest write to its own copy of each page
            // (docs/system/vm-templating.rst; since QEMU 8.2).
            if (qemu.version.0, qemu.version.1) >= READONLY_RAM {
                backend.switch("readonly", true).switch("rom", false)
            } else {
                backend
            }
        }
        Ram::Anonymous => Opt::word("memory-backend-ram").set("id", "ram").show("size", spec.memory),
    };
    list.pair("-object", memory);
    list.pair("-rtc", Opt::word("").set("base", "utc").set("clock", "host"));
    Ok(())
}

/// The monitor and the serial console.
fn consoles(list: &mut List, resources: &Resources) -> Result<(), MachineError> {
    let socket = |id: &str, fd: i32| {
        Opt::word("socket").set("id", id).show("fd", fd).switch("server", true).switch("wait", false)
    };
    list.pair("-chardev", socket("monitor", resources.monitor_fd));
    list.pair("-mon", Opt::word("").set("chardev", "monitor").set("mode", "control"));
    // A socket drops what is written while nobody is connected; the log keeps everything.
    list.pair(
        "-chardev",
        socket("serial", resources.serial_fd)
            .path("logfile", &resources.serial_log)?
            .switch("logappend", true),
    );
    list.value("-serial", "chardev:serial");
    Ok(())
}
